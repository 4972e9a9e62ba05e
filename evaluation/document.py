"""All that `metrics.json` holds, from the predictions table and what stands in `metrics.json` itself: thresholds, seed, settings."""

from collections.abc import Mapping, Sequence
from typing import Any

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
    metrics = metrics_document(rows, threshold, reals_from, resamples, seed)
    documents = documents_of(metrics, str(rows["detector"].iloc[0]))
    for name in documents:
        own = rows[rows["detector"] == name]
        families = family_document(own, told.get(name), resamples, seed)
        found = {"families": families, "shortcuts": _shortcuts(own, reals_from), "matched": _matched(own, reals_from, resamples, seed)}
        if FRACTION in own.columns:
            found["fractions"] = by_fraction(own, Threshold(**documents[name]["threshold"]), reals_from, resamples, seed)
        _record(metrics, name).update({key: value for key, value in found.items() if value})
    thresholds = {name: Threshold(**part["threshold"]) for name, part in documents.items()}
    if len(rows["perturbation"].unique()) > 1:
        for name, changed in robustness(rows, thresholds, reals_from, resamples, seed).items():
            _record(metrics, name)["robustness"] = changed
    if len(documents) > 1:
        several = {
            "generalisation": generalisation(rows, told, reals_from, resamples, seed),
            "comparison": compare_detectors(rows, reals_from, baseline, resamples, seed),
            "seeds": seeds(rows, reals_from, baseline, resamples, seed),
            "selection": None if choose_by is None else selection(rows, choose_by, reals_from, resamples, seed),
        }
        metrics |= {name: part for name, part in several.items() if _says_something(part)}
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
