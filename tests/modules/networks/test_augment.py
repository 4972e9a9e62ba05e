"""Augmentation is alike for all channels of a sample, and different between samples."""

import pytest
import torch

from modules.networks.augment import center_crop, random_crop, random_flip, resize


@pytest.fixture
def ramps():
    """Every channel of a sample is the same picture, whose pixels are all different."""
    picture = torch.arange(20 * 20, dtype=torch.float32).reshape(1, 1, 20, 20)
    return picture.expand(16, 9, 20, 20).clone()


def test_flip(ramps):
    torch.manual_seed(0)
    flipped = random_flip(ramps)
    kinds = [torch.equal(sample, ramps[0]) + 2 * torch.equal(sample, ramps[0].flip(-1)) for sample in flipped]
    assert set(kinds) == {1, 2}


def test_random_crop_is_a_crop_alike_for_all_channels(ramps):
    torch.manual_seed(0)
    cropped = random_crop(ramps, 12)
    assert cropped.shape == (16, 9, 12, 12)
    corners = set()
    for sample in cropped:
        top, left = divmod(int(sample[0, 0, 0]), 20)
        corners.add((top, left))
        assert torch.equal(sample, ramps[0, :, top : top + 12, left : left + 12])
    assert len(corners) > 8


def test_random_crop_reaches_every_place():
    torch.manual_seed(0)
    images = torch.arange(3.0).expand(200, 1, 3, 3)
    assert {float(sample[0, 0, 0]) for sample in random_crop(images, 2)} == {0.0, 1.0}


def test_center_crop(ramps):
    assert torch.equal(center_crop(ramps, 10), ramps[..., 5:15, 5:15])


def test_too_large_a_crop_is_refused(ramps):
    for crop in (center_crop, random_crop):
        with pytest.raises(ValueError, match=r"cannot crop 21 pixels from features of 20 x 20"):
            crop(ramps, 21)


def test_resize_keeps_a_constant(ramps):
    assert torch.allclose(resize(torch.full((1, 2, 9, 9), 0.3), 5), torch.full((1, 2, 5, 5), 0.3))
    assert resize(ramps, 20) is ramps
