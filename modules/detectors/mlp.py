"""A network of two layers on cached vectors."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from modules.detectors.probe import Probe
from modules.seeds import run_seed

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class MLPProbe(Probe):
    """Two layers on an embedding, trained by cross-entropy; their first numbers depend on the run's seed only.

    Args:
        dimension: Numbers in a vector; that of the training images where it is not given.
        feature: Name of the cached vector, or several names: these vectors are put one after the other.
        hidden: Width of the layer between; by default half that of a ViT-L embedding, which trains in seconds on a CPU.
        activation: `relu` or `gelu`.
        dropout: Probability that a hidden number is zeroed in training.
        **options: Of `Probe`.

    Raises:
        ValueError: If an option is none that there is.
    """

    name: ClassVar[str] = "mlp"
    head: ClassVar[str] = "layers.3"

    def __init__(
        self,
        dimension: int | None = None,
        feature: str | list[str] = "embedding",
        hidden: int = 512,
        activation: Literal["relu", "gelu"] = "relu",
        dropout: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(dimension, feature, **options)
        if hidden < 1:
            msg = f"model.hidden is {hidden}; it is the width of a layer"
            raise ValueError(msg)
        if activation not in ACTIVATIONS:
            msg = f"model.activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}"
            raise ValueError(msg)
        if not 0 <= dropout < 1:
            msg = f"model.dropout is {dropout}; a probability from 0 to below 1 is needed"
            raise ValueError(msg)
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.complete()

    def build(self, dimension: int, outputs: int) -> None:
        """Two layers; the generators of others are left as they are."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(run_seed())
            first, last = nn.Linear(dimension, self.hidden), nn.Linear(self.hidden, outputs)
        self.layers = nn.Sequential(first, ACTIVATIONS[self.activation](), nn.Dropout(self.dropout), last)

    def outputs_of(self, vectors: Tensor) -> Tensor:
        """Logits `[B, outputs]` of vectors `[B, dimension]`."""
        return self.layers(vectors.to(next(self.layers.parameters())))
