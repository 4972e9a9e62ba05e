"""Average spectra of the noise residual as figures: maps side by side, and their profiles by radius."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.figures.drawing import canvas, legend, legible, saved
from evaluation.figures.theme import LIGHT, Theme
from evaluation.spectra import Spectra, Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12  # spectra in a figure
_PIXELS = 128  # of a map, down and across
_COLUMNS = 4
_TITLE = 27  # characters that fit above a map
_WHOLE = 44  # characters of a name in a legend
_HALF = 36  # characters that fit into half a legend
_DASHES: Sequence[Any] = ("-", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_OF_REALS: Sequence[Any] = ((0, (4, 2)), (0, (7, 2)), (0, (2, 1.5)), (0, (4, 2, 1, 2)))


def spectra_figure(found: Spectra, theme: Theme = LIGHT) -> "Figure":
    """A map of each spectrum in dB, on one scale, the frequency 0 in the middle; rings mark peaks that the reals do not have.

    Each data set begins with its reals. Where there are more than `MOST`, `chosen` says which are shown. Of maps of more than 128 × 128
    frequencies each pixel is the highest of those that it stands for, so that single peaks stay visible.

    Args:
        found: Of `spectra.spectra`, with at least one spectrum.
        theme: Colours. The maps are pixels: to change the theme, draw the figure again.
    """
    shown = chosen(found)
    columns = 3 if len(shown) in (5, 6, 9) else min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = canvas(theme, max(1.2 + 2.15 * columns, 4.2), 0.75 + 2.45 * rows, rows, columns)
    every = list(np.atleast_1d(grid).flat)
    maps = [pooled(group.decibels) for group in shown]
    low, high = _scale(maps)
    for place, (group, values, axes) in enumerate(zip(shown, maps, every, strict=False)):
        image = _map(axes, group, values, theme)
        image.set_clim(low, high)
        axes.set_yticks([-0.5, 0, 0.5], ["−½", "0", "½"] if place % columns == 0 else [])
        axes.set_xticks([-0.5, 0, 0.5], ["−½", "0", "½"] if place + columns >= len(shown) else [])
    for axes in every[len(shown) :]:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=every, pad=0.02, fraction=0.04, aspect=18 * rows, extend="both", extendfrac=0.03)
    bar.set_label("power over the mean (dB)", color=theme.text, fontsize=9)
    bar.ax.tick_params(colors=theme.text, labelsize=8)
    bar.outline.set_visible(False)
    figure.supxlabel("frequency (cycles/pixel), across and down", color=theme.text, fontsize=9)
    return figure


def spectrum_profile_figure(found: Spectra, theme: Theme = LIGHT) -> "Figure":
    """Mean power by distance from the frequency 0, in dB: a line for each generator, dashed and in the text's colour for reals.

    Args:
        found: Of `spectra.spectra`, with at least one spectrum.
        theme: Colours.
    """
    shown = chosen(found)
    names = [legible(_cut(group.name, _WHOLE)) + ("" if group.label else " (real)") for group in shown]
    columns = 2 if len(shown) > 3 and max(map(len, names)) <= _HALF else 1
    figure, axes = canvas(theme, 6.4, 3.6 + 0.2 * -(-len(shown) // columns))
    handles, lowest, highest = [], [], []
    counts = [0, 0]
    for group in shown:
        place = counts[group.label]
        counts[group.label] += 1
        colours = len(theme.palette)
        colour = theme.palette[place % colours] if group.label else theme.text
        dashes = _DASHES[place // colours % len(_DASHES)] if group.label else _OF_REALS[place % len(_OF_REALS)]
        values = group.profile
        radii = np.arange(len(values)) / (2 * (len(values) - 1))
        handles += axes.plot(radii, values, color=colour, linestyle=dashes, linewidth=1.3, zorder=3 if group.label else 4)
        # Near the frequency 0 the residual has next to nothing, which would press all else together.
        kept = values[radii >= 0.02]
        lowest.append(kept.min())
        highest.append(kept.max())
    room = 0.05 * (max(highest) - min(lowest)) + 0.5
    axes.set(xlim=(0, 0.5), ylim=(max(min(lowest), max(highest) - 40) - room, max(highest) + room))
    axes.set(xlabel="distance from the frequency 0 (cycles/pixel)", ylabel="mean power over the whole mean (dB)")
    legend(figure, theme, handles, names, columns)
    return figure


def save_spectra(folder: Path, found: Spectra) -> list[Path]:
    """Write `spectra` and `spectrum_profiles` as PNG and SVG, where there is a spectrum.

    Args:
        folder: Usually `runs/<name>/figures`.
        found: Of `spectra.spectra`.

    Returns:
        The files.
    """
    if not found.shown:
        return []
    return saved(folder, {"spectra": spectra_figure(found), "spectrum_profiles": spectrum_profile_figure(found)})


def chosen(found: Spectra) -> list[Spectrum]:
    """The spectra of the figures, at most `MOST`, in the order of `found`: those with the highest peaks of their own, and their reals.

    Reals stay as long as half of the room is left to the generators.
    """
    shown = found.shown
    if len(shown) <= MOST:
        return shown
    fakes = sorted(
        (group for group in shown if group.label), key=lambda group: -max((peak.height for peak in group.own_peaks), default=0.0)
    )
    reals = [group for group in shown if not group.label]
    room = max(MOST - len(reals), MOST // 2)
    homes = [found.reals_from.get(group.dataset, group.dataset) for group in fakes[:room]]
    reals.sort(key=lambda group: homes.index(group.dataset) if group.dataset in homes else len(homes))
    kept = [*fakes[:room], *reals[: MOST - min(room, len(fakes))]]
    return [group for group in shown if any(group is each for each in kept)]


def pooled(values: NDArray[np.float64], most: int = _PIXELS) -> NDArray[np.float64]:
    """The highest of each block of frequencies, so that there are at most `most` blocks a side.

    Args:
        values: `[S, S]`, with the frequency 0 at `[S / 2, S / 2]`, S a power of two.
        most: A power of two.
    """
    size = max(1, len(values) // most)
    found: NDArray[np.float64] = values.reshape(len(values) // size, size, -1, size).max(axis=(1, 3))
    return found


def _scale(maps: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Ends of the colours: all but the lowest 5% and the highest 0.2% of each map."""
    low = min(float(np.quantile(values, 0.05)) for values in maps)
    high = max(float(np.quantile(values, 0.998)) for values in maps)
    return max(low, high - 30), max(high, low + 1)


def _map(axes: "Axes", group: Spectrum, values: NDArray[np.float64], theme: Theme) -> Any:
    """One spectrum, its frequencies in the middle of their pixels, and rings round its own peaks and their mirror images."""
    side = group.side or 1
    start, end = -0.5 - 0.5 / side, 0.5 - 0.5 / side
    # `none`: an SVG then holds the pixels as they are.
    image = axes.imshow(values, cmap="viridis", extent=(start, end, end, start), interpolation="none")
    for peak in group.own_peaks:
        for sign in (1, -1):
            where = [(sign * each + 0.5) % 1 - 0.5 for each in (peak.fx, peak.fy)]
            axes.plot(*where, "o", markersize=8, markerfacecolor="none", markeredgecolor="white", markeredgewidth=1.1, clip_on=False)
            axes.plot(*where, "o", markersize=9.4, markerfacecolor="none", markeredgecolor="black", markeredgewidth=0.5, clip_on=False)
    axes.set(xlim=(start, end), ylim=(end, start))
    axes.grid(visible=False)
    axes.tick_params(labelsize=8, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(_title(group), color=theme.text, fontsize=8)
    return image


def _title(group: Spectrum) -> str:
    """Data set and generator in lines of their own, as far as they fit, and the count."""
    kind = "" if group.label else "real, "
    first, second = (_cut(each) for each in (f"{group.dataset}/", group.generator))
    counted = f"({kind}{group.images:,})"
    if len(first) + len(second) + len(counted) < _TITLE:
        return f"{legible(first + second)} {counted}"
    if len(second) + len(counted) < _TITLE:
        return f"{legible(first)}\n{legible(second)} {counted}"
    return f"{legible(first)}\n{legible(second)}\n{counted}"


def _cut(name: str, most: int = _TITLE) -> str:
    """At most `most` characters of a name, the last of them too: names of versions differ at their ends."""
    return name if len(name) <= most else f"{name[: most - 12]}…{name[-11:]}"
