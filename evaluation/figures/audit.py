"""The shortcut audit as a heat map: facts of the files × generators, and the detector below them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.audit import parts_of
from evaluation.figures.drawing import canvas, legible, saved
from evaluation.figures.heatmaps import INK, SWITCH, draw_frame, is_light, luminance
from evaluation.figures.theme import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE, _TALL = 0.56, 0.27  # of a cell, in inches
_LETTER = 0.072


def audit_figure(document: Mapping[str, Any], theme: Theme = LIGHT) -> "Figure | None":
    """AUROC of each fact alone by generator, diverging from 0.5; flagged ones framed; the detector's own in the last row.

    Args:
        document: Of `audit.audit` or `audit.audit_data`.
        theme: Colours; another theme needs another drawing, as of `heatmaps.heatmap_figure`.

    Returns:
        None where no fact was measured on any generator.
    """
    parts, facts, detector = parts_of(document), list(document["facts"]), document["detector"]
    if not facts or not parts:
        return None
    records = list(parts.values())
    values = [[record["facts"][fact]["auroc"]["value"] for record in records] for fact in facts]
    rows = [legible(fact) for fact in facts]
    if detector is not None:
        values.append([record["detector"]["value"] for record in records])
        rows.append(legible(f"detector: {detector}"))
    columns = [legible(name) for name in parts]
    longest, tall = max(map(len, rows)), max(map(len, columns))
    turned = tall * _LETTER > _SIDE
    width = 1.3 + _LETTER * longest + _SIDE * len(columns) + (0.7 * _LETTER * len(columns[0]) if turned and len(columns) < 4 else 0)
    height = 0.9 + _TALL * len(rows) + (0.75 * _LETTER * tall if turned else 0.2)
    figure, axes = canvas(theme, max(width, 5.2), max(height, 2.2))
    numbers = np.array(values, dtype=np.float64)
    mesh = axes.pcolormesh(np.ma.masked_invalid(numbers), cmap=_colours(theme), vmin=0, vmax=1, edgecolors="none")
    _axes(axes, rows, columns, theme, turned)
    for (y, x), value in np.ndenumerate(numbers):
        ink = theme.text if np.isnan(value) else INK[int(luminance(mesh.to_rgba(float(value))) < SWITCH)]
        told = "–" if np.isnan(value) else f"{value:.2f}"
        axes.annotate(told, (x + 0.5, y + 0.5), (0, 0), textcoords="offset points", ha="center", va="center", color=ink, fontsize=7.5)
        if y < len(facts) and records[x]["facts"][facts[y]]["flagged"]:
            draw_frame(axes, x, y, theme)
    if detector is not None:
        axes.axhline(len(facts), color=theme.text, linewidth=1.4, clip_on=False)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.04, aspect=26)
    bar.set_label("AUROC (0.5: chance; below: smaller in fakes)", color=theme.text, fontsize=8)
    bar.ax.tick_params(colors=theme.text, labelsize=8)
    bar.outline.set_visible(False)
    flags = "; framed: flagged" if document["flagged"] else ""
    under = "" if document["perturbation"] == "none" else f" under {legible(document['perturbation'])}"
    figure.suptitle(f"AUROC of facts alone{under}{flags}", color=theme.text, fontsize=9.5, x=0.01, ha="left")
    return figure


def save_audit(folder: Path, document: Mapping[str, Any]) -> list[Path]:
    """Write `shortcuts` as PNG and SVG.

    Args:
        folder: Usually `runs/<name>/figures`, or a detector's own folder in there.
        document: Of `audit.audit` or `audit.audit_data`.

    Returns:
        The files; none where there is nothing to draw.
    """
    figure = audit_figure(document)
    return [] if figure is None else saved(folder, {"shortcuts": figure})


def _colours(theme: Theme) -> Any:
    """From the palette's second colour over nearly the page's to its first."""
    from matplotlib.colors import LinearSegmentedColormap

    neutral = "#2b3138" if is_light(theme.text) else "#f1f3f5"
    return LinearSegmentedColormap.from_list("undertow", [theme.palette[1], neutral, theme.palette[0]], N=101).with_extremes(bad="none")


def _axes(axes: "Axes", rows: list[str], columns: list[str], theme: Theme, turned: bool) -> None:
    """Names of rows and columns, and lines between cells."""
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.grid(visible=False)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=8)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=8)
    axes.tick_params(length=0)
    if turned:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for x in range(len(columns) + 1):
        axes.axvline(x, color=theme.grid, linewidth=0.6, clip_on=False)
    for y in range(len(rows) + 1):
        axes.axhline(y, color=theme.grid, linewidth=0.6, clip_on=False)
