"""Numbers of every generator on the same resamples of the images, and their means over generators.

Every resample of the images is counted once for all generators: what they share, the reals of their data set, is summed up once. The
numbers are those of `modules.metrics.functional.Curve`, which is the definition; here only the order of the sums is another one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.resampling import (
    CLASS_NAMES,
    LEVEL,
    RESAMPLES,
    Interval,
    group_codes,
    groups_by_class,
    interval_of,
    resample_weights,
    too_few_groups,
)
from modules.metrics.functional import Threshold

POOLED = "all"
"""Name of all images together beside those of generators, which hold a `/`."""
FPR = 0.1
METRICS = ("auroc", "tpr_at_fpr_0.1", "tpr_at_threshold", "fpr_at_threshold", "accuracy", "balanced_accuracy")
_CLASSES = {"tpr_at_threshold": (1,), "fpr_at_threshold": (0,)}
_NO_THRESHOLD = Threshold(None, None, 0, "there is no threshold")

Places = NDArray[np.int64]
Members = Mapping[str, tuple[Places, Places]]


@dataclass(frozen=True)
class OfGenerators:
    """One number of each generator, of one detector.

    Attributes:
        names: `dataset/generator`, G of them.
        families: Family of each, as the table says.
        numbers: Double `[G]`, NaN where there is none.
        samples: Double `[R, G]` of the same in every resample; NaN where a resample holds no image of a class.
        doubts: Why some have no interval, or no value, by name.
        sizes: Double `[G]`, number of fakes; None where it is not known.
        drawn: Double `[R, G]` of the same in every resample; None where it is not known.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    numbers: Tensor
    samples: Tensor
    doubts: Mapping[str, str]
    sizes: Tensor | None = None
    drawn: Tensor | None = None

    def mean(self, chosen: Sequence[str], by_size: bool = False) -> Interval:
        """The mean over some generators.

        Args:
            chosen: Names of them.
            by_size: Whether each counts as many times as it has fakes (in a resample: as that has of it); else all count the same.

        Raises:
            ValueError: The sizes are asked for and not known.
        """
        if not by_size:
            return self._interval(chosen, lambda numbers: self._mean(numbers, chosen))
        if self.sizes is None or self.drawn is None:
            msg = "a mean by size needs the number of fakes of each generator"
            raise ValueError(msg)
        sizes = {1: self.sizes, 2: self.drawn}
        return self._interval(chosen, lambda numbers: self._mean_by_size(numbers, sizes[numbers.dim()], chosen))

    def difference(self, first: Sequence[str], second: Sequence[str]) -> Interval:
        """The mean over the `first` minus the mean over the `second` generators, on the same resamples."""
        if not first or not second:
            return Interval(None, reason="there are no generators on one side")
        return self._interval([*first, *second], lambda numbers: self._mean(numbers, first) - self._mean(numbers, second))

    def minus(self, other: "OfGenerators", chosen: Sequence[str]) -> Interval:
        """The mean over some generators minus that of another detector on the same images and resamples.

        Raises:
            ValueError: Generators or number of resamples are not the same.
        """
        if self.names != other.names or self.samples.shape != other.samples.shape:
            msg = "two detectors are compared on the same generators and resamples only"
            raise ValueError(msg)
        doubts = {**other.doubts, **self.doubts}
        changed = replace(self, numbers=self.numbers - other.numbers, samples=self.samples - other.samples, doubts=doubts)
        return changed.mean(chosen)

    def _interval(self, chosen: Sequence[str], measure: Callable[[Tensor], Tensor]) -> Interval:
        if not chosen:
            return Interval(None, reason="there are no such generators")
        lacking = [name for name, number in zip(self.names, self.numbers.tolist(), strict=True) if number != number]
        doubtful = sorted((name for name in dict.fromkeys(chosen) if name in self.doubts), key=lambda name: name not in lacking)
        more = f" (and {len(doubtful) - 1} more generators)" if len(doubtful) > 1 else ""
        reason = f"{doubtful[0]}: {self.doubts[doubtful[0]]}{more}" if doubtful else None
        samples = None if doubtful else measure(self.samples)
        if samples is not None:  # with 10 groups of many, 1 resample in 20,000 has none of them
            samples = samples[~samples.isnan()]
        return interval_of(float(measure(self.numbers)), samples, LEVEL, reason)

    def _mean(self, numbers: Tensor, chosen: Sequence[str]) -> Tensor:
        """Over the generators that a resample has."""
        found = numbers[..., self._places(chosen)]
        return found.nanmean(-1) if numbers.dim() > 1 else found.mean(-1)

    def _mean_by_size(self, numbers: Tensor, sizes: Tensor, chosen: Sequence[str]) -> Tensor:
        found, counts = numbers[..., self._places(chosen)], sizes[..., self._places(chosen)]
        if numbers.dim() > 1:  # as `_mean`: over those that a resample has
            counts = torch.where(found.isnan(), 0.0, counts)
            found = found.nan_to_num(0.0)
        return (found * counts).sum(-1) / counts.sum(-1)

    def _places(self, chosen: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in chosen]


def no_value(
    counts: tuple[int, int], missing: int, classes: Sequence[int] = (0, 1), fpr: float | None = None, lacking: str | None = None
) -> str | None:
    """Why a number has no value on some images, or None.

    Args:
        counts: Number of reals and of fakes.
        missing: How many scores are NaN.
        classes: The classes that the number needs.
        fpr: The false positive rate that it is taken at, if it is: it needs 1/fpr reals.
        lacking: What else is not there, such as a threshold.
    """
    absent = [CLASS_NAMES[c] for c in classes if counts[c] == 0]
    if absent:
        advice = "; reals_from can name a data set that has some" if counts[0] == 0 and counts[1] else ""
        return f"there are no {' and no '.join(absent)} images{advice}"
    if missing:
        return f"{missing} of {sum(counts)} scores are missing (NaN)"
    if lacking:
        return lacking
    if fpr is not None and counts[0] < (needed := round(1 / fpr)):
        return f"fewer than {needed} real images, too few for a false positive rate of {fpr:g}"
    return None


def no_interval(counts: tuple[int, int], groups: tuple[int, int], classes: Sequence[int] = (0, 1), fpr: float | None = None) -> str | None:
    """Why a number that has a value has no interval, or None; as `no_value`, with the number of groups of each class."""
    few = too_few_groups(groups, classes)
    if few is None and fpr is not None and counts[0] < (needed := round(10 / fpr)):
        return f"fewer than {needed} real images, too few for an interval at a false positive rate of {fpr:g}"
    return few


def measure_generators(
    rows: pd.DataFrame,
    reals_from: Mapping[str, str] | None = None,
    threshold: Threshold = _NO_THRESHOLD,
    resamples: int = RESAMPLES,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
    pooled: bool = False,
) -> dict[str, OfGenerators]:
    """Numbers of each generator of a detector against its reals, on the images and on resamples of them.

    Equal keys, groups and seed give equal resamples, so that two detectors can be compared by `OfGenerators.minus`.

    Args:
        rows: Rows of one detector under one perturbation.
        reals_from: For a data set, the one whose reals its generators are measured against.
        threshold: The stored threshold.
        resamples: Number of resamples R; most of their cost does not depend on the number of generators.
        seed: Bootstrap seed.
        metrics: Names of `METRICS`.
        pooled: Whether all images together are a further entry, of the name `POOLED`.

    Returns:
        By metric. The false positive rate of a generator is that of the reals which it is measured against.
    """
    rows = rows.sort_values(["dataset", "key", "perturbation"]).reset_index(drop=True)
    labels, scores = rows["label"].to_numpy(np.int64), rows["score"].to_numpy(np.float64)
    groups = group_codes(rows["group"].tolist(), rows["key"].tolist())
    members = dict(_members(rows, reals_from or {}))
    families = [str(rows["family"].iloc[fakes[0]]) for _, fakes in members.values()]
    if pooled:
        members[POOLED], families = (np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)), [*families, ""]
    count = _counter(scores, members, threshold.value, metrics)
    values, sizes = count(torch.ones(1, labels.size, dtype=torch.int64))
    drawn = [count(weights) for weights in resample_weights(labels, groups, resamples, seed)] if members else []
    samples = torch.cat([each for each, _ in drawn], 1) if drawn else values.new_empty(len(metrics), 0, len(members))
    made = torch.cat([each for _, each in drawn]) if drawn else sizes.new_empty(0, len(members))
    known = {name: _known(scores, groups, *places) for name, places in members.items()}
    found = {}
    for place, metric in enumerate(metrics):
        numbers, doubts = values[place, 0].clone(), {}
        for column, name in enumerate(members):
            without, doubt = _doubts(metric, threshold, *known[name])
            if without is not None:
                numbers[column] = torch.nan
            if without or doubt:
                doubts[name] = str(without or doubt)
        found[metric] = OfGenerators(tuple(members), tuple(families), numbers, samples[place], doubts, sizes[0], made)
    return found


def _known(
    scores: NDArray[np.float64], groups: NDArray[np.int64], reals: Places, fakes: Places
) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Of a generator: number of reals and of fakes, of groups that hold some, and of scores that are missing."""
    both = np.concatenate([reals, fakes])
    counts = (reals.size, fakes.size)
    return counts, groups_by_class(np.repeat([0, 1], counts), groups[both]), int(np.isnan(scores[both]).sum())


def _doubts(
    metric: str, threshold: Threshold, counts: tuple[int, int], groups: tuple[int, int], missing: int
) -> tuple[str | None, str | None]:
    """Why a generator has no value, and why it has no interval."""
    classes, fpr = _CLASSES.get(metric, (0, 1)), FPR if metric == "tpr_at_fpr_0.1" else None
    needs_threshold = metric not in ("auroc", "tpr_at_fpr_0.1")
    lacking = threshold.reason or "there is no threshold" if needs_threshold and threshold.value is None else None
    return no_value(counts, missing, classes, fpr, lacking), no_interval(counts, groups, classes, fpr)


def _members(rows: pd.DataFrame, reals_from: Mapping[str, str]) -> Members:
    """For each `dataset/generator` the places of the reals that it is measured against, and those of its fakes."""
    reals = {str(name): np.asarray(part.index, np.int64) for name, part in rows[rows["label"] == 0].groupby("dataset")}
    found = {}
    for (dataset, generator), part in rows[rows["label"] == 1].groupby(["dataset", "generator"], sort=True):
        source = reals_from.get(str(dataset), str(dataset))
        found[f"{dataset}/{generator}"] = (reals.get(source, np.empty(0, np.int64)), np.asarray(part.index, np.int64))
    return found


@dataclass(frozen=True)
class _Reals:
    """The reals of a data set, in the order of their scores.

    Attributes:
        order: Their places, `[n]`, from the lowest score to the highest.
        ranked: Their scores.
        firsts: Place in `order` of the first of each distinct score, `[K]`.
        above: Place in `order` of the first that is above the threshold.
    """

    order: Tensor
    ranked: NDArray[np.float64]
    firsts: Tensor
    above: int

    def counted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of the lowest reals, `[n + 1, r]`, and place of the highest distinct score that more than a share `FPR` reach, `[r]`."""
        sums = _running(weights.index_select(0, self.order))
        total = sums[-1].double()
        reached = (total - sums.index_select(0, self.firsts)) / total > FPR
        return sums, (reached.sum(0) - 1).clamp(min=0)


@dataclass(frozen=True)
class _Fakes:
    """The fakes of a generator, in the order of their scores, and how they lie among its reals.

    Attributes:
        code: Which reals.
        order: Their places, `[m]`, from the lowest score to the highest.
        below: For each how many reals have a lower score.
        upto: For each how many reals have no higher score.
        passed: For each distinct score of the reals how many fakes have no higher score, `[K]`.
        above: Place in `order` of the first that is above the threshold.
        undefined: Whether a score is missing.
    """

    code: bytes
    order: Tensor
    below: Tensor
    upto: Tensor
    passed: Tensor
    above: int
    undefined: bool


def _counter(
    scores: NDArray[np.float64], members: Members, threshold: float | None, metrics: Sequence[str]
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """From weights `[r, N]` to the metrics `[M, r, G]` and the number of fakes `[r, G]`.

    AUROC is the share of pairs in which the fake scores higher, a tie counting one half. The reals of a data set are summed up in the
    order of their scores once for all its generators; each fake then looks up how many are below it.
    """
    limit = np.nan if threshold is None else threshold
    shared: dict[bytes, _Reals] = {}
    plans = []
    for reals, fakes in members.values():
        code = reals.tobytes()
        if code not in shared:
            order = reals[np.argsort(scores[reals], kind="stable")]
            ranked = scores[order]
            firsts = torch.from_numpy(np.unique(ranked, return_index=True)[1])
            shared[code] = _Reals(torch.from_numpy(order), ranked, firsts, int(np.searchsorted(ranked, limit, side="right")))
        known = shared[code]
        order = fakes[np.argsort(scores[fakes], kind="stable")]
        own = scores[order]
        below, upto = (torch.from_numpy(np.searchsorted(known.ranked, own, side=side)) for side in ("left", "right"))
        passed = torch.from_numpy(np.searchsorted(own, known.ranked[known.firsts.numpy()], side="right"))
        undefined = bool(np.isnan(own).any() or np.isnan(known.ranked).any())
        above = int(np.searchsorted(own, limit, side="right"))
        plans.append(_Fakes(code, torch.from_numpy(order), below, upto, passed, above, undefined))

    def count(weights: Tensor) -> tuple[Tensor, Tensor]:
        # An image's weights in all resamples beside each other: what follows looks up images.
        by_image = weights.t().contiguous()
        sums = {code: reals.counted(by_image) for code, reals in shared.items()}
        columns, sizes = [], []
        for plan in plans:
            chosen = by_image.index_select(0, plan.order)
            columns.append(_numbers(chosen, plan, shared[plan.code], *sums[plan.code], metrics))
            sizes.append(chosen.sum(0).double())
        if not plans:
            return torch.empty(len(metrics), len(weights), 0, dtype=torch.float64), torch.empty(len(weights), 0, dtype=torch.float64)
        return torch.stack(columns, dim=-1), torch.stack(sizes, dim=-1)

    return count


def _running(weights: Tensor) -> Tensor:
    """0, then the running sum over images: `[n + 1, r]` of `[n, r]`."""
    return torch.cat([weights.new_zeros(1, weights.shape[1]), weights.cumsum(0)])


def _numbers(chosen: Tensor, plan: _Fakes, known: _Reals, sums: Tensor, last: Tensor, metrics: Sequence[str]) -> Tensor:
    """The metrics of one generator, `[M, r]`, from the weights of its fakes `[m, r]`; the formulas are those of `Curve`."""
    if plan.undefined:
        return torch.full((len(metrics), chosen.shape[1]), torch.nan, dtype=torch.float64)
    fakes, reals = chosen.sum(0).double(), sums[-1].double()
    hits = chosen[plan.above :].sum(0).double()
    alarms = reals - sums[known.above]

    def auroc() -> Tensor:
        twice = (chosen * (sums.index_select(0, plan.below) + sums.index_select(0, plan.upto))).sum(0)
        return twice.double() / (2 * fakes * reals)

    def tpr_at_fpr() -> Tensor:
        if not plan.passed.numel():
            return torch.full_like(fakes, torch.nan)
        lowest = _running(chosen).gather(0, plan.passed[last][None])[0]
        return torch.where(reals == 0, torch.nan, (fakes - lowest) / fakes)

    formulas: dict[str, Callable[[], Tensor]] = {
        "auroc": auroc,
        "tpr_at_fpr_0.1": tpr_at_fpr,
        "tpr_at_threshold": lambda: hits / fakes,
        "fpr_at_threshold": lambda: alarms / reals,
        "accuracy": lambda: (hits + reals - alarms) / (fakes + reals),
        "balanced_accuracy": lambda: (hits / fakes + 1 - alarms / reals) / 2,
    }
    return torch.stack([formulas[name]() for name in metrics])
