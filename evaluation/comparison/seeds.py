"""Detectors that were fitted with several seeds: how far a number depends on the seed, and differences that hold over seeds as over images.

The detectors `base@seed_N` of one table are one detector, `base`. Two things make its numbers uncertain: which images were drawn, which
the interval over groups says, and which seed training had, which the standard deviation over seeds says. A difference of two is shown
only where both let it be: its interval over groups excludes 0, and Student's interval of the differences seed by seed does.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from evaluation.comparison.paired import VERDICTS, generators_difference, said, side_of
from evaluation.comparison.together import METRICS, Detectors, Images, Together, by_seed, chosen_baseline
from evaluation.means import OfGenerators
from evaluation.resampling import LEVEL, RESAMPLES, Interval
from evaluation.rows import one_line
from evaluation.tables import WIDTH, layout, short, told, write_csv

MIN_SEEDS = 3
_ENDS = ("value", "low", "high")
COLUMNS = (
    *("detector", "compared_with", "images", "kind", "metric", "seeds", *_ENDS, "deviation", "lowest", "highest"),
    *(
        "p",
        "over_seeds_low",
        "over_seeds_high",
        "higher",
        "lower",
        "equal",
        "verdict",
        "n_real",
        "n_fake",
        "n_images",
        "n_left_out",
        "reason",
    ),
)


def seeds(
    frame: pd.DataFrame,
    reals_from: Mapping[str, str] | None = None,
    baseline: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Each detector of several seeds, and its differences to one of them, on unperturbed images.

    Args:
        frame: A predictions table; the rows of one split.
        reals_from: For a data set, the one whose reals its generators are measured against.
        baseline: The base, or one of its detectors, that the others are compared with; the first by default, and where it is a detector
            without seeds.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        Empty where no base has several seeds. Else `baseline`; `bases`, each with its `seeds`, `n_images` (that all its seeds have scored),
        `n_left_out` and `rows`: of all images, the mean over generators, and each generator, `auroc` and `tpr_at_fpr_0.1`, each with the
        cell `mean` (over seeds, with its interval over groups), `deviation` (standard deviation over seeds, n − 1), `lowest`, `highest` and
        the value of each of the `seeds`; `differences`, the same of each base minus the baseline over the seeds that both have, with cells
        `difference` and `over_seeds` (Student's interval), how many seeds are `higher`, `lower` and `equal`, and the `verdict`.

    Raises:
        ValueError: There is no detector of the name `baseline`, or detectors do not agree on what an image is.
    """
    known = Detectors(frame, reals_from, resamples, seed)
    found = by_seed(list(known.rows))
    if not found:
        return {}
    base_of = {name: base for base, names in found.items() for name in names.values()}
    wanted = base_of.get(baseline, baseline) if baseline is not None else None
    first = chosen_baseline(wanted, list(found), [name for name in known.rows if name not in base_of])
    return {
        "baseline": first,
        "bases": [_base(known, base, names) for base, names in found.items()],
        "differences": [_against(known, found, first, base) for base in found if base != first],
    }


def _base(known: Detectors, base: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The numbers of one base."""
    if not known.share_images(list(names.values())):
        why = f"the seeds of {base} have no scored image in common"
        return {"base": base, "seeds": list(names), "n_images": 0, "n_left_out": None, "rows": [], "reason": why}
    together = known.together(list(names.values()))
    rows = []
    for images in together.images():
        row = _named(images)
        for metric in METRICS:
            parts = [found[metric] for found in together.found]
            values = [part.mean(images.chosen).value for part in parts]
            mean = over_seeds(parts).mean(images.chosen)
            row[metric] = {"mean": mean.cell(), **_spread(values), "seeds": dict(zip(names, values, strict=True))}
        rows.append(row)
    return {"base": base, "seeds": list(names), **_counts(together), "rows": rows}


def _against(known: Detectors, found: Mapping[str, Mapping[str, str]], baseline: str, base: str) -> dict[str, Any]:
    """One base minus the baseline, paired by seed."""
    both = [seed for seed in found[baseline] if seed in found[base]]
    names = [found[each][seed] for each in (baseline, base) for seed in both]
    result: dict[str, Any] = {"base": base, "seeds": both, "n_images": 0, "n_left_out": None, "rows": []}
    if not both:
        return result | {"reason": f"{base} and {baseline} have no seed in common, so they cannot be paired"}
    if not known.share_images(names):
        return result | {"reason": f"{base} and {baseline} have no scored image in common"}
    together = known.together(names)
    rows = []
    for images in together.images():
        row = _named(images)
        for metric in METRICS:
            parts = [each[metric] for each in together.found]
            row[metric] = _difference(parts[: len(both)], parts[len(both) :], images.chosen, both)
        rows.append(row)
    return result | _counts(together) | {"rows": rows}


def _difference(
    before: Sequence[OfGenerators], after: Sequence[OfGenerators], chosen: Sequence[str], both: Sequence[str]
) -> dict[str, Any]:
    """The mean difference over seeds, how it spreads, and whether it is shown."""
    difference = generators_difference(over_seeds(after), over_seeds(before), chosen)
    values = [generators_difference(one, other, chosen).value for one, other in zip(after, before, strict=True)]
    student = _student(values)
    sides = {side_of(difference, difference.p is not None), side_of(student, student.low is not None)}
    side = None if None in sides else sides.pop() if len(sides) == 1 else 0
    present = [value for value in values if value is not None]
    signs = {"higher": sum(v > 0 for v in present), "lower": sum(v < 0 for v in present), "equal": sum(v == 0 for v in present)}
    return {
        "difference": difference.cell(),
        **_spread(values),
        "over_seeds": student.cell(),
        **signs,
        "seeds": dict(zip(both, values, strict=True)),
        "verdict": VERDICTS[side],
    }


def over_seeds(found: Sequence[OfGenerators]) -> OfGenerators:
    """The mean of several detectors on the same images and resamples; one that has no number of a generator leaves none."""
    numbers, samples = (torch.stack([getattr(each, name) for each in found]).mean(0) for name in ("numbers", "samples"))
    doubts = {name: doubt for each in reversed(found) for name, doubt in each.doubts.items()}
    return replace(found[0], numbers=numbers, samples=samples, doubts=doubts)


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Standard deviation, lowest and highest over seeds."""
    present = [value for value in values if value is not None]
    lacking = len(values) - len(present)
    reason = f"not defined with {lacking} of {len(values)} seeds" if lacking else _few(values)
    deviation = Interval(None, reason=reason) if reason else Interval(statistics.stdev(present))
    ends = (None, None) if lacking or not present else (min(present), max(present))
    return {"deviation": deviation.cell(), "lowest": ends[0], "highest": ends[1]}


def _student(values: Sequence[float | None], level: float = LEVEL) -> Interval:
    """Mean with Student's interval: mean ± t(n − 1) · s / √n."""
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    present = [value for value in values if value is not None]
    if len(present) < len(values):
        return Interval(None, reason=f"not defined with {len(values) - len(present)} of {len(values)} seeds")
    mean = statistics.fmean(present)
    if few := _few(values):
        return Interval(mean, reason=few)
    half = float(stdtrit(len(present) - 1, (1 + level) / 2)) * statistics.stdev(present) / math.sqrt(len(present))
    return Interval(mean, mean - half, mean + half)


def _few(values: Sequence[Any]) -> str | None:
    return f"{len(values)} seeds, {MIN_SEEDS} needed to say how far numbers depend on them" if len(values) < MIN_SEEDS else None


def _named(images: Images) -> dict[str, Any]:
    return {"images": images.name, "kind": images.kind, **images.counts()}


def _counts(together: Together) -> dict[str, int]:
    return {"n_images": len(together.rows[0]), "n_left_out": together.left_out}


def text(found: Mapping[str, Any], width: int = WIDTH) -> str:
    """Means over seeds and their differences for a terminal, of all images and of the mean over generators; empty where there is nothing.

    Args:
        found: Of `seeds`.
        width: Columns of the terminal.
    """
    if not found:
        return ""
    notes: dict[str, int] = {}
    lines = []
    if rows := [row for each in found["bases"] for row in _mean_rows(each, notes)]:
        lines.append("Mean over seeds [95% interval over groups of images] ± standard deviation over seeds:")
        lines += layout("detector", list(rows[0][1]), rows, width)
    if rows := [row for each in found["differences"] for row in _difference_rows(each, notes)]:
        lines.append(f"Differences to {one_line(found['baseline'])} seed by seed; shown where they hold over images and over seeds:")
        lines += layout("detector", list(rows[0][1]), rows, width)
    lines += [one_line(each["reason"]) for each in [*found["bases"], *found["differences"]] if not each["rows"]]
    for each in found["bases"]:
        if each["n_left_out"]:
            left, kept = each["n_left_out"], each["n_images"]
            lines.append(f"{short(each['base'])}: {left} images that not all seeds have scored are left out; {kept} are measured.")
    return "\n".join([*lines, *told(notes)])


def _mean_rows(each: Mapping[str, Any], notes: dict[str, int]) -> Iterator[tuple[str, dict[str, str]]]:
    for row in _shown(each):
        cells = {title: _with_spread(row[metric]["mean"], row[metric]["deviation"], notes, ".3f") for metric, title in METRICS.items()}
        yield _name(each["base"], row), {"seeds": str(len(each["seeds"])), **cells}


def _difference_rows(each: Mapping[str, Any], notes: dict[str, int]) -> Iterator[tuple[str, dict[str, str]]]:
    for metric, title in METRICS.items():
        for row in _shown(each):
            part = row[metric]
            cell = _with_spread(part["difference"], part["deviation"], notes, "+.3f")
            signs = f"{part['higher']}, {part['lower']} of {len(each['seeds'])}"
            yield _name(each["base"], row), {"of": title, "difference": cell, "higher, lower": signs, "": part["verdict"]}


def _shown(each: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in each["rows"] if row["kind"] != "generator"]


def _name(base: str, row: Mapping[str, Any]) -> str:
    return f"{short(base)}, {row['kind']}"


def _with_spread(cell: Mapping[str, Any], deviation: Mapping[str, Any], notes: dict[str, int], form: str) -> str:
    return said(cell, notes, form) + ("" if deviation["value"] is None else f" ± {deviation['value']:.3f}")


def write_seeds(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write `seeds.csv` with the columns `COLUMNS`: a row for each base, or difference to the baseline, images and metric.

    Args:
        folder: Usually `runs/<name>/tables`.
        found: Of `seeds`.

    Returns:
        The file; none where there is nothing.
    """
    rows = []
    for kind, compared_with, place in (("bases", None, "mean"), ("differences", found.get("baseline"), "difference")):
        for each in found.get(kind, []):
            names = {"detector": each["base"], "compared_with": compared_with, "seeds": len(each["seeds"])}
            for row in each["rows"]:
                for metric in METRICS:
                    part = row[metric]
                    student = part.get("over_seeds", {})
                    reasons = dict.fromkeys(cell["reason"] for cell in (part[place], part["deviation"]) if cell.get("reason"))
                    numbers = {**part, **part[place], "deviation": part["deviation"]["value"]}
                    numbers |= {f"over_seeds_{end}": student.get(end) for end in ("low", "high")}
                    counts = {name: each[name] for name in ("n_images", "n_left_out")}
                    rows.append({**row, **numbers, **names, **counts, "metric": metric, "reason": "; ".join(reasons) or None})
    return [write_csv(folder / "seeds.csv", rows, COLUMNS)] if rows else []
