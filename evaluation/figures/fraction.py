"""Score against the generated share of an image: mean score, and the share that is called fake."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.figures.drawing import canvas, legend, legible, saved
from evaluation.figures.theme import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("-", "--", ":", "-.")
MOST_GENERATORS = 8


def fraction_figure(found: Mapping[str, Any], theme: Theme = LIGHT) -> "Figure":
    """Left the mean score, right the share called fake at the stored threshold, over the generated share; a line a generator.

    Bars are 95% intervals over groups. A diamond at 0% is the generator's real images: their mean score and their false positive rate. A
    point without a value is left out; of more than `MOST_GENERATORS` generators the first are drawn.

    Args:
        found: Of `fractions.by_fraction`.
        theme: Colours.
    """
    records = dict(list(found.items())[:MOST_GENERATORS])
    columns = 2 if len(records) > 1 else 1
    figure, (left, right) = canvas(theme, 8.8, 3.6 + 0.2 * -(-len(records) // columns), 1, 2)
    styles = cycle([(color, line) for line in _LINES for color in theme.palette])
    handles, labels = [], []
    for (name, record), (color, line) in zip(records.items(), styles, strict=False):
        look = {"color": color, "linestyle": line}
        handles += _curve(left, record["points"], "mean_score", look)
        _curve(right, record["points"], "tpr_at_threshold", look)
        _at_zero(left, record["reals"]["mean_score"], color)
        _at_zero(right, record["reals"]["fpr_at_threshold"], color)
        labels.append(legible(name))
    legend(figure, theme, handles, labels, columns=columns)
    left.set(xlabel="share of the image that is generated (%)", ylabel="mean score", xlim=(-4, 104))
    right.set(xlabel="share of the image that is generated (%)", ylabel="share called fake", xlim=(-4, 104), ylim=(-0.03, 1.03))
    return figure


def _curve(axes: "Axes", points: Sequence[Mapping[str, Any]], name: str, look: Mapping[str, Any]) -> list[Any]:
    places = [100 * point["fraction"] for point in points]
    values = [np.nan if point[name]["value"] is None else point[name]["value"] for point in points]
    _bars(axes, [(place, point[name]) for place, point in zip(places, points, strict=True)], look["color"])
    return axes.plot(places, values, marker="o", markersize=3.5, linewidth=1.4, **look)


def _at_zero(axes: "Axes", cell: Mapping[str, Any], color: str) -> None:
    if cell["value"] is not None:
        axes.plot([0], [cell["value"]], marker="D", markersize=5, linestyle="none", color=color)
        _bars(axes, [(0.0, cell)], color)


def _bars(axes: "Axes", cells: Sequence[tuple[float, Mapping[str, Any]]], color: str) -> None:
    """Intervals, where there are any."""
    ends = [(place, cell["low"], cell["high"]) for place, cell in cells if cell["low"] is not None]
    if ends:
        places, low, high = zip(*ends, strict=True)
        axes.vlines(places, low, high, color=color, linewidth=1.1)


def save_fractions(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write `score_by_fraction` as PNG and SVG; gives the files, none where there is nothing to draw.

    Args:
        folder: Usually `runs/<name>/figures`, or a detector's below it.
        found: Of `fractions.by_fraction`.
    """
    return saved(folder, {"score_by_fraction": fraction_figure(found)}) if found else []
