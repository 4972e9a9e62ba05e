"""A sweep's best detector, chosen on one half of the groups of images and reported on the other.

The best of many on the images that it was chosen by is too good: it was chosen for its luck on them as well (the winner's curse). Choosing
and reporting on different groups takes that away. Which half is which is chance, so both ways are reported.
"""

import hashlib
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.comparison.paired import said
from evaluation.comparison.together import Detectors, paired_rows
from evaluation.means import POOLED, measure_generators
from evaluation.resampling import MIN_GROUPS, RESAMPLES, Interval, group_codes, groups_by_class
from evaluation.rows import one_line
from evaluation.tables import WIDTH, layout, short, told, write_csv

CHOICES = {"auroc": "AUROC", "tpr_at_fpr_0.1": "TPR at FPR 0.1", "macro_auroc": "mean AUROC over generators"}
HALVES = ("A", "B")
_ENDS = ("value", "low", "high")
COLUMNS = (
    *("metric", "chosen_on", "reported_on", "detector", "where_chosen", *_ENDS, "optimism"),
    *("groups_real", "groups_fake", "naive_detector", "naive_value", "naive_optimism", "reason"),
)


def selection(
    frame: pd.DataFrame,
    metric: str = "auroc",
    reals_from: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The best detector of a table by one half of the groups, reported on the other, both ways.

    Args:
        frame: A predictions table; the rows of one split. Its unperturbed images that all detectors have scored count.
        metric: A name of `CHOICES`.
        reals_from: For a data set, the one whose reals its generators are measured against; only means over generators depend on it.
        resamples: Bootstrap resamples for each interval.
        seed: Of the bootstrap and of the halves.

    Returns:
        Empty where there are no two detectors. Else `metric`, `candidates` (their number), `n_images`, `n_left_out`; `naive`: the
        `detector` that is best on all images, its cell `value` there, and its `optimism`: that value minus the mean of what the halves
        report; and `halves`, a row for each way: `chosen_on`, `reported_on`, `detector`, `where_chosen` (its cell there), `value` (its cell
        on the other half), `optimism` (the first minus the second) and the groups of each class on the half reported on. All null with the
        `reason` below 10 groups of a class in a half, or where there is no image that all detectors have scored. Of detectors that are
        equally good, the first of the table is chosen.

    Raises:
        ValueError: There is no such metric, or detectors do not agree on what an image is.
    """
    if metric not in CHOICES:
        msg = f"a sweep is chosen by one of {', '.join(CHOICES)}; there is no {metric!r}"
        raise ValueError(msg)
    known = Detectors(frame, reals_from, resamples, seed)
    if len(known.rows) < 2:
        return {}
    shared = known.share_images(list(known.rows))
    together, left_out = paired_rows(list(known.rows.values())) if shared else ([rows[:0] for rows in known.rows.values()], None)
    half_of = halves(together[0], seed)
    members = {"": half_of >= 0, "A": half_of == 0, "B": half_of == 1}
    parts = {part: {name: rows[own] for name, rows in zip(known.rows, together, strict=True)} for part, own in members.items()}
    best = {part: _best(tables, metric, known) for part, tables in parts.items()}
    groups = {part: _groups(together[0][own]) for part, own in members.items()}
    few = min(min(groups[name]) for name in HALVES)
    reason = f"{few} groups of a class in a half of the images, {MIN_GROUPS} needed" if few < MIN_GROUPS else None
    reason = reason if shared else "there is no image that all detectors have scored"
    ways = []
    for chosen_on, reported_on in (HALVES, HALVES[::-1]):
        detector = None if reason else best[chosen_on]
        on = [_cell(parts[name], detector, metric, known, reason) for name in (chosen_on, reported_on)]
        way: dict[str, Any] = {
            "chosen_on": chosen_on,
            "reported_on": reported_on,
            "detector": detector,
            "where_chosen": on[0],
            "value": on[1],
        }
        way["optimism"] = None if None in (on[0]["value"], on[1]["value"]) else on[0]["value"] - on[1]["value"]
        ways.append(way | dict(zip(("groups_real", "groups_fake"), groups[reported_on], strict=True)))
    naive: dict[str, Any] = {"detector": best[""], "value": _cell(parts[""], best[""], metric, known), "optimism": None}
    reported = [way["value"]["value"] for way in ways]
    if naive["value"]["value"] is not None and None not in reported:
        naive["optimism"] = naive["value"]["value"] - statistics.fmean(reported)
    counts = {"candidates": len(known.rows), "n_images": len(together[0]), "n_left_out": left_out}
    return {"metric": metric, **counts, "naive": naive, "halves": ways}


def halves(rows: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Which half each image is in, `[N]`, 0 or 1: all images of a group in the same, whatever the order of the rows.

    Groups that hold reals only, fakes only, or both are halved apart, so that each half has both classes; within these, groups of like
    content (data sets and generators) are neighbours. Of two neighbours a hash of the first and the seed says which goes to which half.

    Args:
        rows: Of one detector.
        seed: Other seeds make other halves.
    """
    labels = rows["label"].to_numpy(np.int64)
    codes = group_codes(rows["group"].tolist(), rows["key"].tolist())
    names = [f"group {group}" if group else f"image {key}" for group, key in zip(rows["group"], rows["key"], strict=True)]
    hashes = dict(
        zip(codes.tolist(), (hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest() for name in names), strict=True)
    )
    content: dict[int, set[tuple[int, str, str]]] = {}
    for code, *what in zip(codes.tolist(), labels.tolist(), rows["dataset"], rows["generator"], strict=True):
        content.setdefault(code, set()).add((what[0], str(what[1]), str(what[2])))
    kinds: dict[tuple[int, ...], list[int]] = {}
    for code in sorted(content, key=lambda code: (sorted(content[code]), hashes[code])):
        kinds.setdefault(tuple(sorted({label for label, *_ in content[code]})), []).append(code)
    half = {}
    for members in kinds.values():
        for place, code in enumerate(members):
            first = members[place - place % 2]
            half[code] = (hashes[first][0] + place) % 2
    return np.array([half[code] for code in codes.tolist()], dtype=np.int64)


def _number(rows: pd.DataFrame, metric: str, known: Detectors, resamples: int) -> Interval:
    """The number of one detector on some of its images."""
    name, pooled = ("auroc", False) if metric == "macro_auroc" else (metric, True)
    found = measure_generators(rows, known.reals_from, resamples=resamples, seed=known.seed, metrics=(name,), pooled=pooled)[name]
    return found.mean([POOLED] if pooled else found.names)


def _best(tables: Mapping[str, pd.DataFrame], metric: str, known: Detectors) -> str | None:
    """The detector with the largest number; None where none has any."""
    numbers = {name: _number(rows, metric, known, 1).value for name, rows in tables.items()}
    values = {name: value for name, value in numbers.items() if value is not None}
    return max(values, key=lambda name: values[name]) if values else None


def _cell(
    tables: Mapping[str, pd.DataFrame], detector: str | None, metric: str, known: Detectors, reason: str | None = None
) -> dict[str, Any]:
    """The number of the chosen detector with its interval."""
    if detector is None:
        return Interval(None, reason=reason or "no detector has a number where it would be chosen").cell()
    return _number(tables[detector], metric, known, known.resamples).cell()


def _groups(rows: pd.DataFrame) -> tuple[int, int]:
    return groups_by_class(rows["label"].to_numpy(np.int64), group_codes(rows["group"].tolist(), rows["key"].tolist()))


def text(found: Mapping[str, Any], width: int = WIDTH) -> str:
    """The choice for a terminal; empty where there is nothing.

    Args:
        found: Of `selection`.
        width: Columns of the terminal.
    """
    if not found:
        return ""
    notes: dict[str, int] = {}
    rows = []
    for way in found["halves"]:
        optimism = "-" if way["optimism"] is None else f"{way['optimism']:+.3f}"
        shown = {"detector": short(way["detector"] or "-"), "where chosen": said(way["where_chosen"], notes)}
        rows.append(
            (
                f"{way['chosen_on']}, reported on {way['reported_on']}",
                {**shown, "reported": said(way["value"], notes), "optimism": optimism},
            )
        )
    lines = [
        f"Best of {found['candidates']} detectors by {CHOICES[found['metric']]}, chosen on one half of the groups, reported on the other:"
    ]
    lines += layout("chosen on half", list(rows[0][1]), rows, width)
    return "\n".join([*lines, *([naive] if (naive := naive_sentence(found)) else []), *told(notes)])


def naive_sentence(found: Mapping[str, Any]) -> str:
    """What the best on all images would have been reported with; empty where there is none.

    Args:
        found: Of `selection`.
    """
    naive = found["naive"]
    if naive["detector"] is None:
        return ""
    more = "" if naive["optimism"] is None else f", {naive['optimism']:+.3f} against the mean of what the halves report"
    return f"Chosen and reported on all images it would have been {one_line(naive['detector'])} with {naive['value']['value']:.3f}{more}."


def write_selection(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write `selection.csv` with the columns `COLUMNS`: a row for each way.

    Args:
        folder: Usually `runs/<name>/tables`.
        found: Of `selection`.

    Returns:
        The file; none where there is nothing.
    """
    if not found:
        return []
    naive = {f"naive_{name}": found["naive"][name] for name in ("detector", "optimism")} | {"naive_value": found["naive"]["value"]["value"]}
    rows = [
        {**way, **way["value"], **naive, "metric": found["metric"], "where_chosen": way["where_chosen"]["value"]} for way in found["halves"]
    ]
    return [write_csv(folder / "selection.csv", rows, COLUMNS)]
