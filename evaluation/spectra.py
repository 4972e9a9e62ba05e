"""Average power spectra of the noise residual by generator: upsampling inside a generator leaves peaks there.

Zhang et al. (WIFS 2019, "Detecting and simulating artifacts in GAN fake images") explain the peaks by the copies of the spectrum that
upsampling makes. Wang et al. (CVPR 2020, "CNN-generated images are surprisingly easy to spot … for now") show average spectra of
high-passed images by generator, and Corvi et al. (CVPR Workshops 2023, "Intriguing properties of synthetic images") those of noise
residuals, of diffusion models too. Here the residual is that of Wang et al.: luminance less its 3 × 3 median.

Images are never resized, for that would move and make peaks. From each the central square is taken, of one side for all data sets that
share their reals: powers of a wave and of noise grow differently with the side, so heights of peaks at different sides do not compare.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.periodograms import SIDES, Plane, Sums, centre, decibels, periodogram, radial_profile, relative, residual
from evaluation.spectral_peaks import Peak, find_peaks, heights_of_reals
from evaluation.tables import write_csv

IMAGES = 200  # of each generator and each source of reals
GROUPS = 64  # generators and sources of reals; each takes seconds and some MB
FITS = 0.9  # share of images that the side must fit
COLUMNS = (
    *("dataset", "generator", "label", "images", "too_small", "failed", "side"),
    *("fx", "fy", "height_db", "typical_db", "limit_db", "reals_db", "stands_out", "own", "reason"),
)
_SLICE = 16  # images at a time: their spectra are held together

Pixels = Callable[[str], NDArray[np.uint8]]
"""From a key to its image in its own pixels, uint8 `[H, W, 3]`; it is called from several threads."""
Progress = Callable[[Iterable[str]], Iterable[str]]
"""Goes through keys and shows how far it is."""


@dataclass(frozen=True)
class Spectrum:
    """The average spectrum of one generator, or of one source of reals.

    Attributes:
        dataset: Its data set.
        generator: Its name; of reals, their source.
        label: 0 for reals, 1 for fakes.
        images: How many were averaged.
        too_small: How many were left out because they are smaller than the side.
        failures: How many could not be loaded, by reason.
        side: Pixels; None where there is no spectrum.
        power: Relative power, `[side, side]`, the mean 1 and the frequency 0 in the middle; empty where there is no spectrum.
        peaks: The highest, see `spectral_peaks.find_peaks`.
        reason: Why there is no spectrum, else None.
    """

    dataset: str
    generator: str
    label: int
    images: int = 0
    too_small: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    side: int | None = None
    power: Plane = field(default_factory=lambda: np.zeros((0, 0)))
    peaks: Sequence[Peak] = ()
    reason: str | None = None

    @property
    def name(self) -> str:
        """`dataset/generator`."""
        return f"{self.dataset}/{self.generator}"

    @property
    def failed(self) -> int:
        """How many could not be loaded."""
        return sum(self.failures.values())

    @property
    def decibels(self) -> Plane:
        """Relative power in dB, `[side, side]`."""
        return decibels(self.power)

    @property
    def profile(self) -> Plane:
        """Relative power by radius in dB, `[side / 2 + 1]`, for 0 … 0.5 cycles a pixel."""
        return decibels(radial_profile(self.power))

    @property
    def own_peaks(self) -> list[Peak]:
        """Those that its reals do not have, the highest first."""
        return [peak for peak in self.peaks if peak.own]


@dataclass(frozen=True)
class Spectra:
    """Spectra of some predictions' images.

    Attributes:
        groups: Data set by data set, its reals first, else by name.
        most: How many images of each were taken at most.
        reals_from: For a data set, the one whose reals its generators were compared with, where it is another one.
        left_out: Generators and sources of reals beyond the `GROUPS` with most images.
    """

    groups: Sequence[Spectrum]
    most: int
    reals_from: Mapping[str, str]
    left_out: int = 0

    @property
    def shown(self) -> list[Spectrum]:
        """Those that have a spectrum."""
        return [group for group in self.groups if group.side is not None]


@dataclass
class _Tally:
    """What is counted of a group's images: sums by side, until it is known which side is taken."""

    sums: dict[int, Sums] = field(default_factory=dict)
    loaded: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, powers: Mapping[int, Plane] | str) -> None:
        if isinstance(powers, str):
            self.failures[powers] += 1
            return
        self.loaded += 1
        for side, power in powers.items():
            new = Sums.of(power)
            self.sums[side] = self.sums[side] + new if side in self.sums else new

    def fitting(self, side: int) -> int:
        return self.sums[side].images if side in self.sums else 0


_Group = tuple[str, int, str]  # data set, label, generator: in this order they are shown


def spectra(
    frame: pd.DataFrame,
    load: Pixels,
    reals_from: Mapping[str, str] | None = None,
    *,
    images: int = IMAGES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Spectra:
    """Average spectra of each `dataset/generator` and each source of reals, and their peaks.

    The side is the largest of 512, 256, 128, 64 and 32 pixels that fits at least 90% of the images of the data sets that share reals, and
    of these reals. An image that cannot be loaded is counted with the reason.

    Args:
        frame: A predictions table, of any detectors and perturbations.
        load: Gives an image.
        reals_from: For a data set, the one whose reals its generators are compared with; its own by default.
        images: How many of each at most.
        seed: Of their choice.
        progress: Goes through the keys; a bar of tqdm's by default, on a terminal.
    """
    sources = dict(reals_from or {})
    everything = choose(frame, images, seed)
    chosen = dict(sorted(everything.items(), key=lambda item: (item[0][1], -len(item[1]), item[0]))[:GROUPS])
    tallies = {group: _Tally() for group in chosen}
    todo = [(group, key) for group, keys in chosen.items() for key in keys]
    for (group, _), powers in zip(todo, _spectra_of([key for _, key in todo], load, progress), strict=True):
        tallies[group].add(powers)
    sides = _sides(tallies, sources)
    reals = {home: heights_of_reals(sums) for home, sums in _reals(tallies, sides).items()}
    groups = []
    for group, tally in sorted(tallies.items()):
        home = sources.get(group[0], group[0])
        groups.append(_spectrum(group, tally, sides[home], reals.get(home) if group[1] else None))
    return Spectra(groups, images, sources, len(everything) - len(chosen))


def choose(frame: pd.DataFrame, most: int, seed: int) -> dict[tuple[str, int, str], list[str]]:
    """At most `most` keys of each data set, label and generator, by a hash of the key and the seed, each key once."""
    chosen: dict[tuple[str, int, str], list[str]] = {}
    for names, rows in frame.groupby(["dataset", "label", "generator"], sort=True):
        dataset, generator, label = str(names[0]), str(names[2]), int(rows["label"].iloc[0])
        keys = sorted(rows["key"].unique(), key=lambda key: hashlib.sha256(f"spectra {seed} {key}".encode()).hexdigest())
        chosen[dataset, label, generator] = keys[:most]
    return chosen


def write_peaks(folder: Path, found: Spectra) -> Path:
    """Write `spectrum_peaks.csv`: a line a peak, and one for each generator that has none, with the columns `COLUMNS`.

    Args:
        folder: Usually `runs/<name>/tables`.
        found: Of `spectra`.

    Returns:
        The file.
    """
    rows: list[dict[str, Any]] = []
    for group in found.groups:
        names = ("dataset", "generator", "label", "images", "too_small", "failed", "side", "reason")
        common = {name: getattr(group, name) for name in names}
        rows += [common] * (not group.peaks)
        for peak in group.peaks:
            numbers: dict[str, Any] = {"fx": peak.fx, "fy": peak.fy, "height_db": peak.height, "typical_db": peak.typical}
            numbers |= {"limit_db": peak.limit, "reals_db": peak.reals}
            rows.append(common | numbers | {"stands_out": peak.stands_out, "own": None if peak.reals is None else peak.own})
    return write_csv(folder / "spectrum_peaks.csv", rows, COLUMNS)


def _spectra_of(keys: Sequence[str], load: Pixels, progress: Progress | None) -> Iterator[Mapping[int, Plane] | str]:
    """Of each image its periodograms by side, or why it could not be loaded."""
    # In slices, for a pool's map would run ahead of what is summed and hold the spectra of all images.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        part: list[str] = []
        for key in (progress or _bar)(keys):
            part.append(key)
            if len(part) == _SLICE:
                yield from pool.map(lambda each: _powers(each, load), part)
                part = []
        yield from pool.map(lambda each: _powers(each, load), part)


def _bar(keys: Iterable[str]) -> Iterable[str]:
    from tqdm import tqdm

    return tqdm(keys, desc="Spectra", unit="image", disable=None, leave=False)


def _powers(key: str, load: Pixels) -> Mapping[int, Plane] | str:
    try:
        pixels = np.asarray(load(key))
    except Exception as error:  # an image that is gone must not cost the report of a whole run
        return str(getattr(error, "reason", None) or f"{type(error).__name__}: {error}")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        return f"no picture of uint8 [H, W, 3], but {pixels.dtype} {list(pixels.shape)}"
    noise = residual(centre(pixels))
    sides = [side for side in SIDES if side <= min(noise.shape)]
    return {side: periodogram(_middle(noise, side)) for side in sides}


def _middle(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    top, left = ((length - side) // 2 for length in values.shape)
    return values[top : top + side, left : left + side]


def _sides(tallies: Mapping[_Group, _Tally], sources: Mapping[str, str]) -> dict[str, int | None]:
    """The side by the data set whose reals are shared; None where nothing is large enough."""
    members: dict[str, list[_Group]] = {}
    for group in tallies:
        members.setdefault(sources.get(group[0], group[0]), []).append(group)
        members.setdefault(group[0], [])
    sides: dict[str, int | None] = {}
    for home, groups in members.items():
        reals = [group for group in groups if group[0] == home and not group[1]]
        sides[home] = next((side for side in SIDES if _fits(side, tallies, groups) and _fits(side, tallies, reals or groups)), None)
    return sides


def _fits(side: int, tallies: Mapping[_Group, _Tally], groups: Sequence[_Group]) -> bool:
    loaded = sum(tallies[group].loaded for group in groups)
    return loaded > 0 and sum(tallies[group].fitting(side) for group in groups) >= FITS * loaded


def _reals(tallies: Mapping[_Group, _Tally], sides: Mapping[str, int | None]) -> dict[str, Sums]:
    """All reals of a data set together, at the side of those that are compared with them."""
    found: dict[str, Sums] = {}
    for (dataset, label, _), tally in tallies.items():
        side = sides[dataset]
        if not label and side in tally.sums:
            sums = tally.sums[side]
            found[dataset] = found[dataset] + sums if dataset in found else sums
    return found


def _spectrum(group: _Group, tally: _Tally, side: int | None, reals: Plane | None) -> Spectrum:
    dataset, label, generator = group
    if side is None or side not in tally.sums or not tally.sums[side].power.any():
        missing = 0 if side is None else tally.loaded - tally.fitting(side)
        return Spectrum(dataset, generator, label, 0, missing, dict(tally.failures), reason=_no_spectrum(tally, side))
    sums = tally.sums[side]
    peaks = find_peaks(sums, reals)
    left_out = tally.loaded - sums.images
    return Spectrum(dataset, generator, label, sums.images, left_out, dict(tally.failures), side, relative(sums), peaks)


def _no_spectrum(tally: _Tally, side: int | None) -> str:
    if not tally.loaded:
        return "no image could be loaded"
    if side is None:
        return f"more than one in ten images of its data set or of its reals are smaller than {SIDES[-1]} × {SIDES[-1]} pixels"
    if side not in tally.sums:
        return f"all its images are smaller than {side} × {side} pixels, the side of those it is compared with"
    return "its images have no noise at all"
