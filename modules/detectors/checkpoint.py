"""Reading and writing trained detectors: nothing in a file is run."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from modules.detectors.base import Detector
from modules.errors import CheckpointError, first_line
from modules.extractors.base import Extractor
from modules.settings import from_settings

# In a safetensors file: the description as JSON, and what of it is a tensor.
METADATA, TENSORS = "undertow", "undertow."
# Constructor arguments that name weights to start from, and what they are once there are trained ones: the checkpoint holds what came of
# them, and the files may be far away.
START: dict[str, Any] = {"pretrained": False, "weights": None, "checkpoints": None, "start": None}


def load_detector(path: str) -> tuple[Detector, dict[str, Any]]:
    """A detector from a checkpoint, ready to score, without its training configuration.

    Args:
        path: A checkpoint, read with `weights_only=True`, or a safetensors file of `save_weights`: no code in it is run.

    Returns:
        The detector in evaluation mode, and the checkpoint's `data` description (extractor, perturbation, families).

    Raises:
        CheckpointError: If there is no such file, or it is not a checkpoint of this project.
    """
    checkpoint, described = _described(path)
    try:
        detector: Detector = from_settings(_without(described["detector"], START), base=Detector)
        # Checkpoints from before there were calibrations lack theirs.
        absent = {name: value for name, value in detector.state_dict().items() if "calibrator." in name}
        detector.load_state_dict(absent | checkpoint["state_dict"])
        detector.on_load_checkpoint(checkpoint)
        return detector.eval(), dict(described["data"] or {})
    except Exception as error:  # building what a file names raises nearly every type there is
        msg = f"checkpoint {path!r} does not fit this version of the code ({type(error).__name__}: {first_line(error)})"
        raise CheckpointError(msg) from error


def load_extractor(path: str) -> Extractor:
    """The extractor whose features the detector of a checkpoint reads, without its weights yet.

    Raises:
        CheckpointError: As for `load_detector` and `build_extractor`.
    """
    return build_extractor(dict(_described(path)[1]["data"] or {}))


def _described(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint, and what it says of itself."""
    checkpoint = _read(path)
    described = checkpoint.get("undertow") if isinstance(checkpoint, dict) else None
    if not described:
        msg = f"checkpoint {path!r} was not written by train.py: it does not say which detector it holds"
        raise CheckpointError(msg)
    return checkpoint, described


def _without(settings: Any, start: dict[str, Any]) -> Any:
    """Settings in which the arguments named in `start`, at any depth, have its values."""
    if isinstance(settings, list):
        return [_without(item, start) for item in settings]
    if not isinstance(settings, dict):
        return settings
    known = {name: value for name, value in start.items() if name in settings.get("init_args", {})}
    found = {name: _without(value, start) for name, value in settings.items()}
    return found | {"init_args": found["init_args"] | known} if known else found


def trained_settings(path: str) -> dict[str, Any]:
    """`class_path` and `init_args` of a checkpoint's detector as it was trained, with the weights that it started from.

    Raises:
        CheckpointError: As for `load_detector`.
    """
    return dict(_described(path)[1]["detector"])


def build_extractor(described: dict[str, Any]) -> Extractor:
    """The extractor that a checkpoint's `data` description names, without its weights yet.

    Raises:
        CheckpointError: If it names none, or one that this version does not have.
    """
    try:
        # What `checkpoints` named when the detector was trained is among the settings: further files are not read.
        extractor: Extractor = from_settings(_without(described["extractor"], {"checkpoints": None}), base=Extractor)
    except Exception as error:  # as above
        msg = f"the checkpoint's extractor does not fit this version of the code ({type(error).__name__}: {first_line(error)})"
        raise CheckpointError(msg) from error
    return extractor


def save_weights(detector: Detector, data: dict[str, Any], path: Path) -> None:
    """Write all that scoring needs as safetensors, a format that cannot hold code.

    Args:
        detector: With its threshold.
        data: What `FeatureDataModule.describe` says.
        path: The file.
    """
    tensors = {name: value.contiguous() for name, value in detector.state_dict().items()}
    tensors |= {TENSORS + name: value.contiguous() for name, value in data.items() if isinstance(value, torch.Tensor)}
    plain = {name: value for name, value in data.items() if not isinstance(value, torch.Tensor)}
    described = {"detector": detector.settings(), "data": plain, **detector.measured()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, {METADATA: json.dumps(described)})
    temporary.replace(path)


def _read(path: str) -> Any:
    if Path(path).exists() and not Path(path).is_file():
        msg = f"checkpoint {path!r} is no file; name a .ckpt file under runs/NAME/checkpoints"
        raise CheckpointError(msg)
    try:
        return _read_safetensors(path) if path.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        msg = f"checkpoint {path!r} cannot be opened ({error.strerror or error}); name a .ckpt file under runs/NAME/checkpoints"
        raise CheckpointError(msg) from error
    except Exception as error:  # unpickling any file raises nearly every type there is
        # torch's own text advises to load it unsafely
        msg = f"checkpoint {path!r} cannot be read safely: it is damaged, holds more than tensors, or is no checkpoint that train.py wrote"
        raise CheckpointError(msg) from error


def _read_safetensors(path: str) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        described = json.loads((file.metadata() or {}).get(METADATA, "null"))
    if described:
        described["data"] |= {name.removeprefix(TENSORS): tensors.pop(name) for name in list(tensors) if name.startswith(TENSORS)}
    return {"state_dict": tensors, "undertow": described}
