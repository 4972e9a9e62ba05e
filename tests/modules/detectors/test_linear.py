"""The linear probe: trained, released, refused."""

import re

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader

from modules.detectors.checkpoint import load_detector
from modules.detectors.linear import LinearProbe
from modules.errors import CheckpointError, ModelError


class Samples(torch.utils.data.Dataset):
    """Two overlapping clouds of vectors."""

    def __init__(self, count=200):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 2
        shift = torch.tensor([1.0, -0.5, 0.0, 0.25])
        self.vectors = torch.randn(count, 4, generator=generator) + self.labels[:, None] * shift

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"key": str(index), "label": int(self.labels[index]), "index": index, "features": {"embedding": self.vectors[index]}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    detector = LinearProbe(
        4, calibration="sigmoid", optimizer=lambda parameters: torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe")
    )
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(detector, DataLoader(Samples(), batch_size=200), DataLoader(Samples(), batch_size=200))
    trainer.save_checkpoint(folder / "x.ckpt")
    return detector.eval(), folder / "x.ckpt"


def test_it_learns_what_scikit_learn_learns(trained):
    samples = Samples()
    reference = LogisticRegression(C=1e6).fit(samples.vectors.numpy(), samples.labels.numpy())
    detector, _ = trained
    assert detector.layer.weight.detach().numpy()[0] == pytest.approx(reference.coef_[0], abs=1e-2)
    assert detector.layer.bias.item() == pytest.approx(reference.intercept_[0], abs=1e-2)
    with torch.no_grad():
        probabilities = detector.probability(detector.score(detector({"embedding": samples.vectors})))
    assert probabilities.numpy() == pytest.approx(reference.predict_proba(samples.vectors.numpy())[:, 1], abs=1e-2)


def test_a_checkpoint_scores_alone(trained):
    detector, path = trained
    loaded, _ = load_detector(str(path))
    batch = {"embedding": Samples().vectors}
    with torch.no_grad():
        assert torch.equal(loaded(batch), detector(batch))
    assert loaded.threshold == detector.threshold


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 6, generator=generator), torch.tensor([0.5])


@pytest.mark.parametrize("names", [("weight", "bias"), ("fc.weight", "fc.bias"), ("module.head.weight", "module.head.bias")])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_released_layers_of_any_name(layer, names, wrapper, tmp_path):
    state = dict(zip(names, layer, strict=True))
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "x.pth")
    detector = LinearProbe(6, weights=str(tmp_path / "x.pth"), frozen=True)
    vectors = torch.rand(5, 6)
    assert torch.allclose(detector.score(detector({"embedding": vectors})), vectors @ layer[0][0] + 0.5)
    assert not detector.learns
    assert not any(parameter.requires_grad for parameter in detector.parameters())


def test_released_layers_are_a_start_as_well(layer, tmp_path):
    save_file({"fc.weight": layer[0], "fc.bias": layer[1]}, tmp_path / "x.safetensors")
    detector = LinearProbe(6, weights=str(tmp_path / "x.safetensors"))
    assert detector.learns
    assert all(parameter.requires_grad for parameter in detector.layer.parameters())
    assert torch.equal(detector.layer.weight, layer[0])


def test_a_frozen_checkpoint_needs_no_file(layer, tmp_path):
    save_file({"weight": layer[0], "bias": layer[1]}, tmp_path / "x.safetensors")
    detector = LinearProbe(6, weights=str(tmp_path / "x.safetensors"), frozen=True)
    described = {"detector": detector.settings(), "data": None, **detector.measured()}
    torch.save({"state_dict": detector.state_dict(), "undertow": described}, tmp_path / "x.ckpt")
    (tmp_path / "x.safetensors").unlink()
    loaded, _ = load_detector(str(tmp_path / "x.ckpt"))
    batch = {"embedding": torch.rand(2, 6)}
    assert torch.equal(loaded(batch), detector(batch))


def test_a_frozen_layer_without_weights_is_refused():
    with pytest.raises(ModelError, match=r"model\.frozen is true and the layer has no weights"):
        LinearProbe(6, frozen=True)({"embedding": torch.rand(2, 6)})
    assert torch.equal(LinearProbe(6)({"embedding": torch.rand(2, 6)}), torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"fc.weight": torch.zeros(1, 8), "fc.bias": torch.zeros(1)}, r"layer of 8 numbers, and model\.dimension is 6"),
        ({"fc.weight": torch.zeros(2, 6), "fc.bias": torch.zeros(2)}, "not one linear layer"),
        ({"fc.weight": torch.zeros(1, 6)}, "not one linear layer"),
        ({"a.weight": torch.zeros(1, 6), "b.weight": torch.zeros(1, 6)}, "not one linear layer"),
        ({"fc.weight": torch.zeros(1, 6), "fc.bias": torch.zeros(1), "bn.scale": torch.zeros(1)}, "3 tensors"),
        ({"fc.weight": torch.zeros(1, 6), "fc.bias": torch.zeros(4)}, "bias"),
        ({"fc.weight": torch.full((1, 6), torch.nan), "fc.bias": torch.zeros(1)}, "not finite"),
    ],
)
def test_other_files_are_refused(state, words, tmp_path):
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=words):
        LinearProbe(6, weights=str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("shape", [[7], [], [1, 6]])
def test_features_of_another_dimension_are_refused(shape):
    with pytest.raises(ValueError, match=rf"'clip' has shape {re.escape(str(shape))} an image, and model\.dimension is 6"):
        LinearProbe(6, feature="clip")({"clip": torch.zeros(3, *shape)})


def test_a_dimension_is_a_number_of_numbers():
    with pytest.raises(ValueError, match=r"model\.dimension is 0"):
        LinearProbe(0)


def test_a_released_layer_tells_its_own_dimension(layer, tmp_path):
    save_file({"weight": layer[0], "bias": layer[1]}, tmp_path / "x.safetensors")
    detector = LinearProbe(weights=str(tmp_path / "x.safetensors"), frozen=True)
    assert detector.settings()["init_args"]["dimension"] == 6
    assert not detector.reads_all
    assert LinearProbe(weights=str(tmp_path / "x.safetensors"), frozen=True, unknown="distance").reads_all


@pytest.mark.parametrize("wrong", [{"target": "family"}, {"standardise": True}])
def test_a_released_layer_is_binary_and_takes_vectors_as_they_are(layer, wrong, tmp_path):
    save_file({"weight": layer[0], "bias": layer[1]}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"are a binary layer for vectors as they are"):
        LinearProbe(6, weights=str(tmp_path / "x.safetensors"), **wrong)
