"""FakeInversion's features."""

import pytest
import torch

from modules.extractors import InversionExtractor
from modules.settings import from_settings


@pytest.fixture(scope="module")
def extractor():
    built = InversionExtractor(size=64, steps=4, keep_latents=True)
    built.load()
    return built


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def test_shapes_and_types(extractor, images):
    with torch.no_grad():
        features = extractor(images, [""] * 4, [0] * 4)
    for name in ("image", "noise_map", "reconstruction"):
        assert features[name].shape == (4, 3, 64, 64)
        assert features[name].dtype == torch.uint8
    assert torch.equal(features["image"], images)
    for name in ("noise_latent", "reconstruction_latent"):
        assert features[name].shape == (4, 4, 16, 16)
        assert features[name].dtype == torch.float16
    figures = extractor.diagnostics(features)["round_trip_psnr"]
    error = (features["image"].double() - features["reconstruction"].double()).square().mean((1, 2, 3))
    assert torch.allclose(figures, 10 * torch.log10(255**2 / error))


def test_row_41_alone_or_in_a_batch(extractor, images):
    prompts = ["a", "b", "", "a"]
    with torch.no_grad():
        together = extractor(images, prompts, [0] * 4)
        alone = [extractor(images[i : i + 1], [prompts[i]], [0]) for i in range(4)]
        again = extractor(images, prompts, [0] * 4)
    for name, batch in together.items():
        assert torch.equal(batch, again[name])
        single = torch.cat([features[name] for features in alone])
        difference = (batch.double() - single.double()).abs()
        if batch.dtype == torch.uint8:
            assert difference.max() <= 1
            assert (difference > 0).double().mean() <= 1e-3
        else:
            assert difference.max() <= 5e-3  # float16 spacing at the latents' size


def test_floats_equal_bytes(extractor, images):
    with torch.no_grad():
        first, second = extractor(images, [""] * 4, [0] * 4), extractor(images.float() / 255, [""] * 4, [0] * 4)
    assert torch.equal(first["reconstruction"], second["reconstruction"])


def test_preparation_is_the_centre_square_resized(extractor):
    image = torch.zeros(3, 64, 100, dtype=torch.uint8)
    image[:, :, 18:82] = 200
    assert torch.equal(extractor.prepare(image), torch.full((3, 64, 64), 200, dtype=torch.uint8))
    assert extractor.prepare(torch.zeros(3, 500, 200, dtype=torch.uint8)).shape == (3, 64, 64)


def test_prompts(extractor, images):
    assert extractor.prompts_for(images, ["a", None, "", "b"]) == ["a", "", "", "b"]
    assert InversionExtractor(prompt_source="empty").prompts_for(images, ["a", None, "", "b"]) == [""] * 4
    with pytest.raises(ValueError, match="prompt_source is 'blip'"):
        InversionExtractor(prompt_source="blip")


def test_settings_rebuild_it():
    built = InversionExtractor(size=96, steps=7, prompt_source="captioner")
    assert built.weights == {"assets/tiny-diffusion": None, "Salesforce/blip2-opt-2.7b": None}
    assert from_settings(built.settings()).settings() == built.settings()


def test_non_finite_latents_are_not_passed_on(extractor, images, monkeypatch):
    monkeypatch.setattr(extractor.diffusion, "invert", lambda latents, *args: latents * torch.inf)
    with pytest.raises(FloatingPointError, match="model_dtype"):
        extractor(images, [""] * 4, [0] * 4)
