"""Fused layers: the same numbers as the layers they replace; the kernels against float64, by Triton's interpreter where there is no GPU."""

import os
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn import functional

from modules.diffusion.fused import FusedGEGLU, GroupNorm, SiLUOfVectors, fuse

MODEL = "assets/tiny-diffusion"

CHECK = """
import torch
from torch.nn import functional
from modules.diffusion.kernels import geglu, group_norm

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
for batch, channels, height, width, groups in [(2, 320, 8, 8, 32), (1, 96, 5, 13, 8), (2, 64, 16, 16, 32), (3, 40, 1, 1, 4)]:
    for silu in (False, True):
        for middle in (0.0, 50.0):  # a mean far from zero: squares would lose all digits
            images = (torch.randn(batch, channels, height, width, device=device) * 3 + middle).half().to(memory_format=torch.channels_last)
            weight, bias = torch.randn(channels, device=device).half(), torch.randn(channels, device=device).half()
            expected = functional.group_norm(images.double(), groups, weight.double(), bias.double(), 1e-5)
            expected = functional.silu(expected) if silu else expected
            found = group_norm(images, groups, weight, bias, 1e-5, silu)
            assert found.dtype == torch.float16 and found.is_contiguous(memory_format=torch.channels_last)
            error = float((found - expected).norm() / expected.norm())
            assert error < 4e-4, (batch, channels, height, width, groups, silu, middle, error)
rows = torch.randn(3, 5, 2 * 96, device=device).half()
values, gates = rows.double().chunk(2, dim=-1)
expected = values * functional.gelu(gates)
assert float((geglu(rows) - expected).norm() / expected.norm()) < 6e-4
print("checked")
"""


def test_kernels_against_float64():
    """Half precision's rounding is 2^-11 = 5e-4 at most, 2.8e-4 on average of squares; torch's own normalisation has more."""
    pytest.importorskip("triton")
    environment = os.environ if torch.cuda.is_available() else os.environ | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip() == "checked", ran.stderr[-2000:]


@pytest.mark.parametrize(("kind", "part"), [(UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")])
def test_networks_give_the_same_numbers_with_the_same_parameters(kind, part):
    network = kind.from_pretrained(MODEL, subfolder=part).eval()
    names = list(network.state_dict())
    inputs = {
        "unet": lambda: (torch.randn(2, 4, 16, 16), torch.tensor(10), torch.randn(2, 32, network.config.cross_attention_dim)),
        "vae": lambda: (torch.rand(2, 3, 64, 64),),
    }[part]()
    with torch.no_grad():
        expected = network(*inputs).sample
        fuse(network)
        found = network(*inputs).sample
    assert torch.equal(found, expected)
    assert list(network.state_dict()) == names
    kinds = {type(module) for module in network.modules()}
    assert nn.GroupNorm not in kinds
    assert {GroupNorm, SiLUOfVectors} <= kinds
    assert (FusedGEGLU in kinds) == (part == "unet")


def test_layers_can_still_be_trained():
    layer = GroupNorm.of(nn.GroupNorm(2, 8), silu=True)
    images = torch.randn(2, 8, 4, 4, requires_grad=True)
    layer(images).sum().backward()
    assert layer.weight.grad is not None
    assert images.grad is not None
    assert torch.equal(layer(images), functional.silu(functional.group_norm(images, 2, layer.weight, layer.bias)))
