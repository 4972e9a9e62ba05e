"""Divergence of the score: a sink of the gradient flow suggests a generated image (Li and Wang 2023)."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modules.diffusion import divergence
from modules.diffusion.denoiser import Denoiser, NoiseLevel
from modules.diffusion.divergence import Estimate, mean_and_error
from modules.extractors.base import Features
from modules.extractors.statistic import Conditioned, StatisticExtractor, columns, generators_of

ESTIMATORS = ("coordinate", "hutchinson", "exact")
UNITS = ("noise", "absolute")


class Divergence(StatisticExtractor):
    """div s = Σ ∂s_i/∂z_i of the score s = −ε/√(1 − ᾱ) at a small noise level; column `divergence`.

    The hypothesis: generated images lie in sinks, so smaller is fake. Model evaluations an image: 2 · samples · max(state_draws, 1), or as
    many as the state has dimensions for `exact`.

    Args:
        denoiser: The diffusion model or other denoiser.
        estimator: `coordinate` (random coordinates, the post's), `hutchinson` (random signs: all dimensions enter) or `exact`
            (forward-mode differentiation, for small states).
        samples: Coordinates or probes.
        step: Step h of the central differences.
        step_unit: What `step` is measured in: `noise` (the level's standard deviation) or `absolute`. The post takes 0.1 absolute, two
            to three standard deviations of Stable Diffusion's first timesteps.
        noise_level: Timestep of a diffusion model, standard deviation of an image denoiser.
        state_draws: How often the state is noised to that level; the results are averaged. 0 takes the state as it is, scaled by `√ᾱ`.
        per_dimension: Divide by the number of dimensions; the plain sum grows with the image's size.
        **options: Of `StatisticExtractor`.
    """

    name: ClassVar[str] = "divergence"

    def __init__(
        self,
        denoiser: Denoiser,
        estimator: Literal["coordinate", "hutchinson", "exact"] = "hutchinson",
        samples: int = 8,
        step: float = 0.1,
        step_unit: Literal["noise", "absolute"] = "noise",
        noise_level: float = 1,
        state_draws: int = 0,
        per_dimension: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if estimator not in ESTIMATORS or step_unit not in UNITS:
            msg = f"estimator is {estimator!r} and step_unit {step_unit!r}; they must be of {ESTIMATORS} and {UNITS}"
            raise ValueError(msg)
        if samples < 1 or state_draws < 0 or not step > 0:
            msg = f"samples is {samples}, state_draws {state_draws} and step {step}; at least 1, at least 0 and above 0 are needed"
            raise ValueError(msg)
        self.denoiser = denoiser
        self.estimator = estimator
        self.samples = samples
        self.step = step
        self.step_unit = step_unit
        self.noise_level = noise_level
        self.state_draws = state_draws
        self.per_dimension = per_dimension

    @property
    def idle(self) -> set[str]:
        """What only the estimates by differences use."""
        return super().idle | ({"samples", "step", "step_unit"} if self.estimator == "exact" else set())

    @property
    def denoisers(self) -> list[Denoiser]:
        """The one."""
        return [self.denoiser]

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """`divergence`, and `divergence_se` where there are several samples or draws; `[B]` each."""
        conditioned = self.conditioned(self.denoiser, prompts)
        level = self.denoiser.level(self.noise_level)
        generators = generators_of(seeds)
        clean = self.denoiser.encode(images)
        states = self.noised(clean, level, self.state_draws, generators) if self.state_draws else (level.signal * clean)[:, None]
        estimate = self._estimate(conditioned, states, level, generators)
        scale = 1 / clean[0].numel() if self.per_dimension else 1.0
        several = self.state_draws > 1 or (self.samples > 1 and self.estimator != "exact")
        return columns("divergence", Estimate(estimate.value * scale, estimate.error * scale), several)

    def _estimate(self, conditioned: Conditioned, states: Tensor, level: NoiseLevel, generators: list[torch.Generator]) -> Estimate:
        """Divergence of states `[B, draws, …]`, averaged over the draws."""
        batch, draws, dimension = len(states), states.shape[1], states[0, 0].numel()
        flat = states.flatten(0, 1)

        def field(rows: Tensor, positions: Tensor) -> Tensor:
            return conditioned.score(rows, level, positions // draws)

        if self.estimator == "exact":
            return mean_and_error(divergence.exact(field, flat, self.rows_at_once).reshape(batch, draws))
        choose = divergence.coordinates if self.estimator == "coordinate" else divergence.rademacher
        directions = torch.stack([choose(states.shape[2:], self.samples, each) for each in generators for _ in range(draws)])
        h = self.step * (level.noise if self.step_unit == "noise" else 1.0)
        samples = divergence.directional(field, flat, directions, h, self.rows_at_once).reshape(batch, draws, -1)
        if self.estimator == "coordinate":
            samples = samples * dimension
        if draws > 1:  # the spread of the draws' means holds the probes' as well
            return mean_and_error(samples.mean(2))
        return mean_and_error(samples[:, 0], dimension if self.estimator == "coordinate" else None)
