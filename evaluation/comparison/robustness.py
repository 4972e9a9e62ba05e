"""What a detector keeps of its ranking, and of its threshold, when images are perturbed.

A detector that calls everything fake after JPEG has a high true positive rate: so the false positive rate at the very same threshold, the
one that was set on images as they are, stands beside it. Changes are against the same images as they are, on the same resamples.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.means import POOLED, OfGenerators, measure_generators
from evaluation.resampling import RESAMPLES, Interval
from evaluation.rows import one_line
from evaluation.statistics import CLEAN
from evaluation.tables import WIDTH, Documents, layout, mark, told, write_csv
from modules.metrics.functional import Threshold

METRICS = {"auroc": "AUROC", "tpr": "TPR at the stored threshold", "fpr": "FPR at the stored threshold"}
IMAGES = {"all": "all images", "macro": "mean over generators"}
_PLACES = {"auroc": "auroc", "tpr": "tpr_at_threshold", "fpr": "fpr_at_threshold"}
_CELL = ("value", "low", "high")
COLUMNS = (
    *("detector", "perturbation", "family", "strength", "images", "metric"),
    *_CELL,
    *(f"{side}_{end}" for side in ("clean", "change") for end in _CELL),
    *("verdict", "wanted_fpr", "n_real", "n_fake", "n_left_out", "reason"),
)

RANKING_LOST, RANKING_WON = "ranking lost", "ranking won"
NO_LONGER_HOLDS = "threshold no longer holds"
MORE_ALARMS, FEWER_ALARMS = "more false alarms", "fewer false alarms"
MISSES_MORE, FINDS_MORE = "misses more fakes", "finds more fakes"
DOES_NOT_HOLD = "threshold does not hold"  # nor did it without a perturbation
UNCHANGED, OPEN, AS_THEY_ARE = "unchanged", "not known", "as they are"

_AS_IS = "these are the images as they are"
_NO_CLEAN = f"there are no images as they are ({CLEAN}) to compare with"
_NO_COMMON = f"none of these images was scored as it is ({CLEAN})"
_FALLING = ("jpeg", "jpeg_444", "webp", "resize", "limit", "crop", "crop_half")  # a large number is a mild perturbation
_TITLES = {"jpeg_444": "jpeg 4:4:4, quality", "crop_half": "crop, share of each side", "limit": "limit, pixels", "crop": "crop, pixels"}
_TITLES |= {
    "re-upload": "re-uploads",
    "resize": "resize, factor",
    "enlarge": "enlarge, factor",
    "blur": "blur, σ in pixels",
    "noise": "noise, σ",
}
_TITLES |= {"jpeg": "jpeg, quality", "webp": "webp, quality", "rotate": "rotate, up to degrees", "shuffle": "shuffle, tiles a side"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a perturbation's name says.

    Attributes:
        family: What is done, without its number.
        strength: The number; None where the name has none. Its direction is the family's: see `ordered`.
    """

    family: str
    strength: float | None = None

    @property
    def title(self) -> str:
        """The family in words, with the unit of its strength."""
        return _TITLES.get(self.family, self.family)


def kind_of(perturbation: str) -> Kind:
    """The family and the strength of a perturbation, by its name.

    `jpeg_90` is `jpeg` 90, `jpeg_90_444` is `jpeg_444` 90. `crop_half`, once or several times, is `crop_half` with the share of each side
    that is left. `resize_2.0` is `enlarge`. A chain that first limits the size (`limit_1600+jpeg_80`) is a `re-upload`, another one a
    `chain`, both without a number.
    """
    links = perturbation.split("+")
    if set(links) == {"crop_half"}:
        return Kind("crop_half", 0.5 ** len(links))
    if len(links) > 1:
        return Kind("re-upload" if links[0].startswith("limit_") else "chain")
    found = re.fullmatch(r"([a-z_]*[a-z])_([0-9]+(?:\.[0-9]+)?)(_444)?", perturbation)
    if found is None:
        return Kind(perturbation)
    family, strength = f"{found[1]}{found[3] or ''}", float(found[2])
    return Kind("enlarge" if family == "resize" and strength > 1 else family, strength)


def ordered(perturbations: Sequence[str]) -> dict[str, list[str]]:
    """The perturbations of each family from mild to strong.

    Those without a number stay in their order. `none` is of no family: it is the mild end of each.
    """
    families: dict[str, list[str]] = {}
    for name in perturbations:
        if name != CLEAN:
            families.setdefault(kind_of(name).family, []).append(name)
    return {
        family: sorted(names, key=lambda name: (kind_of(name).strength or 0.0) * (-1 if family in _FALLING else 1))
        for family, names in families.items()
    }


def robustness(
    frame: pd.DataFrame,
    thresholds: Mapping[str, Threshold],
    reals_from: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """How each detector does under each perturbation, beside the same images as they are.

    Changes have paired 95% intervals: both are measured on the very same resamples of groups. With many perturbations a few intervals
    exclude 0 by chance: 1 in 20.

    Args:
        frame: A predictions table; the rows of one split.
        thresholds: The stored threshold of each detector.
        reals_from: For a data set, the one whose reals its generators are measured against.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        For each detector `wanted_fpr`, `has_clean`, and in `perturbations` by name: `family`, `strength`, `n_real`, `n_fake`, `n_left_out`
        (images as they are that were not scored under it, and the other way round: they are left out of both), `verdict`, and in `all` (all
        images together) and `macro` (the mean over generators, each counting the same) the numbers `METRICS`, each with the cells `value`,
        `clean` (of the same images as they are) and `change`. Cells are null with the reason where there is nothing to compare with. The
        verdict is on all images: parts of it, joined by `; `, where an interval of a change excludes 0; `threshold no longer holds` where
        the interval of the false positive rate lies above the wanted one (above that of the images as they are, if none was wanted).

    Raises:
        ValueError: A detector has no threshold in `thresholds`.
    """
    if lacking := [str(name) for name in dict.fromkeys(frame["detector"]) if name not in thresholds]:
        msg = f"no threshold for the detectors {', '.join(lacking)}; give one for each by name"
        raise ValueError(msg)
    found = {}
    for name in dict.fromkeys(frame["detector"]):
        rows = frame[frame["detector"] == name]
        measure = _Measure(thresholds[name], reals_from or {}, resamples, seed)
        tables = {str(each): part for each, part in rows.groupby("perturbation", sort=False)}
        clean = tables.get(CLEAN)
        found[str(name)] = {
            "wanted_fpr": thresholds[name].fpr,
            "has_clean": clean is not None,
            "perturbations": {each: measure.record(each, part, clean) for each, part in tables.items()},
        }
    return found


class _Measure:
    """Measures the perturbations of one detector; the images as they are only once where they are the same."""

    def __init__(self, threshold: Threshold, reals_from: Mapping[str, str], resamples: int, seed: int) -> None:
        self.threshold = threshold
        self.reals_from, self.resamples, self.seed = reals_from, resamples, seed
        self.known: tuple[pd.Index, dict[str, OfGenerators]] | None = None

    def record(self, name: str, rows: pd.DataFrame, clean: pd.DataFrame | None) -> dict[str, Any]:
        """All that is said of a perturbation."""
        kind = kind_of(name)
        result: dict[str, Any] = {"family": kind.family, "strength": kind.strength}
        reason, before, left_out = None, None, 0
        if clean is None or name == CLEAN:
            reason = _NO_CLEAN if clean is None else _AS_IS
            after = self.of(rows)
        else:
            places, others = (pd.MultiIndex.from_frame(part[["dataset", "key"]]) for part in (rows, clean))
            common = places.intersection(others)
            left_out = len(places) + len(others) - 2 * len(common)
            reason = _NO_COMMON if common.empty else None
            if reason is None:
                rows, clean = rows[places.isin(common)], clean[others.isin(common)]
                before = self._clean(clean)
            after = self.of(rows)
        counts = rows["label"].value_counts()
        result |= {"n_real": int(counts.get(0, 0)), "n_fake": int(counts.get(1, 0)), "n_left_out": left_out}
        sides = {images: _sides(after, before, images, reason) for images in IMAGES}
        verdict = self._verdict(sides["all"], as_is=reason == _AS_IS)
        return result | {"verdict": verdict} | {images: {m: each.cells() for m, each in own.items()} for images, own in sides.items()}

    def of(self, rows: pd.DataFrame) -> dict[str, OfGenerators]:
        """The numbers of some images."""
        metrics = tuple(_PLACES.values())
        return measure_generators(rows, self.reals_from, self.threshold, self.resamples, self.seed, metrics, pooled=True)

    def _clean(self, rows: pd.DataFrame) -> dict[str, OfGenerators]:
        if self.known is None or not self.known[0].equals(rows.index):
            self.known = (rows.index, self.of(rows))
        return self.known[1]

    def _verdict(self, sides: Mapping[str, "_Sides"], as_is: bool) -> str:
        wanted = self.threshold.fpr
        exceeds = {side: wanted is not None and (_side_of(getattr(sides["fpr"], side), wanted) or 0) > 0 for side in ("value", "clean")}
        if as_is:
            return DOES_NOT_HOLD if exceeds["value"] else AS_THEY_ARE
        signs = {name: _side_of(three.change, 0.0) for name, three in sides.items()}
        alarms = {1: MORE_ALARMS, -1: FEWER_ALARMS}.get(signs["fpr"] or 0)
        said = [
            {1: RANKING_WON, -1: RANKING_LOST}.get(signs["auroc"] or 0),
            (DOES_NOT_HOLD if exceeds["clean"] else NO_LONGER_HOLDS) if exceeds["value"] else None,
            None if exceeds["value"] and not exceeds["clean"] else alarms,
            {1: FINDS_MORE, -1: MISSES_MORE}.get(signs["tpr"] or 0),
        ]
        words = [word for word in said if word]
        return "; ".join(words) or (OPEN if None in signs.values() else UNCHANGED)


@dataclass(frozen=True, slots=True)
class _Measured:
    """An interval, and whether resamples were measured for it: where all give the same there is none, but no doubt of the side either."""

    interval: Interval
    is_measured: bool


@dataclass(frozen=True, slots=True)
class _Sides:
    """A number under a perturbation, on the images as they are, and the change."""

    value: _Measured
    clean: _Measured
    change: _Measured

    def cells(self) -> dict[str, Any]:
        """As they stand in `metrics.json`."""
        made = {"value": self.value.interval.cell(), "clean": self.clean.interval.cell(), "change": self.change.interval.cell()}
        for cell in made.values():  # of all images together there is nothing to name
            if "reason" in cell:
                cell["reason"] = str(cell["reason"]).removeprefix(f"{POOLED}: ")
        return made


def _sides(
    after: Mapping[str, OfGenerators], before: Mapping[str, OfGenerators] | None, images: str, reason: str | None
) -> dict[str, _Sides]:
    """The numbers `METRICS` of all images, or of the mean over generators."""
    made = {}
    for metric, place in _PLACES.items():
        found, earlier = after[place], None if before is None else before[place]
        chosen = [name for name in found.names if (name == POOLED) == (images == "all")]
        sure = [bool(chosen) and not any(name in each.doubts for name in chosen) for each in (found, earlier or found)]
        nothing = _Measured(Interval(None, reason=reason), is_measured=False)
        clean, change = nothing, nothing
        if earlier is not None:
            clean, change = _Measured(earlier.mean(chosen), sure[1]), _Measured(found.minus(earlier, chosen), all(sure))
        made[metric] = _Sides(_Measured(found.mean(chosen), sure[0]), clean, change)
    return made


def _side_of(found: _Measured, limit: float) -> int | None:
    """1 or -1 where the interval lies above or below a limit, 0 where it holds it, None where nothing is known."""
    interval = found.interval
    if interval.value is None or not found.is_measured:
        return None
    low, high = (interval.value if end is None else end for end in (interval.low, interval.high))
    return 1 if low > limit else -1 if high < limit else 0


def text(documents: Documents, width: int = WIDTH) -> str:
    """A table for each detector: a line a perturbation, AUROC and what it changed by, TPR and FPR at the stored threshold, the verdict.

    Intervals are in `robustness.csv`; the verdict goes by them.

    Args:
        documents: Parts of `metrics.json` by detector; those without `robustness` are left out.
        width: Columns of the terminal.
    """
    lines: list[str] = []
    notes: dict[str, int] = {}
    for detector, document in with_robustness(documents).items():
        wanted = document["wanted_fpr"]
        rows = []
        for name, record in document["perturbations"].items():
            cells = record["all"]
            change = "" if name == CLEAN else _said(cells["auroc"]["change"], notes, "+.3f")
            shown = {"AUROC": _said(cells["auroc"]["value"], notes, ".3f"), "change": change}
            shown |= {metric.upper(): _said(cells[metric]["value"], notes, ".3f") for metric in ("tpr", "fpr")}
            rows.append((name, shown | {"": record["verdict"]}))
        aim = "" if wanted is None else f" (wanted FPR: {wanted:g})"
        lines += [f"{one_line(detector)} under perturbations, all images; TPR and FPR at the stored threshold{aim}:"]
        lines += layout("perturbation", ["AUROC", "change", "TPR", "FPR", ""], rows, width)
        if left_out := {name: each["n_left_out"] for name, each in document["perturbations"].items() if each["n_left_out"]}:
            lines.append(
                f"Left out, not scored both ways: {', '.join(f'{count} of {one_line(name)}' for name, count in left_out.items())}."
            )
    return "\n".join([*lines, *told(notes)])


def _said(cell: Mapping[str, Any], notes: dict[str, int], form: str) -> str:
    if cell["value"] is None:
        return f"-{mark(cell, notes)}"
    return f"{cell['value']:{form}}"


def with_robustness(documents: Documents) -> dict[str, Mapping[str, Any]]:
    """What `robustness` found of each detector, where it is among the parts of `metrics.json`."""
    return {name: document["robustness"] for name, document in documents.items() if document.get("robustness")}


def write_robustness(folder: Path, documents: Documents) -> list[Path]:
    """Write `robustness.csv` with the columns `COLUMNS`: a row for each detector, perturbation, `images` (`all`, `macro`) and metric.

    Args:
        folder: Usually `runs/<name>/tables`.
        documents: Parts of `metrics.json` by detector.

    Returns:
        The file; none where no detector was measured under perturbations.
    """
    rows = []
    for detector, document in with_robustness(documents).items():
        for name, record in document["perturbations"].items():
            where = {key: record[key] for key in ("family", "strength", "verdict", "n_real", "n_fake", "n_left_out")}
            where |= {"detector": detector, "perturbation": name, "wanted_fpr": document["wanted_fpr"]}
            for images in IMAGES:
                for metric in METRICS:
                    three = record[images][metric]
                    cells = {("" if side == "value" else f"{side}_") + end: three[side][end] for side in three for end in _CELL}
                    reasons = "; ".join(dict.fromkeys(cell["reason"] for cell in three.values() if cell.get("reason")))
                    rows.append({**where, **cells, "images": images, "metric": metric, "reason": reasons or None})
    return [write_csv(folder / "robustness.csv", rows, COLUMNS)] if rows else []
