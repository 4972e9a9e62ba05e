"""Residuals and periodograms against scipy, numpy and pencil."""

import numpy as np
import pytest
from scipy.ndimage import median_filter
from scipy.signal import get_window

from evaluation.periodograms import Sums, centre, decibels, hann, periodogram, radial_profile, relative, residual, whole


def noise(side=32, seed=0, images=1):
    return np.random.default_rng(seed).normal(size=(images, side, side))


def test_the_residual_is_luminance_less_its_median():
    pixels = np.random.default_rng(0).integers(0, 256, (41, 50, 3), dtype=np.uint8)
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(residual(pixels), luminance - median_filter(luminance, 3, mode="nearest"), atol=1e-4)
    assert not residual(np.full((40, 40, 3), 7, np.uint8)).any()


@pytest.mark.parametrize(("shape", "side"), [((600, 900), 512), ((511, 256), 256), ((32, 32), 32), ((63, 33), 32)])
def test_the_central_square(shape, side):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = centre(pixels)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    np.testing.assert_array_equal(found, pixels[top : top + side, left : left + side])
    assert centre(pixels[:31]).shape[0] == 31


def test_the_periodogram_is_the_windowed_transform_and_keeps_the_energy():
    [values] = noise()
    line = get_window("hann", 32, fftbins=True)
    np.testing.assert_allclose(hann(32), np.outer(line, line), atol=1e-12)
    both = np.abs(np.fft.fft2(values * np.outer(line, line))) ** 2 / (np.outer(line, line) ** 2).sum()
    half = periodogram(values)
    np.testing.assert_allclose(whole(half), both, rtol=1e-9, atol=1e-12)
    # Parseval
    assert whole(half).mean() == pytest.approx(np.average(values**2, weights=hann(32) ** 2))


def test_a_wave_has_its_power_at_its_frequency():
    x = np.arange(64)
    wave = np.cos(2 * np.pi * (12 * x[None] - 5 * x[:, None]) / 64)
    half = periodogram(wave)
    assert np.unravel_index(half.argmax(), half.shape) == (64 - 5, 12)
    assert half[-5, 13] == pytest.approx(half[-5, 12] / 4)  # of Hann's window half the amplitude
    shown = relative(Sums.of(half))
    assert shown.mean() == pytest.approx(1)
    assert {tuple(place) for place in np.argwhere(shown > shown.max() * 0.99)} == {(32 - 5, 32 + 12), (32 + 5, 32 - 12)}


def test_sums_add_up_and_count_equivalent_images():
    powers = np.array([periodogram(each) for each in noise(images=60)])
    together = Sums.of(powers[:20]) + Sums.of(powers[20:])
    assert together.images == 60
    for name, made in (("power", powers), ("squares", powers**2), ("logs", np.log(powers))):
        np.testing.assert_allclose(getattr(together, name), made.sum(axis=0))
    assert np.median(together.equivalent) == pytest.approx(60, rel=0.1)
    uneven = powers * np.where(np.arange(60) < 6, 1, 1e-3)[:, None, None]
    assert np.median(Sums.of(uneven).equivalent) == pytest.approx(6, rel=0.2)
    assert (Sums.of(powers[0]).equivalent == 1).all()
    assert (Sums.of(np.zeros((3, 32, 17))).equivalent == 1).all()


def test_the_profile_is_the_mean_over_rings():
    [values] = noise() ** 2
    rows, columns = np.indices((32, 32)) - 16
    rings = np.rint(np.sqrt(rows**2 + columns**2))
    np.testing.assert_allclose(radial_profile(values), [values[rings == ring].mean() for ring in range(17)])


def test_no_power_has_numbers_too():
    still = Sums.of(periodogram(np.zeros((32, 32))))
    assert not relative(still).any()
    assert (decibels(relative(still)) == -120).all()
    assert np.isfinite(still.logs).all()
