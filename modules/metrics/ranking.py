"""The functions of `functional` as torchmetrics: raw scores kept, computed once over all of them.

Stock classification metrics apply a sigmoid to those batches that leave [0, 1] and to no others, which reorders scores
across batches; these keep every score as it came. They work in a `MetricCollection` (one state for all, by compute
groups) and under DDP, with shards of any size, an empty one included.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from modules.metrics import functional
from modules.metrics.functional import FPRS

_STATES = {"scores": torch.float64, "labels": torch.int64, "index": torch.int64}
_POINT = "_point_"


class RankingMetric(Metric):
    """Base class: keeps scores, labels and sample indices; a subclass computes one number from them.

    A sampler that gives every rank the same number of images repeats some. Where `update` gets each image's `index` in
    its data set, an image counts once, whatever rank saw it how often.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    scores: list[Tensor] | Tensor
    labels: list[Tensor] | Tensor
    index: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in _STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor, index: Tensor | None = None) -> None:
        """Keep one batch.

        Args:
            scores: `[B]`, raw; larger means more likely fake.
            labels: `[B]`, 0 real, 1 fake.
            index: `[B]`, position of each image in its data set, not negative; None where no image can come twice.

        Raises:
            ValueError: The shapes differ.
        """
        index = torch.full_like(labels, -1) if index is None else index
        if scores.ndim != 1 or not scores.shape == labels.shape == index.shape:
            shapes = ", ".join(str(list(each.shape)) for each in (scores, labels, index))
            message = f"scores, labels and index are all [B]; got {shapes}"
            raise ValueError(message)
        for name, values in zip(_STATES, (scores, labels, index), strict=True):
            getattr(self, name).append(values.detach().to(dtype=self._type_of(name)))

    def compute(self) -> Tensor:
        """The metric over all distinct images, a double scalar; NaN with a warning where it is not defined."""
        scores, labels, index = (self._joined(name) for name in _STATES)
        order = torch.argsort(index, stable=True)
        sorted_index = index[order]
        first = torch.ones_like(sorted_index, dtype=torch.bool)
        first[1:] = (sorted_index[1:] != sorted_index[:-1]) | (sorted_index[1:] < 0)
        kept = order[first]
        return self.measure(scores[kept], labels[kept])

    def measure(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The metric of `[N]` scores and labels."""
        raise NotImplementedError

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all ranks; a rank that saw no image takes part with empty tensors of the right types."""
        for name in _STATES:
            state = getattr(self, name)
            if isinstance(state, list) and not state:  # torchmetrics would send float32 here: types must agree
                state.append(torch.empty(0, dtype=self._type_of(name), device=self.device))
        super().sync(*args, **kwargs)

    def _joined(self, name: str) -> Tensor:
        state = getattr(self, name)
        empty = torch.empty(0, dtype=self._type_of(name), device=self.device)
        return empty if isinstance(state, list) and not state else dim_zero_cat(state)

    def _type_of(self, name: str) -> torch.dtype:
        no_doubles = name == "scores" and self.device.type == "mps"
        return torch.float32 if no_doubles else _STATES[name]


class AUROC(RankingMetric):
    """Area under the ROC curve of raw scores."""

    def measure(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The AUROC of `[N]` scores and labels."""
        return functional.auroc(scores, labels)


class AveragePrecision(RankingMetric):
    """Average precision of raw scores."""

    def measure(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The average precision of `[N]` scores and labels."""
        return functional.average_precision(scores, labels)


class TPRAtFPR(RankingMetric):
    """True positive rate of the lowest threshold whose empirical false positive rate is at most `fpr`.

    Args:
        fpr: Highest false positive rate, in [0, 1].
        **kwargs: Passed on to `torchmetrics.Metric`.
    """

    def __init__(self, fpr: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fpr = fpr

    def measure(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The true positive rate of `[N]` scores and labels; NaN with fewer than 1 / fpr reals, where it would mean nothing."""
        if int((labels == 0).sum()) * self.fpr < 1:
            return scores.new_tensor(torch.nan)
        return functional.tpr_at_fpr(scores, labels, self.fpr)


class Accuracy(RankingMetric):
    """Share of images on the right side of `threshold`: those with a greater score are called fake.

    Args:
        threshold: May be set again at any time before `compute`; None makes the accuracy NaN.
        **kwargs: Passed on to `torchmetrics.Metric`.
    """

    def __init__(self, threshold: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold

    def measure(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The accuracy of `[N]` scores and labels."""
        if self.threshold is None:
            return scores.new_tensor(torch.nan)
        return functional.accuracy(scores, labels, self.threshold)


class BalancedAccuracy(Accuracy):
    """Mean of the shares of fakes and of reals on the right side of `threshold`; arguments as for `Accuracy`."""

    def measure(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The balanced accuracy of `[N]` scores and labels."""
        if self.threshold is None:
            return scores.new_tensor(torch.nan)
        return functional.balanced_accuracy(scores, labels, self.threshold)


class RankingMetrics(MetricCollection):
    """A `MetricCollection` whose names may hold a decimal point, which those of a torch module must not."""

    def _set_name(self, base: str) -> str:
        return super()._set_name(base.replace(_POINT, "."))


def ranking_metrics(fprs: Sequence[float] = FPRS) -> MetricCollection:
    """The metrics that need no threshold, under the names that are logged.

    Args:
        fprs: False positive rates, each in [0, 1], for `tpr_at_fpr_<fpr>`.

    Returns:
        A collection of `auroc`, `average_precision`, `tpr_at_fpr_0.1`, …; `.clone(prefix="val/")` for each split.
    """
    metrics: dict[str, Metric | MetricCollection] = {"auroc": AUROC(), "average_precision": AveragePrecision()}
    for fpr in fprs:
        metrics[f"tpr_at_fpr_{fpr:g}".replace(".", _POINT)] = TPRAtFPR(fpr)
    return RankingMetrics(metrics)
