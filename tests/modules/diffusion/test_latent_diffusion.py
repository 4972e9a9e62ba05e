"""The built-in model through our operations, against diffusers' own loop on the same weights; calls counted."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from datamodules.sources.photographs import load, photographs, random_crop
from modules.diffusion import LatentDiffusion
from modules.diffusion.latent_diffusion import TEXT_ROWS
from modules.errors import ModelError
from modules.extractors import InversionExtractor
from modules.images import psnr, to_uint8

MODEL = "assets/tiny-diffusion"
PROMPTS = ["a close photo of a cat, dark", "", "a close photo of a cat, dark"]


@pytest.fixture(scope="module")
def model():
    return LatentDiffusion.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def images():
    """Crops of photographs that the model never saw."""
    rng = np.random.default_rng(0)
    crops = [random_crop(rng, load(photograph)[0]) for photograph in photographs("test")[:3]]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_round_trip_equals_a_loop_over_diffusers(tmp_path, images, prediction_type):
    """The loop that a diffusers user would write, one image at a time, on separately loaded parts."""
    folder = shutil.copytree(MODEL, tmp_path / "model")
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text()) | {"prediction_type": prediction_type}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    ours = LatentDiffusion.from_pretrained(str(folder))
    steps = 10
    with torch.no_grad():
        embeddings = ours.embed(PROMPTS)
        clean = ours.encode(images)
        noise = ours.invert(clean, embeddings, steps)
        rebuilt = ours.denoise(noise, embeddings, steps)

        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.float32)
        for i, prompt in enumerate(PROMPTS):
            tokens = tokenizer([prompt], padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt")
            text = text_encoder(tokens.input_ids).last_hidden_state
            state = vae.encode(images[i : i + 1] * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
            assert (state - clean[i]).abs().max() <= 1e-4
            for scheduler, expected in [(DDIMInverseScheduler.from_config(config), noise), (DDIMScheduler.from_config(config), rebuilt)]:
                scheduler.set_timesteps(steps)
                for timestep in scheduler.timesteps:
                    state = scheduler.step(unet(state, timestep, text).sample, timestep, state).prev_sample
                assert (state - expected[i]).abs().max() <= 1e-4


def test_equal_prompts_are_embedded_once(model, monkeypatch):
    rows = []
    forward = model.text_encoder.forward
    monkeypatch.setattr(
        model.text_encoder, "forward", lambda ids, *args, **kwargs: (rows.append(len(ids)), forward(ids, *args, **kwargs))[1]
    )
    embeddings = model.embed(PROMPTS)
    assert rows == [TEXT_ROWS]  # two prompts and empty ones behind them: always as many
    assert torch.equal(embeddings[0], embeddings[2])
    assert not torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(model.embed(PROMPTS[::-1])[1], embeddings[1])
    assert rows == [TEXT_ROWS], "prompts that are remembered are not embedded again"


def test_a_prompt_s_embedding_does_not_depend_on_its_neighbours(model):
    """Or an image would have other features in another batch, and after another one."""
    among = model.embed([f"number {i}" for i in range(TEXT_ROWS + 3)] + ["a photo"])[-1]
    model._embedded.clear()
    assert torch.equal(model.embed(["a photo"])[0], among)


def test_prompts_are_forgotten_when_there_are_many_or_the_networks_move(model, monkeypatch):
    monkeypatch.setattr("modules.diffusion.latent_diffusion.PROMPTS_KEPT", 2)
    many = [f"prompt {i}" for i in range(5)]
    assert len(model.embed(many)) == 5
    model.embed(["", "another"])
    assert list(model._embedded) == ["", "another"]
    half = LatentDiffusion.from_pretrained(MODEL)
    half.embed([""])
    assert half.to(torch.float64).embed([""]).dtype == torch.float64


def test_guidance_embeds_the_empty_prompt_once(model, images, monkeypatch):
    calls = count(monkeypatch, model, "_embed")
    model._embedded.clear()
    with torch.no_grad():
        model.denoise(torch.randn(2, 4, 16, 16), model.embed(["a cat", "a dog"]), 5, guidance=3.0)
    assert len(calls) == 2


def test_pictures_go_through_the_autoencoder_in_parts_that_fit(model, images, monkeypatch):
    with torch.no_grad():
        latents = model.encode(images)
        pictures = model.decode(latents)
        monkeypatch.setattr("modules.diffusion.latent_diffusion.PIXELS_AT_ONCE", 2 * images[0, 0].numel())
        sizes = count(monkeypatch, model.vae, "decode")
        assert (model.encode(images) - latents).abs().max() <= 1e-5
        assert (model.decode(latents) - pictures).abs().max() <= 1e-5
    assert sizes == [2, 1]


def count(monkeypatch, owner, name):
    calls = []
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: (calls.append(len(args[0])), original(*args, **kwargs))[1])
    return calls


@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (2.0, 2)])
def test_forward_passes_an_image(monkeypatch, images, guidance, passes):
    extractor = InversionExtractor(size=64, steps=3, guidance=guidance)
    extractor.load()
    parts = extractor.diffusion
    unet, encode, decode = (
        count(monkeypatch, parts.unet, "forward"),
        count(monkeypatch, parts.vae, "encode"),
        count(monkeypatch, parts.vae, "decode"),
    )
    extractor(to_uint8(images), ["a", "b", "c"], [0, 0, 0])
    assert unet == [3] * (2 * 3 * passes)
    assert encode == [3]
    assert decode == [6]  # noise map and reconstruction in one batch


def test_autoencoder_ranges(model, images):
    decoded = model.decode(model.encode(images))
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert psnr(to_uint8(images), to_uint8(decoded)).min() > 20
    assert torch.allclose(model.encode(to_uint8(images)), model.encode(to_uint8(images).float() / 255))


def test_predict_noise_converts_v(model):
    latents, text = torch.randn(1, 4, 16, 16), model.embed([""])
    raw = model.predict(latents, 500, text)
    assert torch.equal(model.predict_noise(latents, 500, text), raw)
    alpha = float(model.schedule.alphas_cumprod[500])
    v_model = LatentDiffusion(model.vae, model.unet, model.text_encoder, model.tokenizer, _as_v(model.schedule))
    assert torch.allclose(v_model.predict_noise(latents, 500, text), alpha**0.5 * raw + (1 - alpha) ** 0.5 * latents)


def _as_v(schedule):
    from dataclasses import replace

    return replace(schedule, prediction_type="v_prediction")


def test_image_to_image_takes_the_last_steps(model):
    latents, text = torch.randn(1, 4, 16, 16), model.embed([""])
    path = model.schedule.path(10, "denoise")
    state = latents
    for step in path[-3:]:
        state = step.latent_weight * state + step.output_weight * model.predict(state, step.timestep, text)
    assert torch.allclose(model.denoise(latents, text, 10, start=3), state, atol=1e-5)


@pytest.mark.parametrize("path", ["nowhere", "./nowhere", "/nowhere/at/all", "assets/nowhere"])
def test_a_path_that_is_none(path):
    with pytest.raises(ModelError, match="nowhere"):
        LatentDiffusion.from_pretrained(path)


def test_another_kind_of_model_is_refused_before_weights_are_read(tmp_path):
    index = {"vae": ["diffusers", "AutoencoderKL"], "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names None as its unet"):
        LatentDiffusion.from_pretrained(str(tmp_path))


def test_bfloat16_network_keeps_a_float32_state(images):
    model = LatentDiffusion.from_pretrained(MODEL, torch.bfloat16)
    clean = model.encode(images)
    noise = model.invert(clean, model.embed(PROMPTS), 3)
    assert clean.dtype == noise.dtype == torch.float32
    assert model.unet.dtype == torch.bfloat16
