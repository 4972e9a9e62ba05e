import subprocess
import sys

import numpy as np
import pytest

from datamodules.sources.photographs import (
    PHOTOGRAPHS,
    ROLES,
    Photograph,
    describe,
    file_path,
    load,
    photographs,
    random_crop,
    random_crop_and_side,
)


def plain(red: int, green: int, blue: int) -> np.ndarray:
    return np.broadcast_to(np.array([red, green, blue], dtype=np.uint8), (64, 64, 3))


def photograph(name: str) -> Photograph:
    return next(photo for photo in PHOTOGRAPHS if photo.name == name)


def test_roles_share_no_photograph_no_file_and_no_subject():
    for field in ("name", "subject"):
        values = [getattr(photo, field) for photo in PHOTOGRAPHS]
        assert len(values) == len(set(values))
    files = [file for photo in PHOTOGRAPHS for file in photo.files]
    assert len(files) == len(set(files))
    assert sum(len(photographs(role)) for role in ROLES) == len(PHOTOGRAPHS)
    assert all(len(photographs(role)) >= 6 for role in ROLES)


def test_the_stereo_pair_is_one_photograph():
    assert len(load(photograph("motorcycle"))) == 2


def test_an_unknown_role_is_named():
    with pytest.raises(ValueError, match="training"):
        photographs("training")  # type: ignore[arg-type]


@pytest.mark.parametrize("photo", PHOTOGRAPHS, ids=lambda photo: photo.name)
def test_every_photograph_loads_and_gives_crops(photo):
    for image in load(photo):
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        crop = random_crop(np.random.default_rng(0), image)
        assert crop.shape == (64, 64, 3)
        assert crop.std() > 2


def test_a_missing_file_or_package_is_named():
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        file_path("skimage/nothing.png")
    with pytest.raises(FileNotFoundError, match=r"elsewhere/cat\.png"):
        file_path("elsewhere/cat.png")


def test_loading_opens_no_connection_and_imports_neither_package():
    code = """
import socket, sys
def refuse(*args, **kwargs): raise OSError("no network here")
socket.socket = refuse
from datamodules.sources.photographs import PHOTOGRAPHS, load
for photo in PHOTOGRAPHS: load(photo)
print(sorted({"skimage", "sklearn", "pooch", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_crops_depend_on_the_seed_alone():
    image = load(photograph("coffee"))[0]
    first, again, other = (random_crop(np.random.default_rng(seed), image) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sides_cover_the_range_and_stay_inside_the_image():
    rng = np.random.default_rng(0)
    sides = [random_crop_and_side(rng, load(photograph("clock_motion"))[0])[1] for _ in range(200)]
    assert min(sides) < 75
    assert 175 < max(sides) <= 192
    sides = [random_crop_and_side(rng, load(photograph("microaneurysms"))[0])[1] for _ in range(50)]
    assert min(sides) >= 64
    assert max(sides) <= 102


def test_flat_places_are_avoided_where_others_exist():
    image = np.full((64, 640, 3), 128, dtype=np.uint8)
    image[:, 400:] = np.random.default_rng(0).integers(0, 256, size=(64, 240, 3))
    crops = [random_crop(np.random.default_rng(seed), image) for seed in range(20)]
    assert all(crop.std() > 5 for crop in crops)


def test_an_entirely_flat_image_still_gives_a_crop():
    assert random_crop(np.random.default_rng(0), np.full((80, 80, 3), 9, dtype=np.uint8)).std() == 0


def test_an_image_smaller_than_a_crop_is_refused():
    with pytest.raises(ValueError, match="100x40"):
        random_crop(np.random.default_rng(0), np.zeros((40, 100, 3), dtype=np.uint8))


def test_captions_are_deterministic_and_survive_mirroring():
    crop, side = random_crop_and_side(np.random.default_rng(3), load(photograph("chelsea"))[0])
    caption = describe(crop, "a cat", side)
    assert caption == describe(crop.copy(), "a cat", side)
    assert caption == describe(crop[:, ::-1], "a cat", side)
    assert "photo of a cat," in caption


@pytest.mark.parametrize(
    ("colour", "word"),
    [
        ((200, 20, 20), "red"),
        ((200, 100, 20), "orange"),
        ((200, 200, 20), "yellow"),
        ((20, 200, 20), "green"),
        ((20, 200, 200), "cyan"),
        ((20, 20, 200), "blue"),
        ((150, 20, 200), "purple"),
        ((200, 20, 60), "red"),
        ((90, 90, 90), "grey"),
        ((0, 0, 0), "grey"),
    ],
)
def test_the_colour_word_is_measured(colour, word):
    assert f", {word}, " in describe(plain(*colour), "paint", 64)


def test_brightness_contrast_detail_and_distance_are_measured():
    noise = np.random.default_rng(0).integers(0, 256, size=(64, 64, 3)).astype(np.uint8)
    assert describe(plain(5, 5, 5), "x", 64) == "a close photo of x, very dark, grey, flat, blurred"
    assert describe(plain(250, 250, 250), "x", 120) == "a medium photo of x, very bright, grey, flat, blurred"
    assert describe(noise, "x", 192).startswith("a wide photo of x, bright, grey, ")
    assert describe(noise, "x", 192).endswith("contrast, very detailed")


def test_captions_differ_within_every_photograph_of_many_tones():
    rng = np.random.default_rng(0)
    for name in ("astronaut", "flower", "coffee"):
        image = load(photograph(name))[0]
        assert len({describe(*crop_and_subject(rng, image)) for _ in range(20)}) > 5


def crop_and_subject(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, str, int]:
    crop, side = random_crop_and_side(rng, image)
    return crop, "x", side
