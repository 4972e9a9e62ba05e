"""AUROC of several scores of the same images with their covariance, in closed form.

E. DeLong, D. DeLong & D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic curves: a
nonparametric approach", Biometrics 44 (1988): structural components V10 and V01 (their equations 4 and 5) and their covariance. X. Sun &
W. Xu, "Fast implementation of DeLong's algorithm", IEEE Signal Processing Letters 21 (2014): the components from mid-ranks, O(N log N).
N. Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997): the covariance where images of a group are not
independent, whether a group holds one class or both.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evaluation.resampling import LEVEL, Interval, groups_by_class, too_few_groups

_ROUNDING = 1e-12  # of the summed variances: a smaller variance of a difference is that of sums in another order


@dataclass(frozen=True)
class DelongTest:
    """A difference of two AUROCs.

    Attributes:
        difference: First minus second in [-1, 1], with its interval.
        z: The difference divided by its standard error; None where there is no test.
        p: Two-sided p value in [0, 1] of no difference; None where there is no test.
    """

    difference: Interval
    z: float | None = None
    p: float | None = None

    def cell(self) -> dict[str, float | str | None]:
        """The numbers as they stand in a document."""
        return self.difference.cell() | {"z": self.z, "p": self.p}


@dataclass(frozen=True)
class AurocEstimates:
    """AUROC of K scores of the same images.

    Attributes:
        values: `[K]` in [0, 1]; NaN where a score is missing (NaN) on an image, or there is no image of a class.
        covariance: `[K, K]`, of the estimates; NaN where a value is, or a class has a single image (with groups: is in a single group).
        n_groups: Number of groups, or of images where there are none, that hold a real image, and of those that hold a fake.
    """

    values: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n_groups: tuple[int, int]

    def interval(self, place: int, level: float = LEVEL) -> Interval:
        """An AUROC with its interval, normal on the logit scale, so that it stays within (0, 1).

        The standard error there is that of the AUROC A divided by A(1 − A) (delta method).

        Args:
            place: Which score.
            level: Coverage that is aimed at, in (0, 1).
        """
        value, variance = float(self.values[place]), float(self.covariance[place, place])
        reason = self._objection(value, variance, "the AUROC")
        if reason is not None or not 0 < value < 1:
            return Interval(
                None if math.isnan(value) else value, reason=reason or f"an AUROC of {value:g} has no interval on the logit scale"
            )
        middle, half = math.log(value / (1 - value)), _quantile(level) * math.sqrt(variance) / (value * (1 - value))
        return Interval(value, _expit(middle - half), _expit(middle + half))

    def difference(self, first: int, second: int, level: float = LEVEL) -> DelongTest:
        """The AUROC of one score minus that of another, with its normal interval and DeLong's two-sided test.

        Args:
            first: Place of a score.
            second: Place of another.
            level: Coverage that is aimed at, in (0, 1).
        """
        value = float(self.values[first] - self.values[second])
        own = self.covariance[first, first] + self.covariance[second, second]
        variance = float(own - self.covariance[first, second] - self.covariance[second, first])
        variance = 0.0 if variance <= _ROUNDING * own else variance
        reason = self._objection(value, variance, "the difference")
        if reason is not None:
            return DelongTest(Interval(None if math.isnan(value) else value, reason=reason))
        error = math.sqrt(variance)
        half = _quantile(level) * error
        return DelongTest(Interval(value, value - half, value + half), value / error, math.erfc(abs(value) / error / math.sqrt(2)))

    def _objection(self, value: float, variance: float, name: str) -> str | None:
        """Why there is no interval."""
        if math.isnan(value):
            return "not defined: a class without images, or scores that are missing (NaN)"
        if few := too_few_groups(self.n_groups, (0, 1)):
            return few
        return None if variance > 0 else f"the estimated variance of {name} is 0, which says nothing about its uncertainty"


def aurocs(labels: NDArray[np.int64], scores: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> AurocEstimates:
    """AUROC of K scores with the covariance of DeLong et al. 1988, or with groups that of Obuchowski 1997.

    A tie of a real and a fake counts one half (mid-ranks). With groups of one image each, Obuchowski's covariance is exactly DeLong's: a
    class's sums over groups are its images' components, and no group holds both classes, so that the term between them is 0.

    Args:
        labels: `[N]`, 0 real, 1 fake.
        scores: `[K, N]`, raw; larger means more likely fake. Infinities are ordered like other numbers; a NaN makes its score's AUROC and
            covariances NaN.
        groups: `[N]`, codes (see `resampling.group_codes`); None where images are independent.

    Raises:
        ValueError: Shapes do not fit, or a label is neither 0 nor 1.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or labels.shape != scores.shape[1:] or (groups is not None and np.shape(groups) != labels.shape):
        shapes = f"{list(labels.shape)}, {list(scores.shape)} and {None if groups is None else list(np.shape(groups))}"
        message = f"labels are [N], scores [K, N] and groups [N] or None; got {shapes}"
        raise ValueError(message)
    if not np.isin(labels, (0, 1)).all():
        message = f"labels are 0 (real) or 1 (fake); got {np.unique(labels).tolist()[:10]}"
        raise ValueError(message)
    fake = labels == 1
    kinds = np.arange(labels.size) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_groups = groups_by_class(labels, kinds)
    if 0 in n_groups:
        return AurocEstimates(np.full(len(scores), np.nan), np.full((len(scores),) * 2, np.nan), n_groups)
    components = _components(scores, fake)
    values = components[:, fake].mean(axis=1)
    centred = components - values[:, None]
    covariance = _independent(centred, fake) if groups is None else _clustered(centred, fake, kinds, n_groups)
    return AurocEstimates(values, covariance, n_groups)


def _components(scores: NDArray[np.float64], fake: NDArray[np.bool_]) -> NDArray[np.float64]:
    """V10 of the fakes and V01 of the reals, `[K, N]`: the share of images of the other class on the right side of each, ties by half.

    The mid-rank of an image among all minus that within its class (Sun & Xu 2014, equations 5 and 6) is the number of images of the other
    class below it, ties by half; one sort of all images gives it for both classes.
    """
    order = np.argsort(scores, axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    fakes = np.pad(np.cumsum(fake[order], axis=1), ((0, 0), (1, 0)))  # among the images before each place
    places = np.arange(scores.shape[1])
    starts = np.pad(
        ranked[:, 1:] != ranked[:, :-1], ((0, 0), (1, 1)), constant_values=True
    )  # of runs of equal scores, and one past the end
    first = np.maximum.accumulate(np.where(starts[:, :-1], places, 0), axis=1)
    last = np.minimum.accumulate(np.where(starts[:, 1:], places, scores.shape[1])[:, ::-1], axis=1)[:, ::-1] + 1
    fakes_below = (np.take_along_axis(fakes, first, axis=1) + np.take_along_axis(fakes, last, axis=1)) / 2
    below = (first + last) / 2  # of both classes; the mid-rank among all, less one half
    m, n = int(fake.sum()), int((~fake).sum())
    shares = np.empty_like(ranked)
    np.put_along_axis(shares, order, np.where(fake[order], (below - fakes_below) / n, 1 - fakes_below / m), axis=1)
    shares[np.isnan(scores).any(axis=1)] = np.nan
    return shares


def _independent(centred: NDArray[np.float64], fake: NDArray[np.bool_]) -> NDArray[np.float64]:
    """S10 / m + S01 / n (DeLong et al. 1988, equation 6), `[K, K]`."""
    total = np.zeros((len(centred),) * 2)
    for chosen in (fake, ~fake):
        part, count = centred[:, chosen], int(chosen.sum())
        total += part @ part.T / ((count - 1) * count) if count > 1 else np.nan
    return total


def _clustered(
    centred: NDArray[np.float64], fake: NDArray[np.bool_], groups: NDArray[np.int64], n_groups: tuple[int, int]
) -> NDArray[np.float64]:
    """S10 / M + S01 / N + (S11 + S11ᵀ) / (M N) of sums over groups (Obuchowski 1997, equations 5 to 7), `[K, K]`."""
    count = int(groups.max()) + 1
    sums = []
    for chosen in (fake, ~fake):
        by_group = [np.bincount(groups[chosen], weights=row[chosen], minlength=count) for row in centred]
        sums.append(np.stack(by_group) / int(chosen.sum()) if by_group else np.empty((0, count)))
    fakes, reals = sums
    if min(n_groups) < 2:
        return np.full((len(centred),) * 2, np.nan)
    between = fakes @ reals.T
    own = fakes @ fakes.T * _freedom(n_groups[1]) + reals @ reals.T * _freedom(n_groups[0])
    return np.asarray(own + (between + between.T) * _freedom(count))


def _freedom(groups: int) -> float:
    return groups / (groups - 1)


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
