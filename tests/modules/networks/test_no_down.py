"""ResNets that keep every pixel: torchvision's in all but the two strides, and the same logits in one piece or in tiles."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models import ResNet, resnet18, resnet50
from torchvision.models.resnet import Bottleneck

from modules.errors import ModelError
from modules.networks.no_down import build_no_down_resnet, feature_map, least_pixels, margin, whole_image_logits


def lively(network):
    """With statistics that a trained network may have: those of a new one hide mistakes."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def small():
    """Of four blocks, for its small margin of 16 pixels."""
    torch.manual_seed(0)
    network = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=1, width_per_group=8)
    network.conv1.stride, network.maxpool.stride = (1, 1), 1
    return lively(network)


@pytest.mark.parametrize(("name", "reference"), [("resnet18", resnet18), ("resnet50", resnet50)])
def test_it_is_torchvisions_with_two_strides_changed(name, reference):
    torch.manual_seed(0)
    expected = reference(num_classes=1)
    expected.conv1.stride, expected.maxpool.stride = (1, 1), 1
    network = build_no_down_resnet(name)
    assert network.state_dict().keys() == expected.state_dict().keys()
    network.load_state_dict(lively(expected).state_dict())
    images = torch.randn(2, 3, 24, 33)
    with torch.no_grad():
        assert torch.allclose(network.eval()(images), expected(images), atol=1e-5)


def test_the_first_layers_keep_every_pixel():
    network = build_no_down_resnet("resnet18").eval()
    image = torch.randn(1, 3, 43, 30)
    with torch.no_grad():
        early = network.maxpool(network.relu(network.bn1(network.conv1(image))))
        assert early.shape == (1, 64, 43, 30)
        assert network.layer1(early).shape == (1, 64, 43, 30)
        assert feature_map(network, image).shape == (1, 512, 6, 4)
    assert network.fc.weight.shape == (1, 512)


def test_dropout_in_training_only():
    network = build_no_down_resnet("resnet18", dropout=0.5)
    features = torch.rand(1, 512, 3, 3) + 1
    pooled = network.train().avgpool(features)
    assert 0.3 < (pooled == 0).float().mean() < 0.7
    assert torch.allclose(network.eval().avgpool(features), features.mean((2, 3), keepdim=True))
    without = build_no_down_resnet("resnet18", dropout=0).train()
    assert torch.allclose(without.avgpool(features), features.mean((2, 3), keepdim=True))


@pytest.mark.parametrize(("name", "pixels"), [("resnet18", 57), ("resnet34", 115), ("resnet50", 56)])
def test_the_margin_is_the_receptive_field(name, pixels):
    """Half of the receptive field: 1 + 2 · Σ (k // 2) · spacing, summed by hand; rounded up to the grid of features."""
    assert margin(build_no_down_resnet(name)) == -(-pixels // 8) * 8


def test_a_feature_depends_on_no_pixel_beyond_the_margin(small):
    image = torch.randn(1, 3, 8, 72, requires_grad=True)
    feature_map(small, image)[0, :, 0, 4].sum().backward()  # its own place is column 32
    columns = image.grad.abs().sum((0, 1, 2)).nonzero()[:, 0]
    assert 32 - margin(small) <= columns.min() < 32 - margin(small) + 8
    assert 32 + margin(small) - 8 < columns.max() <= 32 + margin(small)


@pytest.mark.parametrize("size", [(70, 51), (35, 90)])
def test_tiles_give_the_whole_images_logit(small, size):
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        tiled = whole_image_logits(small, image, 56**2)
        assert torch.allclose(tiled, small(image), rtol=1e-4, atol=1e-5)
        assert tiled.shape == (1, 1)


def test_no_more_pixels_than_asked_for_are_in_the_network_at_once(small):
    seen = []
    hook = small.conv1.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape[0] * inputs[0][0, 0].numel()))
    images = [torch.randn(3, 56, 46), *torch.randn(5, 3, 30, 40)]
    with torch.no_grad():
        whole_image_logits(small, images, 2500)
    hook.remove()
    assert len(seen) > 4
    assert max(seen) <= 2500
    assert seen.count(2 * 1200) == 2  # as many of one size together as there may be


def test_images_of_any_sizes_come_back_in_their_order(small):
    images = [torch.randn(3, *size) for size in ((24, 40), (33, 17), (24, 40), (8, 8), (1, 1))]
    with torch.no_grad():
        together = whole_image_logits(small, images, 10**6, lambda batch: batch / 2)
        alone = torch.cat([small(image[None] / 2) for image in images])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_too_few_pixels_for_a_tile_are_refused(small):
    with pytest.raises(ValueError, match=f"at least {least_pixels(small)} are needed"):
        whole_image_logits(small, torch.zeros(1, 3, 50, 50), least_pixels(small) - 1)


def test_whole_image_in_the_released_depth_goes_through():
    network = build_no_down_resnet("resnet50").eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 50)).shape == (1, 1)
    assert network.fc.weight.shape == (1, 2048)


def test_it_learns_from_a_batch():
    network = build_no_down_resnet("resnet18").train()
    binary_cross_entropy_with_logits(network(torch.randn(2, 3, 32, 32))[:, 0], torch.tensor([0.0, 1.0])).backward()
    assert network.conv1.weight.grad.abs().sum() > 0


def test_wrong_values_are_refused():
    with pytest.raises(ModelError, match="'vgg16' is not one of"):
        build_no_down_resnet("vgg16")
    with pytest.raises(ValueError, match="dropout is 1"):
        build_no_down_resnet("resnet18", dropout=1)


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ModelError, match=r"set model\.pretrained to false"):
        build_no_down_resnet("resnet18", pretrained=True)


def test_imagenet_weights_are_taken_over(monkeypatch):
    from torchvision import models

    torch.manual_seed(0)
    trained = resnet18()
    asked = []

    def get_model(name, weights):
        asked.append((name, weights))
        return trained

    expected = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    monkeypatch.setattr(models, "get_model", get_model)
    network = build_no_down_resnet("resnet18", pretrained=True)
    assert asked == [("resnet18", "IMAGENET1K_V1")]
    assert torch.equal(network.layer4[1].conv2.weight, expected["layer4.1.conv2.weight"])
