"""What an image costs in calls, whatever the clock says: forward passes, diffusers' schedulers, and waits for the device."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modules.extractors import InversionExtractor

STEPS = 3


class Waits(TorchDispatchMode):
    """Counts what makes the processor wait for a device: a tensor that becomes a Python number, or whose size depends on its values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.WAITING:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def extractor():
    made = InversionExtractor(size=64, steps=STEPS)
    made.load()
    return made


@pytest.fixture
def calls(extractor, monkeypatch):
    """Counts calls by name while an extractor works."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    found = Counter()

    def counted(owner, attribute, name):
        original = getattr(owner, attribute)

        def call(*args, **kwargs):
            found[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, attribute, call)

    model = extractor.diffusion
    for owner, attribute, name in [(model.unet, "forward", "unet"), (model.vae, "encode", "encode"), (model.vae, "decode", "decode")]:
        counted(owner, attribute, name)
    counted(model.text_encoder, "forward", "text")
    for scheduler in (DDIMScheduler, DDIMInverseScheduler):
        counted(scheduler, "step", "scheduler")
        counted(scheduler, "set_timesteps", "scheduler")
    counted(Tensor, "tolist", "tolist")
    counted(Tensor, "item", "item")
    return found


@pytest.mark.parametrize("batch", [1, 4])
def test_one_batch(extractor, calls, batch):
    """Two passes a step however many images there are, each half of the autoencoder once, the prompts once, and one wait at the end."""
    extractor.diffusion._embedded.clear()
    prompts = [f"photograph {i}" for i in range(batch)]
    images = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        extractor.extract(images, prompts, [0] * batch)
        assert calls == {"unet": 2 * STEPS, "encode": 1, "decode": 1, "text": 1, "tolist": 1}
        calls.clear()
        with Waits() as waits:
            extractor.extract(images, prompts, [0] * batch)
    assert calls == {"unet": 2 * STEPS, "encode": 1, "decode": 1, "tolist": 1}, "prompts that are known need no text encoder"
    assert not waits.found, "nothing waits but the question which images are finite"


def test_waits_are_seen():
    with Waits() as waits:
        bool(torch.ones(1) > 0)
        float(torch.ones(1))
        torch.ones(3).nonzero()
    assert waits.found == {"_local_scalar_dense": 2, "nonzero": 1}
