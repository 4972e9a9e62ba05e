"""Generalisation as figures: AUROC by the number of training generators, and of each generator with and without training on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.figures.drawing import canvas, legend, legible, saved
from evaluation.figures.theme import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = {"unseen": "-", "unseen by all": "--"}
_SETS = {"unseen": "unseen by each", "unseen by all": "unseen by all of them"}


def number_figure(found: Mapping[str, Any], theme: Theme = LIGHT) -> "Figure | None":
    """AUROC on unseen generators against the number of training generators; None where there is nothing to draw.

    A point a detector, a line through the means, a bar of one standard deviation between repetitions; the dotted line is chance.

    Args:
        found: Of `generalisation.generalisation`.
        theme: Colours.
    """
    rows = found["number"]
    if not rows:
        return None
    heads = list(dict.fromkeys(row["head"] for row in rows))
    series = list(dict.fromkeys((row["head"], row["set"]) for row in rows))
    figure, axes = canvas(theme, 5.6, 3.6 + 0.24 * len(series))
    handles, labels = [], []
    numbers = sorted({row["training_generators"] for row in rows})
    nearest = min(np.diff(numbers), default=1)
    for place, (head, unseen) in enumerate(series):
        color = theme.palette[heads.index(head) % len(theme.palette)]
        mine = [row for row in rows if (row["head"], row["set"]) == (head, unseen)]
        shift = 0.12 * nearest * (place - (len(series) - 1) / 2) / max(1, len(series) - 1)
        x = np.array([row["training_generators"] for row in mine]) + shift
        means, spreads = [row["mean"] for row in mine], [row["deviation"] or 0.0 for row in mine]
        look: dict[str, Any] = {"color": color, "linestyle": _LINES[unseen], "linewidth": 1.6, "capsize": 3, "elinewidth": 1.2}
        handles.append(axes.errorbar(x, means, yerr=spreads, **look))
        labels.append(f"{legible(head)}, generators {_SETS[unseen]}")
        points = [(at, point["value"]) for at, row in zip(x, mine, strict=True) for point in row["detectors"].values()]
        filled = color if unseen == "unseen" else "none"
        axes.scatter(*zip(*points, strict=True), s=18, facecolors=filled, edgecolors=color, linewidths=0.9, alpha=0.75, zorder=3)
    axes.axhline(0.5, color=theme.text, linewidth=0.9, linestyle=":")
    axes.set(xlabel="number of training generators", ylabel="mean AUROC on unseen generators")
    axes.set_xticks(numbers)
    lowest = min(row["lowest"] for row in rows)
    axes.set_ylim(min(0.45, lowest - 0.05), 1.02)
    legend(figure, theme, handles, labels, columns=1)
    return figure


def left_out_figure(found: Mapping[str, Any], theme: Theme = LIGHT) -> "Figure | None":
    """AUROC on each generator, of a detector that was not and of one that was trained on it; None where there is nothing to draw.

    Args:
        found: Of `generalisation.generalisation`.
        theme: Colours.
    """
    rows = [row for row in found["left_out"] if row["without"]["value"] is not None]
    if not rows:
        return None
    several = len({row["head"] for row in rows}) > 1
    figure, axes = canvas(theme, 6.4, 1.5 + 0.36 * len(rows))
    looks = {"with": ("trained on it", theme.palette[0], "o", -0.1), "without": ("left out of training", theme.palette[1], "s", 0.1)}
    handles, labels = [], []
    for name, (label, color, marker, shift) in looks.items():
        drawn = [(y, row[name]) for y, row in enumerate(rows) if row[name]["value"] is not None]
        if not drawn:
            continue
        values = np.array([cell["value"] for _, cell in drawn])
        ends = [[cell[end] if cell[end] is not None else cell["value"] for _, cell in drawn] for end in ("low", "high")]
        errors = np.abs(np.array(ends) - values)  # an interval of percentiles may leave the value out by a hair
        at = np.array([y for y, _ in drawn]) + shift
        handles.append(axes.errorbar(values, at, xerr=errors, fmt=marker, color=color, markersize=5, capsize=2.5, elinewidth=1.2))
        labels.append(label)
    names = [f"{row['head']}: {row['left_out']}" if several else row["left_out"] for row in rows]
    axes.set_yticks(range(len(rows)), [legible(name) for name in names])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="AUROC on the generator, with its 95% interval (dotted: chance)")
    axes.axvline(0.5, color=theme.text, linewidth=0.9, linestyle=":")
    axes.grid(visible=False, axis="y")
    legend(figure, theme, handles, labels, columns=2)
    return figure


def save_generalisation_figures(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write `training_generators` and `left_out` as PNG and SVG; only those that have something to show.

    Args:
        folder: Usually `runs/<name>/figures`.
        found: Of `generalisation.generalisation`.

    Returns:
        The files.
    """
    drawn = {"training_generators": number_figure(found), "left_out": left_out_figure(found)}
    return saved(folder, {name: figure for name, figure in drawn.items() if figure is not None})
