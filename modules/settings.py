"""Settings of an object as plain types, and the object back from them.

Extractors, detectors and sources follow scikit-learn's convention: every constructor argument is kept, unchanged, as an
attribute of the same name. So their settings can be read back for fingerprints, manifests and checkpoints without pickling.
"""

import hashlib
import importlib
import inspect
import json
from collections.abc import Container
from typing import Any

PLAIN = (str, int, float, bool, type(None))


def settings_of(instance: object, skip: Container[str] = ()) -> dict[str, Any]:
    """`{"class_path", "init_args"}` of an object whose constructor arguments are attributes of the same names.

    Args:
        instance: The object.
        skip: Arguments to leave out (optimiser callables, which scoring does not need).

    Raises:
        TypeError: If an argument is not of a plain type, since it could not be loaded with `weights_only=True`.
        AttributeError: If the class does not keep an argument as an attribute.
    """
    kind = type(instance)
    names = [name for name in inspect.signature(kind.__init__).parameters if name not in {"self", "args", "kwargs"}]
    arguments = {name: _plain(getattr(instance, name), f"{kind.__name__}.{name}") for name in names if name not in skip}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def from_settings(settings: dict[str, Any], packages: tuple[str, ...] = ("modules",), base: type = object) -> Any:
    """The object that `settings_of` described.

    Args:
        settings: `{"class_path", "init_args"}`.
        packages: Top-level packages that the class may come from: a checkpoint is data, and must not name any callable there is.
        base: Class that it must be a subclass of.

    Raises:
        ValueError: If the class lies elsewhere, does not exist, or is not a subclass of `base`.
    """
    path = str(settings["class_path"])
    module_name, _, class_name = path.rpartition(".")
    if module_name.partition(".")[0] not in packages:
        msg = f"class_path {path!r} is not within {packages}; it is not loaded"
        raise ValueError(msg)
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        msg = f"class_path {path!r} does not exist in this version"
        raise ValueError(msg) from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        msg = f"class_path {path!r} is not a {base.__name__}"
        raise ValueError(msg)
    return kind(**settings["init_args"])


def fingerprint(settings: dict[str, Any]) -> str:
    """Twelve hex digits over settings in plain types."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any, where: str) -> Any:
    """A copy of `value` in plain types; tuples become lists."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, where) for key, item in value.items()}
    msg = f"{where} is a {type(value).__name__}; settings hold only str, int, float, bool, None, lists and dictionaries"
    raise TypeError(msg)
