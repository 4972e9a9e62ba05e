"""Blur, JPEG and crops against SciPy and Pillow on the whole image."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data
from torchvision.transforms.v2.functional import horizontal_flip

from datamodules.perturbations import perturbation
from modules.networks.compression import CompressedCrops, gaussian_blur, jpeg, mirrored


@pytest.fixture(scope="module")
def photograph():
    return torch.from_numpy(data.astronaut()[40:181, 90:257].copy()).permute(2, 0, 1)


def crops(side=32, flip=False, sigma=None, quality=None):
    """Certain in all but the place."""
    return CompressedCrops(side, flip, float(sigma is not None), (sigma or 0,) * 2, float(quality is not None), (quality or 1,) * 2)


def with_scipy(image, sigma):
    return torch.stack([torch.from_numpy(gaussian_filter(channel.numpy().astype(float), sigma)) for channel in image])


def with_pillow(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def found(crop, whole):
    """Top and left of the crop in the image that it was taken from, and how far it is from it there."""
    windows = whole.unfold(1, crop.shape[1], 1).unfold(2, crop.shape[2], 1)
    roughly = (windows[..., ::9, ::9].int() - crop[:, None, None, ::9, ::9].int()).abs().sum((0, 3, 4))
    likely = [divmod(place, roughly.shape[1]) for place in roughly.flatten().argsort()[:20].tolist()]
    places = [(top, left, (windows[:, top, left].int() - crop.int()).abs()) for top, left in likely]
    return min(places, key=lambda place: int(place[2].sum()))


def test_mirrored_positions_are_numpys_symmetric_padding():
    padded = np.pad(np.arange(5), 17, mode="symmetric")
    assert mirrored(torch.arange(-17, 22), 5).tolist() == padded.tolist()


def test_blur_is_scipys(photograph):
    sigmas = torch.tensor([0.0, 0.2, 0.7, 1.5, 3.0])
    blurred = gaussian_blur(photograph.expand(5, -1, -1, -1), sigmas)
    assert torch.equal(blurred[0], photograph)
    for sigma, image in zip(sigmas[1:].tolist(), blurred[1:], strict=True):
        assert (image - with_scipy(photograph, sigma)).abs().max() < 0.51  # rounded once


def test_blur_keeps_its_precision_under_autocast(photograph):
    images = photograph[None]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gaussian_blur(images, torch.tensor([1.0])), gaussian_blur(images.clone(), torch.tensor([1.0])))
        blurred = gaussian_blur(images, torch.tensor([1.0]))
    assert torch.equal(blurred, gaussian_blur(images, torch.tensor([1.0])))


def test_jpeg_is_pillows(photograph):
    qualities = [30, 64, 100]
    for quality, image in zip(qualities, jpeg(photograph.expand(3, -1, -1, -1), qualities), strict=True):
        assert torch.equal(image, with_pillow(photograph, quality))
        perturbed = perturbation(f"jpeg_{quality}")(photograph.permute(1, 2, 0).numpy(), 0)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), perturbed)


@pytest.mark.parametrize("size", [(141, 167), (96, 64), (33, 48)])
def test_crops_without_augmentation_are_crops(photograph, size):
    image = photograph[:, : size[0], : size[1]]
    torch.manual_seed(0)
    places = set()
    for crop in crops()(image.expand(20, -1, -1, -1)):
        top, left, difference = found(crop, image)
        places.add((top, left))
        assert difference.max() == 0
    assert len(places) >= min(15, (size[0] - 31) * (size[1] - 31) // 2)
    assert len({place[0] % 8 for place in places}) > 1


@pytest.mark.parametrize(("sigma", "quality"), [(None, 40), (2.0, None), (1.5, 75), (3.0, 30)])
def test_a_crop_is_that_of_the_whole_image_blurred_and_compressed(photograph, sigma, quality):
    whole = photograph if sigma is None else with_scipy(photograph, sigma).round().to(torch.uint8)
    whole = whole if quality is None else with_pillow(whole, quality)
    torch.manual_seed(0)
    inside = 0
    for crop in crops(sigma=sigma, quality=quality)(photograph.expand(12, -1, -1, -1)):
        top, left, difference = found(crop, whole)
        if top and left and top + 32 < 141 and left + 32 < 167:
            inside += 1
            assert (difference > 0).float().mean() < 2e-3  # halves that two libraries round differently
            assert difference.max() <= 2
        else:  # decoders treat the end of an image in a way of their own
            assert difference.max() <= 8
    assert inside > 6


def test_the_grid_of_jpegs_blocks_lies_anywhere_in_a_crop(photograph):
    compressed = with_pillow(photograph, 30)
    torch.manual_seed(0)
    phases = {tuple(place % 8 for place in found(crop, compressed)[:2]) for crop in crops(quality=30)(photograph.expand(24, -1, -1, -1))}
    assert len(phases) > 10


def test_small_images_are_continued_by_their_mirror_images(photograph):
    image = photograph[:, :20, :50]
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (12, 12), (0, 0)), mode="symmetric"))
    torch.manual_seed(0)
    places = [found(crop, padded) for crop in crops()(image.expand(24, -1, -1, -1))]
    assert all(difference.max() == 0 for _, _, difference in places)
    assert len({top for top, _, _ in places}) > 6
    tiny = crops(sigma=3.0, quality=50)([photograph[:, :1, :2], photograph[:, :3, :100]])
    assert tiny.shape == (2, 3, 32, 32)


def test_flips_are_those_of_half_of_the_crops(photograph):
    image = photograph[:, :32, :32]  # one place only
    torch.manual_seed(0)
    flipped = crops(flip=True)(image.expand(40, -1, -1, -1))
    kinds = [torch.equal(crop, image) + 2 * torch.equal(crop, horizontal_flip(image)) for crop in flipped]
    assert set(kinds) == {1, 2}
    assert 10 < kinds.count(2) < 30


def test_shares_and_ranges_are_kept(photograph):
    image = photograph[:, :32, :32]
    torch.manual_seed(0)
    some = CompressedCrops(32, False, 0.0, (0.0, 3.0), 0.25, (60, 62))(image.expand(100, -1, -1, -1))
    by_quality = [with_pillow(image, quality) for quality in (60, 61, 62)]
    kinds = [
        0 if torch.equal(crop, image) else 1 + int(torch.stack([(crop - q).abs().sum() for q in by_quality]).argmin()) for crop in some
    ]
    assert 0.6 < kinds.count(0) / 100 < 0.9
    assert set(kinds) == {0, 1, 2, 3}
    blurred = CompressedCrops(32, False, 0.5, (1.0, 2.0), 0.0, (30, 100))(image.expand(60, -1, -1, -1)).float()
    detail = (blurred[..., 1:] - blurred[..., :-1]).abs().mean((1, 2, 3))
    low, high = (gaussian_blur(image[None], torch.tensor([sigma])).float() for sigma in (2.0, 1.0))
    low, high = ((b[..., 1:] - b[..., :-1]).abs().mean() for b in (low, high))
    changed = detail[detail < detail.max()]
    assert 0.3 < len(changed) / 60 < 0.7
    assert changed.min() >= low * 0.99
    assert changed.max() <= high * 1.01


def test_the_same_seed_gives_the_same_crops(photograph):
    augment = CompressedCrops(32, True, 0.5, (0.0, 3.0), 0.5, (30, 100))
    images = photograph.expand(8, -1, -1, -1)
    torch.manual_seed(3)
    first = augment(images)
    state = torch.get_rng_state()
    second = augment(images)
    torch.manual_seed(3)
    assert torch.equal(augment(images), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    listed = augment([*images[:4], photograph[:, :90, :80], *images[5:]])  # what one image draws does not depend on the others
    assert torch.equal(listed[:4], first[:4])
    assert torch.equal(listed[5:], first[5:])
