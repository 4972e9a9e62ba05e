"""Which cache directories a configuration uses: a training YAML, or an evaluation's with its checkpoints."""

import argparse
import json
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from datamodules.cache.features import FeatureCache
from datamodules.cache.folders import find_folders
from datamodules.errors import DataError
from modules.errors import UserError

STUDY = "detectors"  # directory of the runs that a study fits
RUN_CONFIGS = ("*/config.yaml", f"*/{STUDY}/*/config.yaml")  # under a directory of runs


def cache_of(arguments: Sequence[str]) -> FeatureCache:
    """The cache that `train.py` would use.

    Args:
        arguments: `--config FILE` and `--data.…` options as `train.py` takes them; its other options and sections are ignored.

    Raises:
        DataError: If they are refused, or a file cannot be read.
    """
    from lightning.pytorch.cli import LightningArgumentParser

    from datamodules.datamodule import FeatureDataModule

    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(FeatureDataModule, "data", instantiate=False)
    try:
        settings = vars(parser.instantiate(parser.parse_args(_of_data(arguments))).data)
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise DataError(" ".join(str(error).split())[:600]) from error
    return FeatureDataModule(**settings).cache


def _of_data(arguments: Sequence[str]) -> list[str]:
    """Those options, with their values, that say which features are used; of files only the section `data`, as text.

    The other sections are not even parsed: that would build the detector that they name.
    """
    kept: list[str] = []
    option = ""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if argument.startswith("--"):
            option = name
        path = (value if argument.startswith("--") else argument) if option == "--config" else ""
        if path:
            kept.append(f"--config={json.dumps({'data': read_config(Path(path)).get('data') or {}})}")
        elif option == "--data" or option.startswith("--data."):
            kept.append(argument)
    return kept


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file's sections.

    Raises:
        DataError: If it is none.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        msg = f"the configuration {path} cannot be read ({' '.join(str(error).split())[:200]})"
        raise DataError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} is no configuration: it has no sections"
        raise DataError(msg)
    return content


def run_configs(runs: Path) -> list[Path]:
    """The configurations of all runs in a directory."""
    return sorted(path for pattern in RUN_CONFIGS for path in runs.glob(pattern))


def needed_folders(configs: Iterable[Path], root: Path) -> set[Path]:
    """Cache directories under a root that configurations use.

    A training configuration uses one. An evaluation or a study may use its extractors with any data set and perturbation, so all
    directories of those extractors count.

    Raises:
        DataError: If what a configuration uses cannot be told; it is better to delete nothing then.
    """
    there = find_folders(root)
    needed: set[Path] = set()
    for path in configs:
        try:
            needed |= _needed_by(path, there)
        except UserError as error:
            msg = f"which features {path} needs cannot be told: {error}. Correct it, or name the directories to delete"
            raise DataError(msg) from error
    return needed


def _needed_by(path: Path, there: list[Path]) -> set[Path]:
    content = read_config(path)
    data = content.get("data")
    if isinstance(data, dict) and "extractor" in data:
        used = cache_of(["--config", str(path)]).folder
        if path.parent.parent.name != STUDY:
            return {used.resolve()}
        return {folder.resolve() for folder in there if folder.parent.name == used.parent.name}
    if any("extractor" in str(overrides) for overrides in _values(content, "overrides")):
        msg = "its overrides change an extractor"
        raise DataError(msg)
    extractors: set[str] = set()
    for checkpoint in _values(content, "checkpoint"):
        extractors |= _fingerprint_in(Path(str(checkpoint))) if checkpoint else set()
    for laid_over in filter(None, _values(content, "config")):
        files = laid_over if isinstance(laid_over, list) else [laid_over]
        extractors.add(cache_of([f"--config={file}" for file in files]).folder.parent.name.rpartition("-")[2])
    return {folder.resolve() for folder in there if folder.parent.name.rpartition("-")[2] in extractors}


def _values(content: Any, name: str) -> list[Any]:
    """All that stands under a name anywhere in a configuration."""
    found: list[Any] = []
    for key, value in content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ():
        found += [value] if key == name else _values(value, name)
    return found


def _fingerprint_in(checkpoint: Path) -> set[str]:
    """The fingerprint of a checkpoint's extractor; none where the checkpoint is gone, since nothing can be scored with it."""
    import torch

    if not checkpoint.is_file():
        return set()
    try:
        described = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["undertow"]["data"]
        return {str(described["extractor_fingerprint"])} if described else set()
    except (OSError, pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        msg = f"the checkpoint {checkpoint} cannot be read ({type(error).__name__})"
        raise DataError(msg) from error
