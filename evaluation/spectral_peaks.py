"""Peaks of an average spectrum: how far a frequency stands above those around it, and what chance does.

**Surroundings.** Of each frequency the median power over a square of 9 × 9 frequencies (17 × 17 from a side of 256 on). Horizontal and
vertical edges, of which photographs are full, put a ridge on both axes; there the surroundings are at least the median along the ridge, so
that a ridge is no row of peaks. (So a comb of peaks on an axis that are only 4 frequencies apart hides itself.)

**Chance.** Noise without a period has powers that are exponential at each frequency; a mean of n has 2 n degrees of freedom of chi-square.
Images differ in power, so n is the number of equivalent images around the frequency (see `periodograms.Sums`). At the four frequencies
that are their own mirror images, (0, 0), (0, 1/2), (1/2, 0) and (1/2, 1/2), the transform is a real number and there are only n degrees;
under a window their neighbours have a little less than 2 n: 2 n / (1 + r²), where r is the window's share of what is mirrored. The last
three are where upsampling by two leaves its peaks, so this matters. The limit is the quantile of that chi-square, over its median, at
0.05 / K for the K frequencies that are searched (Bonferroni), so a spectrum of noise has a peak in about 1 of 20 cases. Two things are
not in that: the window makes neighbours alike, so that there are fewer chances than K, and the median of so few, alike surroundings is
itself uncertain, which makes chance exceed the limit more often. Simulated (60 to 200 spectra a case), white noise exceeds it in 2 to 6% of
spectra (sides of 32 and 64, 10 to 200 images), the residual of white noise, of 20 images, in 3 to 4% at sides of 64 and 128 and in 12% at
32, for there 9 frequencies are so much of the spectrum that its smooth bends count. What bends is below 1 dB, so a peak is besides at
least 3 dB high, twice its surroundings: from about 40 equivalent images on that is the stricter rule.

**Few images.** A pattern of a few images, a blind or a brick wall, is no trace of their generator, however strong it is. So the mean of the
logarithms, to which each image gives the same weight however much power it has, exceeds chance too: for noise of any power the logarithm
has a variance of pi² / 6 (in general the trigamma function of half the degrees of freedom), and the mean of n of them is nearly normal.
And there are at least 10 images.

**Reals.** A peak is the generator's own only where it stands at least 3 dB higher above its surroundings than in the reals that the
generator is measured against.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evaluation.periodograms import Plane, Sums, decibels, hann, whole

LEVEL = 0.05
LEAST_IMAGES = 10
LEAST_RADIUS = 0.05  # cycles a pixel: below is what images show, not how they were made
LEAST_HEIGHT = 3.0  # dB
ABOVE_REALS = 3.0  # dB
PEAKS = 6  # of the generator's own, and of others
_DECIBELS = 10 / np.log(10)  # a natural logarithm of power
_APART = 3  # frequencies; a pure wave is three wide under the window


@dataclass(frozen=True)
class Peak:
    """A frequency that stands out.

    Attributes:
        fx: Cycles a pixel across, in [0, 0.5].
        fy: Cycles a pixel down, in (-0.5, 0.5].
        height: Power over that of the surroundings, in dB.
        typical: Height in the mean of the logarithms of power, in dB: that of the typical image.
        limit: Height that noise exceeds somewhere with a probability of 0.05, in dB; at least 3.
        reals: Height of the same frequency in the reals; None where there are no reals to compare with.
        stands_out: Whether it is above the limit, and in many images.
        own: Whether it stands out, and above the reals.
    """

    fx: float
    fy: float
    height: float
    typical: float
    limit: float
    reals: float | None
    stands_out: bool
    own: bool


def find_peaks(sums: Sums, reals: Plane | None) -> list[Peak]:
    """The highest peaks of a spectrum: at most `PEAKS` of its own, and as many others.

    Peaks are local maxima of power, one of each pair of mirror images, at least `LEAST_RADIUS` from the frequency 0 and three frequencies
    from a higher one.

    Args:
        sums: Of the generator's images.
        reals: `heights_of_reals` of the reals that it is measured against, of the same side; None for those of reals themselves.

    Returns:
        The highest first.
    """
    found, typical = heights(sums), typical_heights(sums)
    limits = np.maximum(chance(sums), LEAST_HEIGHT)
    out = (found > limits) & (typical > typical_chance(sums)) & (sums.images >= LEAST_IMAGES)
    own = np.zeros_like(out) if reals is None else out & (found >= reals + ABOVE_REALS)
    tops = searched(sums.side) & _local_maxima(sums.power)
    places = [*_apart(np.where(tops & own, found, -np.inf)), *_apart(np.where(tops & ~own, found, -np.inf))]
    peaks = []
    for place in sorted(places, key=lambda each: -found[each]):
        fx, fy = place[1] / sums.side, place[0] / sums.side
        at_reals = None if reals is None else float(reals[place])
        height, middle, limit = (float(each[place]) for each in (found, typical, limits))
        peaks.append(Peak(fx, fy - (fy > 0.5), height, middle, limit, at_reals, bool(out[place]), bool(own[place])))
    return peaks


def heights(sums: Sums) -> Plane:
    """Of each frequency its power over the median of its surroundings, in dB, `[S, S / 2 + 1]`; 0 where there is no power at all."""
    mean = float(sums.power.mean())
    if not mean > 0:
        return np.zeros_like(sums.power)
    return decibels(sums.power / mean) - decibels(surroundings(sums.power) / mean)


def heights_of_reals(reals: Sums | None) -> Plane | None:
    """What a generator's peaks are compared with: the reals' `heights`, None where there are fewer than `LEAST_IMAGES`."""
    return None if reals is None or reals.images < LEAST_IMAGES else heights(reals)


def surroundings(half: NDArray[np.float64]) -> Plane:
    """Median around each frequency, of the shape of `half`; on the axes at least that along them.

    Args:
        half: `[S, S / 2 + 1]`.
    """
    from scipy.ndimage import median_filter

    both, size = whole(half), _size(len(half))
    reach = size // 2
    # The half that is wanted, with as much on both sides as the filter reaches: half the time.
    wide = both[:, np.arange(-reach, half.shape[1] + reach) % len(both)]
    around = median_filter(wide, size=size, mode="wrap")
    rows, columns = [-1, 0, 1], [0, 1]  # the window makes an axis three frequencies wide
    around[rows] = np.maximum(around[rows], median_filter(wide[rows], size=(1, size), mode="wrap"))
    found: Plane = around[:, reach:-reach]
    found[:, columns] = np.maximum(found[:, columns], median_filter(both[:, columns], size=(size, 1), mode="wrap"))
    return found


def chance(sums: Sums) -> Plane:
    """Height that a frequency of noise exceeds with a probability of `LEVEL` over the number of frequencies searched, in dB."""
    from scipy.special import gammainccinv, gammaincinv  # scipy.stats takes seconds to import

    images = np.clip(_around(sums), 1, sums.images)
    shapes = images * _shapes(sums.side)
    quantile = gammainccinv(shapes, LEVEL / searched(sums.side).sum()) / shapes
    return decibels(quantile / (gammaincinv(images, 0.5) / images))


def typical_heights(sums: Sums) -> Plane:
    """As `heights`, of the mean of the logarithms of power: as high as in the typical image, in dB, `[S, S / 2 + 1]`."""
    from scipy.special import digamma

    shapes = _shapes(sums.side)
    logs = sums.logs / sums.images - (digamma(shapes) - np.log(shapes))  # of noise of power 1 they would be 0
    return _DECIBELS * (logs - surroundings(logs))


def typical_chance(sums: Sums) -> Plane:
    """As `chance`, for `typical_heights`."""
    from scipy.special import ndtri, polygamma

    deviations = np.sqrt(polygamma(1, _shapes(sums.side)) / sums.images)
    found: Plane = -_DECIBELS * ndtri(LEVEL / searched(sums.side).sum()) * deviations
    return found


@lru_cache(maxsize=8)
def searched(side: int) -> NDArray[np.bool_]:
    """Where peaks are looked for, `[side, side / 2 + 1]`: one of each pair of mirror images, away from the frequency 0."""
    down, across = np.fft.fftfreq(side)[:, None], np.arange(side // 2 + 1)[None] / side
    found = np.hypot(down, across) >= LEAST_RADIUS
    found[side // 2 + 1 :, [0, -1]] = False
    return found


def _size(side: int) -> int:
    return 9 if side < 256 else 17


def _around(sums: Sums) -> Plane:
    """The median number of equivalent images around each frequency."""
    from scipy.ndimage import median_filter

    around: Plane = median_filter(whole(sums.equivalent), size=9, mode="wrap")
    return around[:, : sums.side // 2 + 1]


@lru_cache(maxsize=8)
def _shapes(side: int) -> Plane:
    """Half the degrees of freedom of one periodogram, `[side, side / 2 + 1]`: 1 / (1 + r²), 1/2 where the transform is real.

    r is |E X²| / E |X|² of the transform X of white noise under the window w: |FFT(w²)| at twice the frequency, over that at 0.
    """
    spectrum = np.abs(np.fft.fft2(hann(side) ** 2)) / (hann(side) ** 2).sum()
    twice = 2 * np.arange(side) % side
    found: Plane = 1 / (1 + spectrum[np.ix_(twice, twice[: side // 2 + 1])] ** 2)
    return found


def _local_maxima(power: NDArray[np.float64]) -> NDArray[np.bool_]:
    from scipy.ndimage import maximum_filter

    both = whole(power)
    found: NDArray[np.bool_] = (both == maximum_filter(both, size=3, mode="wrap"))[:, : power.shape[1]]
    return found


def _apart(values: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The highest places that are not beside a higher one, at most `PEAKS`; what is not wanted is -inf."""
    side = len(values)
    chosen: list[tuple[int, int]] = []
    for place in np.argsort(values, axis=None)[::-1]:
        row, column = divmod(int(place), values.shape[1])
        if len(chosen) == PEAKS or not np.isfinite(values[row, column]):
            break
        if not any(_beside((row, column), other, side) for other in chosen):
            chosen.append((row, column))
    return chosen


def _beside(one: Sequence[int], other: Sequence[int], side: int) -> bool:
    """Whether two frequencies, or the mirror image of one of them and the other, are fewer than `_APART` steps apart."""

    def near(sign: int) -> bool:
        steps = [abs((a - sign * b + side // 2) % side - side // 2) for a, b in zip(one, other, strict=True)]
        return max(steps) < _APART

    return near(1) or near(-1)
