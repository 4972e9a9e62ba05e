"""Reconstruction errors, against scikit-image and a loop over VGG16."""

import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from skimage.metrics import structural_similarity
from torch import nn

from modules.errors import ModelError
from modules.extractors import autoencoder
from modules.extractors.autoencoder import AutoencoderError
from modules.settings import from_settings

MODEL = "assets/tiny-diffusion"


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(coarse, size=(48, 64), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another autoencoder, of a larger factor."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    channels = (8, 8, 8, 8)
    AutoencoderTiny(encoder_block_out_channels=channels, decoder_block_out_channels=channels).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def random_lpips():
    """LPIPS as it is but for VGG16's weights, which would be downloaded."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    torch.manual_seed(0)
    return _NoTrainLpips(net="vgg", pnet_rand=True)


def build(names=(MODEL,), **options):
    extractor = AutoencoderError(list(names), **({"distance": "mse"} | options))
    extractor.load()
    return extractor


def errors(extractor, images):
    with torch.no_grad():
        return extractor(images, [""] * len(images), [0] * len(images))


def rebuilt(extractor, images, which=0):
    with torch.no_grad():
        return extractor.networks[which](images.float() / 255).clamp(0, 1)


def test_mean_squared_error(images):
    extractor = build()
    expected = ((images / 255 - rebuilt(extractor, images)) ** 2).mean((1, 2, 3))
    found = errors(extractor, images)
    assert list(found) == ["error"]
    assert found["error"].dtype == torch.float32
    assert torch.allclose(found["error"], expected, rtol=1e-5)


def test_ssim_is_that_of_scikit_image(images):
    extractor = build(distance="ssim")
    second = rebuilt(extractor, images).permute(0, 2, 3, 1).numpy()
    first = (images / 255).permute(0, 2, 3, 1).numpy()
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2, "full": True}
    for i, error in enumerate(errors(extractor, images)["error"]):
        # torchmetrics mirrors at the border without the outermost pixel; with that done beforehand the maps are the same
        padded = [np.pad(each[i], ((16, 16), (16, 16), (0, 0)), mode="reflect") for each in (first, second)]
        _, similarity = structural_similarity(*padded, **options)
        assert 1 - float(error) == pytest.approx(similarity[16:-16, 16:-16].mean(), abs=1e-5)


@pytest.mark.parametrize("layer", [1, 2, 5, None])
def test_lpips_layers_are_those_of_a_loop_over_vgg(images, layer, random_lpips, monkeypatch):
    monkeypatch.setattr(autoencoder, "perceptual_network", lambda: random_lpips)
    extractor = build(distance="lpips", layer=layer)
    pair = torch.cat([images / 255, rebuilt(extractor, images)]) * 2 - 1
    scaled = (pair - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    expected, number = [], 0
    vgg = [module for part in range(1, 6) for module in getattr(random_lpips.net, f"slice{part}")]
    with torch.no_grad():
        for i, module in enumerate(vgg):
            scaled = module(scaled)
            if isinstance(module, nn.ReLU) and (i + 1 == len(vgg) or isinstance(vgg[i + 1], nn.MaxPool2d)):
                first, second = (scaled / (scaled.square().sum(1, keepdim=True) + 1e-8).sqrt()).chunk(2)
                weights = random_lpips.lins[number].model[-1].weight
                expected.append(((first - second) ** 2 * weights[0, :, 0, 0][None, :, None, None]).sum(1).mean((1, 2)))
                number += 1
    assert len(expected) == 5
    wanted = sum(expected) if layer is None else expected[layer - 1]
    found = errors(extractor, images)["error"]
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-9)
    assert (found > 0).all()


def test_the_smallest_of_several_counts(images, other):
    extractor = build([MODEL, other])
    found = errors(extractor, images)
    assert list(found) == ["error", "error_0", "error_1"]
    assert torch.equal(found["error"], torch.minimum(found["error_0"], found["error_1"]))
    assert torch.allclose(found["error_0"], errors(build(), images)["error"], rtol=1e-5)


@pytest.mark.parametrize("distance", ["mse", "ssim", "lpips"])
def test_an_image_alone_or_in_any_batch(images, distance, random_lpips, monkeypatch):
    monkeypatch.setattr(autoencoder, "perceptual_network", lambda: random_lpips)
    extractor, images = build(distance=distance), images[..., :24, :32]
    together = errors(extractor, images)["error"]
    alone = torch.cat([errors(extractor, image[None])["error"] for image in images])
    assert torch.allclose(alone, together, rtol=1e-5)
    assert torch.allclose(errors(extractor, images.flip(0))["error"].flip(0), together, rtol=1e-5)
    assert torch.allclose(errors(extractor, images / 255)["error"], together, rtol=1e-5)


def test_any_size_is_cut_at_the_centre_to_the_common_factor(other):
    extractor = build([MODEL, other])
    image = torch.randint(0, 256, (1, 3, 37, 54), dtype=torch.uint8)
    inner = image[..., 2:34, 3:51]
    assert inner.shape[2:] == (32, 48)
    assert torch.equal(errors(extractor, image)["error"], errors(extractor, inner)["error"])


def test_one_pass_of_each_network_for_a_batch(images, other):
    extractor = build([MODEL, other])
    rows = []
    for network in extractor.networks:
        network.register_forward_hook(lambda module, inputs, outputs: rows.append(len(inputs[0])))
    errors(extractor, images)
    assert rows == [4, 4]


def test_images_that_are_too_small_fail_with_their_size():
    extractor = build([MODEL], distance="ssim")
    images = torch.zeros(2, 3, 7, 90, dtype=torch.uint8)
    features, failed = extractor.extract(images, ["", ""], [0, 0])
    assert failed.keys() == {0, 1}
    assert "90×7 pixels are too few" in failed[1]
    assert "need 8" in failed[1]
    assert features["error"].isnan().all()
    with pytest.raises(ValueError, match="too few"):
        errors(extractor, images)
    assert extractor.extract(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [""], [0])[1] == {}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_overflow_that_clamping_would_hide_is_a_failure(images, value, monkeypatch):
    extractor = build()
    expected = errors(extractor, images)["error"]
    decode = extractor.networks[0].network.decode

    def spoiled(latents):
        result = decode(latents)
        result.sample[2, 0, 0, 0] = value
        return result

    monkeypatch.setattr(extractor.networks[0].network, "decode", spoiled)
    with torch.no_grad():
        features, failed = extractor.extract(images, [""] * 4, [0] * 4)
    assert failed == {2: "an autoencoder gave values that are not finite, in float32"}
    assert torch.equal(features["error"][[0, 1, 3]], expected[[0, 1, 3]])


def test_preparation():
    image = torch.zeros(3, 50, 70, dtype=torch.uint8)
    assert AutoencoderError([MODEL]).prepare(image).shape == (3, 50, 70)
    assert AutoencoderError([MODEL], size=32).prepare(image).shape == (3, 32, 32)


def test_vgg_weights_that_cannot_be_had_say_what_to_do(monkeypatch, tmp_path):
    import torchvision

    def offline(weights):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models, "vgg16", offline)
    with pytest.raises(ModelError, match=r"no network.*--data\.extractor\.distance mse"):
        build(distance="lpips")


def test_layers_are_idle_without_lpips(images):
    for distance in ("mse", "ssim"):
        first, second = (build(distance=distance, layer=layer) for layer in (1, None))
        assert torch.equal(errors(first, images)["error"], errors(second, images)["error"])
        assert first.idle == {"layer"}
        assert first.identity() == second.identity()
        assert first.settings() != second.settings()
    assert AutoencoderError([MODEL]).idle == set()
    assert AutoencoderError([MODEL], layer=1).identity() != AutoencoderError([MODEL]).identity()


def test_settings_rebuild_it():
    built = AutoencoderError([MODEL, "owner/name"], revision="abc", distance="ssim", layer=None, size=64, model_dtype="bfloat16")
    assert built.weights == {MODEL: "abc", "owner/name": "abc"}
    assert from_settings(built.settings()).settings() == built.settings()
    with pytest.raises(RuntimeError, match="load"):
        errors(built, torch.zeros(1, 3, 64, 64))
    loaded = build()
    loaded.unload()
    assert loaded.networks is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"autoencoders": []}, "one or more"),
        ({"autoencoders": "assets/tiny-diffusion"}, "must be a list"),
        ({"autoencoders": [MODEL, MODEL]}, "each once"),
        ({"distance": "l1"}, "distance is 'l1'"),
        ({"model_dtype": "int8"}, "model_dtype 'int8'"),
        ({"layer": 0}, "layer is 0"),
        ({"layer": 6}, "layer is 6"),
        ({"size": 8}, "at least 16"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AutoencoderError(**({"autoencoders": [MODEL]} | options))
