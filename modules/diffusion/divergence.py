"""The divergence of a score field, tr ∂s/∂z: by coordinates, by Hutchinson's estimator, or exactly.

States and probes share batches: `field` is asked for many rows at once, each with the position of the image that it belongs to.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.errors import ModelError

Field = Callable[[Tensor, Tensor], Tensor]
"""From states `[N, …]` and the image of each row, int64 `[N]`, to vectors of the states' shape."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error, `[B]` each; the error is NaN where one sample cannot tell it."""

    value: Tensor
    error: Tensor


def mean_and_error(samples: Tensor, population: int | None = None) -> Estimate:
    """Mean of independent samples `[B, n]` and its standard error.

    Args:
        samples: The samples of each image.
        population: Size of the finite set that they were drawn from without replacement; infinite by default.
    """
    n = samples.shape[1]
    error = samples.std(1) / n**0.5 if n > 1 else torch.full_like(samples[:, 0], torch.nan)
    if population is not None:
        error = torch.zeros_like(error) if n == population else error * ((population - n) / population) ** 0.5
    return Estimate(samples.mean(1), error)


def rademacher(shape: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """Directions of independent signs, int8 `[count, *shape]`, on the CPU: the same on every device."""
    return torch.randint(0, 2, (count, *shape), generator=generator, dtype=torch.int8) * 2 - 1


def coordinates(shape: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """Distinct random coordinates as unit directions, int8 `[count, *shape]`, on the CPU.

    Raises:
        ModelError: If there are fewer coordinates than that.
    """
    dimension = int(torch.Size(shape).numel())
    if count > dimension:
        msg = f"samples is {count}, but the states have only {dimension} dimensions: choose fewer, or the estimator hutchinson or exact"
        raise ModelError(msg)
    chosen = torch.randperm(dimension, generator=generator)[:count]
    return torch.zeros(count, dimension, dtype=torch.int8).scatter_(1, chosen[:, None], 1).reshape(count, *shape)


def directional(field: Field, states: Tensor, directions: Tensor, step: float, rows_at_once: int) -> Tensor:
    """Central differences vᵀ(f(z + h v) − f(z − h v)) / 2h.

    Args:
        field: The vector field f.
        states: z, `[B, …]`.
        directions: v, `[B, n, …]`, of any dtype and device.
        step: h, above 0.
        rows_at_once: At most so many rows are given to `field` at a time; at least 2.

    Returns:
        `[B, n]` in the states' dtype.
    """
    samples = directions.shape[1]
    found = states.new_empty(len(states) * samples)
    for rows in chunks(len(found), max(1, rows_at_once // 2)):
        images = rows.to(states.device) // samples
        towards = directions.flatten(0, 1)[rows].to(states)
        offset = step * towards
        forward, backward = field(torch.cat([states[images] + offset, states[images] - offset]), images.repeat(2)).chunk(2)
        found[rows.to(states.device)] = (towards * (forward - backward)).flatten(1).sum(1) / (2 * step)
    return found.reshape(len(states), samples)


def exact(field: Field, states: Tensor, rows_at_once: int) -> Tensor:
    """The trace of the Jacobian by forward-mode differentiation, one tangent a dimension: `[B, …]` to `[B]`."""
    dimension = states[0].numel()
    diagonal = states.new_empty(len(states) * dimension)
    # Fused attention has no forward-mode derivative; the plain one has.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for rows in chunks(len(diagonal), rows_at_once):
            placed = rows.to(states.device)
            images, entries = placed // dimension, placed % dimension
            tangents = states.new_zeros(len(rows), dimension).scatter_(1, entries[:, None], 1).reshape(len(rows), *states.shape[1:])
            moved: Tensor = torch.func.jvp(lambda z, images=images: field(z, images), (states[images],), (tangents,))[1]
            diagonal[placed] = moved.flatten(1).gather(1, entries[:, None])[:, 0]
    return diagonal.reshape(len(states), dimension).sum(1)


def chunks(total: int, size: int) -> Iterator[Tensor]:
    """Row numbers 0 to `total` − 1 in runs of at most `size`, int64 on the CPU."""
    yield from torch.arange(total).split(max(1, size))
