"""The image itself as a feature, for detectors that look at pixels."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from modules.extractors.base import Extractor, Features
from modules.images import center_square, to_uint8


class ImageExtractor(Extractor):
    """Keeps the image: feature `image`, uint8 `[B, 3, h, w]`.

    Args:
        size: Side in pixels of the square that is kept: the centre of the image with its short side resized. The whole image as it is,
            of whatever size, by default.
    """

    name: ClassVar[str] = "image"

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        if size is not None and size < 1:
            msg = f"data.extractor.size is {size}; a number of pixels is needed, or null for whole images"
            raise ValueError(msg)
        self.size = size

    def load(self) -> None:
        """There are no weights."""

    def prepare(self, image: Tensor) -> Tensor:
        """The image, or its centre square at `size`: uint8 `[3, H, W]` to uint8 `[3, h, w]`."""
        return image.contiguous() if self.size is None else center_square(image, self.size)

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """The images as uint8, those that are so already untouched; prompts and seeds are not used."""
        return {"image": to_uint8(images)}
