"""What the report is given to show: what every detector's features hold of an image, or the image itself."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from datamodules.batches import seen_image
from datamodules.records import Record
from workflow.pipeline import originals, pictures


class Module:
    """Features of some records under a perturbation."""

    def __init__(self, records, perturbation="none", **features):
        self.found, self.perturbation, self.features = records, perturbation, features
        self.busy, self.read, self.at_once = threading.Lock(), 0, 0

    def records(self):
        return self.found

    def load_features(self, record):
        assert record in self.found
        if not self.busy.acquire(blocking=False):
            self.at_once += 1
            return {}
        try:
            self.read += 1
            return {name: array() if callable(array) else array for name, array in self.features.items()}
        finally:
            self.busy.release()


@pytest.fixture
def records(tmp_path):
    found = []
    for n in range(3):
        path = tmp_path / f"{n}.png"
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (20, 30, 3), np.uint8)).save(path)
        found.append(Record(key=f"{n:032x}", label=n % 2, dataset="a", generator="x", path=str(path)))
    return found


def level(value, height=4, width=6):
    return np.full((3, height, width), value, np.uint8)


def test_views_of_several_extractors_are_shown_together_in_the_order_asked(records):
    first = Module(records, image=level(200), reconstruction=level(190), latent=np.zeros((4, 2, 2), np.float32))
    second = Module(records[:1], image=level(1), noise_map=level(7, 3, 5), vector=np.zeros(9, np.uint8))
    load = pictures([first, second, first], ["noise_map", "image", "latent", "vector", "reconstruction"])
    shown = load(records[0].key, "none")
    assert list(shown) == ["noise_map", "image", "reconstruction", "residual"]
    assert {name: (pixels.shape, int(pixels[0, 0, 0])) for name, pixels in shown.items()} == {
        "noise_map": ((3, 5, 3), 7),
        "image": ((4, 6, 3), 200),
        "reconstruction": ((4, 6, 3), 190),
        "residual": ((4, 6, 3), 10),
    }
    assert all(pixels.dtype == np.uint8 for pixels in shown.values())
    assert list(load(records[1].key, "none")) == ["image", "reconstruction", "residual"]


def test_the_residual_is_a_difference_without_sign(records):
    load = pictures([Module(records, image=level(5), reconstruction=level(250))], ["image", "reconstruction"])
    assert int(load(records[0].key, "none")["residual"].max()) == 245
    of_others = pictures([Module(records, image=level(5), reconstruction=level(250, 8, 8))], ["image", "reconstruction"])
    assert "residual" not in of_others(records[0].key, "none")


def test_the_perturbation_chooses_the_features(records):
    load = pictures([Module(records, image=level(1)), Module(records, "jpeg_40", image=level(2))], ["image"])
    assert [int(load(records[0].key, under)["image"][0, 0, 0]) for under in ("none", "jpeg_40")] == [1, 2]
    with pytest.raises(KeyError):
        load(records[0].key, "blur_1.0")
    with pytest.raises(KeyError):
        load("unknown", "none")


def test_of_numbers_the_image_is_shown_as_the_detector_saw_it(records):
    numbers = Module(records, "jpeg_40", colour=np.zeros(5, np.float32))
    for names in ([], ["colour"]):
        shown = pictures([numbers], names)(records[0].key, "jpeg_40")
        assert list(shown) == ["image"]
        np.testing.assert_array_equal(shown["image"], seen_image(records[0], "jpeg_40"))
    assert numbers.read == 1  # nothing is read where no picture is wanted
    plain = pictures([Module(records)], [])(records[1].key, "none")["image"]
    np.testing.assert_array_equal(plain, np.asarray(Image.open(records[1].path)))


def test_several_threads_read_one_after_the_other(records):
    def slow():
        threading.Event().wait(0.002)
        return level(3)

    module = Module(records, image=slow)
    load = pictures([module], ["image"])
    with ThreadPoolExecutor(8) as pool:
        shown = list(pool.map(lambda n: load(records[n % 3].key, "none"), range(40)))
    assert (module.read, module.at_once) == (40, 0)
    assert all(int(each["image"][0, 0, 0]) == 3 for each in shown)


def test_originals_are_the_images_in_their_own_pixels(records):
    load = originals(iter(records))
    with ThreadPoolExecutor(4) as pool:
        for record, pixels in zip(records, pool.map(load, [record.key for record in records]), strict=True):
            assert pixels.dtype == np.uint8
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(record.path)))
    with pytest.raises(KeyError):
        load("unknown")
