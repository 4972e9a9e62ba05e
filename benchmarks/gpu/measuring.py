"""Times, operations and the limit that they are compared with."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ROUNDS = 5


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(call: Callable[[], Any], rounds: int = ROUNDS, warm: int = 1) -> dict[str, float]:
    """Seconds of a call: `median`, `low` and `high` of so many rounds, after so many that are not counted."""
    seconds = []
    for number in range(warm + rounds):
        synchronize()
        started = time.perf_counter()
        call()
        synchronize()
        if number >= warm:
            seconds.append(time.perf_counter() - started)
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}


def operations(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call, 2 a multiply-add: matrix products, convolutions and attention, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return int(counter.get_total_flops())


def peak(dtype: torch.dtype, side: int) -> float:
    """FLOP a second of the product of two square matrices of random numbers: what this device really reaches."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = timed(lambda: [first @ second for _ in range(10)], warm=2)["median"] / 10
    return 2 * side**3 / seconds


def machine() -> dict[str, Any]:
    """Device and versions that the figures belong to."""
    import diffusers
    import transformers

    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
