"""AUROC averaged over generators, with intervals: every resample of the images is counted once for all generators."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.resampling import LEVEL, RESAMPLES, Interval, group_codes, groups_by_class, interval_of, resample_weights, too_few_groups
from evaluation.statistics import clean_rows


@dataclass(frozen=True)
class Aurocs:
    """AUROC of each generator, of one detector.

    Attributes:
        names: `dataset/generator`, G of them.
        families: Family of each, as the table says.
        numbers: Double `[G]` in [0, 1], NaN where there is none.
        samples: Double `[R, G]` of the same in every resample; NaN where a resample holds no image of a class.
        doubts: Why some have no interval, or no value, by name.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    numbers: Tensor
    samples: Tensor
    doubts: Mapping[str, str]

    def mean(self, chosen: Sequence[str]) -> Interval:
        """The mean over some generators, each counting the same however many images it has.

        Args:
            chosen: Names of them.
        """
        return self._interval(chosen, lambda numbers: self._mean(numbers, chosen))

    def difference(self, first: Sequence[str], second: Sequence[str]) -> Interval:
        """The mean over the `first` minus the mean over the `second` generators, on the same resamples."""
        if not first or not second:
            return Interval(None, reason="there are no generators on one side")
        return self._interval([*first, *second], lambda numbers: self._mean(numbers, first) - self._mean(numbers, second))

    def minus(self, other: "Aurocs", chosen: Sequence[str]) -> Interval:
        """The mean over some generators minus that of another detector on the same images and resamples.

        Raises:
            ValueError: Generators or number of resamples are not the same.
        """
        if self.names != other.names or self.samples.shape != other.samples.shape:
            msg = "two detectors are compared on the same generators and resamples only"
            raise ValueError(msg)
        numbers, samples, doubts = self.numbers - other.numbers, self.samples - other.samples, {**other.doubts, **self.doubts}
        changed = Aurocs(self.names, self.families, numbers, samples, doubts)
        return changed.mean(chosen)

    def _interval(self, chosen: Sequence[str], measure: Callable[[Tensor], Tensor]) -> Interval:
        if not chosen:
            return Interval(None, reason="there are no such generators")
        doubts = dict.fromkeys(f"{name}: {self.doubts[name]}" for name in chosen if name in self.doubts)
        more = f" (and {len(doubts) - 1} more generators)" if len(doubts) > 1 else ""
        reason = f"{next(iter(doubts))}{more}" if doubts else None
        samples = None if doubts else measure(self.samples)
        if samples is not None:  # with 10 groups of many, 1 resample in 20,000 has none of them
            samples = samples[~samples.isnan()]
        return interval_of(float(measure(self.numbers)), samples, LEVEL, reason)

    def _mean(self, numbers: Tensor, chosen: Sequence[str]) -> Tensor:
        """Over the generators that a resample has."""
        found = numbers[..., [self.names.index(name) for name in chosen]]
        return found.nanmean(-1) if numbers.dim() > 1 else found.mean(-1)


def measure_aurocs(frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Aurocs:
    """AUROC of each generator of a detector against its reals, on the unperturbed images and on resamples of them.

    Equal keys, groups and seed give equal resamples, so that two detectors can be compared by `Aurocs.minus`.

    Args:
        frame: Rows of one detector; of unperturbed images, where there are any.
        reals_from: For a data set, the one whose reals its generators are measured against.
        resamples: Number of resamples R; their cost does not depend on the number of generators.
        seed: Bootstrap seed.
    """
    rows = clean_rows(frame).sort_values(["dataset", "key", "perturbation"]).reset_index(drop=True)
    labels, scores = rows["label"].to_numpy(np.int64), rows["score"].to_numpy(np.float64)
    groups = group_codes(rows["group"].tolist(), rows["key"].tolist())
    members = _members(rows, reals_from or {})
    count = _counter(scores, members)
    values = count(torch.ones(1, labels.size, dtype=torch.int64))[0]
    drawn = [count(weights) for weights in resample_weights(labels, groups, resamples, seed)] if members else []
    samples = torch.cat(drawn) if drawn else values.new_empty(0, len(members))
    doubts = {}
    for name, (reals, fakes) in members.items():
        both = np.concatenate([reals, fakes])
        few = too_few_groups(groups_by_class(labels[both], groups[both]), (0, 1))
        missing = int(np.isnan(scores[both]).sum())
        doubt = "there are no real images" if not reals.size else f"{missing} of {both.size} scores are missing (NaN)" if missing else few
        if doubt:
            doubts[name] = doubt
    families = tuple(str(rows["family"].iloc[fakes[0]]) for _, fakes in members.values())
    return Aurocs(tuple(members), families, values, samples, doubts)


def _members(rows: pd.DataFrame, reals_from: Mapping[str, str]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each `dataset/generator` the places of the reals that it is measured against, and those of its fakes."""
    reals = {str(name): np.asarray(part.index, np.int64) for name, part in rows[rows["label"] == 0].groupby("dataset")}
    found = {}
    for (dataset, generator), part in rows[rows["label"] == 1].groupby(["dataset", "generator"], sort=True):
        source = reals_from.get(str(dataset), str(dataset))
        found[f"{dataset}/{generator}"] = (reals.get(source, np.empty(0, np.int64)), np.asarray(part.index, np.int64))
    return found


def _counter(scores: NDArray[np.float64], members: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Callable[[Tensor], Tensor]:
    """From weights `[r, N]` to AUROC `[r, G]` as the share of pairs in which the fake scores higher, a tie counting one half.

    The reals of a data set are summed up in the order of their scores once for all its generators; each fake then looks up how many are
    below it.
    """
    plans = []
    orders: dict[bytes, Tensor] = {}
    for reals, fakes in members.values():
        code = reals.tobytes()
        orders.setdefault(code, torch.from_numpy(reals[np.argsort(scores[reals], kind="stable")]))
        ranked = scores[orders[code].numpy()]
        below, upto = (torch.from_numpy(np.searchsorted(ranked, scores[fakes], side=side)) for side in ("left", "right"))
        plans.append((code, torch.from_numpy(fakes), below, upto, bool(np.isnan(scores[[*reals, *fakes]]).any())))

    def count(weights: Tensor) -> Tensor:
        sums = {code: torch.nn.functional.pad(weights.index_select(1, order).cumsum(1), (1, 0)) for code, order in orders.items()}
        columns = []
        for code, fakes, below, upto, undefined in plans:
            chosen = weights.index_select(1, fakes)
            twice = (chosen * (sums[code].index_select(1, below) + sums[code].index_select(1, upto))).sum(1)
            pairs = 2 * chosen.sum(1) * sums[code][:, -1]
            columns.append(torch.full_like(twice, torch.nan, dtype=torch.float64) if undefined else twice.double() / pairs.double())
        return torch.stack(columns, dim=1) if columns else torch.empty(len(weights), 0, dtype=torch.float64)

    return count
