"""Colour features, against numpy, PIL, colorsys and scipy."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from modules.extractors.colour import ColourExtractor, hue_bins, saturation_bins
from modules.settings import from_settings

BINS = 16


def measure(images, **options):
    return ColourExtractor(**options)(images, [""] * len(images), [0] * len(images))["colour"]


def parts(vector, bins=BINS):
    """The vector of one image by name, float64."""
    sizes = {"red": bins, "green": bins, "blue": bins, "hue": bins, "saturation": bins, "moments": 3, "correlations": 9, "clipped": 6}
    found = dict(zip(sizes, np.split(vector.double().numpy(), np.cumsum(list(sizes.values())))[:-1], strict=True))
    assert sum(len(each) for each in found.values()) == len(vector)
    return found


@pytest.fixture(scope="module")
def image():
    """Coloured waves with noise, clipped in places: every feature has something to see."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:37, :53]
    waves = [120 + 130 * np.sin(rows / (6 + i) + i) * np.cos(columns / (8 - 2 * i)) for i in range(3)]
    pixels = np.clip(np.stack(waves) + rng.normal(0, 12, (3, 37, 53)), 0, 255).astype(np.uint8)
    pixels[:, :3, :5], pixels[:, 5:8, :4], pixels[:, 10:13, :7] = 0, 255, 128
    return torch.from_numpy(pixels)


def test_histograms_of_channels_are_pils(image):
    found = parts(measure(image[None])[0])
    counts = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).histogram()).reshape(3, BINS, 256 // BINS).sum(2)
    for name, expected in zip(("red", "green", "blue"), counts, strict=True):
        np.testing.assert_allclose(found[name], expected / image[0].numel(), atol=1e-6)


@pytest.mark.parametrize("bins", [2, 7, 16, 100, 256])
def test_any_number_of_bins_is_numpys(image, bins):
    found = parts(measure(image[None], bins=bins)[0], bins)
    for name, channel in zip(("red", "green", "blue"), image.numpy(), strict=True):
        expected = np.histogram(channel, bins, (0, 256))[0] / channel.size
        np.testing.assert_allclose(found[name], expected, atol=1e-6)
    assert len(measure(image[None], bins=bins)[0]) == ColourExtractor(bins=bins).dimension


def test_hue_and_saturation_are_those_of_colorsys(image):
    pixels = image.flatten(1).T.numpy()
    hsv = np.array([colorsys.rgb_to_hsv(*(int(level) / 255 for level in pixel)) for pixel in pixels])
    found = parts(measure(image[None])[0])
    # An edge of a bin may fall to either side in floating point: colorsys' own values are moved off it.
    saturation = np.histogram(np.minimum(hsv[:, 1] + 1e-9, 1), BINS, (0, 1))[0] / len(pixels)
    np.testing.assert_allclose(found["saturation"], saturation, atol=1e-6)
    chroma = pixels.max(1).astype(float) - pixels.min(1)
    hue = np.histogram((hsv[:, 0] + 1e-9) % 1, BINS, (0, 1), weights=chroma)[0] / chroma.sum()
    np.testing.assert_allclose(found["hue"], hue, atol=1e-6)
    expected = [hsv[:, 1].mean(), hsv[:, 1].std(), stats.skew(hsv[:, 1])]
    np.testing.assert_allclose(found["moments"], expected, rtol=1e-5)


def test_every_pure_colour_lies_in_its_bin():
    colours = torch.tensor([[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255], [255, 0, 1], [9, 9, 9]]).T
    assert hue_bins(colours, 6).tolist() == [0, 1, 2, 3, 4, 5, 5, 0]
    value, chroma = torch.tensor([0, 200, 200, 200]), torch.tensor([0, 0, 100, 200])
    assert saturation_bins(value, chroma, 4).tolist() == [0, 0, 2, 3]


def test_correlations_of_channels_and_of_their_differences_are_numpys(image):
    wide = image.double().numpy()
    expected = []
    for field in (wide, np.diff(wide, axis=2), np.diff(wide, axis=1)):
        matrix = np.corrcoef(field.reshape(3, -1))
        expected += [matrix[0, 1], matrix[0, 2], matrix[1, 2]]
    np.testing.assert_allclose(parts(measure(image[None])[0])["correlations"], expected, atol=1e-6)


def test_badly_exposed_pixels_are_counted(image):
    pixels = image.numpy()
    expected = [(pixels <= level).all(0).mean() for level in (0, 5, 10)] + [(pixels >= level).all(0).mean() for level in (255, 250, 245)]
    found = parts(measure(image[None])[0])["clipped"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.min() > 0
    assert (np.diff(found.reshape(2, 3)) >= 0).all()


def test_one_grey_level_has_no_colour_and_no_spread():
    found = parts(measure(torch.full((1, 3, 8, 8), 77, dtype=torch.uint8))[0])
    assert found["red"][77 * BINS // 256] == 1
    assert found["saturation"][0] == 1
    for name in ("hue", "moments", "correlations", "clipped"):
        assert not found[name].any()


def test_a_grey_image_has_equal_channels(image):
    found = parts(measure(image[:1].expand(1, 3, -1, -1))[0])
    np.testing.assert_allclose(found["correlations"], 1, atol=1e-6)
    assert not found["hue"].any()
    np.testing.assert_array_equal(found["red"], found["blue"])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (2, 2), (300, 5)])
def test_the_smallest_images_are_no_special_case(shape):
    images = torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = measure(images)
    assert found.shape == (2, 98)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert found[0, :BINS].sum() == pytest.approx(1)


def test_floats_are_bytes_and_an_image_is_the_same_in_any_batch(image):
    images = torch.stack([image, image.flip(0), image.roll(9, 1)])
    together = measure(images)
    assert torch.equal(measure(images / 255), together)
    assert torch.equal(torch.cat([measure(each[None]) for each in images]), together)
    assert not torch.equal(together[0], together[1])


def test_nothing_but_the_arrangement_of_pixels_is_lost(image):
    places = torch.randperm(image[0].numel(), generator=torch.Generator().manual_seed(1))
    shuffled = image.flatten(1)[:, places].reshape(image.shape)
    first, second = (parts(each) for each in measure(torch.stack([image, shuffled])))
    for name in ("red", "green", "blue", "hue", "saturation", "moments", "clipped"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-6)
    np.testing.assert_allclose(first["correlations"][:3], second["correlations"][:3], rtol=1e-6)
    assert not np.allclose(first["correlations"][3:], second["correlations"][3:], atol=1e-3)


def test_size_is_the_square_that_is_measured(image):
    extractor = ColourExtractor(size=24)
    assert extractor.prepare(image).shape == (3, 24, 24)
    assert ColourExtractor().prepare(image).shape == image.shape


def test_settings_rebuild_it_and_wrong_ones_are_refused():
    built = ColourExtractor(size=64, bins=8)
    assert from_settings(built.settings()).settings() == built.settings()
    assert built.weights == {}
    for options, words in (({"bins": 1}, "bins is 1"), ({"bins": 257}, "bins is 257"), ({"size": 4}, "size is 4")):
        with pytest.raises(ValueError, match=words):
            ColourExtractor(**options)
    with pytest.raises(TypeError, match="int32"):
        measure(torch.zeros(1, 3, 4, 4, dtype=torch.int32))
