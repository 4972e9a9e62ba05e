"""DetectGPT's criterion for images: does the image sit on a local maximum of the likelihood? (Mitchell et al. 2023; Li and Wang 2023)."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.divergence import Estimate, chunks, mean_and_error, rademacher
from modules.extractors.base import Features
from modules.extractors.likelihood import ingredients
from modules.extractors.statistic import Conditioned, StatisticExtractor, columns, generators_of

CRITERIA = ("reconstruction", "prior", "likelihood")


class PerturbationDiscrepancy(StatisticExtractor):
    """log p(x) minus the mean of log p(x̃) over slightly noised versions x̃; column `discrepancy`, per dimension.

    The hypothesis: a generated image sits on a local maximum, so larger is fake. Model evaluations an image, m = versions:
    (m + 1) · 2 · steps for `reconstruction`, (m + 1) · steps for `prior`, (m + 1) · steps · (1 + 2 · probes) for `likelihood`.

    Args:
        denoiser: The diffusion model.
        criterion: What stands for log p: `reconstruction` (minus ‖z_0 − ẑ_0‖² after inversion and back), `prior` (log N(z_T; 0, I)), or
            `likelihood` (the probability-flow ODE's; costly).
        versions: Number m of noised versions.
        scale: Standard deviation of their noise in the model's states.
        steps: DDIM steps each way.
        probes: Hutchinson probes for `likelihood`; an image's versions share them, so that their error cancels in part.
        relative_step: Step of the central differences in units of the noise level.
        **options: Of `StatisticExtractor`.
    """

    name: ClassVar[str] = "discrepancy"

    def __init__(
        self,
        denoiser: Denoiser,
        criterion: Literal["reconstruction", "prior", "likelihood"] = "reconstruction",
        versions: int = 10,
        scale: float = 0.1,
        steps: int = 50,
        probes: int = 1,
        relative_step: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if criterion not in CRITERIA:
            msg = f"data.extractor.criterion is {criterion!r}; it must be one of {CRITERIA}"
            raise ValueError(msg)
        if min(versions, steps, probes) < 1 or not (scale > 0 and relative_step > 0):
            msg = (
                f"versions is {versions}, steps {steps}, probes {probes}, scale {scale} and relative_step {relative_step}; the "
                "first three must be at least 1, the others above 0"
            )
            raise ValueError(msg)
        self.denoiser = denoiser
        self.criterion = criterion
        self.versions = versions
        self.scale = scale
        self.steps = steps
        self.probes = probes
        self.relative_step = relative_step

    @property
    def idle(self) -> set[str]:
        """What only the full likelihood uses."""
        return super().idle | (set() if self.criterion == "likelihood" else {"probes", "relative_step"})

    @property
    def denoisers(self) -> list[Denoiser]:
        """The one."""
        return [self.denoiser]

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """`discrepancy`, and `discrepancy_se` where there are several versions; `[B]` each."""
        conditioned = self.conditioned(self.denoiser, prompts)
        clean = self.denoiser.encode(images)
        generators = generators_of(seeds)
        shape, many = clean.shape[1:], self.versions
        moved = torch.stack([torch.randn(many, *shape, generator=each) for each in generators]).to(clean)
        around = torch.cat([clean[:, None], clean[:, None] + self.scale * moved], dim=1)
        directions = None
        if self.criterion == "likelihood":
            directions = torch.stack([rademacher(shape, self.probes, each) for each in generators])
        found = self._log_density(conditioned, around, directions)
        mean = mean_and_error(found[:, 1:])
        return columns("discrepancy", Estimate(found[:, 0] - mean.value, mean.error), many > 1)

    def _log_density(self, conditioned: Conditioned, versions: Tensor, directions: Tensor | None) -> Tensor:
        """What stands for log p of versions `[B, n, …]`, per dimension, `[B, n]`."""
        many = versions.shape[1]
        flat = versions.flatten(0, 1)
        parts = []
        for rows in chunks(len(flat), self.rows_at_once // (1 if directions is None else 1 + 2 * self.probes)):
            of = (rows // many).to(flat.device)
            towards = None if directions is None else directions[rows // many]
            back = self.criterion == "reconstruction"
            prior, stretch, distance = ingredients(
                conditioned, flat[rows.to(flat.device)], of, self.steps, towards, self.relative_step, back
            )
            parts.append(-distance if back else prior if directions is None else prior + stretch.mean(1))
        return torch.cat(parts).reshape(len(versions), many)
