"""One embedding an image from a frozen encoder, for linear probes and the like."""

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.v2 import functional as transforms

from modules.extractors.base import Extractor, Features
from modules.images import to_unit
from modules.networks.encoder_names import parse_name
from modules.networks.encoders import ImageEncoder, build_encoder, encoder_size

DATACOMP = "open_clip/ViT-L-14/datacomp_xl_s13b_b90k"


class EncoderExtractor(Extractor):
    """Base of extractors that embed images: which encoder, and how images come to its size.

    Args:
        encoder: `open_clip/ARCHITECTURE/TAG`, `timm/NAME` or `torchvision/NAME/WEIGHTS`; a file may stand for the weights (see
            `parse_name`).
        pretrained: Load the encoder's weights; without, they are random numbers, for tests.
        projection: Embed in the space that images share with texts; otherwise before the projection to it (open_clip only).
        size: Side in pixels of the square that the encoder sees; the encoder's own by default.
        mean: Of each channel in [0, 1], which is taken off before the encoder; the encoder's own by default.
        std: Of each channel in [0, 1], by which is divided; the encoder's own by default.
    """

    def __init__(
        self,
        encoder: str,
        pretrained: bool,
        projection: bool,
        size: int | None,
        mean: list[float] | None,
        std: list[float] | None,
    ) -> None:
        super().__init__()
        parse_name(encoder)
        if size is not None and size < 8:
            msg = f"size is {size}; at least 8 pixels are needed"
            raise ValueError(msg)
        _check_normalisation(mean, std)
        self.encoder = encoder
        self.pretrained = pretrained
        self.projection = projection
        self.size = size
        self.mean = mean
        self.std = std
        self.network: ImageEncoder | None = None
        self._side = size  # the encoder's own, once a first image has asked for it

    @property
    def weights(self) -> dict[str, str | None]:
        """The encoder; its file of weights where it names one."""
        return {parse_name(self.encoder).file or self.encoder: None} if self.pretrained else {}

    @property
    def idle(self) -> set[str]:
        """`projection` where the encoder has none; `mean` and `std` where they are the encoder's own, which its name says already."""
        unnamed = {name for name in ("mean", "std") if getattr(self, name) is None}
        return super().idle | unnamed | ({"projection"} if parse_name(self.encoder).library != "open_clip" else set())

    def load(self) -> None:
        """Load the encoder."""
        self.network = build_encoder(self.encoder, self.pretrained, self.projection, self.size, self.mean, self.std)

    def unload(self) -> None:
        """Let go of the encoder."""
        self.network = None

    def prepare(self, image: Tensor) -> Tensor:
        """Short side resized (bicubic, antialiased), then the centre: uint8 `[3, H, W]` to uint8 `[3, size, size]`."""
        if self._side is None:
            self._side = encoder_size(self.encoder)
        if min(image.shape[1:]) != self._side:
            image = transforms.resize(image, [self._side], transforms.InterpolationMode.BICUBIC, antialias=True)
        return transforms.center_crop(image, [self._side, self._side])

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings of images `[B, 3, size, size]`, uint8 or float: float32 `[B, D]`."""
        if self.network is None:
            msg = "load() was not called"
            raise RuntimeError(msg)
        embeddings: Tensor = self.network(to_unit(images).float())
        return embeddings


class EmbeddingExtractor(EncoderExtractor):
    """The embedding of an image by an encoder of open_clip, timm or torchvision.

    `forward` gives float32 `[B, D]` `embedding`. Short side resized bicubically and centre cropped, as Cozzolino et al. 2024 ("Raising
    the Bar of AI-generated Image Detection with CLIP") do; their encoder is `open_clip/ViT-L-14/commonpool_xl_s13b_b90k` with
    `projection` false and `normalise` true. The default is the same network trained on DataComp-1B (Gadre et al. 2023).

    Args:
        encoder: `open_clip/ARCHITECTURE/TAG`, `timm/NAME` or `torchvision/NAME/WEIGHTS`; a file may stand for the weights (see
            `parse_name`).
        pretrained: Load the encoder's weights; without, they are random numbers, for tests.
        projection: Embed in the space that images share with texts; otherwise before the projection to it (open_clip only).
        normalise: Divide each embedding by its Euclidean norm.
        size: Side in pixels of the square that the encoder sees; the encoder's own by default.
        mean: Of each channel in [0, 1], which is taken off before the encoder; the encoder's own by default.
        std: Of each channel in [0, 1], by which is divided; the encoder's own by default.
    """

    name: ClassVar[str] = "embedding"

    def __init__(
        self,
        encoder: str = DATACOMP,
        pretrained: bool = True,
        projection: bool = True,
        normalise: bool = True,
        size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(encoder, pretrained, projection, size, mean, std)
        self.normalise = normalise

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Embed images; see the class for the feature. Nothing random: `prompts` and `seeds` are not used."""
        embeddings = self.embed(images)
        return {"embedding": normalize(embeddings, dim=1) if self.normalise else embeddings}


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse what is no mean or deviation of three channels in [0, 1]."""
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if isinstance(values, str) or len(values) != 3 or not all(math.isfinite(value) for value in values):
            msg = f"data.extractor.{name} is {values!r}; it must be three numbers, of red, green and blue"
            raise ValueError(msg)
        if name == "mean" and not all(0 <= value <= 1 for value in values):
            msg = f"data.extractor.mean is {list(values)}; it is of channels in [0, 1]: divide one of 0 to 255 by 255, and std likewise"
            raise ValueError(msg)
        if name == "std" and not all(value > 0 for value in values):
            msg = f"data.extractor.std is {list(values)}; it is divided by, so each must be above 0"
            raise ValueError(msg)
