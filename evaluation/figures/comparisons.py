"""Differences of detectors with their intervals, as forest plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.comparison.together import METRICS
from evaluation.figures.drawing import canvas, legend, legible, saved
from evaluation.figures.theme import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS = {"all": ("all images", "o", -0.13), "mean": ("mean of the generators", "s", 0.13)}


@dataclass(frozen=True)
class _Line:
    """One detector.

    Attributes:
        name: Its name.
        cells: Its differences by kind of images.
        points: For each kind single values, of seeds.
    """

    name: str
    cells: Mapping[str, Mapping[str, Any]]
    points: Mapping[str, Sequence[float]] = field(default_factory=dict)


def differences_figure(found: Mapping[str, Any], metric: str = "auroc", theme: Theme = LIGHT) -> "Figure | None":
    """Each detector minus the baseline; None where there is nothing to draw.

    Args:
        found: Of `comparison.paired.compare_detectors`.
        metric: A name of `comparison.together.METRICS`.
        theme: Colours.
    """
    lines = [
        _Line(each["detector"], {row["kind"]: row[metric]["difference"] for row in each["rows"] if row["kind"] in _LOOKS})
        for each in found.get("detectors", [])
    ]
    return _forest(lines, f"{METRICS[metric]}, difference to {legible(found.get('baseline', ''))}", theme)


def seed_differences_figure(found: Mapping[str, Any], metric: str = "auroc", theme: Theme = LIGHT) -> "Figure | None":
    """Each base minus the baseline, the mean over seeds, with a dot for each seed; None where there is nothing to draw.

    Args:
        found: Of `comparison.seeds.seeds`.
        metric: A name of `comparison.together.METRICS`.
        theme: Colours.
    """
    lines = []
    for each in found.get("differences", []):
        rows = {row["kind"]: row[metric] for row in each["rows"] if row["kind"] in _LOOKS}
        points = {kind: [value for value in part["seeds"].values() if value is not None] for kind, part in rows.items()}
        lines.append(_Line(each["base"], {kind: part["difference"] for kind, part in rows.items()}, points))
    return _forest(lines, f"{METRICS[metric]}, difference to {legible(found.get('baseline', ''))} (dots: seeds)", theme)


def _forest(lines: Sequence[_Line], label: str, theme: Theme) -> "Figure | None":
    """A line a detector, a marker with its interval for each kind of images."""
    lines = [line for line in lines if any(cell["value"] is not None for cell in line.cells.values())]
    if not lines:
        return None
    figure, axes = canvas(theme, 6.4, 1.5 + 0.42 * len(lines))
    handles, labels = [], []
    for color, (kind, (name, marker, shift)) in zip(theme.palette, _LOOKS.items(), strict=False):
        drawn = [(y + shift, line.cells[kind]) for y, line in enumerate(lines) if line.cells.get(kind, {}).get("value") is not None]
        if not drawn:
            continue
        values = np.array([cell["value"] for _, cell in drawn])
        ends = [[cell[end] if cell[end] is not None else cell["value"] for _, cell in drawn] for end in ("low", "high")]
        errors = np.abs(np.array(ends) - values)  # an interval of percentiles may leave the value out by a hair
        at = [y for y, _ in drawn]
        handles.append(axes.errorbar(values, at, xerr=errors, fmt=marker, color=color, markersize=5, capsize=2.5, elinewidth=1.2))
        labels.append(f"{name}, 95% interval")
        for y, line in enumerate(lines):
            points = line.points.get(kind, ())
            axes.scatter(points, [y + 2.1 * shift] * len(points), s=9, color=color, alpha=0.7, linewidths=0)
    axes.axvline(0, color=theme.text, linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(lines)), [legible(line.name) for line in lines])
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel=label)
    axes.grid(visible=False, axis="y")
    legend(figure, theme, handles, labels, columns=2)
    return figure


def save_comparison_figures(folder: Path, comparison: Mapping[str, Any], seeds: Mapping[str, Any]) -> list[Path]:
    """Write `differences` and `differences_over_seeds` as PNG and SVG; only those that have something to show.

    Args:
        folder: Usually `runs/<name>/figures`.
        comparison: Of `comparison.paired.compare_detectors`; may be empty.
        seeds: Of `comparison.seeds.seeds`; may be empty.

    Returns:
        The files.
    """
    drawn = {"differences": differences_figure(comparison), "differences_over_seeds": seed_differences_figure(seeds)}
    return saved(folder, {name: figure for name, figure in drawn.items() if figure is not None})
