"""A linear probe on a cached vector, as in "Raising the Bar of AI-generated Image Detection with CLIP" (Cozzolino et al. 2024)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modules.detectors.probe import Probe
from modules.errors import CheckpointError, ModelError
from modules.networks.released import load_released, read_released


class LinearProbe(Probe):
    """Logistic regression on an embedding: one linear layer, trained from zeros by cross-entropy.

    Args:
        dimension: Numbers in an embedding; that of the training images, or of the layer that `weights` names, where it is not given.
        feature: Name of the cached vector, or several names: these vectors are put one after the other.
        weights: File with a released linear layer, a weight of shape (1, dimension) and a bias, to start from or to use as it is: that of
            Cozzolino et al. takes the 1,024 normalised numbers of ViT-L/14 before its projection.
        frozen: Do not train; with `weights` only the threshold and the calibration are set.
        **options: Of `Probe`.

    Raises:
        ValueError: If there are weights and classes, or a head to start from, or vectors to standardise, which they are not made for.
        CheckpointError: If the file holds no such layer, or one of another dimension.
    """

    name: ClassVar[str] = "linear"

    def __init__(
        self,
        dimension: int | None = None,
        feature: str | list[str] = "embedding",
        weights: str | None = None,
        frozen: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(dimension, feature, **options)
        self.weights = weights
        self.frozen = frozen
        released = None
        if weights is not None:
            if self.target != "binary" or self.start is not None or self.standardise:
                msg = (
                    f"model.weights {weights!r} are a binary layer for vectors as they are: leave out model.target, model.start and "
                    "model.standardise, or the weights"
                )
                raise ValueError(msg)
            released = linear_layer(weights, dimension)
            self.dimension = int(released["weight"].shape[1])
        self.complete()
        if weights is not None and released is not None:
            load_released(self.layer, released, weights, f"a linear layer of {self.dimension} numbers")

    @property
    def learns(self) -> bool:
        """False where the layer is frozen."""
        return not self.frozen

    @property
    def reads_all(self) -> bool:
        """False where the layer is frozen, unless the distance to the training images is wanted."""
        return not self.frozen or self.unknown == "distance"

    def build(self, dimension: int, outputs: int) -> None:
        """One layer of zeros: the problem is convex, and needs no seed."""
        self.layer = nn.Linear(dimension, outputs)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.bias.zero_()
        self.layer.requires_grad_(not self.frozen)

    def outputs_of(self, vectors: Tensor) -> Tensor:
        """Logits `[B, outputs]` of vectors `[B, dimension]`.

        Raises:
            ModelError: If the layer is frozen and has no weights.
        """
        # In a checkpoint's settings there are no `weights`, but in its tensors: only here can be told that there are none at all.
        if self.frozen and not bool(self.layer.weight.any()):
            msg = "model.frozen is true and the layer has no weights; name a file as model.weights, or set model.frozen to false"
            raise ModelError(msg)
        return self.layer(vectors.to(self.layer.weight))


def linear_layer(path: str, dimension: int | None) -> dict[str, Tensor]:
    """`weight` `(1, dimension)` and `bias` `(1,)` of a released linear layer, whatever its name is in the file.

    Args:
        path: As in `read_released`.
        dimension: Numbers that the layer must take; None where any number will do.

    Raises:
        CheckpointError: If the file cannot be read safely, holds anything else, or a layer of another dimension.
    """
    state = read_released(path)
    found: dict[str, Any] = {name.rpartition(".")[2]: tensor for name, tensor in state.items()}
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    if len(state) != 2 or found.keys() != {"weight", "bias"} or found["weight"].ndim != 2 or found["weight"].shape[0] != 1:
        listed = dict(list(shapes.items())[:4])
        msg = f"weights {path!r} are not one linear layer, a weight (1, D) and a bias (1,): they hold {len(shapes)} tensors, {listed}"
        raise CheckpointError(msg)
    if dimension is not None and found["weight"].shape[1] != dimension:
        msg = f"weights {path!r} are a layer of {found['weight'].shape[1]} numbers, and model.dimension is {dimension}; they must agree"
        raise CheckpointError(msg)
    return found
