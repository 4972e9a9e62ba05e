"""What a report says of the average spectra of the noise residual: peaks that a generator has and its reals have not."""

from collections.abc import Sequence

from evaluation.figures.spectra import MOST, chosen, spectra_figure, spectrum_profile_figure
from evaluation.figures.theme import ON_LIGHT
from evaluation.report.parts import Cell, Chart, Grid, Part, Text, drawn, drawn_twice
from evaluation.rows import one_line
from evaluation.spectra import GROUPS, Spectra, Spectrum
from evaluation.spectral_peaks import ABOVE_REALS, LEAST_HEIGHT, LEAST_IMAGES, PEAKS, Peak

HEADING = "Spectra of the noise residual"
_FEW = 6  # names in a sentence
_PROVES = (
    "A peak says that something in these files repeats itself, not what: a generator's upsampling, but also resizing, sharpening or "
    "compression that its files went through and the reals did not. Nor does it say that the detector uses it. Without a peak an image may "
    "have other traces. The images of a generator count as independent here."
)
_BLOCKS = (
    "at multiples of 1/8 in both directions (* in the table). JPEG's 8 × 8 blocks leave peaks there too: files that were compressed "
    "otherwise than the reals explain them as well as upsampling by 2, 4 or 8 does."
)


def spectra_part(found: Spectra) -> Part | None:
    """Sentences, a table and two figures of the spectra of each generator and of the reals.

    Args:
        found: Of `spectra.spectra`.

    Returns:
        None where there are no images to speak of.
    """
    if not found.groups:
        return None
    if not found.shown:
        return Part(HEADING, ["There are no spectra.", *_left_out(found)])
    sentences = [_what(found), *_findings(found), _rule(found), _PROVES, *_left_out(found), *_figures(found)]
    return Part(HEADING, sentences, [_grid(found.shown)], _charts(found))


def _what(found: Spectra) -> str:
    sides = sorted({group.side for group in found.shown if group.side})
    size = " or ".join(f"{side} × {side}" for side in sides)
    return (
        f"Mean power by frequency of what a 3 × 3 median takes away from the luminance, of up to {found.most:,} images of each generator "
        f"and each source of reals: their central {size} pixels, never resized. Upsampling inside a generator repeats the spectrum, which "
        "leaves peaks (Zhang et al. 2019, Wang et al. 2020, Corvi et al. 2023)."
    )


def _findings(found: Spectra) -> list[str]:
    """One sentence a generator with peaks of its own, the highest first, and one each for the others."""
    fakes = [group for group in found.shown if group.label]
    own = sorted((group for group in fakes if group.own_peaks), key=lambda group: -group.own_peaks[0].height)
    said = [_own(group) for group in own[:_FEW]]
    if len(own) > _FEW:
        said.append(f"Peaks that their reals do not have are found in {len(own) - _FEW} more generators: see the table.")
    marked = sum(_on_blocks(peak) for group in own for peak in group.own_peaks)
    if marked:
        said.append(f"{marked} of these peaks {'is' if marked == 1 else 'are'} {_BLOCKS}")
    compared = [group for group in fakes if _compared(group)]
    if none := [group.name for group in compared if not group.own_peaks]:
        said.append(f"No peak that the reals do not have: {_some(none)}.")
    alone = [group.name for group in fakes if not _compared(group) and group.images >= LEAST_IMAGES]
    if alone:
        said.append(f"Fewer than {LEAST_IMAGES} reals to compare with, so no peak is called the generator's: {_some(alone)}.")
    if few := [group.name for group in fakes if group.images < LEAST_IMAGES]:
        said.append(f"Fewer than {LEAST_IMAGES} images, so no peak is looked for: {_some(few)}.")
    return said


def _own(group: Spectrum) -> str:
    first, count = group.own_peaks[0], len(group.own_peaks)
    which = "a peak" if count == 1 else f"{_counted(count)} peaks, the highest"
    return (
        f"{one_line(group.name)} has {which} at {_at(first)} cycles/pixel (across, down), {first.height:.1f} dB above the frequencies "
        f"around it and {first.typical:.1f} dB in the typical image; the reals have {_db(first.reals)} there."
    )


def _rule(found: Spectra) -> str:
    others = " or of the data set named for them" if found.reals_from else ""
    return (
        f"A peak counts where it is at least {LEAST_HEIGHT:g} dB above the median around it, and above what noise reaches anywhere in "
        "one of 20 spectra; where the typical image has it too (the mean of the logarithms, above chance), since one image with a "
        f"strong pattern can make a peak of the mean; and where it is at least {ABOVE_REALS:g} dB higher than in the reals of its data "
        f"set{others}."
    )


def _left_out(found: Spectra) -> list[str]:
    said = []
    if found.left_out:
        said.append(f"Left out are {found.left_out:,} generators or sources of reals with fewer images than these {GROUPS}.")
    if small := sum(group.too_small for group in found.groups):
        said.append(f"Left out because they are smaller than the side that most images fit: {small:,}.")
    if failed := sum(group.failed for group in found.groups):
        reasons = {reason: None for group in found.groups for reason in group.failures}
        more = f"; and {len(reasons) - 1:,} other reasons" if len(reasons) > 2 else "; and another reason" if len(reasons) > 1 else ""
        said.append(f"Images that could not be loaded: {failed:,} ({one_line(next(iter(reasons))).rstrip('.')}{more}).")
    why: dict[str, list[str]] = {}
    for group in found.groups:
        if group.reason:
            why.setdefault(group.reason, []).append(group.name)
    said += [f"No spectrum of {_some(names)}: {reason}." for reason, names in why.items()]
    return said


def _figures(found: Spectra) -> list[str]:
    said = []
    if len(found.shown) > MOST:
        said.append(f"The figures show {MOST} of {len(found.shown)} spectra, first those with the highest peaks of their own.")
    if max(group.side or 0 for group in found.shown) > 128:
        said.append("Maps of more than 128 × 128 frequencies are drawn smaller, each pixel the highest of those it stands for.")
    return said


def _grid(shown: Sequence[Spectrum]) -> Grid:
    """A row a spectrum, of its highest peak of its own, or else its highest that stands out, or none."""
    heads = ["images", "side", "peaks of its own", "highest at (across, down)", "dB above around", "dB, typical image", "dB in the reals"]
    rows: dict[str, Sequence[Cell]] = {}
    for group in shown:
        name = group.name + ("" if group.label else " (real)")
        count = _counted(len(group.own_peaks)) if group.label and _compared(group) else None
        peak = next(iter(group.own_peaks), None) or next((each for each in group.peaks if each.stands_out), None)
        if peak is None:
            rows[name] = [group.images, group.side, count, None, None, None, None]
            continue
        mark = "*" if _on_blocks(peak) else ""
        heights = [None if each is None else Text(_decibels(each), sort=each) for each in (peak.height, peak.typical, peak.reals)]
        rows[name] = [group.images, group.side, count, f"{_at(peak)}{mark}", *heights]
    return Grid("The highest peak of each spectrum; * at multiples of 1/8, where JPEG leaves peaks too", "images of", heads, rows)


def _charts(found: Spectra) -> list[Chart]:
    names = _some([group.name + ("" if group.label else " (real)") for group in chosen(found)], MOST)
    own = [f"{group.name} at {', '.join(_at(peak) for peak in group.own_peaks)}" for group in chosen(found) if group.own_peaks]
    ringed = f"Rings mark peaks of {_some(own)}" if own else "No peak is marked"
    maps = f"Maps of mean power by frequency, from −0.5 to 0.5 cycles/pixel in both directions, of {names}. {ringed}."
    lines = f"Mean power in dB by distance from the frequency 0, from 0 to 0.5 cycles/pixel; a line each: {names}"
    rings = "Mean power by frequency; rings: peaks that the reals do not have" if own else "Mean power by frequency"
    profiles = drawn(spectrum_profile_figure(found, ON_LIGHT), lines, "Mean power by distance from the frequency 0")
    return [drawn_twice(lambda theme: spectra_figure(found, theme), maps, rings), profiles]


def _counted(count: int) -> str:
    """More are not looked for."""
    return f"{count} or more" if count == PEAKS else str(count)


def _compared(group: Spectrum) -> bool:
    """Whether peaks could be called its own: it has enough images, and so have its reals."""
    return group.images >= LEAST_IMAGES and any(peak.reals is not None for peak in group.peaks)


def _on_blocks(peak: Peak) -> bool:
    return peak.fx * 8 % 1 == 0 and peak.fy * 8 % 1 == 0


def _at(peak: Peak) -> str:
    return f"({_short(peak.fx)}, {_short(peak.fy)})"


def _short(frequency: float) -> str:
    return f"{frequency:.4f}".rstrip("0").rstrip(".").replace("-", "−")


def _db(value: float | None) -> str:
    return "none" if value is None else f"{_decibels(value)} dB"


def _decibels(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")  # no minus before a zero


def _some(names: Sequence[str], most: int = _FEW) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(one_line(name) for name in names[:most])}{more}"
