"""The first sentences of a report about several detectors."""

from collections.abc import Mapping
from typing import Any

from evaluation.statistics import CLEAN
from evaluation.tables import Documents

_LISTED = 6


def study_findings(documents: Documents, metrics: Mapping[str, Any]) -> list[str]:
    """What was measured and how the detectors stand, in sentences that claim no more than the intervals do.

    Args:
        documents: Parts of `metrics.json` by detector.
        metrics: The contents of `metrics.json`, of it `comparison` where there is one.
    """
    return [_what(documents), *_order(documents), *_differences(metrics.get("comparison") or {}), *_extremes(documents)]


def _what(documents: Documents) -> str:
    first = next(iter(documents.values()))
    overall, count = first["overall"], len(first["by_generator"])
    names = list(dict.fromkeys(name for document in documents.values() for name in document["by_perturbation"] if name != CLEAN))
    under = f", and under {_listed(names)}" if names else ""
    return (
        f"{len(documents)} detectors on {overall['n_fake']:,} fakes of {count} generator{'s' * (count != 1)} "
        f"({overall['n_groups_fake']:,} groups) against {overall['n_real']:,} real images ({overall['n_groups_real']:,} groups), as they "
        f"are{under}."
    )


def _order(documents: Documents) -> list[str]:
    """All detectors by AUROC over all images."""
    cells = {name: document["overall"]["auroc"] for name, document in documents.items()}
    known = sorted((name for name, cell in cells.items() if cell["value"] is not None), key=lambda name: -cells[name]["value"])
    told = [f"{name} {cells[name]['value']:.3f}{_interval(cells[name])}" for name in known]
    return [f"AUROC over all images: {_listed(told)}."] if told else []


def _differences(comparison: Mapping[str, Any]) -> list[str]:
    """What is shown to be better or worse than the baseline."""
    said: dict[str, list[str]] = {}
    for each in comparison.get("detectors", []):
        for row in each["rows"]:
            if row["kind"] == "all":
                cell = row["auroc"]["difference"]
                number = "" if cell["value"] is None else f" ({cell['value']:+.3f}{_interval(cell, 'interval ')})"
                said.setdefault(row["auroc"]["verdict"], []).append(f"{each['detector']}{number}")
    listed = "; ".join(f"{verdict}: {_listed(names)}" for verdict, names in said.items())
    return [f"Against {comparison['baseline']} on the same images, by AUROC – {listed}."] if listed else []


def _extremes(documents: Documents) -> list[str]:
    """The generator on which each detector is weakest."""
    told = []
    for name, document in documents.items():
        cells = {each: part["auroc"] for each, part in document["by_generator"].items() if part["auroc"]["value"] is not None}
        if len(cells) > 1:
            worst = min(cells, key=lambda each: cells[each]["value"])
            told.append(f"{name} on {worst} ({cells[worst]['value']:.3f})")
    return [f"Weakest: {_listed(told)}."] if told else []


def _interval(cell: Mapping[str, Any], word: str = "") -> str:
    if cell["low"] is None:
        return ""
    between = f"{cell['low']:.3f} to {cell['high']:.3f}" if word else f"{cell['low']:.3f}–{cell['high']:.3f}"
    return f", {word}{between}" if word else f" ({between})"


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:_LISTED])} and {more} more"
