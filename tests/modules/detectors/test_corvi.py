"""Corvi et al.'s detector: whole images of any size, random crops in training, and the released weights."""

import logging
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from torchvision.models import resnet18, resnet50

from modules.detectors.checkpoint import load_detector
from modules.detectors.corvi import CorviResNet, normalised
from modules.errors import CheckpointError, ModelError
from modules.networks.no_down import build_no_down_resnet
from modules.settings import from_settings
from tests.evil import Evil


def build(**options):
    return CorviResNet(**({"backbone": "resnet18", "pretrained": False, "train_crop": 16} | options))


def pictures(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


def released(path, reference, outputs=1):
    """A file as the authors write it, and the network in it."""
    torch.manual_seed(0)
    network = reference(num_classes=outputs)
    torch.save({"model": network.state_dict(), "total_steps": 10}, path)
    return network.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    network = released(path, resnet18)
    network.conv1.stride, network.maxpool.stride = (1, 1), 1
    return str(path), network


def test_the_papers_network_with_released_weights(tmp_path):
    network = released(tmp_path / "model.pth", resnet50)
    network.conv1.stride, network.maxpool.stride = (1, 1), 1
    detector = CorviResNet(weights=str(tmp_path / "model.pth"), frozen=True)  # no ImageNet weights are asked for
    images = pictures((17, 26))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (images[0] / 255 - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        assert torch.allclose(detector({"image": images}), network(normal[None]), atol=1e-4)
    assert detector.network.fc.weight.shape == (1, 2048)


def test_a_whole_image_goes_through(weights):
    image = torch.stack(pictures((100, 130)))
    detector = build(weights=weights[0], frozen=True)
    assert detector.pixels_at_once > 100 * 130
    seen = []
    detector.network.layer1.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape[2:]))
    with torch.no_grad():
        assert detector({"image": image}).shape == (1, 1)
    assert seen == [(100, 130)]


def test_each_size_alone_or_in_a_batch(weights):
    detector = build(weights=weights[0]).eval()
    images = pictures((16, 25), (9, 17), (16, 25), (30, 5))
    with torch.no_grad():
        together = detector({"image": images})
        alone = torch.cat([detector({"image": image[None]}) for image in images])
        floats = detector({"image": [image / 255 for image in images]})
        detector.pixels_at_once = 400
        one_by_one = detector({"image": images})
    assert together.shape == (4, 1)
    for other in (alone, floats, one_by_one):
        assert torch.allclose(together, other, atol=1e-5)


def test_training_sees_normalised_crops_and_dropout(weights):
    detector = build(weights=weights[0], blur_probability=0, jpeg_probability=0, flip=False).train()
    seen = []
    detector.network.conv1.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    images = pictures((16, 16), (16, 16))
    with torch.no_grad():
        first, second = detector({"image": torch.stack(images)}), detector({"image": images})
    assert torch.equal(seen[0], normalised(torch.stack(images)))  # the only place for a crop
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(first, second)  # dropout
    detector.eval()
    with torch.no_grad():
        assert torch.equal(detector({"image": images}), detector({"image": images}))


def test_training_crops_repeat_with_the_seed():
    detector = build().train()
    seen = []
    detector.network.conv1.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    images = pictures((40, 50), (33, 16), (90, 41))
    with torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            detector({"image": images})
    assert seen[0].shape == (3, 3, 16, 16)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_images_smaller_than_the_crop_are_told_once(caplog):
    detector = build(train_crop=32).train()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            detector({"image": pictures((60, 70), (20, 100))})
    told = [record.getMessage() for record in caplog.records if "--model.train_crop" in record.getMessage()]
    assert len(told) == 1
    assert "--model.train_crop 32 (the first has 20 x 100 pixels)" in told[0]


def test_a_frozen_network_stays_as_it_is(weights):
    detector = build(weights=weights[0], frozen=True).train()
    assert not detector.learns
    assert build().learns
    assert not any(module.training for module in detector.network.modules())
    assert not any(parameter.requires_grad for parameter in detector.network.parameters())
    images = pictures((20, 20))
    assert torch.equal(detector({"image": images}), detector.eval()({"image": images}))
    with pytest.raises(ValueError, match=r"frozen is true without model\.weights"):
        CorviResNet(backbone="resnet18", frozen=True)


def test_a_frozen_network_without_weights_is_refused():
    images = {"image": pictures((20, 20))}
    with pytest.raises(ModelError, match=r"model\.frozen is true and the network has no weights"):
        build(frozen=True)(images)
    build().eval()(images)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_checkpoint_brings_its_weights(weights, frozen, tmp_path):
    detector = build(weights=weights[0] if frozen else None, frozen=frozen).eval()
    described = {"detector": detector.settings(), "data": None, **detector.measured()}
    torch.save({"state_dict": detector.state_dict(), "undertow": described}, tmp_path / "x.ckpt")
    loaded, _ = load_detector(str(tmp_path / "x.ckpt"))
    again = build(frozen=True)
    again.load_state_dict(loaded.state_dict())
    images = {"image": pictures((20, 20))}
    with torch.no_grad():
        assert loaded.weights is None
        assert torch.equal(loaded(images), detector(images))
        assert torch.equal(again(images), detector(images))


class Samples(torch.utils.data.Dataset):
    """Fakes with a fine pattern, of several sizes."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        label = index % 2
        image = torch.randint(90, 110, (3, 16 + index, 20), generator=torch.Generator().manual_seed(index))
        image[:, ::2, ::2] += 120 * label
        return {"key": str(index), "label": label, "index": index, "features": {"image": image.to(torch.uint8)}}


def collate(samples):
    joined = torch.utils.data.default_collate([{name: sample[name] for name in ("key", "label", "index")} for sample in samples])
    return joined | {"features": {"image": [sample["features"]["image"] for sample in samples]}}


def test_it_learns_from_crops_and_its_checkpoint_scores_alone(tmp_path):
    torch.manual_seed(0)
    detector = build(
        calibration="sigmoid",
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05),
        blur_sigma=(0.0, 0.5),
        jpeg_quality=(80, 100),
    )
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", num_sanity_val_steps=0, limit_val_batches=1, **quiet)
    loaders = [DataLoader(Samples(), batch_size=4, shuffle=shuffle, collate_fn=collate) for shuffle in (True, False)]
    trainer.fit(detector, *loaders)
    assert trainer.callback_metrics["train/auroc"] > 0.9
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    loaded, _ = load_detector(str(tmp_path / "x.ckpt"))
    images = [Samples()[i]["features"]["image"] for i in range(2)]
    with torch.no_grad():
        assert torch.equal(loaded({"image": images}), detector.eval()({"image": images}))
    assert loaded.weights is None


@pytest.mark.parametrize("config", ["corvi", "corvi_released"])
def test_photographs_that_wait_for_it_fit_into_memory(config):
    told = yaml.safe_load(Path(f"configs/{config}.yaml").read_text())["data"]
    for images, workers in (("batch_size", "num_workers"), ("extract_batch_size", "extract_workers")):
        waiting = told[images] * (2 * told[workers] + 1)  # torch's DataLoader prefetches two batches a worker
        assert waiting * 12_000_000 * 3 < 11e9


def test_settings_rebuild_it():
    detector = build(blur_sigma=(0.5, 1.0), pixels_at_once=10**6)
    again = from_settings(detector.settings())
    assert again.settings() == detector.settings()
    assert again.crops == detector.crops


def test_wrong_files_are_named(tmp_path, weights):
    released(tmp_path / "imagenet.pth", resnet18, outputs=1000)
    with pytest.raises(CheckpointError, match=r"fc\.weight \(1000, 512\) where \(1, 512\) is needed"):
        build(weights=str(tmp_path / "imagenet.pth"))
    with pytest.raises(CheckpointError, match=r"not those of a resnet34 of one logit .* missing: "):
        build(backbone="resnet34", weights=weights[0])
    torch.save({"model": Evil(tmp_path / "mark")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        build(weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "mark").exists()
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        build(weights=str(tmp_path / "text.pth"))
    with pytest.raises(CheckpointError, match=r"nowhere\.pth' do not exist"):
        build(weights=str(tmp_path / "nowhere.pth"))


def test_weights_without_batch_counts_and_as_safetensors(tmp_path):
    torch.manual_seed(1)
    network = build_no_down_resnet("resnet18")
    state = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "x.safetensors")
    detector = build(weights=str(tmp_path / "x.safetensors"))
    assert torch.equal(detector.network.layer3[0].conv1.weight, network.layer3[0].conv1.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blur_probability": 1.5}, r"model\.blur_probability is 1\.5"),
        ({"jpeg_probability": -0.1}, r"model\.jpeg_probability is -0\.1"),
        ({"blur_sigma": (2.0, 1.0)}, r"model\.blur_sigma is \[2\.0, 1\.0\]"),
        ({"jpeg_quality": (0, 90)}, r"model\.jpeg_quality is \[0, 90\]"),
        ({"train_crop": 8}, r"model\.train_crop is 8; at least 16"),
        ({"pixels_at_once": 1000}, r"model\.pixels_at_once is 1000; resnet18 needs at least 18496"),
        ({"dropout": -1}, "dropout is -1"),
        ({"backbone": "resnet101"}, "'resnet101' is not one of"),
    ],
)
def test_wrong_values_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)
