"""FakeInversion's inputs, one shared step, and what its checkpoint carries."""

import pickle

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from modules.detectors import FakeInversion
from modules.detectors.base import Detector
from modules.detectors.checkpoint import load_detector, save_weights

INPUTS = [["image"], ["residual"], ["image", "noise_map", "reconstruction"], ["image", "noise_map", "reconstruction", "residual"]]


def build(**options):
    return FakeInversion(**({"backbone": "resnet18", "pretrained": False} | options))


def features(count=4, side=32):
    generator = torch.Generator().manual_seed(0)
    names = ("image", "noise_map", "reconstruction")
    return {name: torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8) for name in names}


@pytest.mark.parametrize("inputs", INPUTS)
def test_any_subset_of_inputs(inputs):
    detector = build(inputs=inputs).eval()
    cached = features()
    assert detector({name: cached[name] for name in detector.features}).shape == (4, 1)
    assert detector.stack(cached).shape == (4, 3 * len(inputs), 32, 32)


def test_residual_is_the_absolute_difference():
    cached = features()
    residual = build(inputs=["residual"]).stack(cached)
    expected = (cached["image"].int() - cached["reconstruction"].int()).abs() / 255
    assert torch.allclose(residual, expected, atol=1e-6)


def test_normalisation_is_imagenets_for_each_group():
    detector = build(inputs=["image", "noise_map"])
    mean = torch.tensor([0.485, 0.456, 0.406] * 2)[None, :, None, None].expand(1, 6, 4, 4)
    assert detector.normalise(mean).abs().max() < 1e-6


def test_augmentation_in_training_only():
    detector = build(crop=24)
    channels = detector.stack(features(64))
    assert not torch.equal(detector.train().view(channels), detector.view(channels))
    assert torch.equal(detector.eval().view(channels), channels[..., 4:28, 4:28])
    assert build(resize=16).eval().view(channels).shape[-1] == 16


@pytest.mark.parametrize("inputs", [[], ["image", "image"], ["picture"]])
def test_wrong_inputs_are_refused(inputs):
    with pytest.raises(ValueError, match="each once"):
        build(inputs=inputs)


class Samples(torch.utils.data.Dataset):
    """Bright fakes, dark reals."""

    def __len__(self):
        return 48

    def __getitem__(self, index):
        label = index % 2
        image = torch.randint(0, 120, (3, 16, 16), generator=torch.Generator().manual_seed(index)) + 130 * label
        return {"key": str(index), "label": label, "index": index, "features": {"image": image.to(torch.uint8)}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    detector = build(inputs=["image"], optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=1,
    )  # fmt: skip
    loader = DataLoader(Samples(), batch_size=16, shuffle=True)
    trainer.fit(detector, loader, DataLoader(Samples(), batch_size=16))
    trainer.save_checkpoint(folder / "x.ckpt")
    return trainer, detector, folder / "x.ckpt"


def test_it_learns_and_logs_the_agreed_names(trained):
    trainer, detector, _ = trained
    assert {"train/loss", "val/loss", "val/auroc", "val/average_precision", "val/tpr_at_fpr_0.1", "train/auroc"} <= set(
        trainer.callback_metrics
    )
    assert "val/tpr_at_fpr_0.01" not in trainer.callback_metrics  # 24 reals cannot tell it
    assert trainer.callback_metrics["val/auroc"] == 1
    assert detector.threshold.n == 24
    assert detector.threshold.value is not None


def test_checkpoint_scores_alone(trained):
    _, detector, path = trained
    loaded, described = load_detector(str(path))
    assert isinstance(loaded, FakeInversion)
    assert loaded.threshold == detector.threshold
    assert described == {}
    cached = {"image": torch.stack([Samples()[i]["features"]["image"] for i in range(8)])}
    with torch.no_grad():
        assert torch.equal(loaded.score(loaded(cached)), detector.eval().score(detector(cached)))


def test_row_27_the_checkpoint_holds_plain_types_only(trained):
    checkpoint = torch.load(trained[2], weights_only=True)
    assert checkpoint["undertow"]["detector"]["init_args"]["inputs"] == ["image"]
    assert "optimizer" not in checkpoint["undertow"]["detector"]["init_args"]


class Evil:
    """Runs code when it is unpickled without care."""

    def __reduce__(self):
        return (pytest.fail, ("code from a checkpoint was run",))


def test_row_26_untrusted_checkpoint(tmp_path):
    torch.save({"state_dict": {}, "undertow": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="cannot be read safely"):
        load_detector(str(tmp_path / "evil.ckpt"))
    (tmp_path / "cut.ckpt").write_bytes(pickle.dumps(Evil())[:10])
    with pytest.raises(ValueError, match=r"cut\.ckpt"):
        load_detector(str(tmp_path / "cut.ckpt"))


def test_row_26_weights_also_as_safetensors(trained, tmp_path):
    _, detector, path = trained
    described = {"extractor": {"init_args": {"steps": 3}}, "trained_on": torch.tensor([5, 7])}
    save_weights(detector, described, tmp_path / "best.safetensors")
    loaded, read = load_detector(str(tmp_path / "best.safetensors"))
    assert loaded.threshold == detector.threshold
    assert read["extractor"] == described["extractor"]
    assert torch.equal(read["trained_on"], described["trained_on"])
    expected, _ = load_detector(str(path))
    for name, weights in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "best.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read safely"):
        load_detector(str(tmp_path / "cut.safetensors"))
    with pytest.raises(ValueError, match="cannot be opened"):
        load_detector(str(tmp_path / "nowhere.safetensors"))


def test_a_checkpoint_names_no_class_outside_the_project(tmp_path):
    described = {"detector": {"class_path": "os.system", "init_args": {"command": "true"}}, "data": None, "threshold": {}}
    torch.save({"state_dict": {}, "undertow": described}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"os\.system"):
        load_detector(str(tmp_path / "x.ckpt"))
    described["detector"]["class_path"] = "modules.images.to_unit"
    torch.save({"state_dict": {}, "undertow": described}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="is not a Detector"):
        load_detector(str(tmp_path / "x.ckpt"))


def test_foreign_checkpoint_is_named(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"not written by train\.py"):
        load_detector(str(tmp_path / "x.ckpt"))


def test_a_subclass_says_only_what_differs():
    """The contract of the base class: forward, features, and nothing else for a detector of one logit."""

    class Brightness(Detector):
        features = ("image",)

        def forward(self, features):
            return features["image"].float().mean((1, 2, 3))[:, None]

    batch = torch.utils.data.default_collate([Samples()[i] for i in range(6)])
    outputs = Brightness().predict_step(batch, 0)
    assert outputs["score"].argmax() % 2 == 1
