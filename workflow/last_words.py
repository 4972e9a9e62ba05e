"""What a command prints last: what came out, and where it lies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.metrics.functional import Threshold


def last_words(metrics: dict[str, Any], thresholds: Mapping[str, Threshold], folder: Path) -> str:
    """What came out, and where it lies.

    Args:
        metrics: The contents of `metrics.json`.
        thresholds: The stored threshold of each detector, by name.
        folder: The run directory.
    """
    from evaluation.tables import documents_of, perturbations_of, text

    lines = []
    documents = documents_of(metrics, "")
    for name, document in documents.items():
        lines.append(f"{'AUROC':>8}  {'reals':>6} {'fakes':>6}  {name}".rstrip())
        for where, part in (document["by_generator"] | {"all": document["overall"]}).items():
            value = part["auroc"]["value"]
            lines.append(f"{'-' if value is None else format(value, '.3f'):>8}  {part['n_real']:>6} {part['n_fake']:>6}  {where}")
    if len(perturbations_of(documents)) > 1:
        lines.append(text(documents_of(metrics, next(iter(thresholds)))))
    for name, threshold in thresholds.items():
        found = f"no threshold: {threshold.reason}" if threshold.value is None else f"threshold {threshold.value:.4g}"
        label = f"{name}: " if len(thresholds) > 1 else ""
        lines.append(f"{label}{found} ({threshold.origin})")
    return "\n".join([*lines, f"Report: {folder / 'report.html'}", f"All results: {folder}"])


def study_words(metrics: Mapping[str, Any]) -> list[str]:
    """What the terminal is told of a study besides its tables: comparisons, robustness, pairs, shortcuts; a text each.

    Args:
        metrics: The contents of `metrics.json`.
    """
    from evaluation.comparison import matched, paired, robustness, seeds, selection
    from evaluation.tables import documents_of

    documents = documents_of(metrics, "")
    told = [
        part.text(metrics[name]) for name, part in (("comparison", paired), ("seeds", seeds), ("selection", selection)) if metrics.get(name)
    ]
    told += [robustness.text(documents)] if any(document.get("robustness") for document in documents.values()) else []
    told += [
        f"{name}: {matched.text(document['matched'])}" if name else matched.text(document["matched"])
        for name, document in documents.items()
        if "matched" in document
    ]
    return [*told, *shortcut_words(metrics)]


def shortcut_words(metrics: Mapping[str, Any]) -> list[str]:
    """What the audit says of each detector, as one text; nothing where no fact was flagged."""
    from evaluation.tables import documents_of

    lines = [
        f"{name}: {sentence}" if name else str(sentence)
        for name, document in documents_of(metrics, "").items()
        for found in document.get("shortcuts", {}).values()
        if found["flagged"]
        for sentence in found["sentences"]
    ]
    return ["\n".join(["Shortcuts:", *(f"  {line}" for line in lines)])] if lines else []
