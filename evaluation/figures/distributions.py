"""Distributions of scores: a panel a detector, in it a row for each source of reals and each generator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.distributions import finite_scores
from evaluation.figures.drawing import canvas, legend, legible, saved
from evaluation.figures.theme import LIGHT, Theme
from evaluation.statistics import against_reals, clean_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DETECTORS = 6
MOST_GENERATORS = 8
_MOST_REALS = 3  # sources of reals with rows of their own; behind each generator's row its reals are drawn in any case
_POINTS = 256  # of a curve
_SAMPLE = 2000  # scores that a density is computed of: that many quantiles of more of them
_LARGEST = 1e100  # squares of larger scores overflow
_HIGH = 0.86  # of a row, that its curve takes

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class _Row:
    """One line of a panel.

    Attributes:
        name: What it shows.
        label: 0 for reals, 1 for fakes.
        scores: Finite ones, `[n]`.
        reals: Of fakes, the scores of the reals that they are measured against.
    """

    name: str
    label: int
    scores: Scores
    reals: Scores


def distributions_figure(frame: pd.DataFrame, theme: Theme = LIGHT, reals_from: Mapping[str, str] | None = None) -> "Figure | None":
    """Densities of the raw scores on the unperturbed images; None where no score is a finite number.

    A panel for each of the first `MOST_DETECTORS` detectors, with an axis of its own over the middle 99% of its scores; in it a row for
    each source of reals, where there are few, and for each generator, the first `MOST_GENERATORS` by name, with its reals as a line behind
    it. Every curve is drawn to the same height: only shapes and places can be compared. A tick marks the median; scores that are all the
    same are a line. Scores that are no finite numbers are left out, and the panel's title counts them.

    Args:
        frame: A predictions table of one or several detectors.
        theme: Colours.
        reals_from: For a data set, the one whose reals its generators are measured against; its own by default.
    """
    names = [str(name) for name in dict.fromkeys(frame["detector"])]
    tables = {name: clean_rows(frame[frame["detector"] == name]) for name in names[:MOST_DETECTORS]}
    panels = {name: _rows(table, reals_from or {}) for name, table in tables.items()}
    panels = {name: rows for name, rows in panels.items() if any(row.scores.size for row in rows)}
    if not panels:
        return None
    order = list(dict.fromkeys((row.label, row.name) for rows in panels.values() for row in rows))
    order.sort(key=lambda each: each[0])
    columns = 1 if len(panels) == 1 else 2 if len(panels) in (2, 4) else 3
    lines = -(-len(panels) // columns)
    margin = min(2.6, 0.4 + 0.075 * max(len(legible(name)) for _, name in order))
    figure, grid = canvas(
        theme, margin + 3.1 * columns + (0.9 if columns == 1 else 0), 0.8 + lines * (0.7 + 0.42 * len(order)), lines, columns
    )
    every = list(np.atleast_1d(grid).flat)
    for place, (name, rows) in enumerate(panels.items()):
        axes = every[place]
        _panel(axes, {(row.label, row.name): row for row in rows}, order, theme)
        lost = len(tables[name]) - finite_scores(tables[name]).size
        axes.set_title(legible(name) + (f"\n{lost:,} scores not finite" if lost else ""), color=theme.text, fontsize=9)
        axes.set_yticklabels([legible(each) for _, each in order] if place % columns == 0 else [])
        if place + columns < len(panels):
            axes.set_xlabel("")
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    _legend(figure, theme)
    return figure


def density(scores: Scores, at: Scores) -> Scores:
    """Gaussian kernel density (Silverman 1986), its bandwidth by his rule of thumb: 0.9 · min(sd, IQR / 1.349) · n^(-1/5).

    Args:
        scores: `[n]`, finite, not all the same.
        at: Where the density is wanted, `[m]`.

    Returns:
        `[m]`.
    """
    from scipy.stats import gaussian_kde

    low, high = np.quantile(scores, [0.25, 0.75])
    deviation = float(scores.std(ddof=1))
    spread = min(deviation, float(high - low) / 1.349) or deviation  # more than half of the scores may be tied
    width = 0.9 * spread * scores.size**-0.2
    kept = scores if scores.size <= _SAMPLE else np.quantile(scores, (np.arange(_SAMPLE) + 0.5) / _SAMPLE)
    found: Scores = gaussian_kde(kept, bw_method=width / float(kept.std(ddof=1)))(at)
    return found


def save_distributions(folder: Path, frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None) -> list[Path]:
    """Write `distributions` as PNG and SVG, where there is something to show.

    Args:
        folder: Usually `runs/<name>/figures`.
        frame: A predictions table of one or several detectors.
        reals_from: For a data set, the one whose reals its generators are measured against.

    Returns:
        The files.
    """
    figure = distributions_figure(frame, LIGHT, reals_from)
    return [] if figure is None else saved(folder, {"distributions": figure})


def _rows(table: pd.DataFrame, reals_from: Mapping[str, str]) -> list[_Row]:
    """Of one detector; names without the data set where there is one only."""
    several = len(table["dataset"].unique()) > 1
    nothing = np.empty(0)
    sources = table[table["label"] == 0].groupby(["dataset", "generator"], sort=True)
    rows = []
    if sources.ngroups <= _MOST_REALS:
        for (dataset, source), part in sources:
            rows.append(_Row(f"{dataset}/{source}" if several else str(source), 0, _plain(part), nothing))
    for name, both in list(against_reals(table, reals_from).items())[:MOST_GENERATORS]:
        fakes = both[both["label"] == 1]
        shown = name if several else str(fakes["generator"].iloc[0])
        rows.append(_Row(shown, 1, _plain(fakes), _plain(both[both["label"] == 0])))
    return rows


def _plain(table: pd.DataFrame) -> Scores:
    return np.clip(finite_scores(table), -_LARGEST, _LARGEST)


def _panel(axes: "Axes", rows: Mapping[tuple[int, str], _Row], order: Sequence[tuple[int, str]], theme: Theme) -> None:
    """The rows of one detector, from above in the order of all panels; what it has no scores of stays empty."""
    low, high = _range(np.concatenate([row.scores for row in rows.values()]))
    at = np.linspace(low, high, _POINTS)
    for place, key in enumerate(order):
        base = len(order) - 1 - place
        if key not in rows:
            continue
        row = rows[key]
        color = theme.palette[row.label]
        if row.reals.size:
            _curve(axes, row.reals, at, base, {"color": theme.palette[0], "linewidth": 1.0, "linestyle": "--"})
        if row.scores.size:
            top = _curve(axes, row.scores, at, base, {"color": color, "linewidth": 1.4}, fill=True)
            middle = float(np.median(row.scores))
            if top is not None and low <= middle <= high:
                axes.plot([middle, middle], [base, base + float(np.interp(middle, at, top))], color=theme.text, linewidth=1.2)
    axes.set(xlim=(low, high), ylim=(-0.15, len(order) - 0.05), xlabel="score (larger: more likely fake)")
    axes.set_yticks(np.arange(len(order))[::-1] + 0.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)


def _range(scores: Scores) -> tuple[float, float]:
    """The middle 99% of the scores and a little more."""
    low, high = np.quantile(scores, [0.005, 0.995])
    room = 0.08 * (high - low) or max(1e-9, 0.5 * abs(float(low))) or 0.5
    return float(low - room), float(high + room)


def _curve(axes: "Axes", scores: Scores, at: Scores, base: int, look: Mapping[str, Any], fill: bool = False) -> Scores | None:
    """One density above its row's base line, up to `_HIGH`; gives its heights. Scores that do not differ are a line, and have none."""
    if np.ptp(scores) <= 1e-9 * (at[-1] - at[0]):
        axes.plot([scores[0], scores[0]], [base, base + _HIGH], **look)
        return None
    found = density(scores, at)
    heights = _HIGH * found / max(float(found.max()), 1e-300)
    if fill:
        axes.fill_between(at, base, base + heights, color=look["color"], alpha=0.3, linewidth=0)
    axes.plot(at, base + heights, **look)
    return heights


def _legend(figure: "Figure", theme: Theme) -> None:
    from matplotlib.lines import Line2D

    looks: dict[str, dict[str, Any]] = {
        "real images": {"color": theme.palette[0], "linewidth": 1.6},
        "fakes": {"color": theme.palette[1], "linewidth": 1.6},
        "the reals that they are measured against": {"color": theme.palette[0], "linewidth": 1.0, "linestyle": "--"},
        "median": {"color": theme.text, "linewidth": 1.2},
    }
    handles = [Line2D([], [], **look) for look in looks.values()]
    legend(figure, theme, handles, list(looks), columns=2)
