"""The runner: which way is taken when, and that a lack of a compiler or a GPU changes no number."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modules.diffusion.runner import NetworkRunner
from modules.extractors import InversionExtractor


class Doubling(nn.Module):
    def forward(self, values):
        return (values * 2,)


def test_a_compiler_that_fails_is_passed_over_once(monkeypatch, caplog):
    attempts = []

    def refuse(network, **options):
        attempts.append(network)
        msg = "no C compiler\nand a long trace"
        raise RuntimeError(msg)

    monkeypatch.setattr(torch, "compile", refuse)
    run = NetworkRunner(Doubling())
    with caplog.at_level(logging.WARNING):
        assert run(torch.ones(2), compiled=True).tolist() == [2, 2]
        assert run(torch.ones(2), compiled=True).tolist() == [2, 2]
    assert len(attempts) == 1
    assert [record.getMessage() for record in caplog.records] == ["the network cannot be compiled here (no C compiler): it runs as it is"]


def test_a_lack_of_memory_is_not_taken_for_a_lack_of_a_compiler(monkeypatch):
    def full(values):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", lambda network, **options: full)
    run = NetworkRunner(Doubling())
    with pytest.raises(torch.OutOfMemoryError):
        run(torch.ones(2), compiled=True)
    monkeypatch.setattr(torch, "compile", lambda network, **options: network)
    run._compiled = None
    assert run(torch.ones(2), compiled=True).tolist() == [2, 2]


def test_without_a_gpu_there_is_no_graph():
    assert NetworkRunner(Doubling())(torch.ones(2), graph=True).tolist() == [2, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_gives_each_input_its_own_result():
    run = NetworkRunner(Doubling())
    inputs = [torch.full((3,), float(i), device="cuda") for i in range(4)]
    found = [run(values, graph=True) for values in inputs]
    assert [values.tolist() for values in found] == [[2.0 * i] * 3 for i in range(4)]
    assert run(torch.ones(5, device="cuda"), graph=True).tolist() == [2] * 5


@pytest.mark.parametrize(
    ("device", "options", "expected"),
    [
        ("cuda", {}, [(False, False), (True, False), (False, False), (False, False), (True, False)]),
        ("cuda", {"compile_after": 8}, [(False, False), (True, False), (False, False), (False, False), (True, True)]),
        (
            "cuda",
            {"compile_after": 0, "cuda_graphs": False},
            [(False, False), (False, True), (False, False), (False, False), (False, True)],
        ),
        ("cuda", {"compile_after": None, "cuda_graphs": False}, [(False, False)] * 5),
        ("cpu", {"compile_after": 0}, [(False, False)] * 5),
    ],
)
def test_recording_and_compiling_wait_for_a_batch_that_comes_again(device, options, expected):
    """After a lack of memory the batches are smaller, and the last one is smaller anyway."""
    extractor = InversionExtractor(**options)
    model = SimpleNamespace(device=torch.device(device), graphs=False, compiled=False)
    extractor.diffusion = model
    found = []
    for batch in (4, 4, 3, 2, 2):
        extractor._choose_mode(batch)
        found.append((model.graphs, model.compiled))
    assert found == expected


def test_ways_to_compute_are_no_part_of_the_fingerprint():
    assert InversionExtractor(cuda_graphs=False, compile_after=None).identity() == InversionExtractor().identity()
