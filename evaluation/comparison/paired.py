"""Differences of detectors on the same images, with intervals from the very same resamples for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.comparison.together import KEY, METRICS, Detectors, Images, by_seed, chosen_baseline
from evaluation.delong import DelongTest, aurocs
from evaluation.means import OfGenerators
from evaluation.resampling import (
    LEVEL,
    RESAMPLES,
    Interval,
    Metric,
    group_codes,
    groups_by_class,
    interval_of,
    resample_weights,
    too_few_groups,
)
from evaluation.rows import one_line
from evaluation.tables import WIDTH, layout, mark, short, told, write_csv

VERDICTS = {1: "better", -1: "worse", 0: "no difference shown", None: "not known"}
"""By `side_of` a difference."""
_SIDES = ("baseline", "detector", "difference")
_ENDS = ("value", "low", "high")
COLUMNS = (
    *("detector", "compared_with", "images", "kind", "metric"),
    *(f"{side}_{end}" for side in _SIDES for end in _ENDS),
    *("p", "p_holm", "delong_p", "verdict", "n_real", "n_fake", "n_images", "n_left_out", "reason"),
)


@dataclass(frozen=True)
class Difference(Interval):
    """A difference with its paired interval.

    Attributes:
        p: Two-sided bootstrap p value of no difference, in (0, 1]: twice the smaller share of resamples on the other side of 0, at most 1,
            both counts and the number of resamples R raised by one, so that it is never below 2 / (R + 1) (Davison & Hinkley, "Bootstrap
            Methods and their Application", 1997, section 4.2). None where no resamples were measured.
    """

    p: float | None = None

    def cell(self) -> dict[str, float | str | None]:
        """The numbers as they stand in a document."""
        return super().cell() | {"p": self.p}


def paired_difference(
    labels: Sequence[int] | NDArray[np.int64],
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
    groups: Sequence[str] | None,
    metric: Metric,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """A metric of the second score minus that of the first, on the same images and the same resamples of their groups.

    What makes an image hard for both counts for neither, so that the interval is narrower than those of the two alone let expect.

    Args:
        labels: `[N]`, 0 real, 1 fake.
        first: `[N]`, raw scores of one detector; larger means more likely fake.
        second: `[N]`, of the other.
        groups: `[N]`, empty where an image stands alone; None where all do.
        metric: From scores `[N]`, labels `[N]` and weights `[r, N]` (or None) to `[r]` (or a scalar).
        resamples: Number of resamples.
        level: Coverage that is aimed at, in (0, 1).
        seed: Not negative.

    Returns:
        Value, interval and p; null with the reason below 10 groups in a class, and where the metric is not defined.

    Raises:
        ValueError: Numbers of labels, scores and groups are not the same.
    """
    classes = np.array(labels, dtype=np.int64, order="C")
    scores = [np.array(each, dtype=np.float64, order="C") for each in (first, second)]
    sizes = [classes.size, *(each.size for each in scores), *([] if groups is None else [len(groups)])]
    if len(set(sizes)) > 1:
        msg = f"labels, scores and groups are of the same images; their numbers are {', '.join(map(str, sizes))}"
        raise ValueError(msg)
    places = [f"{place:012d}" for place in range(classes.size)]
    codes = group_codes([""] * classes.size if groups is None else groups, places)
    return difference_on(classes, scores, codes, (metric, metric), (0, 1), resamples, level, seed)


def difference_on(
    labels: NDArray[np.int64],
    scores: Sequence[NDArray[np.float64]],
    groups: NDArray[np.int64],
    metrics: Sequence[Metric],
    classes: Sequence[int] = (0, 1),
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """The second metric of the second score minus the first metric of the first.

    Args:
        labels: `[N]`, 0 real, 1 fake.
        scores: Two, `[N]`.
        groups: `[N]`, codes (see `resampling.group_codes`).
        metrics: Two, for example accuracy at the threshold of each.
        classes: Those that the metrics need, whose groups are counted.
        resamples: Number of resamples.
        level: Coverage that is aimed at, in (0, 1).
        seed: Not negative.
    """
    truth, pair = torch.tensor(labels), [torch.tensor(each) for each in scores]
    before, after = (float(metric(each, truth, None)) for metric, each in zip(metrics, pair, strict=True))
    reason = too_few_groups(groups_by_class(labels, groups), classes)
    if reason is not None or np.isnan(after - before):
        return difference_of(after - before, None, level, reason)
    parts = []
    for weights in resample_weights(labels, groups, resamples, seed):
        drawn = [metric(each, truth, weights) for metric, each in zip(metrics, pair, strict=True)]
        parts.append(drawn[1] - drawn[0])
    return difference_of(after - before, torch.cat(parts), level)


def difference_of(value: float, samples: Tensor | None, level: float = LEVEL, reason: str | None = None) -> Difference:
    """A difference from that of every resample, `[R]`, or the reason why there are none."""
    interval = interval_of(value, samples, level, reason)
    has_p = (
        samples is not None and samples.numel() > 0 and reason is None and interval.value is not None and not bool(samples.isnan().any())
    )
    p = two_sided_p(samples) if has_p and samples is not None else None
    return Difference(interval.value, interval.low, interval.high, interval.reason, p)


def two_sided_p(samples: Tensor) -> float:
    """See `Difference.p`; of the differences in every resample, `[R]`."""
    fewer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (samples.numel() + 1))


def side_of(difference: Interval, is_measured: bool = True) -> int | None:
    """1 or −1 where the interval lies above or below 0, 0 where it includes 0, None where nothing is known.

    Args:
        difference: With its interval.
        is_measured: Whether there were resamples.
    """
    if difference.value is None or not is_measured:
        return None
    # Where all resamples give the same difference, there is no interval, but no doubt of the side either.
    low, high = (difference.value if end is None else end for end in (difference.low, difference.high))
    return 0 if low <= 0 <= high else 1 if low > 0 else -1


def generators_difference(second: OfGenerators, first: OfGenerators, chosen: Sequence[str]) -> Difference:
    """The mean over some generators minus that of another detector, with interval and p from the same resamples."""
    interval = second.minus(first, chosen)
    p = None
    if chosen and not any(name in each.doubts for each in (first, second) for name in chosen) and len(second.samples):
        places = [second.names.index(name) for name in chosen]
        samples = (second.samples - first.samples)[:, places].nanmean(-1)  # over the generators that a resample has
        p = two_sided_p(samples[~samples.isnan()])
    return Difference(interval.value, interval.low, interval.high, interval.reason, p)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """P values corrected for their number, so that the chance of any false rejection stays below the level.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979): the k-th smallest of m
    is multiplied by m − k + 1; none gets smaller than the one before it, or larger than 1.

    Args:
        values: P values in [0, 1]; those that are None are no tests and stay None.
    """
    tests = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (value, place) in enumerate(tests):
        least = min(1.0, max(least, value * (len(tests) - rank)))
        corrected[place] = least
    return corrected


def compare_detectors(
    frame: pd.DataFrame,
    reals_from: Mapping[str, str] | None = None,
    baseline: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Each detector of a table against one of them, on the unperturbed images that both have scored.

    The verdict is `better` or `worse` where the paired interval of the difference excludes 0, `no difference shown` where it includes 0,
    `not known` where there is none. Intervals are not corrected for how many there are; `p_holm` is, over the detectors compared.
    Detectors `base@seed_N` are left to `comparison.seeds` where a base has several seeds.

    Args:
        frame: A predictions table; the rows of one split.
        reals_from: For a data set, the one whose reals its generators are measured against.
        baseline: The detector that others are compared with; the first of the table by default, and where it is a detector of several
            seeds.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        `baseline` and `detectors`: for each its `n_images`, `n_left_out` (that only one of the two has scored) and `rows`: of all
        images, of the mean over generators and of each generator, `auroc` and `tpr_at_fpr_0.1`, each with cells `baseline`, `detector` and
        `difference` (detector minus baseline; with `p`), `p_holm`, the `verdict`, and for AUROC `delong`. Empty where there are no two
        detectors.

    Raises:
        ValueError: There is no detector of the name `baseline`, or tables do not agree on what an image is.
    """
    known = Detectors(frame, reals_from, resamples, seed)
    seeds = by_seed(list(known.rows))
    seeded = {name for names in seeds.values() for name in names.values()}
    single = [name for name in known.rows if name not in seeded]
    if not single:
        return {}
    first = chosen_baseline(baseline, single, [*seeds, *seeded])
    compared = [_against(known, first, name) for name in single if name != first]
    tests: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in (row for each in compared for row in each["rows"]):
        for metric in METRICS:
            tests.setdefault((row["images"], metric), []).append(row[metric])
    for parts in tests.values():
        for part, p in zip(parts, holm([part["difference"]["p"] for part in parts]), strict=True):
            part["p_holm"] = p
    return {"baseline": first, "detectors": compared} if compared else {}


def _against(known: Detectors, baseline: str, name: str) -> dict[str, Any]:
    """One detector against the baseline."""
    found: dict[str, Any] = {"detector": name}
    if not known.share_images([baseline, name]):
        return found | {"n_images": 0, "n_left_out": None, "reason": f"{name} and {baseline} have no scored image in common", "rows": []}
    both = known.together([baseline, name])
    rows = []
    for images in both.images():
        row: dict[str, Any] = {"images": images.name, "kind": images.kind, **images.counts()}
        for metric in METRICS:
            before, after = (each[metric] for each in both.found)
            difference = generators_difference(after, before, images.chosen)
            row[metric] = {
                "baseline": before.mean(images.chosen).cell(),
                "detector": after.mean(images.chosen).cell(),
                "difference": difference.cell(),
                "verdict": VERDICTS[side_of(difference, difference.p is not None)],
            }
        row["auroc"]["delong"] = _delong(images, both.rows[1])
        rows.append(row)
    return found | {"n_images": len(both.rows[0]), "n_left_out": both.left_out, "rows": rows}


def _delong(images: Images, other: pd.DataFrame) -> dict[str, Any]:
    """DeLong's interval and test of the difference, where images are independent."""
    if images.rows is None:
        return DelongTest(Interval(None, reason="a mean over generators has no such test")).cell()
    rows = images.rows
    if np.unique(group_codes(rows["group"].tolist(), rows["key"].tolist())).size < len(rows):
        return DelongTest(Interval(None, reason="images share groups")).cell()
    scores = other.set_index(KEY)["score"].reindex(pd.MultiIndex.from_frame(rows[KEY]))
    pair = np.stack([rows["score"].to_numpy(np.float64), scores.to_numpy(np.float64)])
    return aurocs(rows["label"].to_numpy(np.int64), pair).difference(1, 0).cell()


def text(found: Mapping[str, Any], width: int = WIDTH) -> str:
    """The comparison for a terminal: all images and the mean over generators; empty where there is nothing.

    Args:
        found: Of `compare_detectors`.
        width: Columns of the terminal.
    """
    if not found:
        return ""
    notes: dict[str, int] = {}
    lines = [
        f"Differences to {one_line(found['baseline'])} on the same images (paired 95% intervals; p corrected by Holm over the detectors):"
    ]
    for metric, title in METRICS.items():
        rows = []
        for each in found["detectors"]:
            by_generator = [row[metric]["verdict"] for row in each["rows"] if row["kind"] == "generator"]
            counts = ", ".join(f"{by_generator.count(word)} {word}" for word in (VERDICTS[1], VERDICTS[-1]))
            for row in (row for row in each["rows"] if row["kind"] != "generator"):
                part = row[metric]
                shown = {title: said(part["detector"], notes), "difference": said(part["difference"], notes, "+.3f")}
                shown |= {"p": "-" if part["p_holm"] is None else f"{part['p_holm']:.3f}", "": part["verdict"]}
                shown["generators"] = counts if row["kind"] == "mean" else ""
                rows.append((f"{short(each['detector'])}, {row['images'] if row['kind'] == 'all' else 'mean'}", shown))
        if rows:
            lines += layout("detector", list(rows[0][1]), rows, width)
    for each in found["detectors"]:
        if each["n_left_out"] is None:
            lines.append(one_line(each["reason"]))
        elif each["n_left_out"]:
            left, kept = each["n_left_out"], each["n_images"]
            lines.append(f"{short(each['detector'])}: {left} images that only one of the two has scored are left out; {kept} are compared.")
    return "\n".join([*lines, *told(notes)])


def said(cell: Mapping[str, Any], notes: dict[str, int], form: str = ".3f") -> str:
    """A cell with its interval for a terminal; where it has no value a dash and the number of its note."""
    if cell["value"] is None:
        return f"-{mark(cell, notes)}"
    return f"{cell['value']:{form}}" + ("" if cell["low"] is None else f" [{cell['low']:{form}}, {cell['high']:{form}}]")


def write_comparison(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write `comparison.csv` with the columns `COLUMNS`: a row for each detector, images and metric.

    Args:
        folder: Usually `runs/<name>/tables`.
        found: Of `compare_detectors`.

    Returns:
        The file; none where there is nothing.
    """
    rows = []
    for each in found.get("detectors", []):
        for row in each["rows"]:
            for metric in METRICS:
                part = row[metric]
                cells = {f"{side}_{end}": part[side][end] for side in _SIDES for end in _ENDS}
                reasons = dict.fromkeys(part[side]["reason"] for side in _SIDES if part[side].get("reason"))
                numbers = {"p": part["difference"]["p"], "p_holm": part["p_holm"], "delong_p": part.get("delong", {}).get("p")}
                names = {"detector": each["detector"], "compared_with": found["baseline"], "metric": metric}
                counts = {name: each[name] for name in ("n_images", "n_left_out")}
                rows.append(
                    {**row, **names, **cells, **numbers, **counts, "verdict": part["verdict"], "reason": "; ".join(reasons) or None}
                )
    return [write_csv(folder / "comparison.csv", rows, COLUMNS)] if rows else []
