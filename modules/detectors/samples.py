"""All training samples at once, for detectors that look at them before they learn."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modules.errors import ModelError

ROWS_AT_ONCE = 8192  # of vectors that are looked at in double precision: memory does not grow with their number


@dataclass(frozen=True, slots=True)
class Samples:
    """The training samples, views and repeats included.

    Attributes:
        features: By name, `[N, …]` on the CPU, float32 unless cached otherwise.
        labels: int64 `[N]`, 0 real, 1 fake.
        targets: int64 `[N]`, number of the class, -1 where it is not among the detector's classes; the labels for a binary target.
        groups: Of each sample, the images that must not be separated by a split.
    """

    features: dict[str, Tensor]
    labels: Tensor
    targets: Tensor
    groups: list[str]


def joined(features: dict[str, Any], names: list[str], dimension: int | None) -> Tensor:
    """Cached vectors of a batch as one vector an image, in the order of their names.

    Args:
        features: By name.
        names: Which ones.
        dimension: How many numbers they must have together; None where any number will do.

    Returns:
        `[B, D]`, in the type that they are cached in.

    Raises:
        ValueError: If a feature is not there, is no vector, or they are of another dimension.
    """
    if absent := [name for name in names if name not in features]:
        msg = f"model.feature names {', '.join(absent)}; there are {', '.join(features) or 'no features'}"
        raise ValueError(msg)
    vectors = [features[name] for name in names]
    for name, values in zip(names, vectors, strict=True):
        if not isinstance(values, Tensor) or values.ndim != 2:
            shape = list(values.shape[1:]) if isinstance(values, Tensor) else "several sizes"
            wanted = "a vector is needed" if dimension is None else f"model.dimension is {dimension}; they must agree"
            msg = f"feature {name!r} has shape {shape} an image, and {wanted}: set model.feature to a cached vector"
            raise ValueError(msg)
    shapes = [list(values.shape[1:]) for values in vectors]
    if dimension is not None and sum(shape[0] for shape in shapes) != dimension:
        told = " and ".join(f"feature {name!r} has shape {shape} an image" for name, shape in zip(names, shapes, strict=True))
        msg = f"{told}, and model.dimension is {dimension}; they must agree"
        raise ValueError(msg)
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, 1)


def check_finite(vectors: Tensor, names: list[str]) -> None:
    """Refuse training vectors that no head can be fitted to.

    Args:
        vectors: `[N, D]`.
        names: The features that they are made of.

    Raises:
        ModelError: There are none, or some hold NaN or infinity.
    """
    if not len(vectors):
        msg = f"there is no training image with the features {', '.join(names)} (model.feature): look at the split and data.train_on"
        raise ModelError(msg)
    broken = sum(int((~part.isfinite()).any(1).sum()) for part in vectors.split(ROWS_AT_ONCE))
    if broken:
        msg = (
            f"{broken} of {len(vectors)} training images have values of {', '.join(names)} (model.feature) that are not finite: their "
            "extractor overflowed; extract them in another data.extractor.model_dtype, or leave these images out"
        )
        raise ModelError(msg)
