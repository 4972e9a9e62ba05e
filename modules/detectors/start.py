"""Going on with a trained head: on more images, and perhaps with more classes."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from modules.detectors.base import Detector
from modules.detectors.checkpoint import load_detector
from modules.errors import CheckpointError

MEASURED = ("calibrator.", "answers.", "distance.")  # parts of a head that are measured anew
ALIKE = ("features", "dimension", "target")


@dataclass(frozen=True)
class Start:
    """The trained head that another one goes on from.

    Attributes:
        path: Its checkpoint.
        dimension: Numbers in the vectors that it takes.
        standardise: Whether it standardises them.
        classes: Its classes; None for a binary head.
        state: Its tensors by name.
    """

    path: str
    dimension: int
    standardise: bool
    classes: list[str] | None
    state: dict[str, Tensor]


def read_start(path: str, head: Detector) -> Start:
    """Read a trained head.

    Args:
        path: A checkpoint of train.py, `.ckpt` or `.safetensors`.
        head: The one that is to go on from it. Where its `dimension` is None any will do.

    Raises:
        CheckpointError: If it cannot be read safely, or is of another kind or for other features.
    """
    before: Any = load_detector(path)[0]  # its class is that of `head`, which this module does not know
    if type(before) is not type(head):
        msg = f"model.start {path!r} holds a {type(before).__name__}, and model is {type(head).__name__}: they must be of one kind"
        raise CheckpointError(msg)
    for name in ALIKE:
        old, new = getattr(before, name), getattr(head, name)
        if old != new and not (name == "dimension" and new is None):
            option = name.removesuffix("s")
            msg = f"the head of model.start {path!r} has the {option} {old}, and model.{option} is {new}: they must agree"
            raise CheckpointError(msg)
    if getattr(head, "standardise", False) and not before.standardise:
        msg = f"model.standardise is true, but the head of model.start {path!r} learnt from vectors as they are: leave it out"
        raise CheckpointError(msg)
    told, state = before.settings()["init_args"], {name: tensor.clone() for name, tensor in before.state_dict().items()}
    return Start(path, told["dimension"], told["standardise"], before.classes, state)


def go_on(head: nn.Module, start: Start, layer: str, classes: list[str] | None) -> None:
    """Put the tensors of a trained head into a new one.

    Args:
        head: The new one, with its layers.
        start: The trained one.
        layer: Name of the layer whose rows are the outputs: these are taken over by the names of their classes.
        classes: Of the new one, those of the trained one among them; None for a binary head.

    Raises:
        CheckpointError: If a layer has another size.
    """
    # The tensors of a state dict are the module's own memory: what is put into them is put into it.
    for name, tensor in head.state_dict().items():
        if name.startswith(MEASURED):
            continue
        old, new = start.state.get(name), tensor
        rows = [classes.index(known) for known in start.classes or ()] if classes is not None and name.startswith(f"{layer}.") else None
        if rows is not None:
            new = tensor[rows]
        if old is None or old.shape != new.shape:
            shape = None if old is None else list(old.shape)
            msg = f"{name} of model.start {start.path!r} has the shape {shape} and cannot be gone on with: set the same layer sizes as then"
            raise CheckpointError(msg)
        if rows is None:
            tensor.copy_(old)
        else:
            tensor[rows] = old
