"""Do the intervals hold? Simulations with known truth: how often 95% intervals cover it, and how often tests of nothing reject.

python -m benchmarks.coverage --repetitions 1000 --resamples 1000 --out coverage.json

Scores are normal with variance 1, those of fakes shifted by 1.5: the true AUROC is Φ(1.5/√2) = 0.856, the true TPR at FPR 0.1
Φ(1.5 − Φ⁻¹(0.9)) = 0.587. Grouped: 33 groups of 4 images in each class, correlated 0.5 within a group. Two detectors are correlated 0.6
on every image and have the same true AUROC, so that every rejection is false.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.comparison.paired import paired_difference
from evaluation.delong import aurocs
from evaluation.files import write_atomically
from evaluation.resampling import Interval, bootstrap_interval
from modules.metrics.functional import auroc, tpr_at_fpr

SHIFT = 1.5
WITHIN = 0.5  # correlation of the images of a group
BETWEEN = 0.6  # of two detectors on an image
AUROC = NormalDist().cdf(SHIFT / math.sqrt(2))
TPR = NormalDist().cdf(SHIFT - NormalDist().inv_cdf(0.9))
UNGROUPED, GROUPED = (200, 1), (33, 4)  # groups a class, images a group


@dataclass(frozen=True)
class Data:
    """One simulated sample.

    Attributes:
        labels: `[N]`.
        scores: `[2, N]`, of two detectors.
        groups: `[N]`, codes.
        names: `[N]`, of the groups.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    groups: NDArray[np.int64]
    names: list[str] | None


@dataclass(frozen=True)
class Row:
    """How often something happened.

    Attributes:
        case: Letter of the simulation and its data.
        what: What is counted.
        aimed: The share that it should be.
        found: The share that it was.
        error: Monte-Carlo standard error of `found`.
        low: Lowest share that is acceptable.
        high: Highest.
        seconds: Of this row's repetitions, data included.
    """

    case: str
    what: str
    aimed: float
    found: float
    error: float
    low: float
    high: float
    seconds: float


def sample(rng: np.random.Generator, groups: int, size: int) -> Data:
    """Scores of two detectors on `groups` groups of `size` images in each class."""
    codes = np.repeat(np.arange(2 * groups), size)
    labels = (codes >= groups).astype(np.int64)

    def correlated(count: int) -> NDArray[np.float64]:
        return math.sqrt(BETWEEN) * rng.standard_normal(count) + math.sqrt(1 - BETWEEN) * rng.standard_normal((2, count))

    noise = correlated(labels.size)
    if size > 1:
        noise = math.sqrt(WITHIN) * correlated(2 * groups)[:, codes] + math.sqrt(1 - WITHIN) * noise
    return Data(labels, noise + SHIFT * labels, codes, None if size == 1 else [f"g{code}" for code in codes])


def tpr(scores: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """TPR at FPR 0.1."""
    return tpr_at_fpr(scores, labels, 0.1, weights)


def covers(interval: Interval, truth: float) -> bool:
    """Whether there is an interval and the truth is in it."""
    return interval.low is not None and interval.high is not None and interval.low <= truth <= interval.high


def rejects(p: float | None) -> bool:
    """Whether a test says at the 5% level that two detectors differ."""
    return p is not None and p <= 0.05


Happens = Callable[[Data, int], bool]
Plan = tuple[str, str, tuple[int, int], Happens, float, float, float]


def plans(resamples: int) -> Iterator[Plan]:
    """Case, what is counted, design, how, the share aimed at, and the lowest and highest that are acceptable."""

    def covered(metric: Callable[[Tensor, Tensor, Tensor | None], Tensor], truth: float, grouped: bool = True) -> Happens:
        def happens(data: Data, seed: int) -> bool:
            names = data.names if grouped else None
            return covers(bootstrap_interval(data.labels, data.scores[0], names, metric, resamples, seed=seed), truth)

        return happens

    def rejected(data: Data, seed: int) -> bool:
        return rejects(paired_difference(data.labels, data.scores[0], data.scores[1], data.names, auroc, resamples, seed=seed).p)

    def closed(data: Data, seed: int) -> bool:
        groups = None if data.names is None else data.groups
        return covers(aurocs(data.labels, data.scores[:1], groups).interval(0), AUROC)

    def delong(data: Data, seed: int) -> bool:
        return rejects(aurocs(data.labels, data.scores).difference(0, 1).p)

    said = "{}: 95% interval of {} covers"
    yield "a ungrouped", said.format("bootstrap", "AUROC"), UNGROUPED, covered(auroc, AUROC), 0.95, 0.93, 0.97
    yield "a ungrouped", said.format("bootstrap", "TPR at FPR 0.1"), UNGROUPED, covered(tpr, TPR), 0.95, 0.93, 0.97
    yield "b grouped", said.format("group bootstrap", "AUROC"), GROUPED, covered(auroc, AUROC), 0.95, 0.90, 0.97
    yield "b grouped", said.format("group bootstrap", "TPR at FPR 0.1"), GROUPED, covered(tpr, TPR), 0.95, 0.90, 0.98
    yield "b grouped", said.format("image bootstrap (wrong here)", "AUROC"), GROUPED, covered(auroc, AUROC, False), 0.95, 0.0, 1.0
    yield "b grouped", said.format("image bootstrap (wrong here)", "TPR at FPR 0.1"), GROUPED, covered(tpr, TPR, False), 0.95, 0.0, 1.0
    yield "c ungrouped", "paired bootstrap: 5% test of equal detectors rejects", UNGROUPED, rejected, 0.05, 0.03, 0.07
    yield "c grouped", "paired group bootstrap: 5% test of equal detectors rejects", GROUPED, rejected, 0.05, 0.03, 0.1
    yield "c ungrouped", "DeLong: 5% test of equal detectors rejects", UNGROUPED, delong, 0.05, 0.03, 0.07
    yield "d ungrouped", said.format("DeLong", "AUROC"), UNGROUPED, closed, 0.95, 0.93, 0.97
    yield "d grouped", said.format("clustered DeLong (Obuchowski)", "AUROC"), GROUPED, closed, 0.95, 0.90, 0.97


def simulate(repetitions: int, resamples: int, seed: int = 0) -> Iterator[Row]:
    """Each row as soon as it is known; rows of one design see the same samples.

    Args:
        repetitions: Samples a row.
        resamples: Bootstrap resamples of each.
        seed: Of the samples; that of the resamples is the repetition's number.
    """
    for case, what, design, happens, aimed, low, high in plans(resamples):
        rng = np.random.default_rng([seed, *design])
        started = time.perf_counter()
        share = sum(happens(sample(rng, *design), number) for number in range(repetitions)) / repetitions
        error = math.sqrt(share * (1 - share) / repetitions)
        yield Row(case, what, aimed, share, error, low, high, time.perf_counter() - started)


def main() -> None:
    """Simulate, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    print(f"{options.repetitions:,} repetitions of {options.resamples:,} resamples, {torch.get_num_threads()} threads")
    print(f"{'case':<12} {'':<66} {'aimed':>6} {'found':>6} {'error':>6} {'s':>6}")
    rows = []
    for row in simulate(options.repetitions, options.resamples, options.seed):
        rows.append(row)
        print(f"{row.case:<12} {row.what:<66} {row.aimed:>6.3f} {row.found:>6.3f} {row.error:>6.3f} {row.seconds:>6.1f}", flush=True)
    if outside := [row.what for row in rows if not row.low <= row.found <= row.high]:
        print(f"outside of what is acceptable: {'; '.join(outside)}")
    if options.out is not None:
        settings = {name: getattr(options, name) for name in ("repetitions", "resamples", "seed")}
        document = settings | {"auroc": AUROC, "tpr_at_fpr_0.1": TPR, "rows": [asdict(row) for row in rows]}
        write_atomically(options.out, json.dumps(document, indent=2).encode())


if __name__ == "__main__":
    main()
