"""DeepCache on the built-in UNet and on those of Stable Diffusion's form with few channels."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from modules.diffusion import LatentDiffusion
from modules.diffusion.deep_cache import DeepCache, check_reusable, full_pass, shallow_pass
from modules.errors import ModelError

CROSS = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
FORMS = {
    "sd15": {
        "down_block_types": (CROSS[0], CROSS[0], CROSS[0], "DownBlock2D"),
        "up_block_types": ("UpBlock2D", CROSS[1], CROSS[1], CROSS[1]),
        "block_out_channels": (8, 16, 32, 32),
        "layers_per_block": 2,
    },
    "sd21": {
        "down_block_types": (CROSS[0], CROSS[0], "DownBlock2D"),
        "up_block_types": ("UpBlock2D", CROSS[1], CROSS[1]),
        "block_out_channels": (8, 16, 16),
        "use_linear_projection": True,
        "attention_head_dim": (2, 4, 4),
        "center_input_sample": True,
        "layers_per_block": 2,
    },
    "one_layer": {
        "down_block_types": ("DownBlock2D", CROSS[0]),
        "up_block_types": (CROSS[1], "UpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
    },
    "text_added": {
        "down_block_types": (CROSS[0], "DownBlock2D"),
        "up_block_types": ("UpBlock2D", CROSS[1]),
        "block_out_channels": (8, 16),
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "time_embedding_act_fn": "silu",
        "encoder_hid_dim": 12,
        "encoder_hid_dim_type": "text_proj",
    },
}


def built(form: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    more = {"attention_head_dim": 2, "norm_num_groups": 4, "cross_attention_dim": 12, "sample_size": 8} | FORMS[form]
    return UNet2DConditionModel(**more).eval().requires_grad_(False)


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, 8, 8, generator=generator), torch.tensor(301), torch.randn(batch, 7, 12, generator=generator)


def counted(unet) -> SimpleNamespace:
    """How often the whole UNet's deepest block ran, and its outermost layer."""
    found = SimpleNamespace(deep=0, all=0)
    unet.mid_block.register_forward_hook(lambda *_: setattr(found, "deep", found.deep + 1))
    unet.conv_in.register_forward_hook(lambda *_: setattr(found, "all", found.all + 1))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_shallow_pass_with_its_own_deep_features_is_the_full_one(form):
    unet = built(form)
    latents, timestep, text = inputs()
    plain = unet(latents, timestep, encoder_hidden_states=text).sample
    output, deep = full_pass(unet, latents, timestep, text)
    assert torch.equal(output, plain)
    assert not any(module._forward_pre_hooks for module in unet.modules())
    torch.testing.assert_close(shallow_pass(unet, latents, timestep, text, deep), plain, rtol=1e-5, atol=1e-5)
    elsewhere = shallow_pass(unet, latents, torch.tensor(700), text, deep)
    assert (elsewhere - plain).abs().max() > 1e-4  # the shallow layers do see the timestep


@pytest.mark.parametrize("form", ["sd15", "one_layer"])
def test_deep_features_that_are_of_another_step_change_the_output_a_little(form):
    unet = built(form)
    latents, timestep, text = inputs()
    cache = DeepCache(unet, 2)
    cache(latents, timestep, text)
    moved = latents + 0.1 * latents.roll(1, 0)
    truth = unet(moved, torch.tensor(281), encoder_hidden_states=text).sample
    approximate = cache(moved, torch.tensor(281), text)
    assert 0 < (approximate - truth).norm() < 0.2 * truth.norm()


@pytest.mark.parametrize(("every", "calls", "deep"), [(1, 4, 4), (2, 4, 2), (2, 5, 3), (3, 7, 3), (9, 7, 1)])
def test_the_deep_layers_run_on_every_nth_call(every, calls, deep):
    unet = built("one_layer")
    found, cache = counted(unet), DeepCache(unet, every)
    for _ in range(calls):
        cache(*inputs())
    assert (found.deep, found.all) == (deep, calls)


@pytest.fixture
def model():
    return LatentDiffusion.from_pretrained("assets/tiny-diffusion")


def test_the_built_in_model_without_and_with_reuse(model):
    clean, text = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)), model.embed(["a cat", ""])
    found = counted(model.unet)
    with torch.no_grad():
        exact = model.invert(clean, text, 7)
        assert torch.equal(model.invert(clean, text, 7, reuse=1), exact)
        assert (found.deep, found.all) == (14, 14)
        near = model.invert(clean, text, 7, reuse=3)
        assert (found.deep, found.all) == (17, 21)
        model.denoise(near, text, 7, reuse=3, solver="dpm++")
        assert (found.deep, found.all) == (20, 28)
    assert 0 < (near - exact).norm() < 0.5 * exact.norm()


def test_each_run_starts_with_a_full_pass(model):
    """Nothing of one batch comes into the next."""
    first, second = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(3)).unbind()
    text = model.embed([""])
    with torch.no_grad():
        alone = model.invert(second, text, 5, reuse=2)
        model.invert(first, text, 5, reuse=2)
        assert torch.equal(model.invert(second, text, 5, reuse=2), alone)


def test_with_guidance_each_of_the_two_passes_has_features_of_its_own(model):
    latents, text = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)), model.embed(["a close photo of a cat, dark"])
    found = counted(model.unet)
    with torch.no_grad():
        both = model._predictor(text, 2.0, 3)
        timesteps = (500, 480, 460)
        given = [both(latents, timestep) for timestep in timesteps]
        assert (found.deep, found.all) == (2, 6)
        caches = DeepCache(model.unet, 3), DeepCache(model.unet, 3)
        for timestep, together in zip(timesteps, given, strict=True):
            time = torch.tensor(timestep)
            conditional, unconditional = caches[0](latents, time, text), caches[1](latents, time, model.embed([""]))
            torch.testing.assert_close(together, unconditional + 2 * (conditional - unconditional))


def test_blocks_of_other_kinds_are_refused(monkeypatch):
    monkeypatch.setitem(FORMS, "other", FORMS["one_layer"] | {"down_block_types": ("SimpleCrossAttnDownBlock2D", CROSS[0])})
    with pytest.raises(ModelError, match=r"this UNet has a SimpleCrossAttnDownBlock2D; leave reuse at 1"):
        check_reusable(built("other"))
    check_reusable(built("sd15"))


def test_an_image_to_image_run_is_for_ddim(model):
    with pytest.raises(ValueError, match="only ddim can start within a run"):
        model.denoise(torch.randn(1, 4, 16, 16), model.embed([""]), 5, start=2, solver="dpm++")
