"""Measures of an image's complexity, against PIL and numpy."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from modules.extractors.complexity import Complexity
from modules.settings import from_settings


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(5, 3, 6, 9, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(coarse, size=(48, 72), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def measure(images, **options):
    return Complexity(**options)(images, [""] * len(images), [0] * len(images))


def power_law(exponent, side=128):
    """A picture whose amplitudes at each frequency are exactly those of a power law, its phases random."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = 1
    phases = np.angle(np.fft.fft2(np.random.default_rng(3).normal(size=(side, side))))
    picture = np.fft.ifft2(frequency ** (exponent / 2) * np.exp(1j * phases)).real
    picture = (picture - picture.mean()) / picture.std() / 8 + 0.5
    return torch.from_numpy(picture).clamp(0, 1).float().expand(1, 3, -1, -1)


def test_compressed_sizes_are_those_of_pil(images):
    found = measure(images)
    for i, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for name, options in (("jpeg", {"quality": 90, "subsampling": "4:4:4"}), ("png", {})):
            file = io.BytesIO()
            picture.save(file, name, **options)
            assert found[f"{name}_bits_per_pixel"][i] == pytest.approx(8 * len(file.getvalue()) / (48 * 72), rel=1e-6)


def test_gradient_energy_is_that_of_numpy(images):
    unit = images.double().numpy() / 255
    expected = (np.diff(unit, axis=2) ** 2).mean((1, 2, 3)) + (np.diff(unit, axis=3) ** 2).mean((1, 2, 3))
    assert measure(images)["gradient_energy"].numpy() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("exponent", [-3.0, -2.0, -1.0])
def test_the_slope_of_a_power_law_is_its_exponent(exponent):
    assert float(measure(power_law(exponent))["spectral_slope"]) == pytest.approx(exponent, abs=0.25)


def test_white_noise_is_flat_and_fine():
    noise = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    found = measure(noise)
    assert abs(float(found["spectral_slope"])) < 0.1
    assert float(found["png_bits_per_pixel"]) > 20  # of 24
    assert float(found["gradient_energy"]) == pytest.approx(2 * 2 / 12, rel=0.02)  # twice the variance, across and down


def test_constant_and_tiny_images_have_finite_measures():
    for shape in ((1, 3, 32, 32), (1, 3, 1, 1), (1, 3, 2, 40)):
        grey = torch.full(shape, 77, dtype=torch.uint8)
        found, failed = Complexity().extract(grey, [""], [0])
        assert failed == {}
        assert abs(float(found["spectral_slope"])) < 1e-12
        assert float(found["gradient_energy"]) == 0


def test_an_image_alone_or_in_any_batch(images):
    together = measure(images)
    backwards = measure(images.flip(0))
    for name, values in together.items():
        assert values.dtype == torch.float32
        assert torch.equal(values, torch.cat([measure(image[None])[name] for image in images]))
        assert torch.equal(values, backwards[name].flip(0))


def test_floats_equal_bytes(images):
    exact, floats = measure(images), measure(images.float() / 255)
    assert all(torch.equal(exact[name], floats[name]) for name in exact)


def test_preparation_is_the_centre_square_or_nothing(images):
    assert Complexity().prepare(images[0]).shape == images[0].shape
    assert Complexity(size=16).prepare(images[0]).shape == (3, 16, 16)


def test_settings_rebuild_it():
    built = Complexity(size=64)
    assert built.weights == {}
    assert from_settings(built.settings()).size == 64
    with pytest.raises(ValueError, match="size is 4"):
        Complexity(size=4)
