"""Confusion matrices as heat maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.confusion import CONFUSIONS, Matrix
from evaluation.figures import theme as themes
from evaluation.figures.drawing import canvas, legible, saved
from evaluation.figures.theme import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = 20  # colours of shares above zero
_SWITCH = 12  # from this step on the ink is the other one: both have a contrast of 4 or more in either theme
_INKS = ("#101418", "#fdfeff")
_GAP = 0.9  # rows between what was trained on and what was not
_LONGEST = 30  # characters of a column's name
_ZEROS = 10  # up to this many columns a count of zero is written


def _ramp(*anchors: str) -> tuple[str, ...]:
    """`STEPS` + 1 colours by way of `anchors`."""
    known = np.array([[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in anchors])
    at, places = np.linspace(0, 1, STEPS + 1), np.linspace(0, 1, len(anchors))
    channels = np.stack([np.interp(at, places, known[:, channel]) for channel in range(3)], axis=1)
    return tuple("#" + "".join(f"{value:02x}" for value in np.rint(colour).astype(int)) for colour in channels)


# A theme whose palette is the ramp and both inks, so that `theme.recoloured` turns a light map into a dark one.
LIGHT = replace(themes.LIGHT, palette=(*_ramp("#eef2f6", "#7db3dc", "#1f6fb5", "#08306b"), *_INKS))
ON_LIGHT = replace(LIGHT, paper="none")
ON_DARK = replace(themes.ON_DARK, palette=(*_ramp("#1d252f", "#1c4f80", "#4a9fdc", "#d6ecff"), *_INKS[::-1]))


@dataclass(frozen=True)
class _Size:
    """Of a cell, in inches, and of its text, in points."""

    width: float
    height: float
    text: float


def confusion_figure(matrix: Matrix, rows: str, columns: str, theme: Theme = LIGHT) -> "Figure":
    """Counts of answers; the colour of a cell is its share of its row, a frame is around the right answer.

    Rows of classes that the detector was never trained on stand apart, below. A star marks a generator that it was not trained on,
    of a class that it was.

    Args:
        matrix: See `confusion.Matrix`.
        rows: What the rows are: `true family`.
        columns: What the columns are: `predicted family`.
        theme: `LIGHT`, `ON_LIGHT` or `ON_DARK` of this module.
    """
    counts = np.array(matrix["counts"], dtype=np.int64).reshape(len(matrix["true"]), len(matrix["predicted"]))
    known = np.array(matrix["known"], dtype=bool)
    heights = np.arange(len(known)) + _GAP * ~known * (known.any() and not known.all())
    size = _size(*counts.shape)
    starred = [bool(each) and mark is False for each, mark in zip(known, matrix["trained_on"], strict=True)]
    labels = [
        f"{legible(name)}{' *' * star}  {total:,}" for name, star, total in zip(matrix["true"], starred, counts.sum(axis=1), strict=True)
    ]
    heads = [legible(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…") for name in matrix["predicted"]]
    width = size.width * counts.shape[1] + 0.078 * max(len(rows) + 8, *map(len, labels)) + 1.1
    height = size.height * (heights.max(initial=0) + 1) + 0.055 * max(map(len, heads), default=0) + 0.6
    figure, axes = canvas(theme, width, height)
    _cells(axes, counts, heights, size, theme)
    _frames(axes, matrix["right"], heights, theme)
    _axes(axes, heads, labels, heights, known)
    axes.set_xlabel(columns)
    axes.text(-0.75, -0.75, f"{rows}, images", color=theme.text, fontsize=9.5, ha="right", va="bottom")
    _colour_bar(figure, axes, theme)
    if any(starred):
        note = "* not trained on this generator, but on others of its class"
        figure.supxlabel(note, color=theme.text, fontsize=8.5, x=0.02, ha="left")
    return figure


def save_confusions(folder: Path, matrices: Mapping[str, Matrix]) -> list[Path]:
    """Write `confusion_<name>` for each matrix, as PNG and SVG.

    Args:
        folder: Usually `runs/<name>/figures`.
        matrices: By the names of `confusion.CONFUSIONS`.

    Returns:
        The files.
    """
    return saved(folder, {f"confusion_{name}": confusion_figure(matrix, *CONFUSIONS[name]) for name, matrix in matrices.items()})


def _size(rows: int, columns: int) -> _Size:
    if columns <= 6:
        return _Size(0.72, 0.4 if rows <= 12 else 0.3, 10)
    return _Size(0.5, 0.36 if rows <= 12 else 0.3, 9) if columns <= 12 else _Size(0.4, 0.3, 8) if columns <= 20 else _Size(0.34, 0.27, 7)


def _cells(axes: "Axes", counts: NDArray[np.int64], heights: NDArray[np.float64], size: _Size, theme: Theme) -> None:
    """A tile with its count for each cell; none in a row without images."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    *ramp, ink, other_ink = theme.palette
    tiles, colours = [], []
    for row, total in zip(*np.nonzero(counts.sum(axis=1, keepdims=True)), strict=True):
        total = counts[row].sum()
        for column, count in enumerate(counts[row]):
            # A count that is not zero is never as pale as none.
            step = max(round(STEPS * count / total), int(count > 0))
            tiles.append(Rectangle((column - 0.47, heights[row] - 0.47), 0.94, 0.94))
            colours.append(ramp[step])
            if count or counts.shape[1] <= _ZEROS:
                text = f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"
                colour = ink if step < _SWITCH else other_ink
                look: dict[str, Any] = {"color": colour, "fontsize": size.text, "ha": "center", "va": "center_baseline"}
                axes.text(column, heights[row], text, **look).set_in_layout(False)  # measuring a thousand takes seconds
    axes.add_collection(PatchCollection(tiles, facecolors=colours, edgecolors="none"))


def _frames(axes: "Axes", right: Sequence[int | None], heights: NDArray[np.float64], theme: Theme) -> None:
    """A frame around the right answer of each row."""
    from matplotlib.patches import Rectangle

    for height, column in zip(heights, right, strict=True):
        if column is not None:
            axes.add_patch(Rectangle((column - 0.47, height - 0.47), 0.94, 0.94, fill=False, edgecolor=theme.text, linewidth=1.1))


def _axes(axes: "Axes", heads: Sequence[str], labels: Sequence[str], heights: NDArray[np.float64], known: NDArray[np.bool_]) -> None:
    """Names above and beside the tiles, and between what was trained on and what was not, a line that says so."""
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(range(len(heads)), heads, rotation=40, ha="left", rotation_mode="anchor")
    places, names = heights.tolist(), list(labels)
    if known.any() and not known.all():
        places.append(heights[~known].min() - 0.5 - _GAP / 2)
        names.append("never trained on:")
    axes.set_yticks(places, names)
    axes.set(xlim=(-0.55, len(heads) - 0.45), ylim=(heights.max(initial=0) + 0.55, -0.55))


def _colour_bar(figure: "Figure", axes: "Axes", theme: Theme) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    shares: Any = ScalarMappable(Normalize(0, 1), ListedColormap(list(theme.palette[: STEPS + 1])))
    bar = figure.colorbar(shares, ax=axes, fraction=0.05, pad=0.02, aspect=18, shrink=0.9 if axes.get_ylim()[0] < 8 else 0.5, anchor=(0, 1))
    bar.set_label("share of its row", color=theme.text, fontsize=8.5)
    bar.ax.tick_params(colors=theme.text, labelsize=8, length=2)
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")  # else the page shines through between the steps
