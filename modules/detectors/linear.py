"""A linear probe on a cached vector, as in "Raising the Bar of AI-generated Image Detection with CLIP" (Cozzolino et al. 2024)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from modules.detectors.base import Detector, OptimizerCallable, SchedulerCallable
from modules.detectors.calibration import Method
from modules.errors import CheckpointError, ModelError
from modules.networks.released import load_released, read_released


class LinearProbe(Detector):
    """Logistic regression on an embedding: one linear layer, trained from zeros by binary cross-entropy.

    Args:
        dimension: Numbers in an embedding.
        feature: Name of the cached vector.
        weights: File with a released linear layer, a weight of shape (1, dimension) and a bias, to start from or to use as it is: that of
            Cozzolino et al. takes the 1,024 normalised numbers of ViT-L/14 before its projection.
        frozen: Do not train; with `weights` only the threshold and the calibration are set.
        optimizer: From parameters to an optimiser.
        scheduler: From the optimiser to a learning-rate schedule, stepped once an epoch.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images.
        calibration: How a score becomes a probability; see `Detector`. `sigmoid` is right for a layer trained by cross-entropy.

    Raises:
        CheckpointError: If the file holds no such layer, or one of another dimension.
    """

    name: ClassVar[str] = "linear"

    def __init__(
        self,
        dimension: int,
        feature: str = "embedding",
        weights: str | None = None,
        frozen: bool = False,
        optimizer: OptimizerCallable = lambda parameters: AdamW(parameters, lr=1e-3, weight_decay=1e-4),
        scheduler: SchedulerCallable | None = None,
        threshold_fpr: float = 0.05,
        calibration: Method = "none",
    ) -> None:
        super().__init__(optimizer, scheduler, threshold_fpr, calibration=calibration)
        if dimension < 1:
            msg = f"model.dimension is {dimension}; it is how many numbers an embedding has"
            raise ValueError(msg)
        self.dimension = dimension
        self.feature = feature
        self.weights = weights
        self.frozen = frozen
        self.layer = nn.Linear(dimension, 1)
        with torch.no_grad():  # a convex problem: from zeros it needs no seed
            self.layer.weight.zero_()
            self.layer.bias.zero_()
        if weights is not None:
            load_released(self.layer, linear_layer(weights, dimension), weights, f"a linear layer of {dimension} numbers")
        self.layer.requires_grad_(not frozen)

    @property
    def features(self) -> list[str]:
        """The vector."""
        return [self.feature]

    @property
    def pictures(self) -> list[str]:
        """None: it saw numbers."""
        return []

    @property
    def learns(self) -> bool:
        """False where the layer is frozen."""
        return not self.frozen

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Logits `[B, 1]` of vectors `[B, dimension]`.

        Raises:
            ValueError: If the vectors are of another dimension.
            ModelError: If the layer is frozen and has no weights.
        """
        vectors = features[self.feature]
        if not isinstance(vectors, Tensor) or vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            shape = list(vectors.shape[1:]) if isinstance(vectors, Tensor) else "several sizes"
            msg = f"feature {self.feature!r} has shape {shape} an image, and model.dimension is {self.dimension}; they must agree"
            raise ValueError(msg)
        # In a checkpoint's settings there are no `weights`, but in its tensors: only here can be told that there are none at all.
        if self.frozen and not bool(self.layer.weight.any()):
            msg = "model.frozen is true and the layer has no weights; name a file as model.weights, or set model.frozen to false"
            raise ModelError(msg)
        return self.layer(vectors.to(self.layer.weight.dtype))


def linear_layer(path: str, dimension: int) -> dict[str, Tensor]:
    """`weight` `(1, dimension)` and `bias` `(1,)` of a released linear layer, whatever its name is in the file.

    Args:
        path: As in `read_released`.
        dimension: Numbers that the layer must take.

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
    if found["weight"].shape[1] != dimension:
        msg = f"weights {path!r} are a layer of {found['weight'].shape[1]} numbers, and model.dimension is {dimension}; they must agree"
        raise CheckpointError(msg)
    return found
