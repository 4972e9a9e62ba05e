"""Several detectors of a table on the images that all of them have scored, each measured once, on common resamples."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from evaluation.means import POOLED, OfGenerators, measure_generators
from evaluation.resampling import RESAMPLES
from evaluation.statistics import CLEAN, against_reals

KEY = ["dataset", "key"]
METRICS = {"auroc": "AUROC", "tpr_at_fpr_0.1": "TPR at FPR 0.1"}
MEAN = "mean of the generators"
KINDS = ("all", "mean", "generator")
"""What images a number is of: all together, a mean over generators that counts each the same, or one generator against its reals."""

_SEED = re.compile(r"(.+)@seed_(\d+)", re.DOTALL)


def paired_rows(frames: Sequence[pd.DataFrame]) -> tuple[list[pd.DataFrame], int]:
    """The rows of the images that all tables have, in one order, and how many images only some of them have.

    Args:
        frames: Each of one detector; of an image that it has under several perturbations, the first row counts.

    Raises:
        ValueError: There is no such image, or the tables do not agree on what an image is.
    """
    indexed = [frame.drop_duplicates(KEY).set_index(KEY) for frame in frames]
    common, union = indexed[0].index, indexed[0].index
    for frame in indexed[1:]:
        common, union = common.intersection(frame.index), union.union(frame.index)
    if common.empty:
        several = "the two detectors were" if len(frames) == 2 else "the detectors were"
        msg = f"{several} measured on different images: there is none that {'both' if len(frames) == 2 else 'all'} have scored, "
        raise ValueError(msg + "so nothing can be compared")
    together = [frame.loc[common.sort_values()].reset_index() for frame in indexed]
    for number, frame in enumerate(together[1:], 2):
        for name in ("label", "generator", "group"):
            if unlike := int((together[0][name] != frame[name]).sum()):
                which = "second table" if len(frames) == 2 else f"table {number} of {len(frames)}"
                msg = f"{unlike} images have another {name} in the {which}: score both detectors on the same records"
                raise ValueError(msg)
    return together, len(union) - len(common)


@dataclass(frozen=True)
class Images:
    """What a number is of.

    Attributes:
        name: `all`, `dataset/generator`, or `MEAN`.
        kind: One of `KINDS`.
        chosen: Names within `OfGenerators` whose mean it is.
        rows: Of the first detector; None of a mean.
    """

    name: str
    kind: str
    chosen: tuple[str, ...]
    rows: pd.DataFrame | None

    def counts(self) -> dict[str, int | None]:
        """Number of real images and of fakes; None of a mean."""
        return {f"n_{name}": None if self.rows is None else int((self.rows["label"] == c).sum()) for c, name in enumerate(("real", "fake"))}


@dataclass(frozen=True)
class Together:
    """Detectors on the images that all of them have scored.

    Attributes:
        rows: Of each detector, in one order.
        found: Of each detector by metric, all on the same resamples.
        left_out: Number of images that only some have scored.
        reals_from: For a data set, the one whose reals its generators are measured against.
    """

    rows: Sequence[pd.DataFrame]
    found: Sequence[Mapping[str, OfGenerators]]
    left_out: int
    reals_from: Mapping[str, str]

    def images(self) -> list[Images]:
        """What there is to compare: all images, the mean over generators where there are several, and each generator."""
        tables = against_reals(self.rows[0], self.reals_from)
        several = [Images(MEAN, "mean", tuple(tables), None)] if len(tables) > 1 else []
        return [
            Images(POOLED, "all", (POOLED,), self.rows[0]),
            *several,
            *(Images(name, "generator", (name,), table) for name, table in tables.items()),
        ]


class Detectors:
    """The detectors of a table on its unperturbed images, or on those under the first perturbation where there are none.

    Args:
        frame: A predictions table.
        reals_from: For a data set, the one whose reals its generators are measured against.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Attributes:
        rows: Of each detector by name, in the table's order.
    """

    def __init__(self, frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> None:
        found = frame["perturbation"].unique()
        under = frame[frame["perturbation"] == (CLEAN if CLEAN in found or not len(found) else found[0])]
        self.rows = {str(name): rows.drop_duplicates(KEY) for name, rows in under.groupby("detector", sort=False)}
        self.reals_from = dict(reals_from or {})
        self.resamples = resamples
        self.seed = seed
        self._known: dict[str, Mapping[str, OfGenerators]] = {}

    def together(self, names: Sequence[str]) -> Together:
        """Some detectors on the images that all of them have scored.

        Raises:
            ValueError: There is no such image.
        """
        rows, left_out = paired_rows([self.rows[name] for name in names])
        return Together(rows, [self._measured(name, own) for name, own in zip(names, rows, strict=True)], left_out, self.reals_from)

    def share_images(self, names: Sequence[str]) -> bool:
        """Whether there is an image that all of them have scored."""
        keys = [frozenset(self.rows[name][KEY].itertuples(index=False, name=None)) for name in names]
        return bool(frozenset.intersection(*keys))

    def _measured(self, name: str, rows: pd.DataFrame) -> Mapping[str, OfGenerators]:
        """All numbers of a detector; where the rows are all of its own, they are measured once."""
        whole = len(rows) == len(self.rows[name])
        if whole and name in self._known:
            return self._known[name]
        found = measure_generators(rows, self.reals_from, resamples=self.resamples, seed=self.seed, metrics=tuple(METRICS), pooled=True)
        if whole:
            self._known[name] = found
        return found


def by_seed(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Detectors `base@seed_N` by base and seed, in their order; empty where no base has several seeds."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if (match := _SEED.fullmatch(name)) is not None:
            found.setdefault(match[1], {})[match[2]] = name
    return found if any(len(seeds) > 1 for seeds in found.values()) else {}


def chosen_baseline(baseline: str | None, mine: Sequence[str], others: Sequence[str]) -> str:
    """The baseline among `mine`, the first where none is named or it is one of `others`, which are compared elsewhere.

    Raises:
        ValueError: It is none of both.
    """
    if baseline is not None and baseline not in {*mine, *others}:
        msg = f"there is no detector {baseline!r} to compare with; there are: {', '.join([*mine, *others])}"
        raise ValueError(msg)
    return baseline if baseline in mine and baseline is not None else mine[0]
