"""Confidence intervals by resampling groups of images, all resamples in a few calls.

Images of one group (a photograph's crops, a prompt, a photograph and the fakes made from it) are not independent, so the
unit that is drawn is the group. Strata are the groups that hold reals only, fakes only, or both: within each as many
groups are drawn, with replacement, as it has. So every resample has both classes, the number of groups of each kind is
fixed as it was fixed when the data were collected, and the real and the fake images of one group come or stay away
together, which keeps their correlation. A stratum of a single group adds no variation. Images without a group are
groups of their own; where all are, this is the ordinary bootstrap stratified by class.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.metrics.functional import Curve, curve

RESAMPLES = 1000
LEVEL = 0.95
MIN_GROUPS = 10
_ELEMENTS = 1_000_000  # resamples × images handled at once: 8 MB a temporary array

Metric = Callable[[Tensor, Tensor, Tensor | None], Tensor]
CLASS_NAMES = ("real", "fake")


@dataclass(frozen=True)
class Interval:
    """A number with its interval.

    Attributes:
        value: The number, None where it is not defined.
        low: Lower end, None where there is no interval.
        high: Upper end, None where there is no interval.
        reason: Why something is None.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def cell(self) -> dict[str, float | str | None]:
        """The number as it stands in `metrics.json`."""
        numbers: dict[str, float | str | None] = {"value": self.value, "low": self.low, "high": self.high}
        return numbers if self.reason is None else numbers | {"reason": self.reason}


def group_codes(groups: Sequence[str], keys: Sequence[str]) -> NDArray[np.int64]:
    """Group of each image as an integer, `[N]`, in the order of the names; without a name, one of its own by its key."""
    names = [f"group {group}" if group else f"image {key}" for group, key in zip(groups, keys, strict=True)]
    codes, _ = pd.factorize(np.array(names, dtype=object), sort=True)
    return codes.astype(np.int64)


def groups_by_class(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> tuple[int, int]:
    """Number of groups that hold a real image, and of those that hold a fake."""
    return np.unique(groups[labels == 0]).size, np.unique(groups[labels == 1]).size


def resample_weights(labels: NDArray[np.int64], groups: NDArray[np.int64], resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each image is in each resample.

    Equal groups and an equal seed give equal resamples, whatever the order of the rows: two detectors can be compared on
    the same ones.

    Args:
        labels: `[N]`, 0 real, 1 fake.
        groups: `[N]`, codes (see `group_codes`).
        resamples: Number of resamples R.
        seed: Not negative.

    Yields:
        int64 `[r, N]`, R rows in all.
    """
    codes, group_of = np.unique(groups, return_inverse=True)
    kind = np.zeros(codes.size, dtype=np.int64)
    np.bitwise_or.at(kind, group_of, labels + 1)  # 1: reals only, 2: fakes only, 3: both
    strata = {int(k): (np.flatnonzero(kind == k), np.random.default_rng([seed, int(k)])) for k in np.unique(kind)}
    step = max(1, _ELEMENTS // max(1, labels.size))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        counts = np.zeros((rows, codes.size), dtype=np.int64)
        for members, generator in strata.values():
            drawn = generator.integers(members.size, size=(rows, members.size))
            drawn += np.arange(rows)[:, None] * members.size
            counts[:, members] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(rows, -1)
        yield torch.from_numpy(counts[:, group_of])


def bootstrap(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    groups: NDArray[np.int64],
    measure: Callable[[Curve], Tensor],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Tensor:
    """One or several statistics of every resample.

    Args:
        labels: `[N]`, 0 real, 1 fake.
        scores: `[N]`, raw.
        groups: `[N]`, codes (see `group_codes`).
        measure: From a curve with leading dimension r to `[r]` or `[r, S]`.
        resamples: Number of resamples R.
        seed: Not negative.

    Returns:
        Double `[R]` or `[R, S]`.
    """
    ranked, classes = torch.tensor(scores), torch.tensor(labels)
    return torch.cat([measure(curve(ranked, classes, weights)) for weights in resample_weights(labels, groups, resamples, seed)])


def bootstrap_interval(
    labels: Sequence[int] | NDArray[np.int64],
    scores: Sequence[float] | NDArray[np.float64],
    groups: Sequence[str] | None,
    metric: Metric,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A metric with its percentile interval over groups.

    Args:
        labels: `[N]`, 0 real, 1 fake.
        scores: `[N]`, raw; larger means more likely fake.
        groups: `[N]`, empty where an image stands alone; None where all do.
        metric: From scores `[N]`, labels `[N]` and weights `[r, N]` (or None) to `[r]` (or a scalar), such as those of
            `modules.metrics.functional`.
        resamples: Number of resamples.
        level: Coverage that is aimed at, in (0, 1).
        seed: Not negative.

    Returns:
        The interval; null with the reason below 10 groups in a class.
    """
    classes, raw = np.array(labels, dtype=np.int64, order="C"), np.array(scores, dtype=np.float64, order="C")
    places = [f"{place:012d}" for place in range(classes.size)]
    codes = group_codes([""] * classes.size if groups is None else groups, places)
    tensors = torch.tensor(raw), torch.tensor(classes)
    value = float(metric(*tensors, None))
    reason = too_few_groups(groups_by_class(classes, codes), (0, 1))
    if reason is not None or math.isnan(value):
        return interval_of(value, None, level, reason)
    samples = [metric(*tensors, weights) for weights in resample_weights(classes, codes, resamples, seed)]
    return interval_of(value, torch.cat(samples), level)


def too_few_groups(counts: tuple[int, int], classes: Sequence[int]) -> str | None:
    """Why there is no interval, where one of `classes` has fewer than 10 groups."""
    few = [f"{counts[c]} of {CLASS_NAMES[c]} images" for c in classes if counts[c] < MIN_GROUPS]
    return f"too few groups for an interval: {' and '.join(few)}, {MIN_GROUPS} needed" if few else None


def interval_of(value: float, samples: Tensor | None, level: float = LEVEL, reason: str | None = None) -> Interval:
    """The percentile interval of `samples` `[R]` around `value`, or the reason why there is none."""
    if math.isnan(value):
        return Interval(None, reason=reason or "not defined on these images")
    if reason is not None or samples is None:
        return Interval(value, reason=reason)
    if undefined := int(samples.isnan().sum()):
        return Interval(value, reason=f"not defined in {undefined} of {samples.numel()} resamples")
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=samples.dtype)
    low, high = torch.quantile(samples, tails).tolist()
    if low == high:
        return Interval(value, reason="all resamples give the same value, so they say nothing about its uncertainty")
    return Interval(value, low, high)
