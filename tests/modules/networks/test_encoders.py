"""Image encoders by name, against their libraries' own calls."""

import pytest
import torch
from safetensors.torch import save_file

from modules.errors import ModelError
from modules.networks.encoder_names import parse_name
from modules.networks.encoders import ImageEncoder, build_encoder, encoder_size, folded
from tests.modules.networks.encoders import TINY, add_tiny

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return add_tiny(tmp_path_factory.mktemp("clip"), "tiny-encoders")


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def normalised(images, mean, std):
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_open_clip_from_a_file_gives_what_open_clip_gives(tiny, images, tmp_path):
    import open_clip

    reference = open_clip.create_model("tiny-encoders").eval()
    path = tmp_path / "clip.safetensors"
    save_file(reference.state_dict(), path)
    encoder = build_encoder(f"{tiny}/{path}")
    with torch.no_grad():
        expected = reference.encode_image(normalised(images, CLIP_MEAN, CLIP_STD))
        assert torch.allclose(encoder(images), expected, atol=1e-5)
    assert (encoder.size, encoder.dimension) == (32, 12)
    assert encoder.mean == pytest.approx(CLIP_MEAN)
    assert encoder.std == pytest.approx(CLIP_STD)


def test_without_projection_it_is_the_embedding_that_the_projection_is_given(tiny, images):
    projected, pooled = build_encoder(tiny, pretrained=False), build_encoder(tiny, pretrained=False, projection=False)
    assert pooled.dimension == TINY["vision_cfg"]["width"]
    assert torch.allclose(pooled(images) @ projected.network.proj, projected(images), atol=1e-5)


def test_the_projection_of_a_timm_tower_within_open_clip(tmp_path, images):
    vision = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    name = add_tiny(tmp_path, "tiny-timm-tower", vision_cfg=vision)
    projected, pooled = build_encoder(name, pretrained=False), build_encoder(name, pretrained=False, projection=False)
    assert (projected.dimension, pooled.dimension) == (12, 96)
    assert torch.allclose(projected.network.head.proj(pooled(images)), projected(images), atol=1e-5)


def test_a_projection_that_cannot_be_left_out(tmp_path):
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    name = add_tiny(tmp_path, "tiny-clip-resnet", vision_cfg=vision)
    with pytest.raises(ModelError, match="set projection to true"):
        build_encoder(name, pretrained=False, projection=False)


def test_timm_gives_what_timm_gives(tmp_path):
    import timm

    reference = timm.create_model("test_vit", pretrained=False).eval()
    path = tmp_path / "vit.safetensors"
    save_file(reference.state_dict(), path)
    encoder = build_encoder(f"timm/test_vit/{path}")
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        tokens = reference.forward_features((images - 0.5) / 0.5)
        expected = reference.forward_head(tokens, pre_logits=True)
    assert torch.allclose(encoder(images), expected, atol=1e-5)
    assert (encoder.size, encoder.dimension) == (160, 64)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_resnet", "open_clip"])
def test_another_size_than_the_encoders_own(name, tiny):
    encoder = build_encoder(tiny if name == "open_clip" else name, pretrained=False, size=64)
    assert encoder.size == 64
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, encoder.dimension)


def test_sizes_are_known_without_a_network(tiny):
    assert encoder_size(tiny) == 32
    assert encoder_size("open_clip/ViT-L-14/datacomp_xl_s13b_b90k") == 224
    assert encoder_size("open_clip/ViT-L-14-336") == 336
    assert encoder_size("timm/vit_large_patch14_dinov2.lvd142m") == 518
    assert encoder_size("torchvision/squeezenet1_0") == 224
    assert encoder_size("torchvision/vit_b_16/IMAGENET1K_SWAG_E2E_V1") == 384


def test_random_weights_are_the_same_ones_each_time_and_leave_the_generator_alone(tiny, images):
    torch.manual_seed(1)
    first = build_encoder(tiny, pretrained=False)(images)
    after = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(build_encoder(tiny, pretrained=False)(images), first)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("name", ["timm/test_resnet", "open_clip"])
def test_another_normalisation_than_the_encoders_own(name, tiny, images):
    mean, std = [0.1, 0.2, 0.3], [0.5, 1 / 255, 2.0]
    own = build_encoder(tiny if name == "open_clip" else name, pretrained=False, size=32)
    other = build_encoder(tiny if name == "open_clip" else name, pretrained=False, size=32, mean=mean, std=std)
    assert (other.mean, other.std) == (tuple(mean), tuple(std))
    assert torch.allclose(other(images), own.network(normalised(images, mean, std)), atol=1e-5)
    assert not torch.allclose(other(images), own(images), atol=1e-2)


def test_it_is_frozen_and_stays_in_evaluation_mode(tiny):
    encoder = build_encoder(tiny, pretrained=False)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_the_parts_of_a_name(tmp_path):
    assert parse_name("open_clip/ViT-B-32//data/x.pt")[1:] == ("ViT-B-32", "/data/x.pt")
    assert parse_name("timm/resnet50.a1_in1k")[:2] == ("timm", "resnet50.a1_in1k")
    assert parse_name("torchvision/squeezenet1_0//data/x.safetensors") == ("torchvision", "squeezenet1_0", "/data/x.safetensors")
    (tmp_path / "x.pt").touch()
    assert parse_name(f"timm/resnet50/{tmp_path / 'x.pt'}").file == str(tmp_path / "x.pt")
    assert parse_name("open_clip/ViT-B-32/laion2b_e16").file is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ViT-L-14", "is not LIBRARY/NAME"),
        ("keras/resnet50", r"\['open_clip', 'timm', 'torchvision'\]"),
        ("torchvision/resnet49/IMAGENET1K_V1", r"similar: .*resnet50"),
        ("torchvision/resnet50/IMAGENET1K_V3", r"neither a file nor one of its 2 names; similar: IMAGENET1K_V"),
        ("torchvision/resnet50/nowhere.pt", r"'nowhere\.pt' is neither a file nor"),
        ("torchvision/resnet50", r"add / and one of IMAGENET1K_V1, IMAGENET1K_V2, or a file"),
        ("open_clip/ViT-L-15/openai", r"similar: .*ViT-L-14"),
        ("open_clip/ViT-L-14/datacomp_xl", r"similar: .*datacomp_xl_s13b_b90k"),
        ("open_clip/ViT-L-14", r"add /TAG with one of openai"),
        ("timm/vit_large_patch14_dinov3", r"similar: .*vit_large_patch14_dinov2"),
        ("timm/vit_large_patch14_dinov2.lvd142", r"similar: lvd142m"),
        ("timm/test_vit/nowhere.pt", r"no file 'nowhere\.pt'"),
    ],
)
def test_an_unknown_name_is_told_with_similar_ones(name, words):
    with pytest.raises(ModelError, match=words):
        build_encoder(name)


@pytest.mark.parametrize("name", ["timm/test_vit.r160_in1k", "open_clip/ViT-B-32/openai", "torchvision/squeezenet1_0/IMAGENET1K_V1"])
def test_weights_that_cannot_be_downloaded_say_what_to_do(name, monkeypatch):
    import open_clip
    from timm.models import _builder
    from torchvision.models import _api

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", offline)
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", offline)
    monkeypatch.setattr(_api, "load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match=r"no network.*fetch them elsewhere and name the file"):
        build_encoder(name)


@pytest.mark.parametrize("library", ["timm", "open_clip"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_broken_file_is_no_matter_of_the_network(library, suffix, tiny, tmp_path):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"the file must hold weights of '(test_vit|tiny-encoders)'") as refused:
        build_encoder(f"{tiny if library == 'open_clip' else 'timm/test_vit'}/{path}")
    assert "download" not in str(refused.value)
    assert "weights_only" not in str(refused.value)


def test_weights_of_another_network_are_refused(tiny, tmp_path):
    save_file({"positional_embedding": torch.zeros(8, 16), "logit_scale": torch.zeros(())}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="the file must hold weights of 'tiny-encoders'"):
        build_encoder(f"{tiny}/{tmp_path / 'other.safetensors'}")
    with pytest.raises(ModelError, match=r"lacks 27 of the network's weights, 'cls_token' the first"):
        build_encoder(f"timm/test_vit/{tmp_path / 'other.safetensors'}")


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(tiny):
    with pytest.raises(ModelError, match="patches of 8 pixels, and size is 36; name a multiple, as 32 or 40, or null for its own 32"):
        build_encoder(tiny, pretrained=False, size=36)
    with pytest.raises(ModelError, match="patches of 16 pixels, and size is 9; name a multiple, as 16 or 32"):
        build_encoder("timm/test_vit", pretrained=False, size=9)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "MemoryError.*does not fit into memory; name a smaller one"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "does not fit into memory"),
        (RuntimeError("Kernel size can't be greater"), "set size to null for its own"),
    ],
)
def test_other_errors_speak_of_no_download(error, words, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(ImageEncoder, "__init__", fail)
    with pytest.raises(ModelError, match=words) as refused:
        build_encoder("timm/test_resnet", pretrained=False, size=64)
    assert "download" not in str(refused.value)


def test_images_that_are_not_square_are_refused(tmp_path):
    vision = TINY["vision_cfg"] | {"image_size": [32, 64]}
    name = add_tiny(tmp_path, "tiny-oblong", vision_cfg=vision)
    with pytest.raises(ModelError, match="32×64"):
        encoder_size(name)


def test_convolutions_lie_in_memory_as_they_are_quick():
    """Channels last, whatever library the network is of; the numbers are those of torch's own layout but for rounding."""
    encoder = build_encoder("torchvision/squeezenet1_1", pretrained=False)
    weights = [weight for weight in encoder.parameters() if weight.ndim == 4 and weight.shape[1] > 1 and weight.shape[2] > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    images = torch.rand(2, 3, 224, 224)
    found = encoder(images)
    encoder.network.to(memory_format=torch.contiguous_format)
    assert (encoder(images) - found).abs().max() <= 1e-5 * found.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_0"])
def test_batch_normalisations_are_folded_and_change_nothing(name):
    """Statistics and factors as a trained network has them, against the network as torchvision runs it."""
    from torchvision import models

    network = models.get_model(name, weights=None).eval()
    generator = torch.Generator().manual_seed(0)
    normalisations = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in normalisations:
        for numbers, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5), (module.bias, -0.5)):
            numbers.data.copy_(torch.rand(numbers.shape, generator=generator) + low)
    images = torch.rand(3, 3, 96, 96, generator=generator)
    expected = network.double()(images.double())
    quicker = folded(network.float(), 64)
    found = quicker(images)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quicker.modules())
    assert (quicker is network) == (not normalisations)
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()) == len(normalisations)


class Untraceable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm(images).mean((2, 3)) if images.sum() > 0 else images[:, :, 0, 0]


class Drawing(torch.nn.Module):
    """Gives another answer each time: the two are not alike."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm(images).mean((2, 3)) + torch.rand(3)


@pytest.mark.parametrize("kind", [Untraceable, Drawing])
def test_what_cannot_be_folded_stays_what_it_is(kind):
    network = kind().eval()
    assert folded(network, 8) is network
