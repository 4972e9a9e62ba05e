"""Backbones by name with any number of channels."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from modules.errors import ModelError
from modules.networks import build_backbone
from modules.networks.backbones import TORCHVISION


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18", "convnext_atto"])
@pytest.mark.parametrize("channels", [3, 9, 12])
def test_logits_of_any_number_of_channels(name, channels):
    network = build_backbone(name, channels, outputs=2, pretrained=False).eval()
    assert network(torch.rand(2, channels, 64, 64)).shape == (2, 2)


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_instance_norm(name):
    network = build_backbone(name, 9, pretrained=False, norm="instance")
    kinds = {type(module) for module in network.modules()}
    assert nn.InstanceNorm2d in kinds
    assert nn.BatchNorm2d not in kinds


def test_a_network_whose_weights_have_five_dimensions():
    network = build_backbone("lambda_resnet26t", 9, pretrained=False)
    assert {parameter.ndim for parameter in network.parameters()} >= {4, 5}
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in network.parameters() if weight.ndim == 4)


@pytest.mark.parametrize(("norm", "first"), [("batch", True), ("instance", False)])
def test_channels_last_where_every_layer_keeps_it(norm, first):
    network = build_backbone("resnet18", 9, pretrained=False, norm=norm)
    seen = []
    network.layer2.register_forward_hook(lambda *told: seen.append(told[2].is_contiguous(memory_format=torch.channels_last)))
    network(torch.rand(2, 9, 64, 64))
    assert seen == [first]


def test_first_convolution_repeats_imagenet_weights(monkeypatch):
    """The response to the same picture in every group of channels is that of the three-channel network."""
    from torchvision import models

    reference = resnet18()
    weights = {name: tensor.clone() for name, tensor in reference.state_dict().items()}

    def pretend_download(name, weights_wanted=None, weights=weights, **options):
        network = resnet18(**options)
        network.load_state_dict(weights)
        return network

    monkeypatch.setattr(models, "get_model", lambda name, weights, **options: pretend_download(name, weights, **options))
    network = build_backbone(f"{TORCHVISION}resnet18", 9, pretrained=True)
    image = torch.rand(1, 3, 32, 32)
    assert torch.allclose(network.conv1(image.repeat(1, 3, 1, 1)), reference.conv1(image), atol=1e-5)
    assert torch.equal(network.layer4[0].conv1.weight, weights["layer4.0.conv1.weight"])


@pytest.mark.parametrize("name", ["resnet5000", "torchvision/resnet5000"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="resnet5000"):
        build_backbone(name, 3, pretrained=False)


def test_norm_that_a_backbone_does_not_take():
    with pytest.raises(ValueError, match="norm"):
        build_backbone("vit_tiny_patch16_224", 3, pretrained=False, norm="group")


def test_weights_that_cannot_be_had_say_what_to_do():
    with pytest.raises(ModelError, match=r"set model\.pretrained to false"):
        build_backbone("resnet18", 9, pretrained=True)
