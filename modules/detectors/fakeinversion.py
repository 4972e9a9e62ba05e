"""FakeInversion: a CNN that sees the image, its decoded noise map and its reconstruction (Cazenavette et al., CVPR 2024)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import AdamW

from modules.detectors.base import Detector, OptimizerCallable, SchedulerCallable
from modules.detectors.calibration import Method
from modules.images import IMAGENET_MEAN, IMAGENET_STD, to_unit
from modules.networks.augment import center_crop, random_crop, random_flip, resize
from modules.networks.backbones import build_backbone

INPUTS = ("image", "noise_map", "reconstruction", "residual")


class FakeInversion(Detector):
    """A classifier of any of the inversion's images, stacked as channels.

    Args:
        inputs: Which of `image`, `noise_map`, `reconstruction` and `residual` (|image - reconstruction|); three channels each.
        backbone: A timm model, or a torchvision one as `torchvision/NAME`.
        pretrained: Start from ImageNet weights, the first convolution repeated over the inputs and rescaled.
        norm: `batch` or `instance` normalisation (ResNets).
        resize: Side in pixels that the features are resized to on the training device; as they are stored by default.
        crop: Side of the square that the network sees: random in training, central otherwise; all by default.
        flip: Mirror half of the training samples.
        optimizer: From parameters to an optimiser.
        scheduler: From the optimiser to a learning-rate schedule, stepped once an epoch.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images; None for a score of 0.
        calibration: How a score becomes a probability (see `Detector`).
    """

    name: ClassVar[str] = "fakeinversion"

    def __init__(
        self,
        inputs: list[str] | None = None,
        backbone: str = "resnet50",
        pretrained: bool = True,
        norm: Literal["batch", "instance"] = "batch",
        resize: int | None = None,
        crop: int | None = None,
        flip: bool = True,
        optimizer: OptimizerCallable = lambda parameters: AdamW(parameters, lr=1e-4, weight_decay=1e-4),
        scheduler: SchedulerCallable | None = None,
        threshold_fpr: float | None = 0.05,
        calibration: Method = "none",
    ) -> None:
        super().__init__(optimizer, scheduler, threshold_fpr, calibration)
        self.inputs = list(inputs) if inputs is not None else ["image", "noise_map", "reconstruction"]
        unknown = [name for name in self.inputs if name not in INPUTS]
        if unknown or not self.inputs or len(set(self.inputs)) != len(self.inputs):
            msg = f"model.inputs is {self.inputs}; it must name one or more of {list(INPUTS)}, each once"
            raise ValueError(msg)
        self.backbone = backbone
        self.pretrained = pretrained
        self.norm = norm
        self.resize = resize
        self.crop = crop
        self.flip = flip
        self.network = build_backbone(backbone, 3 * len(self.inputs), pretrained=pretrained, norm=norm)

    @property
    def features(self) -> list[str]:
        """The cached features that the inputs need."""
        needed = set(self.inputs) - {"residual"} | ({"image", "reconstruction"} if "residual" in self.inputs else set())
        return sorted(needed)

    @property
    def pictures(self) -> list[str]:
        """The inputs."""
        return self.inputs

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Logits `[B, 1]` of uint8 or float features `[B, 3, S, S]` each."""
        return self.network(self.normalise(self.view(self.stack(features))))

    def stack(self, features: dict[str, Tensor]) -> Tensor:
        """The inputs as float channels in [0, 1], `[B, 3 · inputs, S, S]`."""
        images = {name: to_unit(features[name]) for name in self.features}
        if "residual" in self.inputs:
            images["residual"] = (images["image"] - images["reconstruction"]).abs()
        return torch.cat([images[name] for name in self.inputs], dim=1)

    def view(self, channels: Tensor) -> Tensor:
        """What the network sees of them: resized; cropped and flipped at random in training, cut from the centre otherwise."""
        if self.resize is not None:
            channels = resize(channels, self.resize)
        if self.crop is not None:
            channels = random_crop(channels, self.crop) if self.training else center_crop(channels, self.crop)
        return random_flip(channels) if self.training and self.flip else channels

    def normalise(self, channels: Tensor) -> Tensor:
        """ImageNet's mean and deviation, for each group of three channels."""
        mean = channels.new_tensor(IMAGENET_MEAN * len(self.inputs))[:, None, None]
        deviation = channels.new_tensor(IMAGENET_STD * len(self.inputs))[:, None, None]
        return (channels - mean) / deviation
