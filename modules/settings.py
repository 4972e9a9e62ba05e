"""Settings of an object as plain types, and the object back from them.

Extractors, detectors and sources follow scikit-learn's convention: every constructor argument is kept, unchanged, as an
attribute of the same name. So their settings can be read back for fingerprints, manifests and checkpoints without pickling. An
argument may itself be such an object, or a list or dictionary of them: an extractor names its diffusion model so.
"""

import hashlib
import importlib
import inspect
import json
from collections.abc import Container
from typing import Any

PLAIN = (str, int, float, bool, type(None))
PACKAGES = ("modules",)
OWN = (*PACKAGES, "datamodules")  # whose objects have settings; a checkpoint's may come from PACKAGES only
NESTED = {"class_path", "init_args"}


def settings_of(instance: object, skip: Container[str] = (), with_idle: bool = True) -> dict[str, Any]:
    """`{"class_path", "init_args"}` of an object whose constructor arguments are attributes of the same names.

    Args:
        instance: The object.
        skip: Arguments to leave out (optimiser callables, which scoring does not need).
        with_idle: Also those that an object itself names as `idle`: they change nothing as its others are set.

    Raises:
        TypeError: If an argument is neither of a plain type nor such an object, since it could not be loaded with `weights_only=True`.
        AttributeError: If the class does not keep an argument as an attribute.
    """
    kind = type(instance)
    idle: Container[str] = () if with_idle else getattr(instance, "idle", ())
    names = [name for name in _arguments(kind) if name not in skip and name not in idle]
    arguments = {name: _plain(getattr(instance, name), f"{kind.__name__}.{name}", skip, with_idle) for name in names}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _arguments(kind: type) -> list[str]:
    """Names of the constructor's arguments; where it hands `**options` on, of the base classes' as well."""
    names: list[str] = []
    for each in kind.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]
        plain = [found for found in parameters if found.kind not in (found.VAR_POSITIONAL, found.VAR_KEYWORD)]
        names += [found.name for found in plain if found.name not in names]
        if not any(found.kind is found.VAR_KEYWORD for found in parameters):
            break
    return names


def from_settings(settings: dict[str, Any], packages: tuple[str, ...] = PACKAGES, base: type = object) -> Any:
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
    if not (isinstance(kind, type) and issubclass(kind, base) and kind.__module__.partition(".")[0] in packages):
        msg = f"class_path {path!r} is not a {base.__name__}"
        raise ValueError(msg)
    return kind(**{name: _built(value, packages) for name, value in settings["init_args"].items()})


def _built(value: Any, packages: tuple[str, ...]) -> Any:
    """An argument with the objects in it that its settings describe."""
    if isinstance(value, list):
        return [_built(item, packages) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == NESTED:
        return from_settings(value, packages)
    return {name: _built(item, packages) for name, item in value.items()}


def fingerprint(settings: dict[str, Any]) -> str:
    """Twelve hex digits over settings in plain types."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any, where: str, skip: Container[str], with_idle: bool) -> Any:
    """A copy of `value` in plain types; tuples become lists, objects of the project their settings."""
    if isinstance(value, PLAIN):
        return value
    if type(value).__module__.partition(".")[0] in OWN:
        return settings_of(value, skip, with_idle)
    if hasattr(value, "items"):  # by their methods, so that torch's ModuleDict and ModuleList count without torch being imported
        return {str(key): _plain(item, where, skip, with_idle) for key, item in value.items()}
    if isinstance(value, tuple) or hasattr(value, "append"):
        return [_plain(item, where, skip, with_idle) for item in value]
    own = " and ".join(OWN)
    msg = f"{where} is a {type(value).__name__}; settings hold only str, int, float, bool, None, lists, dictionaries and objects of {own}"
    raise TypeError(msg)
