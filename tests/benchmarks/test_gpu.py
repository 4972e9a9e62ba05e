"""The GPU benchmark as a command, with tiny networks: that every part runs and says what its figures belong to."""

import json
import subprocess
import sys

from benchmarks.gpu.measuring import operations
from benchmarks.gpu.models import random_model
from benchmarks.gpu.parts import _inputs


def test_operations_of_stable_diffusion_are_those_that_are_known():
    """803 GFLOP a forward pass of the UNet at 64 × 64, 2,515 a decoding at 512 × 512; nothing is allocated on this device."""
    import torch

    model = random_model("sd15", torch.float32, "meta")
    latents, text = _inputs(model, 1)
    assert round(operations(lambda: model.predict(latents, 500, text)) / 1e9) == 803
    assert round(operations(lambda: model.decode(latents)) / 1e9) == 2515
    assert round(operations(lambda: model.encode(torch.empty(1, 3, 512, 512, device="meta"))) / 1e9) == 1117


def test_every_part_runs(tmp_path):
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--size", "tiny", "--batches", "2", "--compiled_batches", "--images", "8"]
    ran = subprocess.run([*command, "--batch", "2", "--workers", "0", "--output", str(output)], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = json.loads(output.read_text())
    assert not [name for name, part in told.items() if isinstance(part, dict) and "error" in part]
    assert [row["mode"] for row in told["unet"]] == ["diffusers", "eager", "graph"]
    assert all(row["difference"] < 0.02 for row in told["unet"]), "the modes give the same within bfloat16's rounding"
    assert [row["images"] for row in told["extraction"]] == [6, 8]
    assert told["limit"]["images_per_second"] > 0
    assert [row["dtype"] for row in told["vae"]] == ["float32", "bfloat16", "float16"]
