"""All that `metrics.json` holds, from the predictions table and what stands in `metrics.json` itself: thresholds, seed, settings."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from evaluation.audit import audit
from evaluation.comparison.generalisation import generalisation
from evaluation.comparison.matched import matched
from evaluation.comparison.paired import compare_detectors
from evaluation.comparison.robustness import robustness
from evaluation.comparison.seeds import seeds
from evaluation.comparison.selection import selection
from evaluation.families import Trained, family_document
from evaluation.fractions import COLUMN as FRACTION
from evaluation.fractions import by_fraction
from evaluation.resampling import RESAMPLES
from evaluation.statistics import CLEAN, metrics_document
from evaluation.tables import documents_of
from modules.metrics.functional import Threshold

EQUALISED = "equalise_"
"""Perturbations under which trivial facts are measured again: they are there to take them away."""


def measured_rows(frame: pd.DataFrame, split: str | None) -> pd.DataFrame:
    """The rows that are measured.

    Args:
        frame: A predictions table.
        split: Of these rows only; None for all.

    Raises:
        ValueError: There are none.
    """
    rows = frame if split is None else frame[frame["split"] == split]
    if rows.empty:
        found = sorted(frame["split"].fillna("none").unique())
        message = f"no row of the split {split!r} in the predictions; there are: {', '.join(found) or 'no rows'}"
        raise ValueError(message)
    return rows


def document(
    frame: pd.DataFrame,
    threshold: Threshold | Mapping[str, Threshold],
    *,
    split: str | None = "test",
    reals_from: Mapping[str, str] | None = None,
    trained: Mapping[str, Trained] | None = None,
    baseline: str | None = None,
    choose_by: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What `metrics.json` holds; equal arguments give equal numbers.

    Args:
        frame: A predictions table.
        threshold: The stored threshold, or one for each detector by name.
        split: The split that is measured; None for all rows.
        reals_from: For a data set, the one whose reals its generators are measured against.
        trained: What each detector was trained on, by name (see `families.Trained`).
        baseline: The detector that others are compared with; the first by default.
        choose_by: Of a sweep, the metric by which one detector is chosen (see `comparison.selection`); None where it is no sweep.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Raises:
        ValueError: There is no row of that split, a detector has no threshold, or there is no such baseline.
    """
    rows = measured_rows(frame, split)
    told = trained or {}
    how = _How(reals_from, resamples, seed)
    metrics = metrics_document(rows, threshold, reals_from, resamples, seed)
    documents = documents_of(metrics, str(rows["detector"].iloc[0]))
    for name, part in documents.items():
        _record(metrics, name).update(_of_one(rows[rows["detector"] == name], Threshold(**part["threshold"]), told.get(name), how))
    if len(rows["perturbation"].unique()) > 1:
        thresholds = {name: Threshold(**part["threshold"]) for name, part in documents.items()}
        for name, changed in robustness(rows, thresholds, reals_from, resamples, seed).items():
            _record(metrics, name)["robustness"] = changed
    if len(documents) > 1:
        metrics |= _of_all(rows, told, baseline, choose_by, how)
    metrics["settings"] = {
        "split": split,
        "reals_from": dict(reals_from or {}),
        "trained": {name: dict(each) for name, each in told.items()},
        "baseline": baseline,
        "choose_by": choose_by,
        "resamples": resamples,
        "seed": seed,
    }
    return metrics


class _How(NamedTuple):
    """What every measure is taken with, in the order of their arguments."""

    reals_from: Mapping[str, str] | None
    resamples: int
    seed: int


def _of_one(rows: pd.DataFrame, threshold: Threshold, trained: Trained | None, how: _How) -> dict[str, Any]:
    """What is said of one detector besides its metrics, where there is something to say."""
    found = {
        "families": family_document(rows, trained, how.resamples, how.seed),
        "shortcuts": _shortcuts(rows, how.reals_from),
        "matched": _matched(rows, *how),
        "fractions": by_fraction(rows, threshold, *how) if FRACTION in rows.columns else None,
    }
    return {name: part for name, part in found.items() if part}


def _of_all(rows: pd.DataFrame, trained: Mapping[str, Trained], baseline: str | None, choose_by: str | None, how: _How) -> dict[str, Any]:
    """What is said of several detectors together, where there is something to say."""
    found = {
        "generalisation": generalisation(rows, trained, *how),
        "comparison": compare_detectors(rows, how.reals_from, baseline, how.resamples, how.seed),
        "seeds": seeds(rows, how.reals_from, baseline, how.resamples, how.seed),
        "selection": None if choose_by is None else selection(rows, choose_by, *how),
    }
    return {name: part for name, part in found.items() if _says_something(part)}


def recomputed(frame: pd.DataFrame, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The same document again, from a table and what the document says of thresholds, seed and settings.

    Args:
        frame: The run's predictions table.
        metrics: What its `metrics.json` holds.

    Raises:
        ValueError: The document does not say how it was made, or the table has not the rows for it.
    """
    told = metrics.get("settings")
    if not isinstance(told, Mapping):
        message = "metrics.json does not say how it was made (it lacks `settings`): it was written by an older version; evaluate again"
        raise ValueError(message)
    thresholds = {name: Threshold(**part["threshold"]) for name, part in documents_of(metrics, "").items()}
    one = next(iter(thresholds.values()))
    return document(frame, thresholds if "detectors" in metrics else one, **told)


def _record(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    """One detector's part, to add to."""
    part: dict[str, Any] = metrics["detectors"][name] if "detectors" in metrics else metrics
    return part


def _shortcuts(rows: pd.DataFrame, reals_from: Mapping[str, str] | None) -> dict[str, Any]:
    """What trivial facts tell under each perturbation that the audit looks at, where the table has facts."""
    if not any(str(name).startswith("fact_") for name in rows.columns):
        return {}
    chosen = audited_perturbations([str(name) for name in rows["perturbation"].unique()])
    return {name: audit(rows[rows["perturbation"] == name], reals_from) for name in chosen}


def audited_perturbations(names: Sequence[str]) -> list[str]:
    """The perturbations under which facts are looked at: none and those that equalise, or the first where there are no such.

    Args:
        names: Those that there are.
    """
    return [name for name in names if name == CLEAN or name.startswith(EQUALISED)] or list(names[:1])


def _matched(rows: pd.DataFrame, reals_from: Mapping[str, str] | None, resamples: int, seed: int) -> dict[str, Any]:
    """How AUROC depends on how well pairs match, where the table says it."""
    known = "pair_similarity" in rows.columns and rows["pair_similarity"].notna().any()
    return matched(rows, reals_from, resamples, seed) if known else {}


def _says_something(part: Mapping[str, Any] | None) -> bool:
    return bool(part) and any(part.values() if part else ())
