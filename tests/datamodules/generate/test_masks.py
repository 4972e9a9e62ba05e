"""Masks: exact areas, the same for one seed, nested; a user's own by name and size."""

import itertools

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.generate.masks import FRACTIONS, KINDS, MaskFolder, random_mask, whole_cells
from datamodules.reader import ImageError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 64, 65])
def test_the_area_is_exact_at_every_fraction(kind, size):
    for seed in range(5):
        for fraction in (1e-6, 0.001, *FRACTIONS, 0.999):
            mask = random_mask(kind, fraction, size, seed)
            assert mask.shape == (size, size)
            assert mask.dtype == bool
            assert mask.sum() == max(1, round(fraction * size * size))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_place_and_form(kind):
    assert np.array_equal(random_mask(kind, 0.3, 64, 7), random_mask(kind, 0.3, 64, 7))
    assert len({random_mask(kind, 0.3, 64, seed).tobytes() for seed in range(20)}) > 15


def test_masks_of_one_seed_are_nested():
    for seed in range(10):
        masks = [random_mask("freeform", fraction, 64, seed) for fraction in FRACTIONS]
        assert all((large | ~small).all() for small, large in itertools.pairwise(masks))
        boxes = [random_mask("box", fraction, 64, seed) for fraction in FRACTIONS]
        for small, large in itertools.pairwise(boxes):
            assert (small & ~large).sum() <= 2 * 64  # a line at most where a corner was rounded


def test_a_box_is_a_box():
    mask = random_mask("box", 0.25, 64, 3)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert inside[:, :-1].all()  # the last column may be cut
    assert 0.45 < len(rows) / len(columns) < 2.2


@pytest.mark.parametrize(("kind", "fraction"), [("star", 0.5), ("box", 0.0), ("box", 1.1), ("box", float("nan"))])
def test_other_masks_are_refused(kind, fraction):
    with pytest.raises(ValueError, match="no mask of kind"):
        random_mask(kind, fraction, 16, 0)


@pytest.mark.parametrize(("size", "cell"), [(16, 4), (18, 4), (16, 1), (16, 16)])
def test_whole_cells_hold_the_mask_and_nothing_else_is_split(size, cell):
    mask = random_mask("freeform", 0.1, size, 1)
    grown = whole_cells(mask, cell)
    expected = np.zeros_like(mask)
    for top in range(0, size, cell):
        for left in range(0, size, cell):
            expected[top : top + cell, left : left + cell] = mask[top : top + cell, left : left + cell].any()
    assert np.array_equal(grown, expected)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_a_users_masks_go_by_name(tmp_path):
    pixels = np.zeros((20, 30), np.uint8)
    pixels[:5] = 255
    save(tmp_path / "a" / "b.c.png", pixels)
    masks = MaskFolder(tmp_path)
    assert np.array_equal(masks.read("a/b.c.jpg", 20, 30), pixels > 127)
    (tmp_path / "bad.png").write_bytes(b"no image")
    masks = MaskFolder(tmp_path)
    for name, height, told in (("b.c.jpg", 20, "has no mask"), ("a/b.c.jpg", 21, "another size"), ("bad.jpg", 20, "cannot be used")):
        with pytest.raises(ImageError, match=told):
            masks.read(name, height, 30)
    with pytest.raises(ImageError, match="has no mask"):
        masks.read("../../etc/passwd", 20, 30)


def test_folders_of_masks_that_cannot_be_meant_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        MaskFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no images"):
        MaskFolder(tmp_path)
    for suffix in ("png", "bmp"):
        save(tmp_path / f"a.{suffix}", np.zeros((20, 20), np.uint8))
    with pytest.raises(DataError, match="two masks called 'a'"):
        MaskFolder(tmp_path)
