"""The image itself: whole, or its centre square."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from modules.extractors import InversionExtractor
from modules.extractors.image import ImageExtractor
from modules.settings import from_settings


@pytest.fixture(scope="module")
def photograph():
    return torch.from_numpy(data.astronaut()[:300].copy()).permute(2, 0, 1)


def test_a_whole_image_is_kept_as_it_is(photograph):
    extractor = ImageExtractor()
    extractor.load()
    prepared = extractor.prepare(photograph)
    assert prepared.is_contiguous()
    assert torch.equal(prepared, photograph)
    features, failed = extractor.extract(prepared[None], [""], [0])
    assert features.keys() == {"image"}
    assert features["image"].dtype == torch.uint8
    assert torch.equal(features["image"][0], photograph)
    assert not failed


def test_bytes_come_back_untouched(photograph):
    images = photograph[None]
    assert ImageExtractor()(images, [""], [0])["image"] is images
    with pytest.raises(TypeError, match=r"images have dtype torch\.int64"):
        ImageExtractor()(images.long(), [""], [0])


def test_floats_equal_bytes(photograph):
    images = photograph[None]
    assert torch.equal(ImageExtractor()(images / 255, [""], [0])["image"], images)


@pytest.mark.parametrize("size", [64, 300, 333])
def test_the_centre_square_is_pillows(photograph, size):
    prepared = ImageExtractor(size).prepare(photograph)
    square = Image.fromarray(photograph.permute(1, 2, 0).numpy()).crop((106, 0, 406, 300))
    expected = torch.from_numpy(np.array(square.resize((size, size), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert prepared.shape == (3, size, size)
    assert (prepared.int() - expected.int()).abs().max() <= (0 if size == 300 else 2)


def test_the_square_is_the_inversions(photograph):
    for image in (photograph, photograph.transpose(1, 2)[:, :301]):
        assert torch.equal(ImageExtractor(48).prepare(image), InversionExtractor(size=48).prepare(image))


def test_settings_rebuild_it():
    for extractor in (ImageExtractor(), ImageExtractor(size=96)):
        assert from_settings(extractor.settings()).settings() == extractor.settings()
    assert ImageExtractor().weights == {}
    assert not ImageExtractor().uses_record_captions


def test_a_wrong_size_is_refused():
    with pytest.raises(ValueError, match=r"data\.extractor\.size is 0"):
        ImageExtractor(size=0)
