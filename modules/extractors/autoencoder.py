"""How far an image is from what an autoencoder makes of it: AEROBLADE (Ricker, Lukovnikov and Fischer, CVPR 2024)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from modules.diffusion.latent_denoiser import DTYPES
from modules.errors import ModelError
from modules.extractors.base import Extractor, Features, finite_images
from modules.images import center_square, to_unit
from modules.networks.autoencoders import Autoencoder, load_autoencoder

# Each distance's least side in pixels: SSIM mirrors 5 at the border; VGG halves four times.
LEAST_SIDES = {"lpips": 16, "mse": 1, "ssim": 6}
LAYERS = 5


class AutoencoderError(Extractor):
    """Distance of an image to its reconstruction by the autoencoders of latent diffusion models; the smallest one counts.

    `forward` gives float32 `[B]` `error`, the minimum over the autoencoders, and where there are several also `error_0`, `error_1`, … one
    each. AEROBLADE's hypothesis: what a latent diffusion model made lies in its decoder's range, so the error of generated images is
    smaller, and the score is minus the error.

    Images are cut at the centre to multiples of the autoencoders' factors; those that are too small for them have no features.

    Args:
        autoencoders: Directories or hub ids (see `load_autoencoder`); of a text-to-image model the `vae` is taken.
        revision: Branch, tag or commit, of all of them that come from the hub.
        distance: `lpips` (VGG16, Zhang et al. 2018), `mse` of pixels in [0, 1], or `ssim` (1 - SSIM, Wang et al. 2004).
        layer: Which of LPIPS's five layers counts; AEROBLADE takes the second. The sum of all where it is none.
        size: Side in pixels of the square that is reconstructed: the centre of the image, resized; its own size by default, as in the
            paper, since resizing takes away what the autoencoder left.
        model_dtype: What the autoencoders compute in: `float32`, `bfloat16` or `float16`. Distances are float32.
    """

    name: ClassVar[str] = "autoencoder"

    def __init__(
        self,
        autoencoders: list[str],
        revision: str | None = None,
        distance: Literal["lpips", "mse", "ssim"] = "lpips",
        layer: int | None = 2,
        size: int | None = None,
        model_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        if isinstance(autoencoders, str) or not autoencoders or len(set(autoencoders)) != len(autoencoders):
            msg = f"autoencoders is {autoencoders!r}; it must be a list of one or more, each once"
            raise ValueError(msg)
        if distance not in LEAST_SIDES or model_dtype not in DTYPES:
            msg = f"distance is {distance!r} and model_dtype {model_dtype!r}; they must be of {list(LEAST_SIDES)} and {list(DTYPES)}"
            raise ValueError(msg)
        if layer not in (None, *range(1, LAYERS + 1)):
            msg = f"layer is {layer!r}; it must be 1 to {LAYERS}, or null for the sum of all"
            raise ValueError(msg)
        if size is not None and size < LEAST_SIDES[distance]:
            msg = f"size is {size}; distance {distance!r} needs at least {LEAST_SIDES[distance]} pixels"
            raise ValueError(msg)
        self.autoencoders = autoencoders
        self.revision = revision
        self.distance = distance
        self.layer = layer
        self.size = size
        self.model_dtype = model_dtype
        self.networks: nn.ModuleList | None = None
        self.perceptual: nn.Module | None = None

    @property
    def weights(self) -> dict[str, str | None]:
        """The autoencoders; VGG16's weights belong to the libraries."""
        return dict.fromkeys(self.autoencoders, self.revision)

    @property
    def idle(self) -> set[str]:
        """`layer` where LPIPS is not used."""
        return super().idle | (set() if self.distance == "lpips" else {"layer"})

    def load(self) -> None:
        """Load the autoencoders and, where it is used, LPIPS.

        Raises:
            ModelError: If any of them cannot be had.
        """
        loaded = [load_autoencoder(name, self.revision, DTYPES[self.model_dtype]) for name in self.autoencoders]
        self.perceptual = perceptual_network() if self.distance == "lpips" else None
        self.networks = nn.ModuleList(loaded)

    def unload(self) -> None:
        """Let go of the networks."""
        self.networks = self.perceptual = None

    def prepare(self, image: Tensor) -> Tensor:
        """Centre square, its side resized to `size`, or the image as it is: uint8 `[3, H, W]` to uint8 `[3, h, w]`."""
        return image if self.size is None else center_square(image, self.size)

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Errors of images; see the class for the features. NaN where a network overflowed. Nothing random: `seeds` are not used.

        Raises:
            ValueError: If the images are too small.
        """
        networks = self._loaded()
        if reason := self._too_small(images):
            raise ValueError(reason)
        factor = self._factor()
        height, width = (side // factor * factor for side in images.shape[2:])
        originals = to_unit(transforms.center_crop(images, [height, width])).float()
        errors = torch.stack([self._error(originals, network) for network in networks])
        features = {"error": errors.amin(0)}  # NaN if any is
        return features | ({f"error_{i}": error for i, error in enumerate(errors)} if len(errors) > 1 else {})

    def extract(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Features, dict[int, str]]:
        """As in the base class; images that are too small are told by their size."""
        self._loaded()
        if reason := self._too_small(images):
            names = ["error", *(f"error_{i}" for i in range(len(self.autoencoders)) if len(self.autoencoders) > 1)]
            features = {name: torch.full((len(images),), math.nan, device=images.device) for name in names}
            return features, dict.fromkeys(range(len(images)), reason)
        features, failed = super().extract(images, prompts, seeds)
        return features, dict.fromkeys(failed, f"an autoencoder gave values that are not finite, in {self.model_dtype}")

    def _error(self, originals: Tensor, network: Autoencoder) -> Tensor:
        """Distances `[B]` of images in [0, 1] to their reconstructions; NaN where those are not finite, which clamping would hide."""
        rebuilt = network(originals)
        finite = finite_images(rebuilt)
        errors = self._distance(originals, rebuilt.nan_to_num().clamp(0, 1))
        return errors.masked_fill(~finite, math.nan)

    def _distance(self, originals: Tensor, rebuilt: Tensor) -> Tensor:
        if self.distance == "mse":
            return (originals - rebuilt).square().flatten(1).mean(1)
        if self.distance == "ssim":
            from torchmetrics.functional.image import structural_similarity_index_measure as ssim

            similarity = ssim(rebuilt, originals, data_range=1.0, reduction="none")
            return 1 - torch.as_tensor(similarity)
        network: Callable[..., tuple[Tensor, list[Tensor]]] = self.perceptual  # type: ignore[assignment]
        total, layers = network(originals, rebuilt, retperlayer=True, normalize=True)
        return (total if self.layer is None else layers[self.layer - 1]).flatten()

    def _factor(self) -> int:
        return math.lcm(*(network.factor for network in self._loaded()))

    def _too_small(self, images: Tensor) -> str | None:
        height, width = images.shape[2:]
        factor = self._factor()
        least = math.ceil(LEAST_SIDES[self.distance] / factor) * factor
        if min(height, width) >= least:
            return None
        return f"{width}×{height} pixels are too few: these autoencoders and distance {self.distance!r} need {least} each way"

    def _loaded(self) -> Any:
        if self.networks is None:
            msg = "load() was not called"
            raise RuntimeError(msg)
        return self.networks


def perceptual_network() -> nn.Module:
    """LPIPS on VGG16 with ImageNet weights, frozen: torchmetrics' implementation, whose `retperlayer` tells the layers apart.

    Raises:
        ModelError: If VGG16's weights cannot be downloaded.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        network: nn.Module = LearnedPerceptualImagePatchSimilarity(net_type="vgg").net
    except (OSError, RuntimeError) as error:  # RuntimeError: a download that was cut short
        msg = (
            f"the VGG16 weights of LPIPS cannot be had ({error}); they are downloaded once, on first use. Where there is no network, use "
            "--data.extractor.distance mse or ssim, which need none"
        )
        raise ModelError(msg) from error
    return network
