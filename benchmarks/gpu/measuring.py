"""Times, operations and the limit that they are compared with."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import ROUNDS, alternate, spread


def timed(call: Callable[[], Any], rounds: int = ROUNDS, warm: int = 1) -> dict[str, float]:
    """Seconds of a call: `median`, `low` and `high` of so many rounds, after so many that are not counted."""
    return spread(alternate({"": call}, rounds, warm)[""])


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
