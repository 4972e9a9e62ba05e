"""Deterministic DDIM steps as scalars known beforehand (Song et al. 2021, eq. 12 with sigma = 0).

One step takes a latent `z` at noise level `ᾱ` to level `ᾱ'`. With the predicted noise `ε` it is `z' = k z + c ε`, where
`k = √(ᾱ'/ᾱ)` and `c = √(1−ᾱ') − k √(1−ᾱ)`. A network that predicts `v` gives `ε = √ᾱ v + √(1−ᾱ) z`, with `ᾱ` of the level
that the latent is at, so the step is linear in the network's output there too. Timesteps and end points are those of diffusers'
`DDIMScheduler` and `DDIMInverseScheduler`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from modules.errors import ModelError

PREDICTION_TYPES = ("epsilon", "v_prediction")
Direction = Literal["invert", "denoise"]


@dataclass(frozen=True, slots=True)
class Step:
    """One DDIM step `z' = latent_weight · z + output_weight · network(z, timestep)`.

    Attributes:
        timestep: The timestep that the network is told: in both directions the noisier end of the step.
        latent_weight: Factor of the latent.
        output_weight: Factor of the network's output (noise, or `v`).
        alpha_from: `ᾱ` of the level that the latent is at before the step.
        alpha_to: `ᾱ` of the level that it reaches.
    """

    timestep: int
    latent_weight: float
    output_weight: float
    alpha_from: float
    alpha_to: float


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """The part of a diffusers scheduler that DDIM needs.

    Attributes:
        alphas_cumprod: `ᾱ_t` of all training timesteps, float64 `[T]`.
        clean_alpha: `ᾱ` of the clean end: 1 with `set_alpha_to_one`, else `ᾱ_0`.
        prediction_type: `epsilon` or `v_prediction`.
        steps_offset: Added to every timestep with leading spacing.
        timestep_spacing: `leading` or `trailing`.
    """

    alphas_cumprod: Tensor
    clean_alpha: float
    prediction_type: str
    steps_offset: int = 0
    timestep_spacing: str = "leading"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Read any diffusers scheduler's configuration.

        Args:
            config: Contents of `scheduler/scheduler_config.json`; the class that it names does not matter, the noise schedule does.

        Raises:
            ValueError: If the network predicts neither noise nor `v`.
        """
        from diffusers import DDIMScheduler

        # Inversion needs leading or trailing timesteps; configurations of other samplers that say "linspace" get leading ones.
        spacing = config.get("timestep_spacing", "leading")
        ddim = DDIMScheduler.from_config(dict(config))
        prediction_type = ddim.config.prediction_type
        if prediction_type not in PREDICTION_TYPES:
            msg = f"prediction_type {prediction_type!r} is not supported; the scheduler's configuration must say one of {PREDICTION_TYPES}"
            raise ValueError(msg)
        return cls(
            alphas_cumprod=ddim.alphas_cumprod.double(),
            clean_alpha=float(ddim.final_alpha_cumprod),
            prediction_type=prediction_type,
            steps_offset=ddim.config.steps_offset,
            timestep_spacing="trailing" if spacing == "trailing" else "leading",
        )

    def timesteps(self, steps: int) -> list[int]:
        """Ascending timesteps of a run of `steps` steps.

        Raises:
            ModelError: If `steps` is below 1, or so large that a timestep falls outside the schedule.
        """
        total = len(self.alphas_cumprod)
        if not 1 <= steps <= total:
            msg = f"steps is {steps}; it must lie between 1 and the schedule's {total} training timesteps"
            raise ModelError(msg)
        if self.timestep_spacing == "trailing":
            descending = [round(total - i * total / steps) - 1 for i in range(steps)]
            return descending[::-1]
        found = [i * (total // steps) + self.steps_offset for i in range(steps)]
        if found[-1] >= total:
            msg = f"{steps} steps with steps_offset {self.steps_offset} reach timestep {found[-1]} of {total}; use fewer steps"
            raise ModelError(msg)
        return found

    def path(self, steps: int, direction: Direction) -> list[Step]:
        """All steps from clean to noise (`invert`) or back (`denoise`), in the order in which they are taken."""
        timesteps = self.timesteps(steps)
        stride = len(self.alphas_cumprod) // steps
        path = []
        for timestep in timesteps:
            noisy = float(self.alphas_cumprod[timestep])
            cleaner = float(self.alphas_cumprod[timestep - stride]) if timestep >= stride else self.clean_alpha
            ends = (cleaner, noisy) if direction == "invert" else (noisy, cleaner)
            path.append(Step(timestep, *self.weights(*ends), *ends))
        return path if direction == "invert" else path[::-1]

    def weights(self, alpha_from: float, alpha_to: float) -> tuple[float, float]:
        """Factors of the latent and of the network's output for a step from `alpha_from` to `alpha_to`."""
        signal_from, noise_from = alpha_from**0.5, (1 - alpha_from) ** 0.5
        signal_to, noise_to = alpha_to**0.5, (1 - alpha_to) ** 0.5
        if self.prediction_type == "v_prediction":
            return signal_to * signal_from + noise_to * noise_from, noise_to * signal_from - signal_to * noise_from
        return noise_weights(alpha_from, alpha_to)


def noise_weights(alpha_from: float, alpha_to: float) -> tuple[float, float]:
    """Factors k and c of the latent and of the predicted noise, whatever the network itself predicts."""
    k = alpha_to**0.5 / alpha_from**0.5
    return k, (1 - alpha_to) ** 0.5 - k * (1 - alpha_from) ** 0.5


def follow(path: list[Step], latents: Tensor, predict: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Take a latent along a path of DDIM steps.

    Args:
        path: Steps of `NoiseSchedule.path`.
        latents: `[B, C, h, w]`; the state keeps this dtype, whatever the network computes in.
        predict: The network: latents and timestep to its raw output, of the latents' shape.

    Returns:
        The latents at the path's end, same shape and dtype.
    """
    for step in path:
        output = predict(latents, step.timestep).to(latents.dtype)
        # One fused pass over memory a step: latent_weight · z + output_weight · output.
        latents = torch.add(latents * step.latent_weight, output, alpha=step.output_weight)
    return latents
