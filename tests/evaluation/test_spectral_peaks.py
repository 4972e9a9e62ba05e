"""Peaks: planted ones are found where they are, noise has none, and what the reals or one image have is not called the generator's."""

import numpy as np
import pytest
from scipy.ndimage import median_filter
from scipy.stats import gamma

from evaluation.periodograms import Sums, hann, periodogram, whole
from evaluation.spectral_peaks import _shapes, chance, heights, heights_of_reals, searched, surroundings, typical_chance, typical_heights
from evaluation.spectral_peaks import find_peaks as find


def sums(values):
    return Sums.of(np.array([periodogram(each) for each in values]))


def find_peaks(made, reals):
    return find(made, heights_of_reals(reals))


def noise(side, images, seed=0):
    return np.random.default_rng(seed).normal(size=(images, side, side))


def wave(side, column, row, amplitude=1.0):
    x = np.arange(side)
    return amplitude * np.cos(2 * np.pi * (column * x[None] + row * x[:, None]) / side)


@pytest.mark.parametrize(("column", "row"), [(20, 9), (20, -9), (0, 21), (21, 0), (32, 0), (0, 32), (32, 32), (32, 11)])
def test_a_wave_is_found_at_its_frequency(column, row):
    made = sums(noise(64, 40) + wave(64, column, row, 0.3))
    first = find_peaks(made, sums(noise(64, 40, 1)))[0]
    assert (first.fx, first.fy) == (column / 64, row / 64)
    assert first.stands_out
    assert first.own
    # The transform of a wave is A Σ w / 2 at its frequency, and twice that where it is its own mirror image.
    alone = (2 * column) % 64 == 0 and (2 * row) % 64 == 0
    power = 0.3**2 / (1 if alone else 4) * hann(64).sum() ** 2 / (hann(64) ** 2).sum()
    assert first.height == pytest.approx(10 * np.log10(1 + power), abs=1.5)  # the median of so few is uncertain
    assert not any(peak.own for peak in find_peaks(made, None))


@pytest.mark.parametrize(("side", "images", "seeds"), [(32, 20, 200), (64, 40, 40)])
def test_noise_exceeds_the_limit_about_as_often_as_it_is_told_to(side, images, seeds):
    window = hann(side)
    alarms = typical = 0
    for seed in range(seeds):
        powers = np.abs(np.fft.rfft2(noise(side, images, seed) * window)) ** 2
        made = Sums.of(powers)
        alarms += bool(((heights(made) > chance(made)) & searched(side)).any())
        typical += bool(((typical_heights(made) > typical_chance(made)) & searched(side)).any())
    assert alarms / seeds <= 0.1  # nominal 0.05
    assert typical / seeds <= 0.05


def test_noise_has_no_peak_whatever_its_images_power():
    powers = np.random.default_rng(0).lognormal(sigma=1.5, size=60)[:, None, None]
    for seed in range(5):
        made = sums(noise(64, 60, seed) * powers)
        assert not any(peak.stands_out for peak in find_peaks(made, None))


def test_the_limit_is_the_quantile_of_a_gamma_distribution():
    made = sums(noise(32, 50))
    place = (5, 9)
    images = min(np.median(whole(made.equivalent)[1:10, 5:14]), 50)
    quantile = gamma.isf(0.05 / searched(32).sum(), images, scale=1 / images) / gamma.median(images, scale=1 / images)
    assert chance(made)[place] == pytest.approx(10 * np.log10(quantile))
    # Where the transform is a real number there are half the degrees of freedom.
    assert chance(made)[16, 16] > 1.3 * chance(made)[place]


@pytest.mark.parametrize("place", [(5, 9), (16, 0), (16, 16), (16, 1), (15, 15)])
def test_degrees_of_freedom_are_those_of_simulated_powers(place):
    powers = np.abs(np.fft.rfft2(noise(32, 4000) * hann(32))) ** 2
    at = powers[:, place[0], place[1]]
    mean, variance = at.mean(), at.var()
    assert mean**2 / variance == pytest.approx(_shapes(32)[place], rel=0.12)


def test_half_of_the_plane_is_searched_each_frequency_once():
    down, across = (32 * np.fft.fftfreq(32)).astype(int), np.arange(17)
    there = {(down[i] % 32, across[j] % 32) for i, j in np.argwhere(searched(32))}
    mirrored = {(-row % 32, -column % 32) for row, column in there}
    assert there & mirrored == {(16, 0), (0, 16), (16, 16)}
    far = {(i % 32, j % 32) for i in range(-16, 16) for j in range(-16, 16) if np.hypot(i, j) / 32 >= 0.05}
    assert there | mirrored == far


def test_a_peak_that_the_reals_have_is_not_the_generators():
    block = np.zeros((64, 64))
    block[::8] += 1
    block[:, ::8] += 1
    fakes, reals = (sums(noise(64, 40, seed) + block) for seed in (0, 1))
    found = find_peaks(fakes, reals)
    assert found[0].stands_out
    assert (found[0].fx * 8 % 1, found[0].fy * 8 % 1) == (0, 0)
    assert found[0].reals == pytest.approx(found[0].height, abs=2.9)
    assert not any(peak.own for peak in found)
    # The generator's own is found among many that it shares.
    both = find_peaks(sums(noise(64, 40) + block + wave(64, 13, 19, 0.15)), reals)
    assert [(peak.fx, peak.fy) for peak in both if peak.own] == [(13 / 64, 19 / 64)]


def test_a_pattern_of_one_image_is_no_peak():
    images = noise(64, 40)
    images[0] += wave(64, 13, 19, 6)
    [first, *_] = find_peaks(sums(images), sums(noise(64, 40, 1)))
    assert (first.fx, first.fy) == (13 / 64, 19 / 64)
    assert first.height > 10
    assert first.typical < 2
    assert not first.stands_out


def test_few_images_have_no_peak_and_few_reals_are_none():
    made = noise(64, 40) + wave(64, 13, 19)
    assert not any(peak.stands_out for peak in find_peaks(sums(made[:9]), None))
    found = find_peaks(sums(made), sums(noise(64, 9)))
    assert found[0].stands_out
    assert found[0].reals is None
    assert not found[0].own


def test_upsampling_by_two_leaves_copies():
    small = noise(32, 60) + 2.0  # a mean, as images have
    zeros = np.zeros((60, 64, 64))
    zeros[:, ::2, ::2] = small
    found = find_peaks(sums(zeros), sums(noise(64, 60)))
    assert {(peak.fx, peak.fy) for peak in found if peak.own} == {(0.5, 0), (0, 0.5), (0.5, 0.5)}
    # Of nearest neighbours the copies of a wave at f are at 1/2 - f, weaker by tan²(pi f).
    waves = 0.1 * noise(32, 60) + wave(32, 8, 0)
    found = {(peak.fx, peak.fy): peak for peak in find_peaks(sums(waves.repeat(2, 1).repeat(2, 2) + 0.1 * noise(64, 60, 2)), None)}
    assert found[8 / 64, 0].stands_out
    assert found[24 / 64, 0].stands_out


def test_a_ridge_on_an_axis_is_no_row_of_peaks():
    ridge = noise(64, 40) + 2 * noise(64, 40, 3)[:, :1]  # the same in all rows: power on the axis across only
    found = find_peaks(sums(ridge), sums(noise(64, 40, 1)))
    assert not any(peak.stands_out for peak in found)
    peak = find_peaks(sums(ridge + wave(64, 20, 0, 2.0)), sums(noise(64, 40, 1)))[0]
    assert (peak.fx, peak.fy, peak.own) == (20 / 64, 0, True)


def test_surroundings_are_medians():
    half = sums(noise(32, 1)).power
    power, found = whole(half), surroundings(half)
    np.testing.assert_array_equal(found[2:-1, 2:], median_filter(power, 9, mode="wrap")[2:-1, 2:17])
    assert found[0, 10] == max(np.median(np.roll(power, 4, 0)[:9, 6:15]), np.median(power[0, 6:15]))
    assert found[10, 0] == max(np.median(np.roll(power, 4, 1)[6:15, :9]), np.median(power[6:15, 0]))


def test_no_power_has_no_peak():
    still = Sums.of(np.zeros((20, 32, 17)))
    assert not any(peak.stands_out for peak in find_peaks(still, still))
