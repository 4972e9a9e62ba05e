"""ROC curves and score histograms; the same figures go into the report and, as PNG and SVG, under `figures/`."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from evaluation.figures.drawing import canvas, legend, legible, saved
from evaluation.figures.theme import LIGHT, Theme
from modules.metrics.functional import Curve, curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40
_LINES = ("-", "--", ":", "-.")


def roc_figure(tables: Mapping[str, pd.DataFrame], log: bool = False, theme: Theme = LIGHT) -> "Figure":
    """ROC curves, one for each table.

    Args:
        tables: For each name, reals and fakes with `label` and `score` (see `statistics.against_reals`).
        log: Logarithmic axis of the false positive rate, down to one real image.
        theme: Colours.
    """
    figure, axes = canvas(theme, 5.2, 5.2 + 0.22 * len(tables))
    curves = {name: points for name, table in tables.items() if (points := _curve(table)) is not None}
    floor = min((10 ** np.floor(-np.log10(float(c.reals))) for c in curves.values()), default=0.01)
    chance = np.geomspace(min(floor, 0.1), 1, 200)
    axes.plot(chance, chance, color=theme.grid, linewidth=1.2)
    styles = [(color, line) for line in _LINES for color in theme.palette]
    handles, labels = [], []
    for (name, points), (color, line) in zip(curves.items(), cycle(styles), strict=False):
        x, y = _thinned(points, floor)
        steps = {"drawstyle": "steps-post"} if log else {}
        # A rate of zero has no place on a logarithmic axis: it is drawn at half a real image.
        handles += axes.plot(np.maximum(x, 0.5 / float(points.reals)) if log else x, y, color=color, linestyle=line, linewidth=1.6, **steps)
        labels.append(f"{float(points.auroc()):.3f}  {legible(name)}")
    axes.set(ylim=(0, 1.02), ylabel="true positive rate: fakes called fake", xlabel="false positive rate: reals called fake")
    if log:
        axes.set(xscale="log", xlim=(min(floor, 0.1), 1))
    else:
        axes.set(xlim=(0, 1))
    if handles:
        legend(figure, theme, handles, labels, title="AUROC", columns=1)
    return figure


def histogram_figure(
    tables: Mapping[str, pd.DataFrame],
    threshold: float | None = None,
    theme: Theme = LIGHT,
    edges: NDArray[np.float64] | None = None,
) -> "Figure":
    """Histograms of the scores of reals and fakes, a panel for each table, all with the same bins.

    Args:
        tables: For each name, reals and fakes with `label` and `score`.
        threshold: Scores greater than this are called fake; drawn where it is given.
        theme: Colours.
        edges: Edges of the bins; those of `bin_edges(tables)` by default.
    """
    columns = min(3, max(1, len(tables)))
    rows = max(1, -(-len(tables) // columns))
    figure, grid = canvas(theme, 4.4 if columns == 1 else 3.6 * columns, 0.6 + 2.7 * rows, rows, columns)
    edges = bin_edges(tables) if edges is None else edges
    panels = list(np.atleast_1d(grid).flat)
    for place, (axes, (name, table)) in enumerate(zip(panels, tables.items(), strict=False)):
        _histogram(axes, table, edges, threshold, theme)
        if len(tables) > 1:
            axes.set_title(legible(name), color=theme.text, fontsize=9)
        if place % columns:
            axes.set_ylabel("")
        if place + columns < len(tables):  # the panel below has the same axis
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
    for axes in panels[len(tables) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        legend(figure, theme, handles, labels, columns=3)
    return figure


def bin_edges(tables: Mapping[str, pd.DataFrame]) -> NDArray[np.float64]:
    """Edges `[BINS + 1]` over the middle 99.8% of all finite scores; what lies beyond is counted in the outermost bins."""
    scores = np.concatenate([np.empty(0), *(table["score"].to_numpy(np.float64) for table in tables.values())])
    scores = scores[np.isfinite(scores)]
    low, high = np.quantile(scores, [0.001, 0.999]) if scores.size else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def save_figures(folder: Path, tables: Mapping[str, pd.DataFrame], threshold: float | None = None) -> list[Path]:
    """Write `roc`, `roc_log` and `scores`, each as PNG and SVG.

    Args:
        folder: Usually `runs/<name>/figures`.
        tables: For each name, reals and fakes (see `statistics.against_reals`).
        threshold: The stored threshold, where there is one.

    Returns:
        The files.
    """
    figures = {"roc": roc_figure(tables), "roc_log": roc_figure(tables, log=True), "scores": histogram_figure(tables, threshold)}
    return saved(folder, figures)


def save_figures_by_perturbation(folder: Path, tables: Mapping[str, pd.DataFrame], threshold: float | None = None) -> list[Path]:
    """Write `roc_by_perturbation` (a curve a perturbation) and `scores_by_perturbation` (a panel each, the same bins), as PNG and SVG.

    Args:
        folder: Usually `runs/<name>/figures/<detector>`.
        tables: For each perturbation, reals and fakes of one detector.
        threshold: The stored threshold, where there is one.

    Returns:
        The files.
    """
    return saved(folder, {"roc_by_perturbation": roc_figure(tables), "scores_by_perturbation": histogram_figure(tables, threshold)})


def save_figure_of_detectors(folder: Path, tables: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Write `roc_of_detectors` and `roc_of_detectors_log`, a curve a detector on the same images, as PNG and SVG.

    Args:
        folder: Usually `runs/<name>/figures`.
        tables: For each detector, reals and fakes.

    Returns:
        The files.
    """
    return saved(folder, {"roc_of_detectors": roc_figure(tables), "roc_of_detectors_log": roc_figure(tables, log=True)})


def _curve(table: pd.DataFrame) -> Curve | None:
    """The curve of a table, none where it would be undefined."""
    labels, scores = table["label"].to_numpy(np.int64), table["score"].to_numpy(np.float64)
    if np.isnan(scores).any() or np.unique(labels).size < 2:
        return None
    return curve(torch.tensor(scores), torch.tensor(labels))


def _thinned(points: Curve, floor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A few hundred points of the curve, every one a real one, dense at both ends."""
    x, y = (rate.numpy() for rate in points.rates())
    if x.size <= 600:
        return x, y
    wanted = np.concatenate([np.linspace(0, 1, 300), np.geomspace(floor, 1, 300)])
    last = np.searchsorted(x, wanted, side="right") - 1
    kept = np.unique(np.concatenate([[0], last, [x.size - 1]]))
    return x[kept], y[kept]


def _histogram(axes: "Axes", table: pd.DataFrame, edges: NDArray[np.float64], threshold: float | None, theme: Theme) -> None:
    """Real and fake scores in one panel, each class adding up to one."""
    looks: dict[int, dict[str, Any]] = {
        0: {"label": "real", "histtype": "stepfilled", "alpha": 0.55, "color": theme.palette[0]},
        1: {"label": "fake", "histtype": "step", "linewidth": 1.6, "color": theme.palette[1]},
    }
    for label, look in looks.items():
        scores = table.loc[table["label"] == label, "score"].dropna().to_numpy(np.float64)
        if scores.size:
            inside = np.clip(scores, edges[0], edges[-1])
            axes.hist(inside, bins=list(edges), weights=np.full(scores.size, 1 / scores.size), **look)
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        axes.axvline(threshold, color=theme.text, linestyle="--", linewidth=1.1, label="threshold")
    margin = 0.02 * (edges[-1] - edges[0])
    axes.set(xlim=(edges[0] - margin, edges[-1] + margin), xlabel="score (larger: more likely fake)", ylabel="share of its class")
