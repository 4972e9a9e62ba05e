"""What a report shows of a study of several detectors: matrices of training and test conditions, and what carries to new generators."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.comparison.matrices import matrices
from evaluation.families import Trained
from evaluation.figures import ON_LIGHT, heatmap_figure, left_out_figure, number_figure, save_generalisation_figures, save_heatmaps
from evaluation.report.comparisons import comparison_parts
from evaluation.report.fraction import fraction_part
from evaluation.report.matched import matched_part
from evaluation.report.parts import Part, drawn, drawn_twice
from evaluation.report.reliability import reliability_part
from evaluation.report.robustness import robustness_part
from evaluation.tables import Documents

SHOWN = ("auroc", "accuracy")
"""Metrics whose matrices are drawn; all are in the tables."""


def study_parts(folder: Path, metrics: Mapping[str, Any], documents: Documents, trained: Mapping[str, Trained] | None = None) -> list[Part]:
    """Save the figures of a study and make the report's sections of them.

    Args:
        folder: Where figures are saved.
        metrics: The contents of `metrics.json`.
        documents: Its parts by detector.
        trained: What each detector was trained on.

    Returns:
        Sections on what there is: comparisons, pairs, generated fractions, robustness, calibration, training conditions, unseen generators.
    """
    found = metrics.get("generalisation", {})
    parts = comparison_parts(folder, metrics)
    matched = {name: document["matched"] for name, document in documents.items() if "matched" in document}
    parts += [matched_part(matched)] if matched else []
    fractions = fraction_part({name: document.get("fractions", {}) for name, document in documents.items()})
    parts += [part for part in (fractions, robustness_part(documents), reliability_part(documents)) if part is not None]
    if shown := matrices(documents, trained, SHOWN):
        save_heatmaps(folder, shown)
        charts = [drawn_twice(partial(heatmap_figure, each), each.title, each.title) for each in shown]
        sentence = (
            "Rows: what distinguishes the detectors of one name, usually what they were trained on; columns: what they are tested on. "
            "A frame marks a generator that it was trained on."
        )
        parts.append(Part("Training condition against test condition", [sentence], [], charts))
    if any(found.values()):
        save_generalisation_figures(folder, found)
        figures = {
            "Number of training generators": number_figure(found, ON_LIGHT),
            "One generator left out of training": left_out_figure(found, ON_LIGHT),
        }
        drawn_ones = [drawn(figure, name, name) for name, figure in figures.items() if figure is not None]
        if drawn_ones:
            parts.append(Part("Generators that training never saw", [], [], drawn_ones))
    return parts
