"""Robustness as figures: curves over the strength of a perturbation, and heat maps of detectors × perturbations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.comparison.matrices import Cell, Matrix
from evaluation.comparison.robustness import DOES_NOT_HOLD, NO_LONGER_HOLDS, RANKING_LOST, kind_of, ordered, with_robustness
from evaluation.figures.drawing import canvas, legend, legible, saved
from evaluation.figures.heatmaps import ROOM, colours_of, draw_axes, draw_frame, draw_number, values_of
from evaluation.figures.theme import LIGHT, Theme
from evaluation.statistics import CLEAN
from evaluation.tables import MISSING, Documents

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS = {"auroc": "AUROC", "tpr": "TPR", "fpr": "FPR"}
_FRAMED = {"auroc": (RANKING_LOST,), "tpr": (), "fpr": (NO_LONGER_HOLDS, DOES_NOT_HOLD)}
_COLUMNS = 4  # panels beside each other
_MARKERS = ("o", "s", "^", "D", "v", "P")
_RATES: Mapping[str, Any] = {"tpr": "-", "fpr": "--"}
_UNORDERED = ("chain",)  # of no common strength


def curves_figure(documents: Documents, theme: Theme = LIGHT) -> "Figure | None":
    """Small multiples: a panel for each family of perturbations with two strengths or more, from none or mild to strong.

    Above AUROC with its 95% intervals (dotted: chance), a line a detector; below it TPR (solid) and FPR (dashed) at the stored threshold,
    and the wanted FPR (dotted) where it is the same for all. Steps are equally far apart, whatever their numbers.

    Args:
        documents: Parts of `metrics.json` by detector; those without `robustness` are left out.
        theme: Colours.

    Returns:
        None where there is no such family.
    """
    found = with_robustness(documents)
    families = _families(found)
    if not families:
        return None
    columns = min(_COLUMNS, len(families))
    bands = -(-len(families) // columns)
    width = max(2.5 * columns + 0.6, 5.2)
    figure, grid = canvas(theme, width, 0.5 + 4.4 * bands + 0.24 * -(-(len(found) + 3) // 3), 2 * bands, columns)
    panels = np.asarray(grid).reshape(2 * bands, columns)
    handles: dict[tuple[str, str], Any] = {}
    for place, names in enumerate(families.values()):
        band, column = divmod(place, columns)
        above, below = panels[2 * band, column], panels[2 * band + 1, column]
        handles |= _curves(above, below, found, names, theme)
        _ticks(above, below, names, theme)
        above.set_title(legible(kind_of(names[-1]).title), color=theme.text, fontsize=9)
        if column == 0:
            above.set_ylabel("AUROC")
            below.set_ylabel("rate at the stored threshold")
    for place in range(len(families), bands * columns):
        for row in (0, 1):
            panels[2 * (place // columns) + row, place % columns].set_axis_off()
    _same_height(panels[::2], found)
    legend(figure, theme, list(handles.values()), [legible(name) for _, name in handles], columns=min(3, len(handles)))
    return figure


def robustness_figure(documents: Documents, theme: Theme = LIGHT) -> "Figure | None":
    """Heat maps of detectors × perturbations: AUROC, and at the stored threshold TPR and FPR, of all images.

    A frame marks AUROCs of which the verdict is `ranking lost`, and FPRs of which it is that the threshold does not hold.

    Args:
        documents: Parts of `metrics.json` by detector; those without `robustness` are left out.
        theme: Colours; another theme needs another drawing (see `heatmaps.heatmap_figure`).

    Returns:
        None where no detector was measured under perturbations.
    """
    found = with_robustness(documents)
    columns = tuple(dict.fromkeys(name for document in found.values() for name in document["perturbations"]))
    if not columns:
        return None
    rows = tuple(found)
    large = len(columns) > ROOM
    names = [legible(name) for name in (*rows, *columns)]
    longest = {"row": max(map(len, names[: len(rows)])), "column": max(map(len, names[len(rows) :]))}
    side, tall = (0.44, 0.32) if large else (1.15, 0.62)
    turned = longest["column"] * 0.075 > side
    width = 0.9 + 0.075 * longest["row"] + side * len(columns) + 0.9
    height = 1.0 + 3 * (0.35 + tall * len(rows)) + (0.05 * longest["column"] if turned else 0)
    figure, grid = canvas(theme, max(width, 5.4), max(height, 4.2), 3)
    for axes, metric in zip(grid, _BARS, strict=True):
        matrix = _matrix(found, rows, columns, metric)
        _heatmap(axes, matrix, metric, theme, names, large, turned)
        axes.set(xlabel="", ylabel="")
        if metric != "fpr":
            axes.tick_params(labelbottom=False)
    told = "Detectors × perturbations, TPR and FPR at the stored threshold"
    marked = any(
        word in str(each["verdict"]) for part in found.values() for each in part["perturbations"].values() for word in _FRAMED_WORDS
    )
    figure.suptitle(f"{told}{_FRAMES if marked else ''}", color=theme.text, fontsize=9.5, x=0.01, ha="left")
    return figure


_FRAMED_WORDS = [word for words in _FRAMED.values() for word in words]
_FRAMES = ";\nframed: ranking lost (AUROC), threshold does not hold (FPR)"


def save_robustness_figures(folder: Path, documents: Documents) -> list[Path]:
    """Write `robustness` (heat maps) and `robustness_curves` as PNG and SVG; only those that have something to show.

    Args:
        folder: Usually `runs/<name>/figures`.
        documents: Parts of `metrics.json` by detector.

    Returns:
        The files.
    """
    figures = {"robustness": robustness_figure(documents), "robustness_curves": curves_figure(documents)}
    return saved(folder, {name: figure for name, figure in figures.items() if figure is not None})


def _families(found: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Perturbations of each family that has two strengths or more, from `none`, where there is any, to the strongest."""
    measured = list(dict.fromkeys(name for document in found.values() for name in document["perturbations"]))
    families = {}
    for family, names in ordered(measured).items():
        numbered = family == "re-upload" or (family not in _UNORDERED and all(kind_of(name).strength is not None for name in names))
        if numbered and len(names) > 1:
            families[family] = [CLEAN, *names] if CLEAN in measured else names
    return families


def _curves(
    above: "Axes", below: "Axes", found: Mapping[str, Mapping[str, Any]], names: Sequence[str], theme: Theme
) -> dict[tuple[str, str], Any]:
    """The lines of one family; gives what the legend says of them."""
    from matplotlib.lines import Line2D

    above.axhline(0.5, color=theme.text, linewidth=0.9, linestyle=":")
    wanted = {document["wanted_fpr"] for document in found.values()}
    handles: dict[tuple[str, str], Any] = {}
    for number, (detector, color, marker) in enumerate(zip(found, cycle(theme.palette), cycle(_MARKERS), strict=False)):
        records = found[detector]["perturbations"]
        shift = 0.16 * (number - (len(found) - 1) / 2) / max(1, len(found) - 1)
        look: dict[str, Any] = {"color": color, "linewidth": 1.4, "marker": marker, "markersize": 3.8}
        places, cells = _present(records, names, "auroc")
        values = np.array([cell["value"] for cell in cells])
        ends = [[cell[end] if cell[end] is not None else cell["value"] for cell in cells] for end in ("low", "high")]
        if places:
            above.errorbar(np.array(places) + shift, values, yerr=np.abs(np.array(ends) - values), capsize=2, elinewidth=0.9, **look)
        for metric, line in _RATES.items():
            places, cells = _present(records, names, metric)
            below.plot(np.array(places) + shift, [cell["value"] for cell in cells], linestyle=line, **look)
        handles["detector", detector] = Line2D([], [], **look)
    handles |= {
        ("rate", metric.upper()): Line2D([], [], color=theme.text, linewidth=1.4, linestyle=line) for metric, line in _RATES.items()
    }
    if len(wanted) == 1 and (rate := wanted.pop()) is not None:
        handles["rate", "wanted FPR"] = below.axhline(rate, color=theme.text, linewidth=0.9, linestyle=":")
    return handles


def _present(records: Mapping[str, Any], names: Sequence[str], metric: str) -> tuple[list[int], list[Cell]]:
    """Places and cells of the perturbations that have a value."""
    found = {place: records[name]["all"][metric]["value"] for place, name in enumerate(names) if name in records}
    with_value = {place: cell for place, cell in found.items() if cell["value"] is not None}
    return list(with_value), list(with_value.values())


def _ticks(above: "Axes", below: "Axes", names: Sequence[str], theme: Theme) -> None:
    """Strengths under the lower panel."""
    numbers = [kind_of(name).strength for name in names]
    labels = [legible(name) if number is None else f"{number:g}" for name, number in zip(names, numbers, strict=True)]
    for axes in (above, below):
        axes.set_xticks(range(len(names)), labels, fontsize=8)
        axes.set_xlim(-0.4, len(names) - 0.6)
    above.tick_params(labelbottom=False)
    below.set_ylim(-0.03, 1.03)
    if max(map(len, labels)) * len(labels) > 28:
        below.tick_params(axis="x", labelrotation=40)
        for label in below.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def _same_height(panels: Any, found: Mapping[str, Mapping[str, Any]]) -> None:
    """One scale for all AUROCs, so that families can be compared."""
    cells = [record["all"]["auroc"]["value"] for document in found.values() for record in document["perturbations"].values()]
    lowest = min((cell["low"] if cell["low"] is not None else cell["value"] for cell in cells if cell["value"] is not None), default=0.5)
    for axes in panels.flat:
        axes.set_ylim(min(0.45, lowest - 0.03), 1.02)


def _matrix(found: Mapping[str, Mapping[str, Any]], rows: tuple[str, ...], columns: tuple[str, ...], metric: str) -> Matrix:
    cells: dict[str, dict[str, Cell]] = {}
    framed = set()
    for row in rows:
        records = found[row]["perturbations"]
        cells[row] = {name: records[name]["all"][metric]["value"] if name in records else MISSING for name in columns}
        framed |= {(row, name) for name, each in records.items() if any(word in each["verdict"] for word in _FRAMED[metric])}
    return Matrix("", metric, "perturbation", None, rows, columns, cells, frozenset(framed))


def _heatmap(axes: Any, matrix: Matrix, metric: str, theme: Theme, names: Sequence[str], large: bool, turned: bool) -> None:
    """One heat map with its scale."""
    first, second, *others = theme.palette
    hues = replace(theme, palette=(second, first, *others)) if metric == "fpr" else theme  # false alarms in another colour than hits
    values = values_of(matrix)
    colours = colours_of(matrix, hues)
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, vmin=0.0, vmax=1.0, edgecolors="none")
    draw_axes(axes, matrix, theme, names, turned)
    for y, row in enumerate(matrix.rows):
        for x, name in enumerate(matrix.columns):
            draw_number(axes, matrix.cells[row][name], (x, y), large, theme, mesh.to_rgba(float(values[y, x])))
            if (row, name) in matrix.seen:
                draw_frame(axes, x, y, theme)
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.04, aspect=12)
    bar.set_label(_BARS[metric], color=theme.text, fontsize=9)
    bar.ax.tick_params(colors=theme.text, labelsize=8)
    bar.outline.set_visible(False)
