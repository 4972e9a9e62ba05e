"""Pooled features of the UNet, against diffusers' own pass."""

import pytest
import torch

from modules.diffusion.latent_diffusion import LatentDiffusion
from modules.errors import ModelError
from modules.extractors.unet_embedding import UNetEmbeddingExtractor, pool
from modules.settings import from_settings

SEEDS = [3, 2**60, 5]
CHANNELS = {"down_0": 32, "down_1": 64, "down_2": 128, "mid": 128, "up_0": 128, "up_1": 64, "up_2": 32}


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def model():
    return LatentDiffusion.from_pretrained("assets/tiny-diffusion")


def build(**options):
    extractor = UNetEmbeddingExtractor(**options)
    extractor.load()
    return extractor


def embed(extractor, images, seeds=SEEDS, prompts=None):
    with torch.no_grad():
        return extractor(images, prompts or [""] * len(images), seeds)["embedding"]


@torch.no_grad()
def down_by_hand(model, states, timestep, prompts):
    """Outputs of the UNet's down blocks, put together from diffusers' parts."""
    unet, text = model.unet, model.embed(prompts)
    emb = unet.time_embedding(unet.time_proj(torch.full((len(states),), timestep)).to(states))
    hidden, found = unet.conv_in(states), []
    for block in unet.down_blocks:
        options = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
        hidden, _ = block(hidden_states=hidden, temb=emb, **options)
        found.append(hidden)
    return [*found, unet.mid_block(hidden, emb, encoder_hidden_states=text)]


def statistics(activations):
    rows = activations.flatten(2).double().numpy()
    return torch.cat([torch.tensor(rows.mean(2)), torch.tensor(rows.std(2))], 1).float()


@pytest.mark.parametrize("prompts", [["", "", ""], ["a coin", "a cat", ""]])
def test_features_are_the_pooled_outputs_of_diffusers_blocks(model, images, prompts):
    names = ["mid", "down_0", "down_2", "down_1"]
    extractor = build(blocks=names, timestep=21, normalise=False)
    with torch.no_grad():
        clean = model.encode(images)
    outputs = dict(
        zip(["down_0", "down_1", "down_2", "mid"], down_by_hand(model, alpha(model, 21) ** 0.5 * clean, 21, prompts), strict=True)
    )
    expected = torch.cat([statistics(outputs[name]) for name in names], 1)
    found = embed(extractor, images, prompts=prompts)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_last_block_is_what_the_unet_makes_its_output_of(model, images):
    found = embed(build(blocks=["up_2"], timestep=51, normalise=False), images)
    seen = []
    handle = model.unet.conv_norm_out.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.predict(alpha(model, 51) ** 0.5 * model.encode(images), 51, model.embed([""] * 3))
    handle.remove()
    assert torch.allclose(found, statistics(seen[0]), rtol=1e-4, atol=1e-5)


def alpha(model, timestep):
    return float(model.schedule.alphas_cumprod[timestep])


def test_noise_is_that_of_the_level_and_of_each_images_own_seed(model, images):
    found = embed(build(blocks=["down_1"], timestep=201, state_draws=2, normalise=False), images)
    with torch.no_grad():
        clean = model.encode(images)
    level, expected = alpha(model, 201), 0
    noise = torch.stack([torch.randn(2, *clean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    for draw in range(2):
        noisy = level**0.5 * clean + (1 - level) ** 0.5 * noise[:, draw]
        expected = expected + statistics(down_by_hand(model, noisy, 201, [""] * 3)[1]) / 2
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_noise_seeds_do_not_matter_and_with_noise_they_do(images):
    plain, noisy = build(blocks=["down_0"]), build(blocks=["down_0"], state_draws=1)
    assert torch.equal(embed(plain, images), embed(plain, images, [7, 8, 9]))
    assert not torch.allclose(embed(noisy, images), embed(noisy, images, [7, 8, 9]), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"state_draws": 2, "rows_at_once": 4}])
def test_an_image_alone_or_in_any_batch(images, options):
    extractor = build(**options)
    together = embed(extractor, images)
    alone = torch.cat([embed(extractor, images[i : i + 1], SEEDS[i : i + 1]) for i in range(3)])
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-6)
    assert torch.allclose(embed(extractor, images.flip(0), SEEDS[::-1]).flip(0), together, rtol=1e-4, atol=1e-6)
    assert torch.allclose(embed(extractor, images / 255), together, rtol=1e-4, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("at_once", "passes"), [(64, [6]), (4, [4, 2])])
def test_states_share_passes_and_their_number_changes_nothing(images, at_once, passes):
    extractor = build(blocks=["mid"], state_draws=2)
    expected, rows = embed(extractor, images), []
    extractor.denoiser.diffusion.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    extractor.rows_at_once = at_once
    assert torch.allclose(embed(extractor, images), expected, rtol=1e-4, atol=1e-6)
    assert rows == passes


def test_the_default_names_four_blocks_and_has_length_one(images):
    found, raw = embed(build(), images), embed(build(normalise=False), images)
    assert found.shape == (3, 2 * (32 + 64 + 64 + 32))
    assert torch.allclose(found, raw / raw.norm(dim=1, keepdim=True), atol=1e-6)


def test_a_block_has_two_numbers_a_channel_and_blocks_stand_as_they_were_named(images):
    extractor, parts = build(normalise=False), []
    for block, channels in reversed(CHANNELS.items()):
        extractor.blocks = [block]
        parts.append(embed(extractor, images))
        assert parts[-1].shape == (3, 2 * channels)
    extractor.blocks = list(reversed(CHANNELS))
    assert torch.allclose(embed(extractor, images), torch.cat(parts, 1), rtol=1e-4, atol=1e-6)


def test_no_hook_is_left_after_a_pass(images):
    extractor = build()
    embed(extractor, images)
    unet = extractor.denoiser.diffusion.unet
    assert not any(block._forward_hooks for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks))


def test_pooling_of_one_place_has_no_spread():
    found = pool(torch.tensor([[[[3.0]], [[-1.0]]]]))
    assert found.tolist() == [[3.0, -1.0, 0.0, 0.0]]


def test_low_precision_is_near_and_pooled_in_float32(images):
    exact, half = (embed(build(model_dtype=dtype), images) for dtype in ("float32", "bfloat16"))
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(exact, half).min() > 0.999


def test_an_image_that_overflows_is_left_out(images, monkeypatch):
    extractor = build()
    encode = extractor.denoiser.encode

    def spoiled(batch):
        states = encode(batch)
        states[1] = torch.nan
        return states

    monkeypatch.setattr(extractor.denoiser, "encode", spoiled)
    with torch.no_grad():
        features, failed = extractor.extract(images, [""] * 3, SEEDS)
    assert list(failed) == [1]
    assert features["embedding"][[0, 2]].isfinite().all()


def test_sides_are_cut_to_what_the_autoencoder_takes_or_made_one_size():
    image = torch.zeros(3, 45, 70, dtype=torch.uint8)
    assert UNetEmbeddingExtractor().prepare(image).shape == (3, 40, 64)
    assert UNetEmbeddingExtractor(size=64).prepare(image).shape == (3, 64, 64)


def test_what_the_features_depend_on():
    extractor = UNetEmbeddingExtractor(revision="v1")
    assert extractor.weights == {"assets/tiny-diffusion": "v1"}
    assert extractor.uses_record_captions is False
    assert extractor.idle == {"captioner", "captioner_revision"}
    assert extractor.denoiser.diffusion is None
    with pytest.raises(RuntimeError, match="load"):
        embed(extractor, torch.zeros(1, 3, 32, 32), [1])
    first, second = (UNetEmbeddingExtractor(timestep=t).identity() for t in (1, 51))
    assert first != second


def test_settings_rebuild_it():
    built = UNetEmbeddingExtractor(blocks=["mid"], timestep=3, state_draws=4, normalise=False, size=64, prompt_source="records")
    assert from_settings(built.settings()).settings() == built.settings()


def test_it_lets_go_of_its_networks():
    extractor = build()
    extractor.unload()
    assert extractor.denoiser.diffusion is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": []}, "blocks is"),
        ({"blocks": "mid"}, "blocks is 'mid'"),
        ({"blocks": ["mid", "mid"]}, "each once"),
        ({"blocks": ["middle"]}, "down_0, down_1"),
        ({"state_draws": -1}, "state_draws is -1"),
        ({"model_dtype": "int8"}, "model_dtype is 'int8'"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        UNetEmbeddingExtractor(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"blocks": ["down_3", "mid", "up_9"]},
            "names down_3, up_9; the UNet of 'assets/tiny-diffusion' has down_0, down_1, down_2, mid, up_0",
        ),
        ({"timestep": 1000}, "whole number from 0 to 999"),
        ({"timestep": -1}, "whole number from 0 to 999"),
        ({"size": 60}, "multiples of 8"),
    ],
)
def test_what_the_model_does_not_have_is_told_when_it_is_loaded(options, words):
    with pytest.raises(ModelError, match=words):
        build(**options)
