"""The matched-pair audit as a figure: AUROC over the share of worst pairs that is dropped, and how similar the pairs are."""

from collections.abc import Mapping
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


def matched_figure(found: Mapping[str, Any], theme: Theme = LIGHT) -> "Figure":
    """Left, AUROC over the share of pairs that is dropped, a line a generator and their mean in bold; right, the similarities.

    The bars of the mean are its 95% intervals. A generator without a number at some share has a gap there; one without pairs is left out.

    Args:
        found: Of `comparison.matched.matched`.
        theme: Colours.
    """
    records = [record for record in found["generators"] if record["n_pairs"]]
    columns = 2 if len(records) > 1 else 1
    figure, (left, right) = canvas(theme, 8.8, 3.6 + 0.2 * -(-(len(records) + 1) // columns), 1, 2)
    styles = cycle([(color, line) for line in _LINES for color in theme.palette])
    handles, labels = [], []
    for record, (color, line) in zip(records, styles, strict=False):
        handles += _curve(left, record, color=color, linestyle=line, linewidth=1.3, marker="o", markersize=3)
        labels.append(f"{legible(record['name'])} ({record['n_pairs']:,} pairs)")
        heights = np.array([0.0, *record["similarity"]["counts"], 0.0]) / record["n_pairs"]
        edges = np.asarray(found["edges"])
        right.step([*edges, edges[-1]], heights, where="pre", color=color, linestyle=line, linewidth=1.3)
    if len(records) > 1:
        handles += _curve(left, found["macro"], color=theme.text, linewidth=2.6, marker="o", markersize=5)
        labels.append("mean of the generators")
    if records:
        _bars(left, found["macro"], theme)
        legend(figure, theme, handles, labels, columns=columns)
    left.set(xlabel="share of the pairs dropped, the worst-matched first (%)", ylabel="AUROC", xlim=(-3, 78))
    right.set(xlabel="similarity of a fake and its real image (cosine)", ylabel="share of its pairs", ylim=(0, None))
    return figure


def _curve(axes: "Axes", record: Mapping[str, Any], **look: Any) -> list[Any]:
    values = [np.nan if cell["value"] is None else cell["value"] for cell in record["auroc"]]
    return axes.plot([100 * cell["dropped"] for cell in record["auroc"]], values, **look)


def _bars(axes: "Axes", record: Mapping[str, Any], theme: Theme) -> None:
    """Intervals, where there are any."""
    ends = [(100 * cell["dropped"], cell["low"], cell["high"]) for cell in record["auroc"] if cell["low"] is not None]
    if ends:
        places, low, high = zip(*ends, strict=True)
        axes.vlines(places, low, high, color=theme.text, linewidth=1.1)


def save_matched(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Write `matched` as PNG and SVG; gives the files, none where there are no pairs.

    Args:
        folder: Usually `runs/<name>/figures`, or a detector's below it.
        found: Of `comparison.matched.matched`.
    """
    return saved(folder, {"matched": matched_figure(found)}) if found["macro"] else []
