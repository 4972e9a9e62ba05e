import pytest
import torch

from modules.detectors import LinearProbe, MLPProbe
from modules.detectors.checkpoint import load_detector
from modules.errors import CheckpointError, ModelError
from tests.modules.detectors.heads import clouds, fitted, samples_of, stored


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.05)


@pytest.fixture(scope="module", params=[LinearProbe, MLPProbe])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def first(kind, tmp_path_factory):
    """A trained family head of real, gan and diffusion, and where it lies."""
    folder = tmp_path_factory.mktemp(kind.name)
    head = kind(target="family", standardise=True, optimizer=adam)
    train = clouds()
    fitted(head, folder, (train[0] * 10 + 5, train[1]), (train[0] * 10 + 5, train[1]))
    stored(head, folder)
    return head, folder


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_outputs_are_taken_over_by_name_and_new_classes_get_new_ones(kind, first, suffix):
    old, folder = first
    head = kind(target="family", start=str(folder / f"x.{suffix}"))
    names = ["real", "flow", "diffusion", "gan"]
    head.learn_classes(names)
    assert head.classes == names
    vectors, targets = clouds(4, seed=3)
    head.begin(samples_of(vectors, targets))
    batch = {"embedding": vectors * 10}
    with torch.no_grad():
        before, now = old(batch), head.eval()(batch)
    for name in old.classes:
        assert torch.allclose(now[:, names.index(name)], before[:, old.classes.index(name)], atol=1e-6)
    assert head.dimension == 5
    assert head.standardise
    assert torch.equal(head.standardiser.mean, old.standardiser.mean)


def test_it_goes_on_training_and_its_own_checkpoint_needs_no_start(kind, first, tmp_path):
    _, folder = first
    path = folder / "x.ckpt"
    head = kind(target="family", start=str(path), optimizer=adam)
    before = {name: tensor.clone() for name, tensor in load_detector(str(path))[0].state_dict().items()}
    train = clouds()
    fitted(head, tmp_path, train, train)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in head.named_parameters())
    assert head.settings()["init_args"]["start"] == str(path)
    described = {"detector": head.settings(), "data": None, **head.measured()}
    described["detector"]["init_args"]["start"] = "gone/away.ckpt"
    torch.save({"state_dict": head.state_dict(), "undertow": described}, tmp_path / "y.ckpt")
    again, _ = load_detector(str(tmp_path / "y.ckpt"))
    assert torch.equal(again({"embedding": train[0]}), head({"embedding": train[0]}))


def test_a_class_that_is_missing_now_is_refused(kind, first):
    head = kind(target="family", start=str(first[1] / "x.ckpt"))
    with pytest.raises(ModelError, match="knows diffusion, of which there is no training image now"):
        head.learn_classes(["real", "gan", "flow"])
    with pytest.raises(ModelError, match="knows gan, diffusion"):
        kind(target="family", start=str(first[1] / "x.ckpt"), classes=["real", "flow"])


def test_heads_of_another_kind_features_or_target_are_refused(kind, first):
    path = str(first[1] / "x.ckpt")
    other = MLPProbe if kind is LinearProbe else LinearProbe
    with pytest.raises(CheckpointError, match=rf"holds a {kind.__name__}, and model is {other.__name__}"):
        other(target="family", start=path)
    for wrong, option in (({"feature": "clip"}, "feature"), ({"dimension": 6}, "dimension"), ({"target": "generator"}, "target")):
        with pytest.raises(CheckpointError, match=rf"has the {option} .*, and model\.{option} is"):
            kind(**{"target": "family", "start": path} | wrong)


def test_another_standardisation_or_width_is_refused(tmp_path):
    stored(MLPProbe(5, hidden=8), tmp_path)
    path = str(tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="learnt from vectors as they are"):
        MLPProbe(start=path, hidden=8, standardise=True)
    with pytest.raises(CheckpointError, match=r"has the shape \[8, 5\] and cannot be gone on with"):
        MLPProbe(start=path, hidden=16)


def test_a_binary_head_goes_on_too(tmp_path):
    head, _ = fitted(LinearProbe(optimizer=adam), tmp_path, clouds(), clouds())
    stored(head, tmp_path)
    again = LinearProbe(start=str(tmp_path / "x.safetensors"))
    assert torch.equal(again.layer.weight, head.layer.weight)
    assert bool(again.layer.weight.any())


def test_no_file_is_a_sentence():
    with pytest.raises(CheckpointError, match=r"'nowhere\.ckpt' cannot be opened"):
        LinearProbe(start="nowhere.ckpt")
