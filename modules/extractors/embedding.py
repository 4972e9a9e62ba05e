"""One embedding an image from a frozen encoder, for linear probes and the like."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.v2 import functional as transforms

from modules.extractors.base import Extractor, Features
from modules.images import to_unit
from modules.networks.encoders import ImageEncoder, build_encoder, encoder_size, parse_name


class EncoderExtractor(Extractor):
    """Base of extractors that embed images: which encoder, and how images come to its size.

    Args:
        encoder: `open_clip/ARCHITECTURE/TAG` or `timm/NAME`; a file of weights may stand for the tag (see `parse_name`).
        pretrained: Load the encoder's weights; without, they are random numbers, for tests.
        projection: Embed in the space that images share with texts; otherwise before the projection to it (open_clip only).
        size: Side in pixels of the square that the encoder sees; the encoder's own by default.
    """

    def __init__(self, encoder: str, pretrained: bool, projection: bool, size: int | None) -> None:
        super().__init__()
        parse_name(encoder)
        if size is not None and size < 8:
            msg = f"size is {size}; at least 8 pixels are needed"
            raise ValueError(msg)
        self.encoder = encoder
        self.pretrained = pretrained
        self.projection = projection
        self.size = size
        self.network: ImageEncoder | None = None
        self._side = size  # the encoder's own, once a first image has asked for it

    @property
    def weights(self) -> dict[str, str | None]:
        """The encoder; its file of weights where it names one."""
        return {parse_name(self.encoder).file or self.encoder: None} if self.pretrained else {}

    @property
    def idle(self) -> set[str]:
        """`projection` where the encoder has none."""
        return super().idle | ({"projection"} if parse_name(self.encoder).library == "timm" else set())

    def load(self) -> None:
        """Load the encoder."""
        self.network = build_encoder(self.encoder, self.pretrained, self.projection, self.size)

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
    """The embedding of an image by an encoder of open_clip or timm.

    `forward` gives float32 `[B, D]` `embedding`. Short side resized bicubically and centre cropped, as Cozzolino et al. 2024 ("Raising
    the Bar of AI-generated Image Detection with CLIP") do; their encoder is `open_clip/ViT-L-14/commonpool_xl_s13b_b90k` with
    `projection` false and `normalise` true.

    Args:
        encoder: `open_clip/ARCHITECTURE/TAG` or `timm/NAME`; a file of weights may stand for the tag (see `parse_name`).
        pretrained: Load the encoder's weights; without, they are random numbers, for tests.
        projection: Embed in the space that images share with texts; otherwise before the projection to it (open_clip only).
        normalise: Divide each embedding by its Euclidean norm.
        size: Side in pixels of the square that the encoder sees; the encoder's own by default.
    """

    name: ClassVar[str] = "embedding"

    def __init__(
        self,
        encoder: str,
        pretrained: bool = True,
        projection: bool = True,
        normalise: bool = True,
        size: int | None = None,
    ) -> None:
        super().__init__(encoder, pretrained, projection, size)
        self.normalise = normalise

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Embed images; see the class for the feature. Nothing random: `prompts` and `seeds` are not used."""
        embeddings = self.embed(images)
        return {"embedding": normalize(embeddings, dim=1) if self.normalise else embeddings}
