"""The map of the vectors that a detector sees as a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evaluation.embedding_map import EmbeddingMap
from evaluation.figures.drawing import canvas, legible, saved
from evaluation.figures.theme import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "p")
_DOTS = 120  # an inch, of the points within an SVG


def map_figure(found: EmbeddingMap, theme: Theme = LIGHT) -> "Figure":
    """The map twice: by generator, reals grey, and by right and wrong at the threshold, where there is one.

    Args:
        found: Of `embedding_map.embedding_map`.
        theme: Colours. The points are drawn as a picture: to change the theme, draw the figure again.
    """
    names = _names(found.points)
    lines = -(-(len(names) + 1) // 3)
    panels = 1 if found.threshold is None else 2
    figure, grid = canvas(theme, 5.2 * panels, 4.6 + 0.19 * lines, 1, panels)
    figure.set_dpi(_DOTS)
    left, *right = np.atleast_1d(grid).flat
    _by_generator(left, found.points, names, theme)
    for axes in right:
        _by_verdict(axes, found, theme)
    for axes in (left, *right):
        axes.set_xlabel(f"first component ({found.explained[0]:.0%} of the variance)")
        axes.tick_params(labelsize=8)
    left.set_ylabel(f"second component ({found.explained[1]:.0%})")
    return figure


def save_map(folder: Path, found: EmbeddingMap) -> list[Path]:
    """Write `embedding_map` as PNG and SVG.

    Args:
        folder: Usually `runs/<name>/figures`.
        found: Of `embedding_map.embedding_map`.

    Returns:
        The files.
    """
    return saved(folder, {"embedding_map": map_figure(found)})


def _names(points: pd.DataFrame) -> list[str]:
    """The fakes' `dataset/generator`, in order."""
    fakes = points[points["label"] == 1]
    return sorted((fakes["dataset"] + "/" + fakes["generator"]).unique())


def _by_generator(axes: "Axes", points: pd.DataFrame, names: Sequence[str], theme: Theme) -> None:
    reals = points[points["label"] == 0]
    if not reals.empty:
        axes.scatter(reals["x"], reals["y"], label="real", **_look(theme.text, 0.3))
    generators = points["dataset"] + "/" + points["generator"]
    colours = len(theme.palette)
    for place, name in enumerate(names):
        # Where all colours are used up the marker changes.
        marker = _MARKERS[place // colours % len(_MARKERS)]
        rows = points[(points["label"] == 1) & (generators == name)]
        axes.scatter(rows["x"], rows["y"], marker=marker, label=legible(name), **_look(theme.palette[place % colours], 0.75))
    axes.set_title("by generator", color=theme.text, fontsize=10)
    _key(axes, theme, 3 if len(names) > 7 else 2)


def _by_verdict(axes: "Axes", found: EmbeddingMap, theme: Theme) -> None:
    points = found.points[found.points["score"].notna()]
    called = points["score"] > found.threshold
    fake = points["label"] == 1
    kinds = {
        "right": (called == fake, theme.text, 0.22, "o"),
        "missed fake": (fake & ~called, theme.palette[1], 0.85, "^"),
        "false alarm": (~fake & called, theme.palette[0], 0.85, "s"),
    }
    for name, (chosen, colour, alpha, marker) in kinds.items():
        rows = points[chosen]
        axes.scatter(rows["x"], rows["y"], marker=marker, label=f"{name} ({len(rows):,})", **_look(colour, alpha))
    axes.set_title("by right and wrong at the threshold", color=theme.text, fontsize=10)
    _key(axes, theme, 3)


def _look(colour: str, alpha: float) -> dict[str, Any]:
    return {"color": colour, "alpha": alpha, "s": 13, "linewidths": 0, "rasterized": True}


def _key(axes: "Axes", theme: Theme, columns: int) -> None:
    """A legend below a panel."""
    look: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "frameon": False, "labelcolor": theme.text}
    legend = axes.legend(ncols=columns, fontsize=7.5, handletextpad=0.2, columnspacing=0.9, markerscale=1.6, **look)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(0.8)
