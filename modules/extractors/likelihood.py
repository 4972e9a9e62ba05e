"""How likely an image is under one or several diffusion models (FakeInversion's appendix B.1; Song et al. 2021)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.divergence import Estimate, chunks, mean_and_error, rademacher
from modules.diffusion.likelihood import denoise, invert, log_standard_normal
from modules.extractors.base import Features
from modules.extractors.statistic import Conditioned, StatisticExtractor, columns, generators_of


def ingredients(
    conditioned: Conditioned, states: Tensor, images: Tensor, steps: int, directions: Tensor | None, relative_step: float, back: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What likelihoods are made of, all per dimension.

    Args:
        conditioned: The diffusion model with its prompts.
        states: Clean states, `[N, …]`.
        images: Position in the batch of the image that each belongs to, `[N]`.
        steps: DDIM steps each way.
        directions: Rademacher probes, `[N, K, …]`, or None for no log-determinant.
        relative_step: Of the central differences, in units of the noise level.
        back: Whether to go back to clean states as well; the squared distances are NaN otherwise.

    Returns:
        log N(z_T; 0, I) `[N]`, the log-determinants `[N, K]`, and ‖z_0 − ẑ_0‖² `[N]`.
    """
    schedule, dimension = conditioned.denoiser.schedule, states[0].numel()

    def predict(rows: Tensor, level: Any, of: Tensor) -> Tensor:
        return conditioned.noise(rows, level, images[of])

    inverted = invert(schedule.path(steps, "invert"), states, predict, directions, relative_step)
    prior = log_standard_normal(inverted.noise) / dimension
    if back:
        distance = (states - denoise(schedule.path(steps, "denoise"), inverted.noise, predict)).square().flatten(1).mean(1)
    else:
        distance = torch.full_like(prior, torch.nan)
    return prior.float(), inverted.log_determinant / dimension, distance


class Likelihood(StatisticExtractor):
    """Log-likelihood of an image's latent and its cheaper ingredients, per dimension, under each of several diffusion models.

    Columns, for each model: `<model>.log_prior`, log N(z_T; 0, I) of the inverted noise; `<model>.reconstruction`, ‖z_0 − ẑ_0‖² after
    inversion and back; `<model>.log_likelihood`, the probability-flow ODE's, with `<model>.log_likelihood_se`, its Monte-Carlo error for
    several probes. Discretising the ODE adds a bias that only more steps make smaller. The hypothesis is FakeInversion's: generated images
    are less likely, so smaller likelihoods and larger distances are fake. Model evaluations an image: steps · (2 + 2 · probes).

    Args:
        models: Diffusion models by name.
        steps: DDIM steps each way.
        probes: Hutchinson probes of the trace; the same ones at every step. 0 leaves the log-likelihood out.
        relative_step: Step of the central differences in units of the noise level.
        **options: Of `StatisticExtractor`.
    """

    name: ClassVar[str] = "likelihood"

    def __init__(self, models: dict[str, Denoiser], steps: int = 50, probes: int = 1, relative_step: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        if not models or any(not name.isidentifier() for name in models):
            msg = f"data.extractor.models names {list(models)}; one or more names of letters, digits and underscores are needed"
            raise ValueError(msg)
        if steps < 1 or probes < 0 or not relative_step > 0:
            msg = f"steps is {steps}, probes {probes} and relative_step {relative_step}; at least 1, at least 0 and above 0 are needed"
            raise ValueError(msg)
        self.models = torch.nn.ModuleDict(models)
        self.steps = steps
        self.probes = probes
        self.relative_step = relative_step

    @property
    def idle(self) -> set[str]:
        """What only the trace uses."""
        return super().idle | (set() if self.probes else {"relative_step"})

    @property
    def denoisers(self) -> list[Denoiser]:
        """The models."""
        return [model for model in self.models.values() if isinstance(model, Denoiser)]

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """The columns of all models, `[B]` each."""
        features: Features = {}
        for name, denoiser in zip(self.models, self.denoisers, strict=True):
            found = self._under(denoiser, images, prompts, seeds)
            features |= {f"{name}.{column}": values for column, values in found.items()}
        return features

    def _under(self, denoiser: Denoiser, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        conditioned = self.conditioned(denoiser, prompts)
        clean = denoiser.encode(images)
        directions = None
        if self.probes:
            directions = torch.stack([rademacher(clean.shape[1:], self.probes, each) for each in generators_of(seeds)])
        parts = []
        for rows in chunks(len(clean), self.rows_at_once // (1 + 2 * self.probes)):
            of = rows.to(clean.device)
            towards = None if directions is None else directions[rows]
            parts.append(ingredients(conditioned, clean[of], of, self.steps, towards, self.relative_step, back=True))
        prior, stretch, distance = (torch.cat(part) for part in zip(*parts, strict=True))
        found = {"log_prior": prior, "reconstruction": distance.float()}
        if directions is None:
            return found
        estimate = mean_and_error(stretch)
        return found | columns("log_likelihood", Estimate(prior + estimate.value, estimate.error), self.probes > 1)
