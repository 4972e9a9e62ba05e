"""Autoencoders of diffusers, found by directory or id, against diffusers' own calls."""

import json

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, VQModel
from safetensors.torch import load_file, save_file

from modules.errors import ModelError
from modules.networks.autoencoders import find_autoencoder, load_autoencoder

BLOCKS = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}
DOWN, UP = ["DownEncoderBlock2D"] * 2, ["UpDecoderBlock2D"] * 2


def tiny(channels=3):
    torch.manual_seed(0)
    return AutoencoderTiny(
        in_channels=channels, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )  # fmt: skip


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_the_vae_of_a_text_to_image_model_and_its_mode(images):
    reference = AutoencoderKL.from_pretrained("assets/tiny-diffusion", subfolder="vae")
    with torch.no_grad():
        expected = reference(images * 2 - 1, sample_posterior=False).sample / 2 + 0.5
    for name in ("assets/tiny-diffusion", "assets/tiny-diffusion/vae"):
        loaded = load_autoencoder(name)
        assert torch.allclose(loaded(images), expected, atol=1e-5)
        assert loaded.factor == 4
        assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_tiny_autoencoder_without_a_distribution(images, tmp_path):
    reference = tiny().eval()
    reference.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = reference.decode(reference.encode(images * 2 - 1).latents).sample / 2 + 0.5
    loaded = load_autoencoder(str(tmp_path))
    assert torch.allclose(loaded(images), expected, atol=1e-5)
    assert loaded.factor == 2


def test_a_quantised_one_and_one_of_another_kind_of_latent(images, tmp_path):
    quantised = VQModel(down_block_types=DOWN, up_block_types=UP, num_vq_embeddings=16, **BLOCKS)
    deep = AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), encoder_qkv_multiscales=((), (), ()), decoder_qkv_multiscales=((), (), ()),
    )  # fmt: skip
    for model, factor in ((quantised, 2), (deep, 4)):
        model.save_pretrained(tmp_path / str(factor))
        loaded = load_autoencoder(str(tmp_path / str(factor)))
        assert loaded.factor == factor
        with torch.no_grad():
            assert torch.allclose(loaded(images), model.eval()(images * 2 - 1).sample / 2 + 0.5, atol=1e-5)


def test_another_dtype_gives_float32_images(images):
    images = images[:1, :, :16, :16]
    loaded = load_autoencoder("assets/tiny-diffusion", dtype=torch.bfloat16)
    rebuilt = loaded(images)
    assert loaded.dtype == torch.bfloat16
    assert rebuilt.dtype == torch.float32
    assert (rebuilt - load_autoencoder("assets/tiny-diffusion")(images)).abs().max() < 0.1


def test_subfolders_of_hub_ids(monkeypatch):
    there = {("owner/flat", None): "AutoencoderTiny", ("owner/model", "vae"): "AutoencoderKL", ("owner/kandinsky", "movq"): "VQModel"}
    asked = []

    def load_config(place, subfolder=None, revision=None):
        asked.append(revision)
        if (place, subfolder) not in there:
            raise OSError("no such file")
        return {"_class_name": there[place, subfolder]}

    monkeypatch.setattr(AutoencoderKL, "load_config", load_config)
    assert find_autoencoder("owner/flat") == ("owner/flat", {}, "AutoencoderTiny")
    assert find_autoencoder("owner/model", "abc") == ("owner/model", {"revision": "abc", "subfolder": "vae"}, "AutoencoderKL")
    assert find_autoencoder("owner/kandinsky/movq") == ("owner/kandinsky", {"subfolder": "movq"}, "VQModel")
    assert asked == [None, "abc", "abc", None]
    with pytest.raises(ModelError, match="download it elsewhere"):
        find_autoencoder("owner/kandinsky")


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/no/where", "assets", "a/b/c/d"])
def test_a_place_without_an_autoencoder_is_refused(name):
    with pytest.raises(ModelError, match="neither a config"):
        load_autoencoder(name)


def test_other_classes_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FlaxAutoencoderKL"}))
    with pytest.raises(ModelError, match=r"none of .*top: FlaxAutoencoderKL"):
        load_autoencoder(str(tmp_path))
    with pytest.raises(ModelError, match="UNet2DConditionModel"):
        load_autoencoder("assets/tiny-diffusion/unet")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="top: "):
        load_autoencoder(str(tmp_path))


def test_broken_or_missing_weights_are_refused(tmp_path):
    tiny().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    first = min(state)
    save_file({name: tensor for name, tensor in state.items() if name != first}, weights)
    with pytest.raises(ModelError, match=f"{tmp_path.name}.*({first}|lacks)"):
        load_autoencoder(str(tmp_path))
    weights.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_autoencoder(str(tmp_path))


def test_only_rgb(tmp_path):
    tiny(channels=4).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="4 input channels"):
        load_autoencoder(str(tmp_path))
