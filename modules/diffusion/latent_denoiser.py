"""A latent diffusion model as a denoiser of its latents."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from modules.diffusion.ddim import NoiseSchedule
from modules.diffusion.denoiser import Denoiser, NoiseLevel
from modules.diffusion.latent_diffusion import LatentDiffusion
from modules.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LatentDenoiser(Denoiser):
    """Any text-to-image model in the diffusers format; its states are latents, its levels training timesteps.

    Args:
        path: Directory or hub id of a text-to-image diffusers model.
        revision: Branch, tag or commit of a hub model.
        model_dtype: What the networks compute in: `float32`, `bfloat16` or `float16`. States are float32. Differences of outputs, which
            divergence and likelihood are made of, need `float32`.
    """

    multiple: ClassVar[int] = 8
    uses_prompts: ClassVar[bool] = True

    def __init__(
        self,
        path: str = "assets/tiny-diffusion",
        revision: str | None = None,
        model_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        if model_dtype not in DTYPES:
            msg = f"model_dtype is {model_dtype!r}; it must be one of {', '.join(DTYPES)}"
            raise ValueError(msg)
        self.path = path
        self.revision = revision
        self.model_dtype = model_dtype
        self.diffusion: LatentDiffusion | None = None

    @property
    def weights(self) -> dict[str, str | None]:
        """The model."""
        return {self.path: self.revision}

    @property
    def dtype(self) -> torch.dtype:
        """Of `model_dtype`."""
        return DTYPES[self.model_dtype]

    @property
    def schedule(self) -> NoiseSchedule:
        """The model's own."""
        return self._loaded().schedule

    def load(self) -> None:
        """Load the model."""
        self.diffusion = LatentDiffusion.from_pretrained(self.path, self.dtype, revision=self.revision)

    def unload(self) -> None:
        """Let go of it."""
        self.diffusion = None

    def encode(self, images: Tensor) -> Tensor:
        """Scaled posterior means, float32 `[B, C, H / factor, W / factor]`."""
        return self._loaded().encode(images)

    def decode(self, states: Tensor) -> Tensor:
        """Decoded latents, float32 `[B, 3, H, W]`."""
        return self._loaded().decode(states, clamp=False)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text conditioning, `[B, L, D]`."""
        return self._loaded().embed(prompts)

    def level(self, value: float) -> NoiseLevel:
        """The level of a training timestep.

        Raises:
            ModelError: If it is no whole number, or the schedule has no such timestep.
        """
        alphas = self.schedule.alphas_cumprod
        if value != int(value) or not 0 <= value < len(alphas):
            msg = f"the noise level is {value:g}; for a diffusion model it is a timestep, a whole number from 0 to {len(alphas) - 1}"
            raise ModelError(msg)
        alpha = float(alphas[int(value)])
        return NoiseLevel(value, alpha**0.5, (1 - alpha) ** 0.5)

    def predict_noise(self, states: Tensor, level: NoiseLevel, conditioning: Tensor | None) -> Tensor:
        """The UNet's prediction; a `v` is converted with the level that the states are at (Salimans and Ho 2022)."""
        model = self._loaded()
        if conditioning is None:
            conditioning = model.embed([""]).expand(len(states), -1, -1)
        output = model.predict(states, int(level.value), conditioning)
        return output if model.schedule.prediction_type == "epsilon" else level.signal * output + level.noise * states

    def _loaded(self) -> LatentDiffusion:
        if self.diffusion is None:
            msg = "load() was not called"
            raise RuntimeError(msg)
        return self.diffusion
