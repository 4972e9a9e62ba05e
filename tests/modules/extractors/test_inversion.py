"""FakeInversion's features."""

import pytest
import torch

from modules.extractors import InversionExtractor
from modules.settings import fingerprint, from_settings


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


def test_faster_modes_are_other_features_and_the_exact_one_keeps_its_fingerprint(images):
    """The fingerprints are those of before there were other modes: caches stay valid."""
    assert fingerprint(InversionExtractor().identity()) == "1ce4f601d744"
    assert fingerprint(InversionExtractor(size=64, steps=10).identity()) == "2bd16eaca8ce"
    modes = [{}, {"solver": "dpm++"}, {"reuse": 2}, {"reuse": 3}, {"solver": "dpm++", "reuse": 2}]
    built = [InversionExtractor(size=64, steps=4, **mode) for mode in modes]
    assert len({fingerprint(each.identity()) for each in built}) == len(modes)
    found = []
    for each in built:
        assert from_settings(each.settings()).identity() == each.identity()
        each.load()
        with torch.inference_mode():
            found.append(each(images, [""] * 4, [0] * 4))
    for i, features in enumerate(found):
        for name in ("noise_map", "reconstruction"):
            assert not any(torch.equal(features[name], other[name]) for other in found[:i])


@pytest.mark.parametrize(
    ("option", "message"),
    [({"solver": "heun"}, "solver is 'heun'"), ({"reuse": 0}, "reuse is 0"), ({"reuse": 5}, "reuse is 5.*the 4 steps")],
)
def test_modes_that_are_none_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        InversionExtractor(steps=4, **option)


def overflowing(inside, image=1, of=4):
    """Wrap a decoder so that one pixel of one image of a batch of `of` images overflows; a batch of another size is left alone."""

    def wrapped(batch, *args, **options):
        result = inside(batch, *args, **options)
        count = len(batch) // of
        if len(batch) % of == 0 and count:
            for part in range(count):
                result.sample[part * of + image, 0, 3, 3] = torch.inf  # beyond what float16 holds
        return result

    return wrapped


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_row_39_only_the_image_that_overflows_is_done_again_in_float32(images, dtype, monkeypatch, caplog):
    half, full = (InversionExtractor(size=64, steps=2, model_dtype=each, keep_latents=True) for each in (dtype, "float32"))
    half.load()
    full.load()
    prompts = ["a", "b", "", "a"]
    with torch.inference_mode():
        undisturbed, none_failed = half.extract(images, prompts, [0] * 4)
        assert half.exact is None  # no second copy before it is needed
        decode = half.diffusion.vae.decode
        monkeypatch.setattr(half.diffusion.vae, "decode", overflowing(decode))
        repaired, failed = half.extract(images, prompts, [0] * 4)
        exact = full(images[1:2], prompts[1:2], [0])
    assert none_failed == failed == {}
    assert half.exact.dtype == torch.float32
    assert "done again in float32" in caplog.text
    for name, tensor in repaired.items():
        assert torch.equal(tensor[1:2], exact[name])
        assert torch.equal(tensor[[0, 2, 3]], undisturbed[name][[0, 2, 3]])
    assert not torch.equal(repaired["reconstruction"][1], undisturbed["reconstruction"][1])  # the two dtypes can be told apart
    half.unload()
    assert half.exact is None


def test_row_39_a_stage_that_the_decoder_hides_is_seen(extractor, images, monkeypatch):
    """An infinite latent or pixel would be a plausible image after the clamp."""
    encode = extractor.diffusion.vae.encode

    def spoiled(batch):
        result = encode(batch)
        result.latent_dist.mean[2, 0, 0, 0] = torch.inf
        return result

    monkeypatch.setattr(extractor.diffusion.vae, "encode", spoiled)
    with torch.inference_mode():
        _, failed = extractor.extract(images, [""] * 4, [0] * 4)
    assert list(failed) == [2]
    monkeypatch.undo()
    monkeypatch.setattr(extractor.diffusion.vae, "decode", overflowing(extractor.diffusion.vae.decode, image=3))
    with torch.inference_mode():
        _, failed = extractor.extract(images, [""] * 4, [0] * 4)
    assert list(failed) == [3]


def test_row_39_what_overflows_in_float32_too_fails_alone(images, monkeypatch):
    built = InversionExtractor(size=64, steps=1, model_dtype="bfloat16")
    built.load()
    exact = built._in_float32()
    for model, of in ((built.diffusion, 4), (exact, 1)):
        monkeypatch.setattr(model.vae, "decode", overflowing(model.vae.decode, image=0, of=of))
    with torch.inference_mode():
        features, failed = built.extract(images, [""] * 4, [0] * 4)
        with pytest.raises(FloatingPointError, match="in bfloat16 and in float32"):
            built(images, [""] * 4, [0] * 4)
    assert failed == {0: "the diffusion model gave values that are not finite, in bfloat16 and in float32"}
    assert len(features["reconstruction"]) == 4
