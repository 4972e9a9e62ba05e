"""Released weight files: every layout that authors use, and a clear word about anything else."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modules.errors import CheckpointError
from modules.networks.released import load_released, read_released
from tests.evil import Evil


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.fixture
def state():
    torch.manual_seed(0)
    built = network()
    built[1].running_mean.normal_()
    return {name: tensor.clone() for name, tensor in built.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("old", [True, False])
def test_every_layout_is_read(tmp_path, state, wrapper, prefix, old):
    named = {prefix + name: tensor for name, tensor in state.items()}
    path = tmp_path / "weights.pth"
    torch.save({wrapper: named, "total_steps": 7} if wrapper else named, path, _use_new_zipfile_serialization=not old)
    assert equal(read_released(str(path)), state)


def test_safetensors_are_read(tmp_path, state):
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "weights.safetensors")
    assert equal(read_released(str(tmp_path / "weights.safetensors")), state)


def test_a_prefix_is_removed_only_where_all_names_have_it(tmp_path, state):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "weights.pt")
    assert read_released(str(tmp_path / "weights.pt")).keys() == {"module.a", "b"}


def test_loaded_weights_are_used_in_the_networks_own_type(state):
    images = torch.randn(5, 4)
    expected, loaded = network().eval(), network().eval()
    expected.load_state_dict(state)
    halves = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    load_released(loaded, halves, "weights.pth")
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded(images), expected(images))


def test_only_the_batch_count_may_be_missing(state):
    del state["1.num_batches_tracked"]
    load_released(network(), state, "weights.pth")
    del state["1.running_mean"]
    with pytest.raises(CheckpointError, match=r"1 missing: 1\.running_mean"):
        load_released(network(), state, "weights.pth")


def test_an_error_names_all_that_does_not_fit(state):
    state["0.weight"] = torch.zeros(7, 4)
    state["0.bias"][1] = torch.nan
    state |= {f"more.{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(CheckpointError) as caught:
        load_released(network(), state, "weights.pth", "a small network")
    message = str(caught.value)
    assert "'weights.pth' are not those of a small network" in message
    assert "9 unexpected: more.0, more.1, more.2, more.3, …" in message
    assert "1 of another shape: 0.weight (7, 4) where (3, 4) is needed" in message
    assert "1 not finite real numbers: 0.bias" in message


def test_numbers_that_overflow_the_networks_type_are_refused(state):
    with pytest.raises(CheckpointError, match=r"not finite real numbers: 0\.bias"):
        load_released(network(), state | {"0.bias": torch.tensor([0, 1e300, 0], dtype=torch.float64)}, "weights.pth")


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"model": {"weight": torch.ones(1)}, "optimizer": Evil(tmp_path / "mark")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth' cannot be read safely"):
        read_released(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(1)], "hold a list; a state dict is needed"),
        ({}, "are empty"),
        ({"model": {}}, "are empty"),
        ({"model": {"weight": "much"}}, "hold a str at 'weight', not a plain tensor"),
        ({"weight": torch.ones(2, 2).to_sparse()}, "not a plain tensor"),
        ({3: torch.ones(1)}, "hold a Tensor at 3"),
        ({"undertow": {"detector": {}}, "state_dict": {"weight": torch.ones(1)}}, r"checkpoint of train\.py"),
    ],
)
def test_what_is_no_state_dict_is_said(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=words):
        read_released(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_text_and_missing_files_are_said(tmp_path, state, suffix):
    path = tmp_path / f"x.{suffix}"
    with pytest.raises(CheckpointError, match=f"x.{suffix}' do not exist"):
        read_released(str(path))
    path.write_text("not weights at all\n" * 20)
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        read_released(str(path))
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        read_released(str(path))


def test_a_folder_and_an_unknown_suffix_are_said(tmp_path):
    (tmp_path / "x.pth").mkdir()
    with pytest.raises(CheckpointError, match="not a file"):
        read_released(str(tmp_path / "x.pth"))
    with pytest.raises(CheckpointError, match="unknown suffix"):
        read_released("weights.zip")
