"""The equalised arm: an off-grid crop, re-sampled, then one JPEG, that leaves nothing of an earlier JPEG's grid."""

import io

import numpy as np
import pytest
from PIL import Image

from datamodules.perturbations import perturbation
from datamodules.perturbations.operations import crop_side, equalise
from datamodules.reader import ImageError
from datamodules.sources.photographs import load, photographs

SIZE = 112
SIDE = 160  # of the crops below


@pytest.fixture(scope="module")
def crops():
    """160-pixel parts of the built-in photographs, which are reduced first, so that no trace of how they were stored is left."""
    found = []
    for photo in photographs("detector"):
        picture = load(photo)[0]
        height, width = (side // 2 for side in picture.shape[:2])
        small = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))
        for y in range(0, height - SIDE + 1, SIDE):
            found += [np.ascontiguousarray(small[y : y + SIDE, x : x + SIDE]) for x in range(0, width - SIDE + 1, SIDE)]
    return found


def coordinates(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


def stored(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("size", [16, 17, 100, 160, 200, 214, 224, 256, 335, 512, 4096])
def test_the_crop_is_the_smallest_side_that_no_grid_fits(size):
    allowed = [side for side in range(size, 2 * size) if side / size >= 1.19 and (side / size) % 1 and side % 8]
    assert crop_side(size) == allowed[0]


def test_offsets_are_never_multiples_of_eight_and_all_others_as_likely(monkeypatch):
    """Crops of an image that tells where its pixels lay, before re-sampling."""
    seen = []
    monkeypatch.setattr("datamodules.perturbations.operations._resampled", lambda image, height, width: seen.append(image) or image)
    monkeypatch.setattr("datamodules.perturbations.operations.jpeg", lambda image, *others, **options: image)  # as slow as it is unseen
    side = crop_side(64)
    for seed in range(3000):
        equalise(coordinates(side + 20, side + 17), seed, 64)
    tops, lefts = (np.array([int(image[0, 0, axis]) for image in seen]) for axis in (0, 1))
    assert all(image.shape == (side, side, 3) for image in seen)
    assert set(tops) == set(range(1, 21)) - {8, 16}
    assert set(lefts) == set(range(1, 18)) - {8, 16}
    for drawn, count in ((tops, 18), (lefts, 15)):
        expected = 3000 / count
        assert abs(np.unique(drawn, return_counts=True)[1] - expected).max() < 5 * np.sqrt(expected)
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.08


@pytest.mark.parametrize(("size", "shape"), [(160, (224, 224)), (160, (300, 192)), (16, (21, 21)), (33, (60, 50)), (200, (239, 240))])
def test_what_comes_out_is_a_square_of_the_size_in_the_name(size, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image.setflags(write=False)
    found = perturbation(f"equalise_{size}")(image, 5)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, perturbation(f"equalise_{size}")(image, 5))
    if min(shape) - crop_side(size) > 10:
        assert len({perturbation(f"equalise_{size}")(image, seed).tobytes() for seed in range(20)}) > 10


def test_it_ends_as_a_jpeg_of_quality_90_with_subsampling(monkeypatch, crops):
    last = []
    monkeypatch.setattr(
        "datamodules.perturbations.operations.through_format", lambda image, *form, **how: last.append((form, how)) or image
    )
    before = equalise(crops[0], 1, SIZE)
    assert last == [(("JPEG",), {"quality": 90, "subsampling": 2})]
    monkeypatch.undo()
    np.testing.assert_array_equal(equalise(crops[0], 1, SIZE), stored(before, 90))


def test_the_place_depends_on_the_seed_and_not_on_content_or_class():
    real, fake = coordinates(100, 100), coordinates(100, 100)
    fake[..., 2] = 200
    for seed in range(5):
        first, second = (perturbation("equalise_64")(image, seed).astype(int) for image in (real, fake))
        assert abs(first[..., :2].mean((0, 1)) - second[..., :2].mean((0, 1))).max() < 2  # clipped colours cost a little


@pytest.mark.parametrize(
    ("shape", "size", "advice"),
    [
        ((256, 300), 224, "300x256 pixels, equalise_224 needs 268 on each side; use equalise_214, or leave such images out"),
        ((238, 238), 200, "needs 239 on each side; use equalise_199, or"),
        ((20, 400), 16, "400x20 pixels, equalise_16 needs 21 on each side; leave such images out"),
        ((1, 1), 4096, "; leave such images out"),
    ],
)
def test_too_small_an_image_is_refused_with_the_size_that_fits(shape, size, advice):
    with pytest.raises(ImageError) as refused:
        perturbation(f"equalise_{size}")(np.zeros((*shape, 3), np.uint8), 0)
    assert advice in refused.value.reason
    if "use" in advice:
        fits = int(refused.value.reason.partition("equalise_")[2].partition("use equalise_")[2].split(",")[0])
        assert perturbation(f"equalise_{fits}")(np.zeros((*shape, 3), np.uint8), 0).shape == (fits, fits, 3)
        with pytest.raises(ImageError):
            perturbation(f"equalise_{fits + 1}")(np.zeros((*shape, 3), np.uint8), 0)


def jumps(images, axis):
    """Mean step between each two neighbouring columns (or rows), over what the slope on either side explains; `[N]`, mean 1."""
    total = 0.0
    for image in images:
        grey = image.astype(float).mean(2)
        grey = grey.T if axis else grey
        steps = abs(grey[:, 1:-2] - grey[:, 2:-1] - (grey[:, :-3] - grey[:, 3:]) / 3)
        total = total + np.minimum(steps, 8).mean(0)  # robust against true edges
    return total / total.mean()


def unlike(first, second):
    """How far two sets of images are apart in the steps at each of the eight phases of a grid of 8 pixels, on the worse axis."""
    profiles = [[[jumps(images, axis)[phase::8].mean() for phase in range(8)] for axis in (0, 1)] for images in (first, second)]
    return abs(np.subtract(*profiles)).max()


@pytest.mark.parametrize("quality", [40, 75])
def test_an_earlier_jpeg_leaves_no_grid_of_eight_pixels_behind(crops, quality):
    """Against what storing once more leaves, alone and after an off-grid crop without re-sampling."""
    jpegs = [stored(pixels, quality) for pixels in crops]

    def left(change):
        return unlike([change(pixels) for pixels in jpegs], [change(pixels) for pixels in crops])

    again = left(lambda pixels: stored(pixels[:SIZE, :SIZE], 90))
    cut = left(lambda pixels: stored(np.ascontiguousarray(pixels[3 : 3 + SIZE, 5 : 5 + SIZE]), 90))
    equalised = [left(lambda pixels, seed=seed: perturbation(f"equalise_{SIZE}")(pixels, seed)) for seed in range(4)]
    assert again > {40: 0.2, 75: 0.06}[quality]  # double compression on one class
    assert cut > {40: 0.08, 75: 0.03}[quality]
    assert max(equalised) < min(again, cut) / 2
    assert np.mean(equalised) < 0.03
