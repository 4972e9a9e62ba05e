"""A detector before and after it was adapted: what was won on new generators, and what was forgotten of the old ones."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from evaluation.comparison.macro import measure_aurocs
from evaluation.comparison.paired import Difference, difference_on, said, side_of
from evaluation.comparison.together import paired_rows
from evaluation.resampling import LEVEL, RESAMPLES, Interval, Metric, group_codes
from evaluation.statistics import Statistic, against_reals, clean_rows, measure, statistics
from evaluation.tables import WIDTH, layout, told, write_csv
from modules.metrics.functional import Curve, Threshold, curve

WON, LOST, UNCHANGED, OPEN = VERDICTS = ("won", "lost", "unchanged", "not known")
_SIDES = ("before", "after", "difference")
COLUMNS = (
    *("images", "kind", "new", "metric"),
    *(f"{side}_{end}" for side in _SIDES for end in ("value", "low", "high")),
    *("verdict", "n_real", "n_fake", "reason"),
)
_PLACES = {"auroc": "auroc", "tpr": "tpr_at_threshold", "fpr": "fpr_at_threshold"}
_NAMES = {"old": "mean of the old generators", "new": "mean of the new generators"}
METRICS = {"auroc": "AUROC", "tpr": "TPR at its own threshold", "fpr": "FPR at its own threshold"}


def changes(
    before: pd.DataFrame,
    after: pd.DataFrame,
    thresholds: tuple[Threshold, Threshold],
    new: Collection[str] = (),
    reals_from: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What changed between two detectors on the same images.

    Differences have a paired interval: both detectors are measured on the very same resamples of groups, so that what makes an image hard
    for both does not count. `before` and `after` alone are as in `metrics.json`. The verdict is `won` or `lost` where the interval of the
    difference excludes 0 (more false alarms are `lost`), `unchanged` where it includes 0 or no score has moved a number, `not known`
    where there is no interval. With many generators a few intervals exclude 0 by chance: 1 in 20.

    Args:
        before: Rows of one detector and one split; of unperturbed images, where there are any.
        after: Rows of the other; images that only one of them has are left out.
        thresholds: The stored threshold of each.
        new: `dataset/generator` of what the second detector was adapted to.
        reals_from: For a data set, the one whose reals its generators are measured against.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        `generators` (each with `auroc` and `tpr`), `means` (the mean AUROC over the `old`, and over the `new` generators), `reals` (each
        source with `fpr`), all of them with cells `before`, `after` and `difference` and a `verdict`; `n_images`, and `n_left_out`.

    Raises:
        ValueError: The two have no image in common, or do not agree on what an image is.
    """
    pair, left_out = paired_rows([clean_rows(before), clean_rows(after)])
    take = partial(_compared, thresholds=thresholds, resamples=resamples, seed=seed)
    tables = [against_reals(frame, reals_from) for frame in pair]
    generators = [
        {"name": name, "new": name in new} | take([table[name] for table in tables], metrics=("auroc", "tpr")) for name in tables[0]
    ]
    sources = [dict(iter(frame[frame["label"] == 0].groupby(["dataset", "generator"], sort=True))) for frame in pair]
    reals = [{"name": "/".join(map(str, place))} | take([source[place] for source in sources], metrics=("fpr",)) for place in sources[0]]
    aurocs = [measure_aurocs(frame, reals_from, resamples, seed) for frame in pair]
    means = []
    for kind in ("old", "new"):
        names = [str(each["name"]) for each in generators if each["new"] == (kind == "new")]
        if names:
            before_after = [each.mean(names).cell() for each in aurocs]
            difference = aurocs[1].minus(aurocs[0], names)
            verdict = _verdict(difference, not any(name in each.doubts for each in aurocs for name in names), "auroc")
            cells = dict(zip(_SIDES, [*before_after, difference.cell()], strict=True))
            means.append({"name": kind, "generators": len(names), "auroc": {**cells, "verdict": verdict}})
    return {"generators": generators, "means": means, "reals": reals, "n_images": len(pair[0]), "n_left_out": left_out}


def _compared(
    tables: Sequence[pd.DataFrame], thresholds: Sequence[Threshold], metrics: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    """The numbers of some images, each before, after and their difference."""
    own = [{each.place[0]: each for each in statistics(threshold)} for threshold in thresholds]
    records = [
        measure(table, threshold, resamples, seed, [known[_PLACES[name]] for name in metrics])
        for table, threshold, known in zip(tables, thresholds, own, strict=True)
    ]
    result: dict[str, Any] = {name: records[0][name] for name in ("n_real", "n_fake")}
    for name in metrics:
        chosen = [known[_PLACES[name]] for known in own]
        cells = [record[_PLACES[name]] for record in records]
        difference = _difference(tables, chosen, cells, resamples, seed)
        verdict = _verdict(difference, difference.p is not None, name)
        result[name] = {"before": cells[0], "after": cells[1], "difference": Interval.cell(difference), "verdict": verdict}
    return result


def _difference(
    tables: Sequence[pd.DataFrame], chosen: Sequence[Statistic], cells: Sequence[Mapping[str, Any]], resamples: int, seed: int
) -> Difference:
    """After minus before."""
    if without := [cell["reason"] for cell in cells if cell["value"] is None]:
        return Difference(None, reason=without[0])
    labels = tables[0]["label"].to_numpy(np.int64)
    groups = group_codes(tables[0]["group"].tolist(), tables[0]["key"].tolist())
    scores = [table["score"].to_numpy(np.float64) for table in tables]
    metrics = [_metric(each.compute) for each in chosen if each.compute is not None]
    return difference_on(labels, scores, groups, metrics, chosen[0].classes, resamples, LEVEL, seed)


def _metric(compute: Callable[[Curve], Tensor]) -> Metric:
    return lambda scores, labels, weights: compute(curve(scores, labels, weights))


def _verdict(difference: Interval, is_measured: bool, metric: str) -> str:
    """Whether 0 is outside the interval, and on which side."""
    side = side_of(difference, is_measured)
    if side is None or side == 0:
        return OPEN if side is None else UNCHANGED
    return WON if (side > 0) != (metric == "fpr") else LOST


def text(found: Mapping[str, Any], width: int = WIDTH) -> str:
    """The table before / after for a terminal.

    Args:
        found: Of `changes`.
        width: Columns of the terminal.
    """
    notes: dict[str, int] = {}
    lines = []
    marked = any(row["new"] for row in found["generators"])
    for metric, title in METRICS.items():
        rows = []
        for row in _all_rows(found):
            if metric in row:
                name = f"{'+ ' if row.get('new') else '  ' if marked else ''}{_NAMES.get(row['name'], row['name'])}"
                cells = {side: said(row[metric][side], notes, "+.3f" if side == "difference" else ".3f") for side in _SIDES}
                rows.append((name, {**cells, "": row[metric]["verdict"]}))
        if rows:
            lines += [
                f"{title}{' (+: adapted to it)' if marked and metric != 'fpr' else ''}",
                *layout("images", [*_SIDES, ""], rows, width),
            ]
    if left_out := found["n_left_out"]:
        lines.append(f"{left_out} images that only one of the two has scored are left out; {found['n_images']} are compared.")
    return "\n".join([*lines, *told(notes)])


def _all_rows(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*found["generators"], *found["means"], *found["reals"]]


def write_changes(path: Path, found: Mapping[str, Any]) -> Path:
    """Write the table as CSV with the columns `COLUMNS`: a row for each generator, mean or source of reals, and metric.

    Args:
        path: The file, usually `runs/<name>/tables/changes.csv`.
        found: Of `changes`.
    """
    rows = []
    for kind, part in (("generator", "generators"), ("mean", "means"), ("reals", "reals")):
        for row in found[part]:
            for metric in (name for name in METRICS if name in row):
                cells = {f"{side}_{end}": row[metric][side][end] for side in _SIDES for end in ("value", "low", "high")}
                reasons = dict.fromkeys(row[metric][side]["reason"] for side in _SIDES if row[metric][side].get("reason"))
                rows.append(
                    {**row, **cells, "images": row["name"], "kind": kind, "metric": metric} | {"reason": "; ".join(reasons) or None}
                )
                rows[-1]["verdict"] = row[metric]["verdict"]
    return write_csv(path, rows, COLUMNS)
