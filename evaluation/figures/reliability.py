"""Reliability diagrams: the share of fakes among images of like probability, and below it how many images have which probability."""

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
_MARKERS = ("o", "s", "^", "D", "v", "P")


def with_reliability(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The record of all images of each detector that gives probabilities.

    Args:
        documents: Parts of `metrics.json` by detector.
    """
    return {name: document["overall"] for name, document in documents.items() if document["overall"].get("reliability")}


def reliability_figure(documents: Mapping[str, Mapping[str, Any]], theme: Theme = LIGHT) -> "Figure | None":
    """Share of fakes against mean probability, bin by bin, with 95% intervals; below it a histogram of the probabilities.

    On the dotted diagonal a probability is what it says. Of one detector the histogram is of reals and fakes, of several of all images.

    Args:
        documents: Parts of `metrics.json` by detector; those without probabilities are left out.
        theme: Colours.

    Returns:
        None where no detector gives probabilities.
    """
    records = with_reliability(documents)
    if not records:
        return None
    figure, (diagram, histogram) = canvas(theme, 5.2, 6.6 + 0.22 * len(records), 2)
    diagram.get_gridspec().set_height_ratios([3, 1])
    diagram.plot([0, 1], [0, 1], color=theme.text, linewidth=0.9, linestyle=":")
    styles = [(color, line) for line in _LINES for color in theme.palette]
    handles, labels = [], []
    for (name, record), (color, line), marker in zip(records.items(), cycle(styles), cycle(_MARKERS), strict=False):
        bins = record["reliability"]
        x, y = np.array([[each["probability"], each["share"]] for each in bins]).T
        ends = np.array([[each["share"] - each["low"], each["high"] - each["share"]] for each in bins]).T
        look: dict[str, Any] = {"color": color, "linestyle": line, "linewidth": 1.4, "elinewidth": 1.0, "capsize": 2.5}
        handles.append(diagram.errorbar(x, y, yerr=ends.clip(min=0), marker=marker, markersize=4.5, **look))
        labels.append(f"{legible(name)}: {_calibrated(record)}")
    diagram.set(xlim=(-0.015, 1.015), ylim=(-0.02, 1.02), ylabel="share of fakes (dotted: as the probability says)")
    _histogram(histogram, records, styles, theme)
    legend(figure, theme, handles, labels, columns=1)
    return figure


def save_reliability(folder: Path, documents: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Write `reliability` as PNG and SVG; nothing where no detector gives probabilities.

    Args:
        folder: Usually `runs/<name>/figures`.
        documents: Parts of `metrics.json` by detector.

    Returns:
        The files.
    """
    figure = reliability_figure(documents)
    return [] if figure is None else saved(folder, {"reliability": figure})


def _calibrated(record: Mapping[str, Any]) -> str:
    error = record["ece"]["value"]
    fitted = record["temperature"]["value"]
    return f"calibration error {error:.3f}" + ("" if fitted is None else f", temperature {fitted:.2f}")


def _histogram(axes: "Axes", records: Mapping[str, Mapping[str, Any]], styles: list[tuple[str, str]], theme: Theme) -> None:
    """How many images have which probability, as shares."""
    one = len(records) == 1
    for record, (color, line) in zip(records.values(), cycle(styles), strict=False):
        counts = {kind: np.array(record["histogram"][kind], dtype=np.float64) for kind in ("real", "fake")}
        edges = np.linspace(0, 1, counts["real"].size + 1)
        total = counts["real"].sum() + counts["fake"].sum()
        if one:
            axes.stairs(counts["real"] / total, edges, fill=True, alpha=0.55, color=theme.palette[0], label="real")
            axes.stairs(counts["fake"] / total, edges, color=theme.palette[1], linewidth=1.5, label="fake")
            axes.legend(frameon=False, fontsize=8.5, labelcolor=theme.text, loc="upper center", ncols=2)
        else:
            axes.stairs((counts["real"] + counts["fake"]) / total, edges, color=color, linestyle=line, linewidth=1.3)
    top = axes.get_ylim()[1]
    axes.set(
        xlim=(-0.015, 1.015), ylim=(0, top * (1.25 if one else 1.05)), xlabel="probability that an image is fake", ylabel="share of images"
    )
