"""How detectors do on generators that they were not trained on.

Three questions: how much lower is the AUROC on unseen generators, does it rise with the number of training generators, and what does each
generator cost when it alone is left out.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.comparison.macro import Aurocs, measure_aurocs
from evaluation.comparison.matrices import TrainedOn, condition_of
from evaluation.resampling import RESAMPLES, Interval
from evaluation.statistics import clean_rows
from evaluation.tables import WIDTH, layout, mark, told, write_csv

ALL = "all"
LEFT_OUT = "!"  # begins a condition: trained on all but that generator
_CELL = ("value", "low", "high")
SEEN_COLUMNS = ("detector", "family", "images", "generators", *_CELL, "reason")
NUMBER_COLUMNS = ("head", "training_generators", "detectors", "set", "tested_generators", "mean", "deviation", "lowest", "highest")
LEFT_OUT_COLUMNS = (
    "head",
    "left_out",
    *(f"{name}_{end}" for name in ("without", "with", "difference") for end in _CELL),
    "reference",
    "reason",
)


def generalisation(
    frame: pd.DataFrame,
    trained: TrainedOn,
    reals_from: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """AUROC on seen and unseen generators, by the number of training generators, and of each generator that was left out.

    Means over generators count each generator the same (macro). Only unperturbed images are measured, where there are any.

    Args:
        frame: A predictions table; the rows of one split.
        trained: What each detector was trained on; those whose generators are not known are left out.
        reals_from: For a data set, the one whose reals its generators are measured against.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        `seen`, `number` and `left_out`: rows of plain values, the numbers of `seen` and `left_out` as `{"value", "low", "high"}` cells.
        Empty lists where no detector's training generators are known, no generator is unseen, or nothing of the kind was trained.
    """
    clean = clean_rows(frame)
    known = {
        name: frozenset(trained[name]["generators"])
        for name in dict.fromkeys(clean["detector"])
        if (trained.get(name) or {}).get("generators") is not None
    }
    measured = {name: measure_aurocs(clean[clean["detector"] == name], reals_from, resamples, seed) for name in known}
    images = {name: _images(clean[clean["detector"] == name]) for name in known}
    seen = [row for name, found in measured.items() for row in _seen(name, found, known[name])]
    return {
        "seen": seen if any(row["images"] == "unseen" for row in seen) else [],
        "number": _by_number(measured, known),
        "left_out": _left_out(measured, known, images),
    }


def _images(rows: pd.DataFrame) -> frozenset[tuple[str, str]]:
    return frozenset(zip(rows["dataset"], rows["key"], strict=True))


def _seen(detector: str, found: Aurocs, known: frozenset[str]) -> list[dict[str, Any]]:
    """Seen, unseen and their difference, over all families and within each."""
    rows = []
    for family in [ALL, *sorted(set(found.families))]:
        names = [name for name, its in zip(found.names, found.families, strict=True) if family in (ALL, its)]
        seen, unseen = [name for name in names if name in known], [name for name in names if name not in known]
        parts = {"seen": (seen, found.mean(seen)), "unseen": (unseen, found.mean(unseen))}
        if seen and unseen:
            parts["unseen - seen"] = (unseen, found.difference(unseen, seen))
        for images, (chosen, interval) in parts.items():
            if chosen:
                row = {"detector": detector, "family": family, "images": images, "generators": list(chosen)}
                rows.append(row | {"training_generators": len(known), "auroc": interval.cell()})
    return rows


def _by_number(measured: Mapping[str, Aurocs], known: Mapping[str, frozenset[str]]) -> list[dict[str, Any]]:
    """Mean AUROC on unseen generators of a head's detectors, by the number of generators that they were trained on.

    Detectors of one head and number (draws of training generators) are repetitions. Each has unseen generators of its own (`unseen`);
    numbers can be compared on those that no detector of the head has seen (`unseen by all`), where there are any.
    """
    heads: dict[str, list[str]] = {}
    for name in measured:
        head, condition = condition_of(name)
        if not condition.startswith(LEFT_OUT):
            heads.setdefault(head, []).append(name)
    rows = []
    for head, names in heads.items():
        union = frozenset[str]().union(*(known[name] for name in names))
        for number in sorted({len(known[name]) for name in names}):
            draws = [name for name in names if len(known[name]) == number]
            for label, seen in (("unseen", None), ("unseen by all", union)):
                values = {name: _macro(measured[name], known[name] if seen is None else seen) for name in draws}
                points = {name: value for name, value in values.items() if value["value"] is not None}
                if points:
                    row = {"head": head, "training_generators": number, "set": label, "detectors": points}
                    rows.append(row | _spread([point["value"] for point in points.values()]))
    return rows if len({(row["head"], row["training_generators"]) for row in rows}) > len({row["head"] for row in rows}) else []


def _macro(found: Aurocs, seen: frozenset[str]) -> dict[str, Any]:
    unseen = [name for name in found.names if name not in seen]
    return {"value": found.mean(unseen).value, "tested_generators": len(unseen)}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation between detectors (None of one), lowest and highest."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "lowest": min(values), "highest": max(values)}


def _left_out(
    measured: Mapping[str, Aurocs], known: Mapping[str, frozenset[str]], images: Mapping[str, frozenset[tuple[str, str]]]
) -> list[dict[str, Any]]:
    """For each `head@!generator` its AUROC on that generator, beside that of a detector of the head which was trained on it.

    That is `head@all` or `head` where there is one, else the mean of the others that were left one out.
    """
    rows = []
    for name, found in measured.items():
        head, condition = condition_of(name)
        generator = condition.removeprefix(LEFT_OUT)
        if not condition.startswith(LEFT_OUT) or generator not in found.names:
            continue
        others = [other for other in measured if condition_of(other)[0] == head and generator in known[other]]
        by_condition = {condition_of(each)[1]: each for each in others}
        everything = [by_condition[each] for each in ("all", "") if each in by_condition][:1]
        chosen = everything or [each for each in others if condition_of(each)[1].startswith(LEFT_OUT)]
        same = [other for other in chosen if images[other] == images[name]]
        reference = _average([measured[other] for other in same]) if same else None
        nothing = Interval(None, reason=_no_reference(chosen, generator))
        row: dict[str, Any] = {"head": head, "left_out": generator, "reference": same, "without": found.mean([generator]).cell()}
        row["with"] = (nothing if reference is None else reference.mean([generator])).cell()
        row["difference"] = (nothing if reference is None else found.minus(reference, [generator])).cell()
        rows.append(row)
    return rows


def _no_reference(chosen: Sequence[str], generator: str) -> str:
    return f"{chosen[0]} was measured on other images" if chosen else f"no other detector of this head was trained on {generator}"


def _average(found: Sequence[Aurocs]) -> Aurocs:
    """The mean of several detectors on the same images and resamples."""
    first = found[0]
    numbers = sum((each.numbers for each in found[1:]), start=first.numbers) / len(found)
    samples = sum((each.samples for each in found[1:]), start=first.samples) / len(found)
    return Aurocs(first.names, first.families, numbers, samples, first.doubts)


def text(found: Mapping[str, Any], width: int = WIDTH) -> str:
    """The three tables for a terminal; empty where there is nothing.

    Args:
        found: Of `generalisation`.
        width: Columns of the terminal.
    """
    notes: dict[str, int] = {}
    lines: list[str] = []
    seen: dict[str, dict[str, str]] = {}
    for row in found["seen"]:
        if row["family"] == ALL:
            seen.setdefault(row["detector"], {})[row["images"]] = f"{_said(row['auroc'], notes)} ({len(row['generators'])})"
    if seen:
        columns = [name for name in ("seen", "unseen", "unseen - seen") if any(name in row for row in seen.values())]
        rows = [(name, {column: row.get(column, "") for column in columns}) for name, row in seen.items()]
        lines += ["Mean AUROC over generators that were trained on and over others (how many):", *layout("detector", columns, rows, width)]
    number = [(f"{row['head']}, {row['training_generators']} generators", _number(row)) for row in found["number"]]
    if number:
        lines += [
            "Mean AUROC on unseen generators by the number of training generators:",
            *layout("trained on", list(number[0][1]), number, width),
        ]
    columns = ["without", "with", "difference"]
    left = [(f"{r['head']}, {r['left_out']}", {name: _said(r[name], notes) for name in columns}) for r in found["left_out"]]
    if left:
        lines += ["AUROC on a generator that was left out of training, and with it:", *layout("left out", columns, left, width)]
    return "\n".join([*lines, *told(notes)])


def _said(cell: Mapping[str, Any], notes: dict[str, int]) -> str:
    if cell["value"] is None:
        return f"-{mark(cell, notes)}"
    return f"{cell['value']:.3f}" + ("" if cell["low"] is None else f" [{cell['low']:.3f}, {cell['high']:.3f}]")


def _number(row: Mapping[str, Any]) -> dict[str, str]:
    deviation = "" if row["deviation"] is None else f" ± {row['deviation']:.3f}"
    tested = sorted({point["tested_generators"] for point in row["detectors"].values()})
    return {
        "tested on": f"{row['set']} ({', '.join(map(str, tested))})",
        "mean": f"{row['mean']:.3f}{deviation}",
        "detectors": str(len(row["detectors"])),
    }


def write_generalisation(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write `generalisation.csv`, `training_generators.csv` and `left_out.csv`; only those that have a row.

    Args:
        folder: Usually `runs/<name>/tables`.
        found: Of `generalisation`.

    Returns:
        The files.
    """
    seen = [row | row["auroc"] | {"generators": len(row["generators"])} for row in found["seen"]]
    number = []
    for row in found["number"]:
        tested = "; ".join(str(each) for each in sorted({point["tested_generators"] for point in row["detectors"].values()}))
        number.append(row | {"detectors": len(row["detectors"]), "tested_generators": tested})
    left = []
    for row in found["left_out"]:
        cells = {f"{name}_{end}": row[name][end] for name in ("without", "with", "difference") for end in _CELL}
        reasons = dict.fromkeys(row[name]["reason"] for name in ("without", "with", "difference") if row[name].get("reason"))
        left.append(row | cells | {"reference": "; ".join(row["reference"]), "reason": "; ".join(reasons)})
    tables = {
        "generalisation": (seen, SEEN_COLUMNS),
        "training_generators": (number, NUMBER_COLUMNS),
        "left_out": (left, LEFT_OUT_COLUMNS),
    }
    return [write_csv(folder / f"{name}.csv", rows, columns) for name, (rows, columns) in tables.items() if rows]
