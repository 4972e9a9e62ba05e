"""Matrices as heat maps: the number in each cell, its interval below it where there is room."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.comparison.matrices import TITLES, Cell, Matrix, file_names
from evaluation.figures.drawing import canvas, legible, saved
from evaluation.figures.theme import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

SCALES = {
    "auroc": "AUROC (0.5: chance)",
    "tpr_at_fpr_0.1": "TPR at FPR 0.1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy (0.5: chance)",
    "tpr_at_threshold": "TPR at the threshold",
    "fpr_at_threshold": "FPR at the threshold",
}
ROOM = 8  # columns up to which intervals fit
INK = ("#0b0d0f", "#fafbfc")  # of the numbers, on light and on dark cells
SWITCH = 0.18  # luminance at which both inks have the same contrast


def heatmap_figure(matrix: Matrix, theme: Theme = LIGHT) -> "Figure":
    """A heat map: rows are what was trained under, columns what was tested under; a frame marks what a row was trained on.

    AUROC diverges from 0.5 between 0 and 1. Accuracies go from 0.5, or the tenth below the lowest, to 1; rates from 0 to 1.

    Args:
        matrix: What is drawn.
        theme: Colours; another theme needs another drawing, for colours between two of a palette's are in no list of `recoloured`.
    """
    large = len(matrix.columns) > ROOM
    names = [legible(name) for name in (*matrix.rows, *matrix.columns)]
    longest = {"row": max(map(len, names[: len(matrix.rows)])), "column": max(map(len, names[len(matrix.rows) :]))}
    side, tall = (0.44, 0.32) if large else (1.15, 0.62)
    turned = longest["column"] * 0.075 > side
    width = 0.9 + 0.075 * longest["row"] + side * len(matrix.columns) + 0.9
    height = 0.9 + tall * len(matrix.rows) + (0.05 * longest["column"] if turned else 0)
    figure, axes = canvas(theme, max(width, 4.6), max(height, 1.9))
    values = values_of(matrix)
    low, high = scale_of(matrix)
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours_of(matrix, theme), vmin=low, vmax=high, edgecolors="none")
    draw_axes(axes, matrix, theme, names, turned)
    for y, row in enumerate(matrix.rows):
        for x, name in enumerate(matrix.columns):
            draw_number(axes, matrix.cells[row][name], (x, y), large, theme, mesh.to_rgba(float(values[y, x])))
            if (row, name) in matrix.seen:
                draw_frame(axes, x, y, theme)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.04, aspect=30 if large else 18)
    bar.set_label(SCALES[matrix.metric], color=theme.text, fontsize=9)
    bar.ax.tick_params(colors=theme.text, labelsize=8)
    bar.outline.set_visible(False)
    marked = "; framed: the row was trained on it" if matrix.seen else ""
    figure.suptitle(legible(matrix.head) + f": {TITLES[matrix.metric]}{marked}", color=theme.text, fontsize=9.5, x=0.01, ha="left")
    return figure


def scale_of(matrix: Matrix) -> tuple[float, float]:
    """The values at the ends of the colour scale."""
    if matrix.metric in ("auroc", "tpr_at_fpr_0.1"):
        return 0.0, 1.0
    values = values_of(matrix)
    lowest = float(np.nanmin(values)) if np.isfinite(values).any() else 0.5
    return min(0.5, np.floor(lowest * 10) / 10), 1.0


def save_heatmaps(folder: Path, found: Sequence[Matrix]) -> list[Path]:
    """Write each matrix as PNG and SVG, under `matrix-<head>-by_<axis>-<metric>`.

    Args:
        folder: Usually `runs/<name>/figures`.
        found: Of `matrices.matrices`.

    Returns:
        The files.
    """
    return saved(folder, {f"matrix-{name}": heatmap_figure(matrix) for name, matrix in file_names(found).items()})


def values_of(matrix: Matrix) -> NDArray[np.float64]:
    """`[rows, columns]`, NaN where there is no value."""
    cells = [[matrix.cells[row][name]["value"] for name in matrix.columns] for row in matrix.rows]
    return np.array(cells, dtype=np.float64)


def colours_of(matrix: Matrix, theme: Theme) -> "Colormap":
    """From the middle or the lower end, which is nearly the page, to the palette's first colours."""
    from matplotlib.colors import LinearSegmentedColormap

    neutral = "#2b3138" if is_light(theme.text) else "#f1f3f5"
    first, second = theme.palette[:2]
    ends = [second, neutral, first] if matrix.metric == "auroc" else [neutral, first]
    return LinearSegmentedColormap.from_list("undertow", ends, N=101).with_extremes(bad="none")


def draw_axes(axes: "Axes", matrix: Matrix, theme: Theme, names: Sequence[str], turned: bool) -> None:
    """Names of rows and columns, and a line between cells."""
    rows, columns = len(matrix.rows), len(matrix.columns)
    tested = "tested under" if matrix.axis == "perturbation" else "tested on"
    axes.set(xlim=(0, columns), ylim=(rows, 0), ylabel="trained under", xlabel=tested)
    axes.grid(visible=False)
    axes.set_xticks(np.arange(columns) + 0.5, names[rows:], fontsize=8)
    axes.set_yticks(np.arange(rows) + 0.5, names[:rows], fontsize=8)
    axes.tick_params(length=0)
    if turned:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    for spine in axes.spines.values():
        spine.set_visible(False)
    lines: Mapping[str, Any] = {"color": theme.grid, "linewidth": 0.6}
    for x in range(columns + 1):
        axes.axvline(x, **lines, clip_on=False)
    for y in range(rows + 1):
        axes.axhline(y, **lines, clip_on=False)


def draw_number(axes: "Axes", cell: Cell, place: tuple[int, int], large: bool, theme: Theme, colour: tuple[float, ...]) -> None:
    """The value of a cell with its interval, or a dash; in the ink that is seen on the cell's colour."""
    style: Mapping[str, Any] = {"ha": "center", "va": "center", "textcoords": "offset points"}
    middle = (place[0] + 0.5, place[1] + 0.5)
    if cell["value"] is None:
        axes.annotate("–", middle, (0, 0), color=theme.text, fontsize=8, **style)
        return
    ink = INK[int(luminance(colour) < SWITCH)]
    with_interval = not large and cell["low"] is not None
    value = f"{cell['value']:.2f}" if large else f"{cell['value']:.3f}"
    axes.annotate(value, middle, (0, 5 if with_interval else 0), color=ink, fontsize=7 if large else 10, **style)
    if with_interval:
        axes.annotate(f"{cell['low']:.3f}–{cell['high']:.3f}", middle, (0, -8), color=ink, fontsize=7, **style)


def draw_frame(axes: "Axes", x: int, y: int, theme: Theme) -> None:
    """A frame round the cell at column x and row y."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor=theme.text, linewidth=1.8, clip_on=False, zorder=3))


def is_light(colour: str) -> bool:
    """Whether dark ink reads better on a colour than light ink."""
    from matplotlib.colors import to_rgba

    return luminance(to_rgba(colour)) > 0.4


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour in [0, 1] (WCAG 2)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
