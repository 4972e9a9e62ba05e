"""Embeddings as features."""

import numpy as np
import pytest
import torch
from PIL import Image

from modules.errors import ModelError
from modules.extractors.embedding import EmbeddingExtractor
from modules.settings import from_settings
from tests.modules.networks.encoders import add_tiny


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    built = EmbeddingExtractor(add_tiny(tmp_path_factory.mktemp("clip"), "tiny-embedding"), pretrained=False, normalise=False)
    built.load()
    return built


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def embed(extractor, images):
    return extractor(images, [""] * len(images), [0] * len(images))["embedding"]


def test_the_embedding_is_the_encoders(extractor, images):
    found = embed(extractor, images)
    assert found.dtype == torch.float32
    assert torch.equal(found, extractor.network(images.float() / 255))
    assert torch.equal(found, embed(extractor, images.float() / 255))


def test_normalised_embeddings_have_length_one(extractor, images):
    other = EmbeddingExtractor(extractor.encoder, pretrained=False)
    other.load()
    found, raw = embed(other, images), embed(extractor, images)
    assert torch.allclose(found, raw / raw.norm(dim=1, keepdim=True), atol=1e-6)
    assert not torch.allclose(found, raw, atol=1e-2)


def test_an_image_alone_or_in_any_batch(extractor, images):
    together = embed(extractor, images)
    alone = torch.cat([embed(extractor, image[None]) for image in images])
    assert torch.allclose(alone, together, rtol=1e-5, atol=1e-6)
    assert torch.allclose(embed(extractor, images.flip(0)).flip(0), together, rtol=1e-5, atol=1e-6)


def test_preparation_is_that_of_pil():
    side, generator = 32, np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(generator.integers(0, 256, (9, 14, 3), dtype=np.uint8)).resize((140, 90)))
    prepared = EmbeddingExtractor("open_clip/ViT-L-14/openai", size=side).prepare(torch.tensor(pixels).permute(2, 0, 1))
    small = Image.fromarray(pixels).resize((side * 140 // 90, side), Image.Resampling.BICUBIC)
    left = round((small.width - side) / 2)
    expected = np.asarray(small.crop((left, 0, left + side, side))).astype(int)
    assert np.abs(prepared.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_images_are_prepared_before_anything_is_loaded(extractor):
    other = EmbeddingExtractor(extractor.encoder, pretrained=False)
    assert other.prepare(torch.zeros(3, 50, 40, dtype=torch.uint8)).shape == (3, 32, 32)
    assert other.prepare(torch.zeros(3, 20, 32, dtype=torch.uint8)).shape == (3, 32, 32)
    assert other.network is None
    with pytest.raises(RuntimeError, match="load"):
        embed(other, torch.zeros(1, 3, 32, 32))
    extractor_of_another_size = EmbeddingExtractor(extractor.encoder, pretrained=False, size=64)
    extractor_of_another_size.load()
    assert embed(extractor_of_another_size, torch.zeros(1, 3, 64, 64)).shape == (1, 12)
    extractor_of_another_size.unload()
    assert extractor_of_another_size.network is None


def test_what_the_features_depend_on(extractor, tmp_path):
    assert extractor.weights == {}
    assert EmbeddingExtractor("timm/test_vit.r160_in1k").weights == {"timm/test_vit.r160_in1k": None}
    (tmp_path / "x.pt").touch()
    assert EmbeddingExtractor(f"open_clip/ViT-B-32/{tmp_path / 'x.pt'}").weights == {str(tmp_path / "x.pt"): None}


def test_projection_is_idle_where_the_encoder_has_none(extractor):
    images = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    found = []
    for projection in (True, False):
        other = EmbeddingExtractor("timm/test_vit", pretrained=False, projection=projection)
        assert other.idle == {"projection"}
        other.load()
        found.append(embed(other, images))
    assert torch.equal(*found)
    assert extractor.idle == set()
    assert EmbeddingExtractor("open_clip/ViT-L-14/openai").identity()["init_args"]["projection"] is True


def test_an_encoder_must_be_named():
    with pytest.raises(TypeError, match="encoder"):
        EmbeddingExtractor()


def test_settings_rebuild_it():
    built = EmbeddingExtractor("timm/test_vit", projection=False, normalise=False, size=96)
    assert from_settings(built.settings()).settings() == built.settings()


def test_wrong_arguments_are_refused():
    with pytest.raises(ModelError, match="ViT-L-14"):
        EmbeddingExtractor("ViT-L-14")
    with pytest.raises(ValueError, match="size is 2"):
        EmbeddingExtractor("timm/test_vit", size=2)
