"""Numbers that stay in double precision, whatever device and type a detector is moved to."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from modules.detectors.samples import ROWS_AT_ONCE


def double(values: Tensor) -> Tensor:
    """The same in double precision, on the CPU where the device has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def returned(values: Tensor, device: torch.device) -> Tensor:
    """Doubles on the device that what they were computed from came from; float32 where it has no doubles."""
    return values.float().to(device) if device.type == "mps" else values.to(device)


class Exact(nn.Module):
    """A module whose buffers stay doubles: they follow to another device that has some, and not to another type."""

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        for name, buffer in self._buffers.items():
            if buffer is not None:
                device = fn(torch.empty(0, device=buffer.device)).device
                self._buffers[name] = buffer.to("cpu" if device.type == "mps" else device)
        return self


class Standardiser(Exact):
    """Takes the mean out of vectors and divides by the standard deviation, column by column.

    Args:
        dimension: Numbers in a vector.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension, dtype=torch.float64))
        self.register_buffer("deviation", torch.zeros(dimension, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether it has seen any vectors."""
        return bool(self.deviation.any())

    def fit(self, vectors: Tensor) -> None:
        """Measure mean and deviation of vectors, `[N, D]`; a column that is constant but for rounding keeps its scale."""
        parts = vectors.split(ROWS_AT_ONCE)
        mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(vectors)
        variance = torch.stack([(part.double() - mean).square().sum(0) for part in parts]).sum(0) / len(vectors)
        deviation = variance.sqrt()
        constant = deviation <= 1e-7 * mean.abs()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(constant, 1.0, deviation))

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors `[B, D]` of mean 0 and deviation 1 where they are like those that it was fitted on; doubles."""
        values = double(vectors)
        return (values - self.mean.to(values.device)) / self.deviation.to(values.device)
