"""torchvision's networks as encoders, against torchvision's own features."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models
from torchvision.models import _api
from torchvision.models.feature_extraction import create_feature_extractor

from modules.errors import ModelError
from modules.networks.encoders import build_encoder

MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]

# The node whose output, pooled over space where it still has one, is what each kind of network knows before its classifier.
NODES = {
    "alexnet": "features",
    "convnext_tiny": "classifier.1",
    "densenet121": "features",
    "efficientnet_b0": "avgpool",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "avgpool",
    "regnet_y_400mf": "avgpool",
    "resnet18": "avgpool",
    "shufflenet_v2_x0_5": "conv5",
    "squeezenet1_0": "features",
    "squeezenet1_1": "features",
    "swin_t": "flatten",
}


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    torch.manual_seed(7)
    network = models.squeezenet1_0(weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file(network.state_dict(), path)
    return network, path


@pytest.fixture
def built(monkeypatch):
    """What torchvision built, before anything was taken from it."""
    kept, build = [], models.get_model

    def keep(*arguments, **options):
        network = build(*arguments, **options)
        kept.append(copy.deepcopy(network).eval())
        return network

    monkeypatch.setattr(models, "get_model", keep)
    return kept


@pytest.mark.parametrize("architecture", NODES)
def test_the_embedding_is_what_torchvision_has_before_its_classifier(architecture, images, built):
    encoder = build_encoder(f"torchvision/{architecture}", pretrained=False, size=64)
    with torch.no_grad():
        found = create_feature_extractor(built[0], {NODES[architecture]: "x"})((images - MEAN) / STD)["x"]
    if architecture == "densenet121":
        found = found.relu()  # its forward does that outside of any module
    expected = found.mean((2, 3)) if found.ndim == 4 else found
    assert encoder.dimension == expected.shape[1]
    assert torch.allclose(encoder(images), expected, atol=1e-5, rtol=1e-4)


def test_vggs_features_are_pooled_and_not_flattened(images, monkeypatch):
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: None)  # 120 million numbers that nothing sees
    small = models.VGG(models.vgg.make_layers([8, "M", 16, "M"]), init_weights=False).eval()
    monkeypatch.setattr(models, "get_model", lambda *arguments, **options: copy.copy(small))
    encoder = build_encoder("torchvision/vgg11", pretrained=False, size=64)
    with torch.no_grad():
        assert torch.allclose(encoder(images), small.features((images - MEAN) / STD).mean((2, 3)), atol=1e-6)


def test_a_vision_transformer_at_its_own_and_at_another_size(images, monkeypatch):
    def small(*arguments, image_size, weights):
        torch.manual_seed(3)
        network = models.VisionTransformer(image_size, 32, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16).eval()
        torch.nn.init.normal_(network.heads.head.weight)  # zeros otherwise
        return network

    monkeypatch.setattr(models, "get_model", small)
    for size in (None, 64):
        encoder = build_encoder("torchvision/vit_b_32", pretrained=False, size=size)
        side = size or 224
        reference = small(image_size=side, weights=None)
        own = small(image_size=224, weights=None).state_dict()
        reference.load_state_dict(models.vision_transformer.interpolate_embeddings(side, 32, own))
        seen = torch.nn.functional.interpolate(images, side)
        with torch.no_grad():
            expected = reference((seen - MEAN) / STD)
            assert torch.allclose(reference.heads(encoder(seen)), expected, atol=1e-5)
        assert (encoder.size, encoder.dimension) == (side, 8)
    with pytest.raises(ModelError, match="patches of 32 pixels, and size is 80; name a multiple, as 64 or 96, or null for its own 224"):
        build_encoder("torchvision/vit_b_32", pretrained=False, size=80)


def test_weights_from_a_file_in_any_precision_become_float32(squeezenet, images, tmp_path):
    network, path = squeezenet
    half = {name: tensor.half() for name, tensor in network.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "wrapped.pt")
    with torch.no_grad():
        expected = network.features((images - MEAN) / STD).mean((2, 3))
        network.load_state_dict({name: tensor.float() for name, tensor in half.items()})
        rounded = network.features((images - MEAN) / STD).mean((2, 3))
    for file, wanted in ((path, expected), (tmp_path / "wrapped.pt", expected), (tmp_path / "half.safetensors", rounded)):
        encoder = build_encoder(f"torchvision/squeezenet1_0/{file}", size=64)
        assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
        assert torch.allclose(encoder(images), wanted, atol=1e-5)
    assert encoder.dimension == 512


def test_a_normalisation_of_its_own_is_what_the_file_was_trained_with(squeezenet, images):
    mean, std = [123 / 255, 117 / 255, 104 / 255], [1 / 255] * 3
    network, path = squeezenet
    encoder = build_encoder(f"torchvision/squeezenet1_0/{path}", size=64, mean=mean, std=std)
    network = models.squeezenet1_0(weights=None).eval()
    network.load_state_dict(load_file(path))
    with torch.no_grad():
        expected = network.features(255 * images - torch.tensor([123.0, 117.0, 104.0])[:, None, None]).mean((2, 3))
    assert torch.allclose(encoder(images), expected, rtol=1e-4, atol=1e-3)


def test_the_classifier_may_be_missing_or_have_other_classes(squeezenet, tmp_path):
    state = models.squeezenet1_0(weights=None, num_classes=7).state_dict()
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}
    for i, each in enumerate((state, bare)):
        save_file(each, tmp_path / f"{i}.safetensors")
        assert build_encoder(f"torchvision/squeezenet1_0/{tmp_path}/{i}.safetensors", size=64).dimension == 512


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("features.3.squeeze.weight"), "1 missing: features.3.squeeze.weight"),
        (lambda state: state.update({"features.0.weight": torch.zeros(96, 3, 3, 3)}), "of another shape: features.0.weight"),
        (lambda state: state.update({"layer9.weight": torch.zeros(1)}), "1 unexpected: layer9.weight"),
        (lambda state: state["features.0.bias"].fill_(torch.nan), "1 not finite real numbers: features.0.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, words, tmp_path):
    state = models.squeezenet1_0(weights=None).state_dict()
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=words) as refused:
        build_encoder(f"torchvision/squeezenet1_0/{tmp_path / 'w.safetensors'}")
    assert "torchvision's squeezenet1_0" in str(refused.value)


class Evil:
    def __reduce__(self):
        return (open, ("evil-was-here", "w"))


def test_a_file_that_would_run_code_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Evil()}, "w.pth")
    with pytest.raises(ModelError, match="cannot be read safely"):
        build_encoder("torchvision/squeezenet1_0/w.pth")
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_broken_file_is_no_matter_of_the_network(suffix, tmp_path):
    (tmp_path / f"broken.{suffix}").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be read safely: they are damaged") as refused:
        build_encoder(f"torchvision/resnet18/{tmp_path}/broken.{suffix}")
    assert "download" not in str(refused.value)
    assert "weights_only" not in str(refused.value)


def test_named_weights_are_downloaded_with_their_hash_and_read_safely(monkeypatch, images):
    torch.manual_seed(5)
    network = models.squeezenet1_1(weights=None).eval()
    asked = []

    def download(url, **options):
        asked.append((url, options))
        return network.state_dict()

    monkeypatch.setattr(_api, "load_state_dict_from_url", download)
    encoder = build_encoder("torchvision/squeezenet1_1/IMAGENET1K_V1", size=64)
    [(url, options)] = asked
    assert url == models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    assert options["weights_only"] is True
    assert options["check_hash"] is True
    with torch.no_grad():
        assert torch.allclose(encoder(images), network.features((images - MEAN) / STD).mean((2, 3)), atol=1e-5)


def test_a_download_that_was_cut_short_says_so(monkeypatch):
    def cut(url, **options):
        raise RuntimeError('invalid hash value (expected "abc", got "def")')

    monkeypatch.setattr(_api, "load_state_dict_from_url", cut)
    with pytest.raises(ModelError, match=r"invalid hash value.*downloaded on first use"):
        build_encoder("torchvision/squeezenet1_1/IMAGENET1K_V1")


def test_densenets_of_the_old_names_fit(tmp_path):
    network = models.densenet121(weights=None)
    old = {name: tensor.clone() for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    for i in "12":
        old = {name.replace(f"norm{i}.", f"norm.{i}.").replace(f"conv{i}.", f"conv.{i}."): tensor for name, tensor in old.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    save_file(old, tmp_path / "w.safetensors")
    encoder = build_encoder(f"torchvision/densenet121/{tmp_path / 'w.safetensors'}", size=32)
    found = encoder.network.features.denseblock4.denselayer16.conv2.weight
    assert torch.equal(found, network.features.denseblock4.denselayer16.conv2.weight)


def test_a_network_whose_features_are_not_known_is_refused():
    with pytest.raises(ModelError, match=r"not known which features a MNASNet has.*known are AlexNet, .*ResNet"):
        build_encoder("torchvision/mnasnet0_5", pretrained=False)
