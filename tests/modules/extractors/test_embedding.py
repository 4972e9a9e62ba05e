"""Embeddings as features."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from modules.errors import ModelError
from modules.extractors.embedding import EmbeddingExtractor
from modules.networks.encoder_names import parse_name
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
    for name in ("open_clip/ViT-B-32", "torchvision/squeezenet1_0"):
        assert EmbeddingExtractor(f"{name}/{tmp_path / 'x.pt'}").weights == {str(tmp_path / "x.pt"): None}
    assert EmbeddingExtractor("torchvision/resnet50/IMAGENET1K_V2").weights == {"torchvision/resnet50/IMAGENET1K_V2": None}


def test_projection_is_idle_where_the_encoder_has_none(extractor):
    images = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    found = []
    for projection in (True, False):
        other = EmbeddingExtractor("timm/test_vit", pretrained=False, projection=projection)
        assert other.idle == {"projection", "mean", "std"}
        other.load()
        found.append(embed(other, images))
    assert torch.equal(*found)
    assert EmbeddingExtractor("torchvision/resnet50/IMAGENET1K_V2", mean=[0.5] * 3, std=[0.5] * 3).idle == {"projection"}
    assert extractor.idle == {"mean", "std"}
    assert EmbeddingExtractor("open_clip/ViT-L-14/openai").identity()["init_args"]["projection"] is True


def test_the_default_is_the_clip_of_datacomp():
    assert parse_name(EmbeddingExtractor().encoder) == ("open_clip", "ViT-L-14", "datacomp_xl_s13b_b90k")
    assert EmbeddingExtractor().prepare(torch.zeros(3, 250, 300, dtype=torch.uint8)).shape == (3, 224, 224)


def test_settings_rebuild_it():
    built = EmbeddingExtractor("timm/test_vit", projection=False, normalise=False, size=96, mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    assert from_settings(built.settings()).settings() == built.settings()


def test_a_normalisation_of_its_own_reaches_the_encoder_and_the_fingerprint(extractor, images):
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 1 / 255]
    other = EmbeddingExtractor(extractor.encoder, pretrained=False, normalise=False, mean=mean, std=std)
    other.load()
    shifted = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(embed(other, images), extractor.network.network(shifted), atol=1e-5)
    plain, named = (EmbeddingExtractor(extractor.encoder, mean=each).identity()["init_args"] for each in (None, mean))
    assert {"mean", "std"}.isdisjoint(plain)  # the caches of before these options are found again
    assert named["mean"] == mean


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": [0.5, 0.5]}, r"mean is \[0\.5, 0\.5\]; it must be three numbers"),
        ({"std": [1.0, float("nan"), 1.0]}, "std is .*; it must be three numbers"),
        ({"mean": "abc"}, "mean is 'abc'; it must be three numbers"),
        ({"mean": [123, 117, 104]}, "divide one of 0 to 255 by 255"),
        ({"std": [0.5, 0, 0.5]}, "std is .* must be above 0"),
    ],
)
def test_what_is_no_normalisation_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        EmbeddingExtractor("timm/test_vit", **options)


def test_a_torchvision_file_with_the_normalisation_of_its_framework(images, tmp_path):
    torch.manual_seed(4)
    network = models.squeezenet1_0(weights=None).eval()
    save_file({name: tensor.half() for name, tensor in network.state_dict().items()}, tmp_path / "w.safetensors")
    network.load_state_dict({name: tensor.half().float() for name, tensor in network.state_dict().items()})
    levels = [123.0, 117.0, 104.0]
    built = EmbeddingExtractor(
        f"torchvision/squeezenet1_0/{tmp_path / 'w.safetensors'}",
        normalise=False,
        size=32,
        mean=[level / 255 for level in levels],
        std=[1 / 255] * 3,
    )
    built.load()
    with torch.no_grad():
        expected = network.features(images.float() - torch.tensor(levels)[:, None, None]).mean((2, 3))
    assert expected.shape == (5, 512)
    assert torch.allclose(embed(built, images), expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


def test_wrong_arguments_are_refused():
    with pytest.raises(ModelError, match="ViT-L-14"):
        EmbeddingExtractor("ViT-L-14")
    with pytest.raises(ValueError, match="size is 2"):
        EmbeddingExtractor("timm/test_vit", size=2)
