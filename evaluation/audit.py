"""How well trivial facts of the files alone tell fakes from real images, on the very rows that a detector was measured on.

A detector that reaches an AUROC of 0.95 where the number of bytes alone reaches 0.97 has shown nothing. The facts are the columns `fact_*`
of the predictions table. AUROCs, their covariance and intervals are those of `delong`, over groups, with one change: quantiles are those of
Student's t with one degree of freedom less than the smaller class has groups. At the levels that many facts need, the normal distribution's
are too small where a class has tens of groups and the other many. An AUROC of exactly 0 or 1 has no interval, for its estimated variance
is 0.

A fact is flagged where three things hold:

- It is shown to be better than chance: its interval excludes 0.5, at the level 1 - 0.05 / K for the K facts that vary among these images
  (Bonferroni: of one generator's facts, not of all generators' together). Without an interval a strength of 0.75 counts as shown; an AUROC
  of 0 or 1 with 10 groups a class is far more than that, for its chance is below 1 in 90,000.
- Its strength, the larger of AUROC and 1 - AUROC, is at least 0.6; 0.65 where there is no detector to compare with.
- The detector's strength on the same rows is at most 0.05 above it, or not shown to be above it (95% interval of the paired difference).

Simulated where there is no shortcut and the detector knows nothing (12 to 20 independent facts, 10 to 200 groups a class of 1 to 50 images,
correlated within groups): some fact is flagged in 0 to 5% of the data sets, in 9% at worst (facts of two values, 12 against 200 groups).
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.delong import AurocEstimates, aurocs
from evaluation.facts import Numbers
from evaluation.facts import facts_of as facts_of
from evaluation.resampling import LEVEL, Interval, group_codes, groups_by_class
from evaluation.rows import one_line
from evaluation.statistics import CLEAN, against_reals
from evaluation.tables import WIDTH, layout, short, write_csv

LEAST, LEAST_WITHOUT_DETECTOR, LEAST_WITHOUT_INTERVAL = 0.6, 0.65, 0.75
NEAR, CHANCE = 0.05, 0.5
ALL = "all"
COLUMNS = (
    *("detector", "dataset", "generator", "perturbation", "fact", "auroc", "low", "high", "n_real", "n_fake"),
    *("detector_auroc", "difference", "difference_low", "difference_high", "flagged", "reason"),
)
RULE = (
    f"A fact is flagged where it is shown to be better than chance ({LEVEL:.0%} over all facts of a generator, Bonferroni) and its "
    "strength (the larger of AUROC and 1 − AUROC) is at least {least:g}{near}. With too few groups for an interval a strength of "
    f"{LEAST_WITHOUT_INTERVAL:g} counts as shown."
)
_NEAR_RULE = f", and the detector is at most {NEAR:g} stronger on the same images, or not shown to be stronger"
_SENTENCES, _LISTED = 5, 4

Document = Mapping[str, Any]


class AuditError(ValueError):
    """What cannot be audited; the message says why."""


def audit(frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None, perturbation: str | None = None) -> dict[str, Any]:
    """How near trivial facts come to one detector, by generator and for all together.

    Args:
        frame: Rows of the predictions table of one detector and one split.
        reals_from: For a data set, the one whose reals its generators are measured against; its own by default.
        perturbation: Which rows; by default those of the images as they are, or of the first perturbation where there are none.

    Returns:
        Plain values for JSON: `detector`, `perturbation`, `facts` (names), `constant` (facts by their value), `notes`, `generators` (a
        record for each `dataset/generator`), `all` (a record of all rows), `flagged` (number of flags) and `sentences`. A record has
        `dataset`, `generator`, `n_real`, `n_fake`, `n_groups_real`, `n_groups_fake`, `detector` (cell of its AUROC) and, in `facts` by
        name, `auroc` (cell; below 0.5 where fakes have the smaller value), `strength`, `n_real`, `n_fake`, `detector_auroc` (on the same
        rows), `difference` (cell: strength of the detector minus that of the fact), `shown` and `flagged`. A cell is
        `{"value", "low", "high"}`, with `"reason"` where one is null.

    Raises:
        AuditError: No rows, several detectors, or no row of that perturbation.
    """
    names = [str(name) for name in frame["detector"].unique()]
    if len(names) > 1:
        msg = f"one detector's rows are audited at a time, here are those of {', '.join(names)}"
        raise AuditError(msg)
    return _audit(_rows(frame, perturbation), reals_from or {}, names[0] if names else None)


def audit_data(frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None, perturbation: str | None = None) -> dict[str, Any]:
    """How well trivial facts tell fakes from real images where there is no detector yet.

    Args:
        frame: An image a row: `key`, `label`, `dataset`, `generator`, `group`, `fact_*`; `perturbation` where there are several.
        reals_from: As for `audit`.
        perturbation: As for `audit`.

    Returns:
        As `audit`; what concerns a detector is null.

    Raises:
        AuditError: No rows, or none of that perturbation.
    """
    return _audit(_rows(frame, perturbation), reals_from or {}, None)


def _rows(frame: pd.DataFrame, perturbation: str | None) -> pd.DataFrame:
    if frame.empty:
        msg = "there are no rows to audit"
        raise AuditError(msg)
    if "perturbation" not in frame:
        return frame.assign(perturbation=perturbation or CLEAN)
    there = [str(name) for name in frame["perturbation"].unique()]
    chosen = perturbation or (CLEAN if CLEAN in there else there[0])
    if chosen not in there:
        msg = f"no row has the perturbation {chosen!r}; there are {', '.join(there)}"
        raise AuditError(msg)
    return frame[frame["perturbation"] == chosen]


def _audit(rows: pd.DataFrame, reals_from: Mapping[str, str], detector: str | None) -> dict[str, Any]:
    rows = rows.reset_index(drop=True)
    facts = facts_of(rows)
    labels = rows["label"].to_numpy(np.int64)
    codes = group_codes(rows["group"].tolist(), rows["key"].tolist())
    scores = None if detector is None else rows["score"].to_numpy(np.float64)
    named = rows[["label", "dataset", "generator"]].assign(place=np.arange(len(rows)))
    records = {}
    for name, table in (against_reals(named, reals_from) | {ALL: named}).items():
        at = table["place"].to_numpy(np.int64)
        fake = table[table["label"] == 1].iloc[-1:]
        where = {each: None if name == ALL else str(fake[each].iloc[0]) for each in ("dataset", "generator")}
        part = None if scores is None else scores[at]
        records[name] = where | _measured(labels[at], codes[at], facts.names, facts.numbers[:, at], part)
    notes = [
        *facts.notes,
        RULE.format(least=LEAST_WITHOUT_DETECTOR if detector is None else LEAST, near="" if detector is None else _NEAR_RULE),
    ]
    document: dict[str, Any] = {"detector": detector, "perturbation": str(rows["perturbation"].iloc[0]), "facts": list(facts.names)}
    document |= {"constant": dict(facts.constant), "notes": notes, ALL: records.pop(ALL), "generators": records}
    document["flagged"] = sum(each["flagged"] for record in parts_of(document).values() for each in record["facts"].values())
    return document | {"sentences": _sentences(document)}


def _measured(
    labels: NDArray[np.int64], codes: NDArray[np.int64], names: Sequence[str], values: Numbers, scores: Numbers | None
) -> dict[str, Any]:
    """The record of some rows with facts `[K, N]` and scores `[N]`; facts that are known of the same images are measured at once."""
    groups = groups_by_class(labels, codes)
    record: dict[str, Any] = {"n_real": int((labels == 0).sum()), "n_fake": int((labels == 1).sum())}
    record |= {"n_groups_real": groups[0], "n_groups_fake": groups[1], "detector": None, "facts": dict.fromkeys(names)}
    known = ~np.isnan(values)
    patterns: dict[bytes, list[int]] = {np.ones(labels.size, bool).tobytes(): []}
    for place, there in enumerate(known):
        patterns.setdefault(there.tobytes(), []).append(place)
    varying = sum(bool((row[there] != row[there][:1]).any()) for row, there in zip(values, known, strict=True))
    error = (1 - LEVEL) / max(1, varying)
    for pattern, places in patterns.items():
        rows = np.frombuffer(pattern, dtype=bool)
        measured = values[places][:, rows]
        if scores is not None:
            measured = np.concatenate([scores[None, rows], measured])
        found = aurocs(labels[rows], measured, codes[rows])
        if scores is not None and rows.all():
            record["detector"] = _interval(found, 0).cell()
        counts = {"n_real": int((labels[rows] == 0).sum()), "n_fake": int((labels[rows] == 1).sum())}
        for number, place in enumerate(places):
            record["facts"][names[place]] = _entry(found, number + (scores is not None), scores is not None, error) | counts
    return record


def _entry(found: AurocEstimates, place: int, has_detector: bool, error: float) -> dict[str, Any]:
    """What the document says of a fact, with its `place` among `found`; `error` is the probability at which it may be shown by chance."""
    interval, strict = _interval(found, place), _interval(found, place, 1 - error)
    entry: dict[str, Any] = {"auroc": interval.cell(), "strength": None, "detector_auroc": None, "difference": None}
    if has_detector:
        difference = _difference(found, place)
        entry |= {"detector_auroc": _interval(found, 0).value, "difference": difference.cell()}
    if interval.value is None:
        return entry | {"shown": False, "flagged": False}
    strength = max(interval.value, 1 - interval.value)
    bare = strict.low is None or strict.high is None
    shown = strength >= LEAST_WITHOUT_INTERVAL if bare else not (strict.low or 0) <= CHANCE <= (strict.high or 0)
    if has_detector and difference.value is not None:
        near = strength >= LEAST and (difference.value <= NEAR or (difference.low is not None and difference.low <= 0))
    else:
        near = strength >= LEAST_WITHOUT_DETECTOR
    return entry | {"strength": strength, "shown": shown, "flagged": shown and near}


def _interval(found: AurocEstimates, place: int, level: float = LEVEL) -> Interval:
    return found.interval(place, _normal_level(level, min(found.n_groups) - 1))


def _difference(found: AurocEstimates, place: int) -> Interval:
    """Strength of the detector, the first of `found`, minus that of a fact: the difference of both AUROCs once they are 0.5 and above."""
    values = found.values  # noqa: PD011
    signs = np.where(values < CHANCE, -1.0, 1.0)
    turned = AurocEstimates(CHANCE + signs * (values - CHANCE), signs[:, None] * signs * found.covariance, found.n_groups)
    return turned.difference(0, place, _normal_level(LEVEL, min(found.n_groups) - 1)).difference


@lru_cache(maxsize=4096)
def _normal_level(level: float, freedom: int) -> float:
    """The level at which the normal distribution has the quantile that Student's t has at `level`."""
    from scipy.stats import t

    return math.erf(float(t.ppf((1 + level) / 2, max(1, freedom))) / math.sqrt(2))


def parts_of(document: Document) -> dict[str, Any]:
    """The records by generator, and that of all together under `all` where it is of other rows than a single generator's."""
    records = dict(document["generators"])
    counts = ("n_real", "n_fake")
    same = len(records) == 1 and all(record[each] == document[ALL][each] for record in records.values() for each in counts)
    return records if same else records | {ALL: document[ALL]}


def _sentences(document: Document) -> list[str]:
    """What was found, the strongest fact first, in a handful of sentences."""
    parts = parts_of(document)
    if not any(record["n_real"] and record["n_fake"] for record in parts.values()):
        return ["Facts of the files were not compared: that takes real images and fakes."]
    measured = [(entry["strength"], name, where) for where, record in parts.items() for name, entry in record["facts"].items()]
    measured = sorted((each for each in measured if each[0] is not None), key=lambda each: -each[0])
    if not measured:
        why = "all that are known are the same on every image" if document["constant"] else "none are known"
        return [f"No facts of the files were measured: {why}."]
    flagged: dict[str, list[str]] = {}
    for _, name, where in sorted(measured, key=lambda each: (-each[0], each[2] == ALL)):
        if parts[where]["facts"][name]["flagged"]:
            flagged.setdefault(name, []).append(where)
    if not flagged:
        strength, name, where = measured[0]
        told = "comes near the detector" if document["detector"] is not None else "tells fakes from real images by itself"
        chance = "" if parts[where]["facts"][name]["shown"] else ", which may be chance"
        return [f"No trivial fact {told} (strongest: {short(name)}, {strength:.2f}, on {_place(where)}{chance})."]
    names = sorted(flagged, key=lambda name: (-round(parts[flagged[name][0]]["facts"][name]["strength"], 3), -len(flagged[name])))
    said = [_sentence(name, flagged[name], parts, document["detector"] is not None) for name in names[:_SENTENCES]]
    if more := names[_SENTENCES:]:
        said.append(f"Flagged as well, none stronger than these: {_listed([f'`{short(name)}`' for name in more], 2 * _LISTED)}.")
    return said


def _sentence(name: str, places: Sequence[str], parts: Mapping[str, Any], has_detector: bool) -> str:
    """What is to be said of a fact that is flagged at `places`, the worst first."""
    entry = parts[places[0]]["facts"][name]
    cell, smaller = entry["auroc"], entry["auroc"]["value"] < CHANCE
    ends = [1 - cell[end] if smaller else cell[end] for end in ("low", "high") if cell["low"] is not None]
    between = f" ({min(ends):.3f}–{max(ends):.3f})" if ends else ""
    doubt = f" ({cell['reason']})" if not ends else ""
    side = ", smaller in fakes," if smaller else ""
    said = f"On {_place(places[0])} `{short(name)}`{side} alone reaches AUROC {entry['strength']:.3f}{between}{doubt}"
    own = entry["detector_auroc"]
    if own is None:
        said += (
            ": a detector can learn that in place of what makes an image generated" if not has_detector else "; the detector has no AUROC"
        )
    elif entry["difference"]["value"] < -NEAR:
        said += f", more than the detector, {own:.3f}: its result says little there"
    else:
        said += f", the detector {own:.3f}: what it learned may be that"
    others = []
    for where in places[1:]:
        found = parts[where]["facts"][name]
        turned = "" if (found["auroc"]["value"] < CHANCE) == smaller else f" ({'larger' if smaller else 'smaller'} in fakes)"
        others.append(f"{_place(where)} {found['strength']:.2f}{turned}")
    return f"{said}. Also flagged on {_listed(others, _LISTED)}." if others else f"{said}."


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _place(where: str) -> str:
    return "all generators together" if where == ALL else short(where, 60)


def text(document: Document, width: int = WIDTH) -> str:
    """Strength of each fact by generator for a terminal, with `↓` where fakes have the smaller value and `!` where it is flagged.

    Args:
        document: Of `audit` or `audit_data`.
        width: Columns of the terminal.
    """
    parts = parts_of(document)
    rows = [(name, {where: _shown(record["facts"][name]) for where, record in parts.items()}) for name in document["facts"]]
    if document["detector"] is not None:
        cells = {where: record["detector"]["value"] for where, record in parts.items()}
        own = {where: "-" if value is None else f"{max(value, 1 - value):.3f}{_mark(value, False)}" for where, value in cells.items()}
        rows.append((f"detector: {document['detector']}", own))
    lines = ["Strength of each fact alone (AUROC, or 1 − AUROC: ↓, smaller in fakes); !: flagged"] if document["facts"] else []
    if rows and parts:
        lines += layout("fact", list(parts), rows, width)
    if document["constant"]:
        held = [f"{one_line(name)} ({short(value)})" for name, value in document["constant"].items()]
        lines.append(f"constant: {', '.join(held)}")
    return "\n".join([*lines, *map(one_line, document["notes"])])


def _shown(entry: Document) -> str:
    value = entry["auroc"]["value"]
    return "-" if value is None else f"{entry['strength']:.3f}{_mark(value, entry['flagged'])}"


def _mark(value: float, flagged: bool) -> str:
    return ("↓" if value < CHANCE else " ") + ("!" if flagged else " ")


def write_audit(folder: Path, documents: Sequence[Document]) -> Path:
    """Write `shortcuts.csv`: a row with the columns `COLUMNS` a document, generator and fact; `generator` is null of all together.

    Args:
        folder: Usually `runs/<name>/tables`.
        documents: Of `audit` or `audit_data`, of any detectors and perturbations.

    Returns:
        The file.
    """
    rows = []
    for document in documents:
        for record in parts_of(document).values():
            where = {name: record[name] for name in ("dataset", "generator")}
            where |= {name: document[name] for name in ("detector", "perturbation")}
            for name, entry in record["facts"].items():
                cell, difference = entry["auroc"], entry["difference"] or {}
                ends = {"low": cell["low"], "high": cell["high"], "difference": difference.get("value")}
                ends |= {f"difference_{end}": difference.get(end) for end in ("low", "high")}
                counts = {each: entry[each] for each in ("n_real", "n_fake", "detector_auroc", "flagged")}
                reason = "; ".join(dict.fromkeys(each["reason"] for each in (cell, difference) if each.get("reason"))) or None
                rows.append(where | {"fact": name, "auroc": cell["value"], "reason": reason} | ends | counts)
    return write_csv(folder / "shortcuts.csv", rows, COLUMNS)
