"""What a head of classes answers: one score for fake, the class, its probability, or `unknown`."""

import logging
import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from modules.detectors.exact import Exact, double, returned
from modules.detectors.novelty import unknown_above

log = logging.getLogger(__name__)


def collapse(logits: Tensor) -> Tensor:
    """Log-odds that images are fake, whatever the class: log Σ exp(fake logits) - real logit, in double precision.

    That is log P(fake) - log P(real) of the softmax. Formed from the probability, 1 - P(real) would be exactly 1 in float32 from
    log-odds of 17 on, and the order of the images be lost.

    Args:
        logits: `[B, C]`, those of `real` first.

    Returns:
        `[B]`.
    """
    values = double(logits)
    return returned(values[:, 1:].logsumexp(1) - values[:, 0], logits.device)


def class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy; a fake of no known class costs -log(1 - P(real)), since that is all that is known of it.

    Args:
        logits: `[B, C]`, those of `real` first.
        targets: int `[B]`, number of the class, -1 for a fake of none.

    Returns:
        The mean over all images, a scalar.
    """
    likely = logits.log_softmax(1)
    named = likely.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return -torch.where(targets >= 0, named, likely[:, 1:].logsumexp(1)).mean()


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature T at which softmax(logits / T) has the least negative log-likelihood (Guo et al. 2017).

    As in `calibration.fit_line`, a slight L2 penalty on 1/T, at logits of deviation 1, keeps it above 0 where every image is right.

    Args:
        logits: `[N, C]`.
        targets: int `[N]`, numbers of the classes.

    Returns:
        Above 0; NaN where there are no images, or logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    values = double(logits).cpu()
    if not len(values) or not bool(values.isfinite().all()):
        return math.nan
    truth = targets.cpu()[:, None]
    values = values - values.mean(1, keepdim=True)  # which the softmax does not see
    scale = float(values.square().mean().sqrt())
    if not scale > 0:
        return 1.0

    def cost(logarithm: float) -> float:
        slope = math.exp(logarithm)
        penalty = slope * slope / (2e3 * len(values))
        return float(-(values * (slope / scale)).log_softmax(1).gather(1, truth).mean()) + penalty

    # Convex in the slope, so with one valley in its logarithm.
    return scale / math.exp(minimize_scalar(cost, bounds=(-10.0, 10.0), method="bounded", options={"xatol": 1e-6}).x)


class Answers(Exact):
    """Turns outputs and novelty into the class and its probability; fitted on the validation split."""

    temperature: Tensor
    unknown_above: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(torch.nan, dtype=torch.float64))
        self.register_buffer("unknown_above", torch.tensor(torch.inf, dtype=torch.float64))

    def fit(self, outputs: Tensor, novelty: Tensor, targets: Tensor, share: float) -> None:
        """Set the temperature, and the novelty from which on an image is unknown.

        Args:
            outputs: `[N, C]`; one of a binary head has no temperature.
            novelty: `[N]`, NaN where it is not measured.
            targets: int `[N]`, number of the class, -1 where it is not known: these images are left out.
            share: Of the images of known classes that may be called unknown, in (0, 1).
        """
        known = targets >= 0
        if outputs.shape[1] > 1:
            self.temperature.fill_(fit_temperature(outputs[known], targets[known]))
            if bool(self.temperature.isnan()):
                log.warning("there are no class probabilities: no validation image is of a known class, or their outputs are not finite")
        measured = novelty[known & ~novelty.isnan()]
        self.unknown_above.fill_(unknown_above(measured, share))
        if len(measured) and bool(self.unknown_above.isinf()):
            needed = math.ceil(1 / share) - 1
            log.warning(
                "no image will be called unknown: --model.unknown_at %g needs at least %d validation images of known classes, there are %d",
                share,
                needed,
                len(measured),
            )

    def forward(self, outputs: Tensor, novelty: Tensor | None) -> tuple[Tensor, Tensor]:
        """The class of each image, int64 `[B]`, -1 for unknown, and its probability, float64 `[B]`, NaN where there is none.

        Args:
            outputs: `[B, C]`.
            novelty: `[B]`; None where it is not measured.
        """
        values = double(outputs)
        likely, chosen = (values / self.temperature.to(values.device)).softmax(1).max(1)
        chosen = values.argmax(1)  # also where there is no temperature yet
        if novelty is None:
            return chosen, likely
        unknown = double(novelty) > self.unknown_above.to(values.device)
        return chosen.masked_fill(unknown, -1), likely.masked_fill(unknown, torch.nan)


class ValidationAnswers(Metric):
    """Outputs, novelty and targets of all validation images, from every rank, each image once.

    Args:
        outputs: Number of a head's outputs.
        **options: Passed on to `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    numbers: list[Tensor] | Tensor
    integers: list[Tensor] | Tensor

    def __init__(self, outputs: int, **options: Any) -> None:
        super().__init__(**options)
        self.outputs = outputs
        self.add_state("numbers", default=[], dist_reduce_fx="cat")
        self.add_state("integers", default=[], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, novelty: Tensor | None, targets: Tensor, index: Tensor) -> None:
        """Keep one batch.

        Args:
            outputs: `[B, C]`.
            novelty: `[B]`; None where it is not measured.
            targets: int `[B]`, number of the class or -1.
            index: int `[B]`, position of each image in its data set.
        """
        lacking = torch.full_like(targets, torch.nan, dtype=torch.float32)
        novelty = lacking if novelty is None else novelty
        rows = torch.cat([double(outputs.detach()), double(novelty.detach())[:, None]], 1)
        kept: list[tuple[Any, Tensor]] = [(self.numbers, rows), (self.integers, torch.stack([targets, index], 1))]
        for state, values in kept:
            state.append(returned(values, outputs.device))

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs `[N, C]`, novelty `[N]` (NaN where it is not measured) and targets `[N]` of all distinct images, by index."""
        self._fill()
        numbers, integers = dim_zero_cat(self.numbers), dim_zero_cat(self.integers)
        order = torch.argsort(integers[:, 1], stable=True)
        index = integers[order, 1]
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        kept = order[first]
        return numbers[kept, : self.outputs], numbers[kept, self.outputs], integers[kept, 0]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all ranks; one that saw no image takes part with empty tensors of the right types and widths."""
        self._fill()
        super().sync(*args, **kwargs)

    def _fill(self) -> None:
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        for state, width, dtype in ((self.numbers, self.outputs + 1, kind), (self.integers, 2, torch.int64)):
            if isinstance(state, list) and not state:
                state.append(torch.empty(0, width, dtype=dtype, device=self.device))
