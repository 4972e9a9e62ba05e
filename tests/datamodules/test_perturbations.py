"""Each perturbation against something independent, and what all of them have in common."""

import hashlib
import io
import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision.transforms import v2

from datamodules.perturbations import REUPLOADS, link_seed, perturbation
from datamodules.reader import ImageError

NAMES = [
    *("none", "jpeg_40", "jpeg_40_444", "webp_80", "resize_0.5", "resize_1.7", "limit_32", "crop_16", "crop_half", "blur_1.0"),
    *("noise_0.05", "grayscale", "horizontal_flip", "rotate_30", "color_jitter", "shuffle_4", "resize_0.5+jpeg_75", *REUPLOADS),
]
RANDOM = ["crop_16", "crop_half", "noise_0.05", "horizontal_flip", "rotate_30", "color_jitter", "shuffle_4", "crop_half+noise_0.05"]
SEED = 0x123456789ABCDEF


def picture(height=64, width=48, seed=0):
    """Smooth colours with a little noise: codecs and blurs behave as on a photograph."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(rows / (7 + i) + i) * np.cos(columns / (9 - i)) for i in range(3)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def coordinates(height, width):
    """An image that tells where each of its pixels lay."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


def wide(image):
    return image.astype(np.float64)


@pytest.mark.parametrize(
    ("name", "form", "options"),
    [
        ("jpeg_40", "JPEG", {"quality": 40, "subsampling": "4:2:0"}),
        ("jpeg_40_444", "JPEG", {"quality": 40, "subsampling": "4:4:4"}),
        ("jpeg_100", "JPEG", {"quality": 100, "subsampling": "4:2:0"}),
        ("webp_80", "WEBP", {"quality": 80, "lossless": False}),
    ],
)
def test_codecs_are_pillows_own(name, form, options):
    image = picture()
    found = perturbation(name)(image, SEED)
    np.testing.assert_array_equal(found, encoded(image, form, **options))
    assert not np.array_equal(found, image)


def test_lower_quality_loses_more():
    image = picture()
    errors = [np.abs(wide(perturbation(name)(image, SEED)) - image).mean() for name in ("jpeg_90", "jpeg_40", "jpeg_10")]
    assert errors == sorted(errors)
    assert errors[0] < errors[2] / 2


@pytest.mark.parametrize(("factor", "size"), [("0.5", (32, 24)), ("2.0", (128, 96)), ("0.05", (3, 2)), ("0.3", (19, 14))])
def test_resize_is_pillows_lanczos(factor, size):
    image = picture()
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(perturbation(f"resize_{factor}")(image, SEED), expected)


def test_resize_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = wide(perturbation("resize_0.25")(stripes, SEED))[4:-4, 4:-4]
    assert np.abs(inner - 127.5).max() < 4  # every second column would be all black or all white


@pytest.mark.parametrize(("shape", "limited"), [((1000, 400), (32, 13)), ((40, 500), (3, 32)), ((20, 32), (20, 32)), ((3, 1), (3, 1))])
def test_limit_makes_smaller_only(shape, limited):
    image = picture(*shape)
    found = perturbation("limit_32")(image, SEED)
    assert found.shape == (*limited, 3)
    if limited == shape:
        np.testing.assert_array_equal(found, image)


def test_an_enlarged_image_stays_below_the_readers_limit():
    with pytest.raises(ImageError, match="would have 40000x4000 pixels"):
        perturbation("resize_4.0")(np.zeros((1000, 10000, 3), np.uint8), SEED)


@pytest.mark.parametrize(("name", "size"), [("crop_32", (32, 32)), ("crop_half", (50, 40))])
def test_a_crop_is_a_part_and_lies_anywhere(name, size):
    image = coordinates(100, 80)
    corners = set()
    for seed in range(300):
        found = perturbation(name)(image, seed)
        top, left, _ = (int(value) for value in found[0, 0])
        np.testing.assert_array_equal(found, image[top : top + size[0], left : left + size[1]])
        corners.add((top, left))
    tops, lefts = zip(*corners, strict=True)
    last = (100 - size[0], 80 - size[1])
    assert min(tops) < 3
    assert min(lefts) < 3
    assert max(tops) > last[0] - 3
    assert max(lefts) > last[1] - 3
    assert np.mean(tops) == pytest.approx(last[0] / 2, abs=0.1 * last[0])


def test_a_crop_of_the_whole_image_is_the_image():
    image = picture(32, 32)
    np.testing.assert_array_equal(perturbation("crop_32")(image, SEED), image)


@pytest.mark.parametrize("shape", [(255, 400), (400, 255), (1, 1)])
def test_an_image_that_is_smaller_than_the_crop_is_refused_with_a_reason(shape):
    with pytest.raises(ImageError, match="smaller than the crop of 256 pixels; use crop_half") as refused:
        perturbation("crop_256")(picture(*shape), SEED)
    assert f"{shape[1]}x{shape[0]}" in refused.value.reason


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 3.3])
def test_blur_is_scipys_gaussian(sigma):
    image = picture()
    expected = ndimage.gaussian_filter(wide(image), (sigma, sigma, 0), mode="reflect", truncate=4)
    assert np.abs(perturbation(f"blur_{sigma}")(image, SEED) - expected).max() < 0.51  # rounding, and nothing else


def test_blur_of_a_point_is_the_gaussian():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    found = wide(perturbation("blur_1.0")(image, SEED))[..., 0]
    rows, columns = np.mgrid[-20:21, -20:21]
    assert np.abs(found - 255 / (2 * np.pi) * np.exp(-(rows**2 + columns**2) / 2)).max() < 0.52


def test_noise_has_the_standard_deviation_of_its_name():
    image = np.full((400, 400, 3), 128, np.uint8)
    found = wide(perturbation("noise_0.05")(image, SEED)) - 128
    expected = np.sqrt((0.05 * 255) ** 2 + 1 / 12)  # rounding to whole numbers adds that of a uniform distribution
    assert found.std() == pytest.approx(expected, rel=0.005)
    assert abs(found.mean()) < 4 * expected / np.sqrt(found.size)
    assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(found[:-1].ravel(), found[1:].ravel())[0, 1]) < 0.01


def test_noise_is_clipped_and_does_not_wrap_around():
    white = perturbation("noise_0.2")(np.full((100, 100, 3), 255, np.uint8), SEED)
    assert white.min() < 250
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.02)
    assert np.median(perturbation("noise_0.2")(np.zeros((100, 100, 3), np.uint8), SEED)) <= 1


def test_grayscale_is_the_luma_of_itu_r_601():
    image = picture()
    found = perturbation("grayscale")(image, SEED)
    assert np.abs(found[..., 0] - wide(image) @ [0.299, 0.587, 0.114]).max() < 0.51
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, axis=2))


def test_flip_mirrors_about_half_of_all_images_and_twice_is_none():
    image = picture()
    flips = [not np.array_equal(perturbation("horizontal_flip")(image, seed), image) for seed in range(400)]
    assert 160 < sum(flips) < 240  # four standard deviations
    flipped = perturbation("horizontal_flip")(image, flips.index(True))
    np.testing.assert_array_equal(flipped, np.fliplr(image))
    np.testing.assert_array_equal(perturbation("horizontal_flip")(flipped, flips.index(True)), image)


def angle_of(found, radius):
    """Degrees of a bright spot at a radius, counted from the right, counterclockwise."""
    rows, columns = np.mgrid[: found.shape[0], : found.shape[1]]
    weights = wide(found)[..., 0]
    centre = [(side - 1) / 2 for side in found.shape[:2]]
    y, x = (weights * (rows - centre[0])).sum() / weights.sum(), (weights * (columns - centre[1])).sum() / weights.sum()
    assert np.hypot(x, y) == pytest.approx(radius, abs=0.3)
    return np.degrees(np.arctan2(-y, x))


def test_angles_are_uniform_within_the_limits():
    rows, columns = np.mgrid[:81, :81]
    spot = np.repeat((np.hypot(rows - 40, columns - 70) < 4)[..., None] * np.uint8(255), 3, axis=2)
    angles = np.array([angle_of(perturbation("rotate_30")(spot, seed), 30) for seed in range(300)])
    assert np.abs(angles).max() < 30.5
    assert min(-angles.min(), angles.max()) > 27
    assert angles.std() == pytest.approx(30 / np.sqrt(3), rel=0.1)


def test_a_rotation_keeps_a_disc_and_blackens_corners():
    rows, columns = np.mgrid[:101, :101]
    distance = np.hypot(rows - 50, columns - 50)
    disc = np.repeat((127 + 120 * np.cos(distance / 12))[..., None], 3, axis=2).astype(np.uint8)
    seed = next(seed for seed in range(99) if perturbation("rotate_30")(np.full((101, 101, 3), 255, np.uint8), seed)[0, 0, 0] == 0)
    found = perturbation("rotate_30")(disc, seed)
    assert found.shape == disc.shape
    assert np.abs(wide(found) - disc)[distance < 48].max() < 2.5
    assert not found[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_a_rotation_is_scipys_bilinear_one():
    image = picture(60, 60)
    found = perturbation("rotate_30")(image, SEED)
    angle = np.random.default_rng(link_seed(SEED, 0, "rotate_30")).uniform(-30, 30)
    expected = ndimage.rotate(wide(image), angle, axes=(0, 1), reshape=False, order=1)
    rows, columns = np.mgrid[:60, :60]
    inside = np.hypot(rows - 29.5, columns - 29.5) < 27
    assert np.abs(found - expected)[inside].max() < 1.1


def tiles(image, across):
    height, width = (side // across for side in image.shape[:2])
    return [
        image[row : row + height, column : column + width]
        for row in range(0, height * across, height)
        for column in range(0, width * across, width)
    ]


@pytest.mark.parametrize(("name", "shape", "cropped"), [("shuffle_2", (64, 48), (64, 48)), ("shuffle_7", (33, 17), (28, 14))])
def test_a_shuffled_image_is_made_of_the_same_tiles(name, shape, cropped):
    across = int(name[-1])
    image = coordinates(*shape)
    top, left = (shape[0] - cropped[0]) // 2, (shape[1] - cropped[1]) // 2
    middle = image[top : top + cropped[0], left : left + cropped[1]]
    found = perturbation(name)(image, SEED)
    assert found.shape == middle.shape
    assert sorted(tile.tobytes() for tile in tiles(found, across)) == sorted(tile.tobytes() for tile in tiles(middle, across))
    assert not np.array_equal(found, middle)


def test_orders_of_tiles_are_equally_likely_but_never_the_images_own():
    image = coordinates(2, 2)
    counts = {}
    for seed in range(2300):
        order = perturbation("shuffle_2")(image, seed).tobytes()
        counts[order] = counts.get(order, 0) + 1
    assert image.tobytes() not in counts
    assert len(counts) == 23
    assert 60 < min(counts.values()) <= max(counts.values()) < 145  # 100 each, four standard deviations and a half


def test_too_few_pixels_for_the_tiles_is_a_reason():
    with pytest.raises(ImageError, match="40x3 pixels, too few for 4x4 tiles") as refused:
        perturbation("shuffle_4")(picture(3, 40), SEED)
    assert "smaller shuffle_N" in refused.value.reason


@pytest.mark.parametrize("seed", range(6))
def test_color_jitter_is_torchvisions_with_the_same_draws(seed):
    image = picture()
    with torch.random.fork_rng():
        torch.manual_seed(link_seed(seed, 0, "color_jitter"))
        jitter = v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.1)
        expected = jitter(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(perturbation("color_jitter")(image, seed), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(64, 48), (33, 17), (16, 16), (16, 160), (301, 31)])
def test_what_comes_out_is_an_image_and_what_went_in_is_as_it_was(name, shape):
    image = picture(*shape)
    image.setflags(write=False)
    before = image.copy()
    found = perturbation(name)(image, SEED)
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.shape[2] == 3
    assert found.flags.c_contiguous
    assert min(found.shape[:2]) >= 1
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("crop_16", "shuffle_4")])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 3)])
def test_the_smallest_images_are_no_special_case(name, shape):
    found = perturbation(name)(picture(*shape), SEED)
    assert found.dtype == np.uint8
    assert min(found.shape) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_grey_image_and_a_part_of_a_larger_array_are_taken(name):
    grey = np.repeat(picture(40, 40)[..., :1], 3, axis=2)
    large = np.zeros((60, 60, 3), np.uint8)
    large[10:50, 10:50] = grey
    np.testing.assert_array_equal(perturbation(name)(large[10:50, 10:50], SEED), perturbation(name)(grey, SEED))


@pytest.mark.parametrize("name", NAMES)
def test_no_global_random_state_is_read_or_changed(name):
    image, results, states = picture(), [], []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the global state is what this is about)
        torch.manual_seed(seed)
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
        results.append(perturbation(name)(image, SEED))
        states.append(before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))  # noqa: NPY002
    assert states == [True, True]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", RANDOM)
def test_other_seeds_give_other_images_and_the_same_seed_the_same_one(name):
    image = picture()
    found = [perturbation(name)(image, seed) for seed in (*range(12), *range(12))]
    assert len({found[i].tobytes() for i in range(12)}) > (1 if name == "horizontal_flip" else 10)
    for first, second in zip(found[:12], found[12:], strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(RANDOM)))
def test_what_is_not_random_takes_no_notice_of_the_seed(name):
    image = picture()
    np.testing.assert_array_equal(perturbation(name)(image, 1), perturbation(name)(image, 2))


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_content():
    real, fake = coordinates(90, 90), coordinates(90, 90)
    real[..., 2], fake[..., 2] = 7, 201
    for seed in range(5):
        np.testing.assert_array_equal(perturbation("crop_32")(real, seed)[..., :2], perturbation("crop_32")(fake, seed)[..., :2])
    noises = [wide(perturbation("noise_0.02")(np.full((50, 50, 3), grey, np.uint8), SEED)) - grey for grey in (100, 150)]
    np.testing.assert_array_equal(*noises)


def test_other_processes_and_another_order_give_the_same_bytes(tmp_path):
    code = """
import hashlib, json, sys
import numpy as np
from datamodules.perturbations import perturbation
image, names, seed = np.load(sys.argv[1]), sys.argv[3:], int(sys.argv[2])
print(json.dumps({name: hashlib.sha256(perturbation(name)(image, seed).tobytes()).hexdigest() for name in names}))
"""
    np.save(tmp_path / "image.npy", picture())
    command = [sys.executable, "-c", code, tmp_path / "image.npy", str(SEED), *reversed(NAMES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {name: hashlib.sha256(perturbation(name)(picture(), SEED).tobytes()).hexdigest() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_sent_to_another_process(name):
    image = picture()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(perturbation(name)))(image, SEED), perturbation(name)(image, SEED))


def test_a_chain_is_its_links_one_after_the_other_with_seeds_of_their_own():
    image = picture()
    by_hand = encoded(perturbation("resize_0.5")(image, SEED), "JPEG", quality=75, subsampling=2)
    np.testing.assert_array_equal(perturbation("resize_0.5+jpeg_75")(image, SEED), by_hand)
    ground = np.full((200, 200, 3), 128, np.uint8)
    once, twice = (wide(perturbation(name)(ground, SEED)) - 128 for name in ("noise_0.04", "noise_0.04+noise_0.04"))
    assert twice.std() == pytest.approx(np.sqrt(2) * once.std(), rel=0.01)  # the same noise twice would double it
    assert np.corrcoef(once.ravel(), (twice - once).ravel())[0, 1] == pytest.approx(0, abs=0.02)
    np.testing.assert_array_equal(
        perturbation("crop_half+grayscale")(image, SEED), perturbation("grayscale")(perturbation("crop_half")(image, SEED), 0)
    )


def test_a_chain_of_two_flips_flips_half_of_the_images():
    image = picture(16, 16)
    flipped = [not np.array_equal(perturbation("horizontal_flip+horizontal_flip")(image, seed), image) for seed in range(400)]
    assert 160 < sum(flipped) < 240


def test_a_crop_in_a_chain_sees_what_the_link_before_left():
    image = picture(100, 100)
    with pytest.raises(ImageError, match="50x50 pixels, smaller than the crop of 64"):
        perturbation("resize_0.5+crop_64")(image, SEED)


def test_a_side_that_a_format_cannot_store_is_a_reason_and_no_crash():
    with pytest.raises(ImageError, match="20000x16 pixels, which WEBP cannot store"):
        perturbation("webp_80")(np.zeros((16, 20000, 3), np.uint8), SEED)
