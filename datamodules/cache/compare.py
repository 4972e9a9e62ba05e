"""Why a cache directory is a new one: the settings that differ from those of the caches that are there."""

import json
from pathlib import Path
from typing import Any

from datamodules.cache.features import FeatureCache
from datamodules.cache.folders import find_folders, read_settings

MAX_NEAREST = 3  # caches that the settings are compared with
_ABSENT = "nothing"


def differences(cache: FeatureCache, root: Path) -> list[str]:
    """What the nearest caches under a root were made with instead.

    Args:
        cache: The cache that is to be used.
        root: The cache's root.

    Returns:
        A line a difference, `extractor.init_args.steps: 50 here, 20 in <folder>`, for the caches with the fewest of them; none
        where no other cache with a readable manifest is there.
    """
    here = _lines(cache.settings)
    compared: dict[tuple[str, ...], Path] = {}
    for folder in find_folders(root):
        settings = read_settings(folder)
        if settings is None or folder.resolve() == cache.folder.resolve():
            continue
        there = _lines(settings)
        names = [name for name in here | there if _differ(here.get(name), there.get(name))]
        told = [f"{name}: {_shown(here.get(name))} here, {_shown(there.get(name))} in" for name in names]
        # Caches of other data sets differ in the same way: one of them is enough.
        compared.setdefault(tuple(told) or (f"data set: {cache.folder.name} here, the same settings in",), folder)
    fewest = min(map(len, compared), default=0)
    nearest = [(told, folder) for told, folder in compared.items() if len(told) == fewest]
    return [f"{line} {folder}" for told, folder in nearest[:MAX_NEAREST] for line in told]


def _lines(settings: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Settings by dotted name, each with the weights' identity where it names weights: not a directory's path counts but its content."""
    weights = settings.get("weights")
    identities = weights if isinstance(weights, dict) else {}
    found: dict[str, tuple[Any, str]] = {}
    pending = [(name, value) for name, value in settings.items() if name != "weights"]
    while pending:
        name, value = pending.pop(0)
        if isinstance(value, dict) and value:
            pending = [(f"{name}.{inner}", part) for inner, part in value.items()] + pending
        else:
            identity = identities.get(value, "") if isinstance(value, str) else ""
            found[name] = (value, str(identity))
    return found


def _differ(here: tuple[Any, str] | None, there: tuple[Any, str] | None) -> bool:
    if here is None or there is None:
        return here is not there
    return here[1] != there[1] if here[1] and there[1] else here[0] != there[0]


def _shown(value: tuple[Any, str] | None) -> str:
    """JSON, which shows no control characters of a stranger's manifest to a terminal, and the head of an identity."""
    if value is None:
        return _ABSENT
    text = json.dumps(value[0])
    text = text if len(text) <= 80 else f"{text[:79]}…"
    return f"{text} ({value[1][:19]})" if value[1].startswith("sha256:") else text
