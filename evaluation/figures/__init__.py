"""Figures in the colours of a theme; the same go into the report and, as PNG and SVG, under `figures/`.

A module draws what the one of its name computes: `figures/confusion.py` draws `confusion.py`. `drawing.py` is what they share.
"""

from evaluation.figures.confusion import confusion_figure, save_confusions
from evaluation.figures.curves import (
    bin_edges,
    histogram_figure,
    roc_figure,
    save_figure_of_detectors,
    save_figures,
    save_figures_by_perturbation,
)
from evaluation.figures.drawing import svg
from evaluation.figures.embedding_map import map_figure, save_map
from evaluation.figures.generalisation import left_out_figure, number_figure, save_generalisation_figures
from evaluation.figures.heatmaps import heatmap_figure, save_heatmaps
from evaluation.figures.theme import LIGHT, ON_DARK, ON_LIGHT, Theme, recoloured

__all__ = [
    "LIGHT",
    "ON_DARK",
    "ON_LIGHT",
    "Theme",
    "bin_edges",
    "confusion_figure",
    "heatmap_figure",
    "histogram_figure",
    "left_out_figure",
    "map_figure",
    "number_figure",
    "recoloured",
    "roc_figure",
    "save_confusions",
    "save_figure_of_detectors",
    "save_figures",
    "save_figures_by_perturbation",
    "save_generalisation_figures",
    "save_heatmaps",
    "save_map",
    "svg",
]
