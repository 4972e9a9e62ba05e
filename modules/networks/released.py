"""Authors' released weight files, read safely: nothing in a file is run, and what does not fit is named."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modules.errors import CheckpointError

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
WRAPPERS = ("model", "state_dict", "net")  # where releases keep the state dict
PARALLEL = "module."  # what DataParallel puts before every name
UNUSED = "num_batches_tracked"  # a count of training steps, which files of old torch versions lack
NAMED = 4  # problems that an error spells out


def read_released(path: str) -> dict[str, Tensor]:
    """The state dict in a released weight file, on the CPU.

    Args:
        path: A `.pth`, `.pt` or `.ckpt` file, read with `weights_only=True`, or a `.safetensors` one: no code in it is run. The state
            dict may lie bare or under `model`, `state_dict` or `net`, its names with or without DataParallel's `module.`.

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: If there is no such file, it holds more than tensors and plain values, or no state dict is in it.
    """
    content = _content(path)
    if not isinstance(content, dict):
        msg = f"weights {path!r} hold a {type(content).__name__}; a state dict is needed, bare or under one of {WRAPPERS}"
        raise CheckpointError(msg)
    if "undertow" in content:
        msg = f"weights {path!r} are a checkpoint of train.py; name it by --checkpoint, not as released weights"
        raise CheckpointError(msg)
    state = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), content)
    if not state:
        msg = f"weights {path!r} are empty: there is no tensor in them"
        raise CheckpointError(msg)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.is_quantized or value.layout is not torch.strided:
            msg = f"weights {path!r} hold a {type(value).__name__} at {name!r}, not a plain tensor: this is no state dict"
            raise CheckpointError(msg)
    prefix = PARALLEL if all(name.startswith(PARALLEL) for name in state) else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def load_released(module: nn.Module, state: dict[str, Tensor], path: str, expected: str | None = None) -> None:
    """Put a released state dict into a module, all of it, in the module's own dtypes.

    Args:
        module: The network.
        state: What `read_released` gave.
        path: Where it came from, for errors.
        expected: The network in words, for errors; its class by default.

    Raises:
        CheckpointError: If a tensor is missing, unknown, of another shape, not real or not finite. Only batch normalisation's
            `num_batches_tracked`, which nothing here uses, may be missing.
    """
    wanted = module.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in wanted and tensor.shape == wanted[name].shape}
    problems = {
        "missing": [name for name in wanted if name not in state and not name.endswith(UNUSED)],
        "unexpected": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} where {tuple(tensor.shape)} is needed"
            for name, tensor in wanted.items()
            if name in state and name not in fitting
        ],
        "not finite real numbers": [
            name for name, tensor in fitting.items() if tensor.is_complex() or not bool(tensor.to(wanted[name].dtype).isfinite().all())
        ],
    }
    found = "; ".join(f"{len(names)} {problem}: {_first(names)}" for problem, names in problems.items() if names)
    if found:
        msg = f"weights {path!r} are not those of {expected or type(module).__name__} ({found})"
        raise CheckpointError(msg)
    module.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in fitting.items()}, strict=False)


def _content(path: str) -> Any:
    if not path.endswith(SUFFIXES):
        msg = f"weights {path!r} have an unknown suffix; one of {SUFFIXES} is needed"
        raise CheckpointError(msg)
    if not Path(path).is_file():
        msg = f"weights {path!r} do not exist, or are not a file; download them from their authors and name the file"
        raise CheckpointError(msg)
    try:
        return load_file(path) if path.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        msg = f"weights {path!r} cannot be opened ({error.strerror or error})"
        raise CheckpointError(msg) from error
    except Exception as error:  # unpickling any file raises nearly every type there is
        # torch's own text advises to load it unsafely
        msg = f"weights {path!r} cannot be read safely: they are damaged, no file of torch.save, or hold objects besides tensors"
        raise CheckpointError(msg) from error


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
