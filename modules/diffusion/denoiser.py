"""What the training-free statistics need of a model: the noise, or the clean image, that it sees in a noisy state."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modules.diffusion.ddim import NoiseSchedule
from modules.errors import ModelError
from modules.settings import settings_of


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """How noisy a state is: `state = signal · clean + noise · ε` with standard Gaussian ε.

    Attributes:
        value: What the network is told: a timestep of a diffusion model, the standard deviation of an image denoiser.
        signal: `√ᾱ` of a diffusion model; 1 where noise is only added.
        noise: Above 0: `√(1 − ᾱ)`, or the standard deviation.
    """

    value: float
    signal: float
    noise: float


class Denoiser(nn.Module, ABC):
    """A frozen model of images under Gaussian noise.

    A subclass gives `encode`, `decode`, `level`, and one of `predict_noise` and `predict_clean`; the other follows from it. Constructor
    arguments are plain and kept as attributes of the same name; weights are loaded by `load`, not before.

    Attributes:
        multiple: Sides of the images that it takes are multiples of this.
        uses_prompts: Whether it is conditioned on text.
    """

    multiple: ClassVar[int] = 1
    uses_prompts: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """Class and constructor arguments in plain types."""
        return settings_of(self)

    @property
    def weights(self) -> dict[str, str | None]:
        """Files, directories or hub ids that its numbers depend on, each with its revision."""
        return {}

    @property
    def dtype(self) -> torch.dtype:
        """What its networks compute in."""
        return torch.float32

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule along which DDIM goes from an image to noise.

        Raises:
            ModelError: If the model has none: it denoises, but it is no diffusion model.
        """
        msg = f"{type(self).__name__} is no diffusion model: it has no path from an image to noise, which this statistic needs"
        raise ModelError(msg)

    @abstractmethod
    def load(self) -> None:
        """Load the weights; called once, before the first batch."""

    @abstractmethod
    def unload(self) -> None:
        """Let go of the weights."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Clean states of images.

        Args:
            images: `[B, 3, H, W]`, uint8 or float in [0, 1], H and W multiples of `multiple`.

        Returns:
            float32 `[B, C, h, w]`: latents, or the images themselves.
        """

    @abstractmethod
    def decode(self, states: Tensor) -> Tensor:
        """Images of clean states: `[B, C, h, w]` to float32 `[B, 3, H, W]`, about [0, 1] and not clamped."""

    @abstractmethod
    def level(self, value: float) -> NoiseLevel:
        """The noise level of a timestep or standard deviation.

        Raises:
            ModelError: If the model knows no such level.
        """

    def embed(self, prompts: Sequence[str]) -> Tensor | None:
        """Conditioning `[B, …]` of prompts; None for a model that takes none."""
        return None

    def predict_noise(self, states: Tensor, level: NoiseLevel, conditioning: Tensor | None) -> Tensor:
        """The noise ε in noisy states, of their shape and dtype.

        Args:
            states: `[N, C, h, w]`.
            level: The same for all. What its `value` tells the network may lie a step away from the states' own level, as in DDIM.
            conditioning: `[N, …]` of `embed`.
        """
        return (states - level.signal * self.predict_clean(states, level, conditioning)) / level.noise

    def predict_clean(self, states: Tensor, level: NoiseLevel, conditioning: Tensor | None) -> Tensor:
        """The mean of the clean states given the noisy ones (Tweedie), of their shape; arguments as for `predict_noise`."""
        return (states - level.noise * self.predict_noise(states, level, conditioning)) / level.signal

    def score(self, states: Tensor, level: NoiseLevel, conditioning: Tensor | None) -> Tensor:
        """Gradient of the log-density of noisy states, `−ε / noise`; arguments as for `predict_noise`."""
        return -self.predict_noise(states, level, conditioning) / level.noise
