"""Ranking metrics as pure functions of raw scores.

Conventions, stated once for the whole project:

* A score is any real number, infinities included; larger means more likely fake. It is never rescaled.
* An image is **called fake if its score is greater than the threshold**, strictly. With the threshold that
  `threshold_at_fpr` returns, the expected false positive rate on further reals is then at most the wanted one, with
  ties as well as without.
* Equal scores are one point of the curve: no order of the images ever matters.
* What is not defined (one class, a NaN among the scores, nothing at all) is NaN, with a warning, never a guess.

All functions take `weights` of shape `[..., N]` and then return one number for each leading index, so that a bootstrap
is one call over the multiplicities of its resamples. Integer weights are summed as integers (exact, and deterministic
on a GPU); everything else happens in double precision.
"""

import math
import warnings
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

FPRS = (0.1, 0.05, 0.01, 0.001)
"""False positive rates that true positive rates are reported at."""


@dataclass(frozen=True)
class Curve:
    """Weight of fakes and reals at or above each distinct score.

    Attributes:
        thresholds: `[K]`, the distinct scores from high to low.
        true: `[..., K + 1]`; `true[..., k]` is the weight of the fakes among the `k` highest distinct scores, that is
            of those called fake by any threshold in `[thresholds[k], thresholds[k - 1])`. `true[..., 0]` is 0.
        false: `[..., K + 1]`, the same of the reals.
    """

    thresholds: Tensor
    true: Tensor
    false: Tensor

    @property
    def fakes(self) -> Tensor:
        """Total weight of the fakes, `[...]`."""
        return self.true[..., -1]

    @property
    def reals(self) -> Tensor:
        """Total weight of the reals, `[...]`."""
        return self.false[..., -1]

    def rates(self) -> tuple[Tensor, Tensor]:
        """False and true positive rate at each point, both `[..., K + 1]`, NaN for a class that is not there."""
        return self.false / self.reals[..., None], self.true / self.fakes[..., None]

    def auroc(self) -> Tensor:
        """Area under the ROC curve by trapezoids, `[...]` in [0, 1]: a tie counts one half."""
        width = self.false.diff(dim=-1)
        height = self.true[..., 1:] + self.true[..., :-1]
        return (width * height).sum(-1) / (2 * self.fakes * self.reals)

    def average_precision(self) -> Tensor:
        """Sum of precision times the step in recall (scikit-learn's definition), `[...]` in [0, 1]."""
        true, called = self.true[..., 1:], self.true[..., 1:] + self.false[..., 1:]
        # Where the highest scores weigh nothing, precision is 0/0 but recall does not move either.
        precision = torch.where(called == 0, 0.0, true / called)
        area = (self.true.diff(dim=-1) * precision).sum(-1) / self.fakes
        return torch.where(self.reals == 0, torch.nan, area)

    def tpr_at_fpr(self, fpr: float) -> Tensor:
        """True positive rate of the lowest threshold whose empirical false positive rate is at most `fpr`, `[...]`."""
        # A quotient of two integers is the double nearest to it, as the literal 0.05 is: 1/20 <= 0.05 holds exactly.
        last = (self.false / self.reals[..., None] <= fpr).sum(-1, keepdim=True) - 1
        found = self.true.gather(-1, last.clamp(min=0))[..., 0] / self.fakes
        return torch.where(self.reals == 0, torch.nan, found)

    def called_fake(self, threshold: float) -> tuple[Tensor, Tensor]:
        """Weight of the reals and of the fakes whose score is greater than `threshold`, both `[...]`."""
        point = int((self.thresholds > threshold).sum())
        return self.false[..., point], self.true[..., point]

    def accuracy(self, threshold: float) -> Tensor:
        """Share of all weight that is on the right side of `threshold`, `[...]`. Defined with one class, too."""
        false, true = self.called_fake(threshold)
        return (true + self.reals - false) / (self.fakes + self.reals)

    def balanced_accuracy(self, threshold: float) -> Tensor:
        """Mean of the true positive and the true negative rate at `threshold`, `[...]`."""
        false, true = self.called_fake(threshold)
        return (true / self.fakes + 1 - false / self.reals) / 2


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it was chosen for.

    Attributes:
        value: Scores greater than this are called fake. None where there is no such threshold.
        fpr: The wanted false positive rate, in (0, 1). None where `value` is the detector's own boundary (0: a margin, log-odds), so that
            no rate was wanted.
        n: Number of validation reals that it was chosen on; of those that there were, where it was not chosen.
        reason: Why `value` is None.
    """

    value: float | None
    fpr: float | None
    n: int
    reason: str | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, in words that follow its value."""
        if self.fpr is None:
            return "the detector's own boundary, set for no false positive rate"
        return f"set for a false positive rate of {self.fpr:g} on {self.n} validation reals"


def curve(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Curve:
    """Count fakes and reals at or above each distinct score.

    Args:
        scores: `[N]`, any real numbers. One NaN makes every count NaN.
        labels: `[N]`, 0 for a real image and 1 for a fake.
        weights: `[..., N]`, not negative; None counts each image once.

    Raises:
        ValueError: Shapes do not fit, or a label is neither 0 nor 1.
    """
    scores, labels = _checked(scores, labels, weights)
    order = torch.argsort(scores, descending=True)
    ranked, fake = scores[order], labels[order].bool()
    last_of_tie = torch.ones_like(fake)
    last_of_tie[:-1] = ranked[1:] != ranked[:-1]
    weights = torch.ones_like(order) if weights is None else weights.detach().to(scores.device).index_select(-1, order)
    true, false = _running_sums(weights, fake, last_of_tie), _running_sums(weights, ~fake, last_of_tie)
    if bool(scores.isnan().any()):
        true, false = true.fill_(torch.nan), false.fill_(torch.nan)
    return Curve(ranked[last_of_tie], true, false)


def auroc(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Area under the ROC curve of raw scores.

    Args:
        scores: `[N]`, larger means more likely fake.
        labels: `[N]`, 0 real, 1 fake.
        weights: `[..., N]`, optional.

    Returns:
        `[...]` in [0, 1], double; NaN with a warning for one class or NaN scores.
    """
    points = curve(scores, labels, weights)
    _warn_if_undefined(scores, labels)
    return points.auroc()


def average_precision(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average precision of raw scores, as scikit-learn defines it; arguments and NaN as for `auroc`."""
    points = curve(scores, labels, weights)
    _warn_if_undefined(scores, labels)
    return points.average_precision()


def tpr_at_fpr(scores: Tensor, labels: Tensor, fpr: float, weights: Tensor | None = None) -> Tensor:
    """True positive rate of the lowest threshold whose empirical false positive rate is at most `fpr`.

    Nothing is interpolated: with fewer than 1/fpr reals the threshold is at or above every real. Arguments and NaN are as for `auroc`.
    """
    if not 0 <= fpr <= 1:
        message = f"fpr is a share of the reals, in [0, 1]; got {fpr}"
        raise ValueError(message)
    points = curve(scores, labels, weights)
    _warn_if_undefined(scores, labels)
    return points.tpr_at_fpr(fpr)


def accuracy(scores: Tensor, labels: Tensor, threshold: float, weights: Tensor | None = None) -> Tensor:
    """Share of images on the right side of `threshold` (fake: score > threshold), `[...]`; one class is enough."""
    points = curve(scores, labels, weights)
    _warn_if_undefined(scores, labels, classes=1)
    return points.accuracy(threshold)


def balanced_accuracy(scores: Tensor, labels: Tensor, threshold: float, weights: Tensor | None = None) -> Tensor:
    """Mean of the shares of fakes and of reals on the right side of `threshold`, `[...]`; NaN as for `auroc`."""
    points = curve(scores, labels, weights)
    _warn_if_undefined(scores, labels)
    return points.balanced_accuracy(threshold)


def threshold_at_fpr(real_scores: Tensor, fpr: float) -> Threshold:
    """The ⌈(n + 1)(1 − fpr)⌉-th smallest score of n validation reals.

    A further real that is exchangeable with these exceeds it with probability at most `fpr` (split conformal
    prediction: Vovk et al. 2005), whatever the distribution of the scores.

    Args:
        real_scores: `[n]`, raw scores of real images that no parameter was fitted on.
        fpr: Wanted false positive rate, in (0, 1).

    Returns:
        The threshold; without a value, and with a warning, where n < 1/fpr − 1 or a needed score is not finite.
    """
    if not 0 < fpr < 1:
        message = f"fpr is a share of the reals, in (0, 1); got {fpr}"
        raise ValueError(message)
    scores = _double(real_scores).flatten()
    n = scores.numel()
    share = Fraction(str(float(fpr)))  # the decimal that was meant: in doubles, ceil(10 * (1 - 0.7)) is 4
    rank = math.ceil((n + 1) * (1 - share))
    value, reason = None, None
    if missing := int(scores.isnan().sum()):
        reason = f"{missing} of {n} validation reals have no score (NaN)"
    elif rank > n:
        needed = math.ceil(1 / share) - 1
        reason = f"a false positive rate of {fpr:g} needs at least {needed} validation reals, there are {n}"
    elif not math.isfinite(value := float(scores.sort().values[rank - 1])):
        value, reason = None, f"the score at rank {rank} of {n} validation reals is {value}"
    if reason is not None:
        warnings.warn(f"no threshold: {reason}", stacklevel=2)
    return Threshold(value, float(fpr), n, reason)


def _double(values: Tensor) -> Tensor:
    """Double precision on the same device, or on the CPU where the device has none."""
    values = values.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()


def _checked(scores: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores in double and labels on the same device, or an error that says what does not fit."""
    if scores.ndim != 1 or labels.shape != scores.shape:
        message = f"scores and labels are both [N]; got {list(scores.shape)} and {list(labels.shape)}"
        raise ValueError(message)
    if weights is not None and (weights.ndim == 0 or weights.shape[-1] != scores.shape[0]):
        message = f"weights are [..., {scores.shape[0]}], one for each score; got {list(weights.shape)}"
        raise ValueError(message)
    scores = _double(scores)
    labels = labels.detach().to(scores.device)
    if not bool(((labels == 0) | (labels == 1)).all()):
        message = f"labels are 0 (real) or 1 (fake); got {labels.unique().tolist()[:10]}"
        raise ValueError(message)
    return scores, labels


def _running_sums(weights: Tensor, chosen: Tensor, kept: Tensor) -> Tensor:
    """0, then the running sum of the chosen weights where `kept`: `[..., K + 1]`, double."""
    exact = torch.float64 if weights.is_floating_point() else torch.int64
    sums = weights.new_zeros((*weights.shape[:-1], weights.shape[-1] + 1), dtype=exact)
    torch.cumsum(torch.where(chosen, weights, 0).to(exact), dim=-1, out=sums[..., 1:])
    if not bool(kept.all()):
        sums = sums.index_select(-1, torch.nn.functional.pad(kept, (1, 0), value=True).nonzero()[:, 0])
    return sums.double()


def _warn_if_undefined(scores: Tensor, labels: Tensor, classes: int = 2) -> None:
    """Say aloud why a metric is about to be NaN."""
    missing = int(scores.isnan().sum())
    if scores.numel() == 0:
        warnings.warn("no scores: the metric is not defined (NaN)", stacklevel=3)
    elif missing:
        warnings.warn(f"{missing} of {scores.numel()} scores are NaN: the metric is not defined (NaN)", stacklevel=3)
    elif labels.unique().numel() < classes:
        only = "real" if int(labels[0]) == 0 else "fake"
        warnings.warn(f"all {labels.numel()} images are {only}: the metric is not defined (NaN)", stacklevel=3)
