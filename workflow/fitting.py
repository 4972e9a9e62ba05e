"""Fitting the detectors of a study that have no checkpoint yet, by train.py."""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cli import RunError, UndertowCLI
from datamodules.files import write_atomically
from modules.settings import fingerprint

log = logging.getLogger("undertow")

MAX_READ = 2**28  # bytes of a file that an option names, for its hash
TRAIN = Path(__file__).resolve().parent.parent / "train.py"


@dataclass
class FittedDetector:
    """A detector of a study.

    Args:
        checkpoint: One that train.py wrote; or, where there is none yet,
        config: the YAML file, or files laid over each other, that train.py fits it by,
        overrides: and options of train.py laid over those, for example `{trainer.max_epochs: 5}`.
    """

    checkpoint: str | None = None
    config: str | list[str] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.config is None):
            msg = "a detector of a study needs either a checkpoint or a config"
            raise ValueError(msg)

    def files(self) -> list[str]:
        """The files that must be there."""
        named = self.checkpoint if self.checkpoint is not None else self.config or []
        return [named] if isinstance(named, str) else list(named)


def fit(name: str, detector: FittedDetector, folder: Path, options: Sequence[str] = (), hardware: Sequence[str] = ()) -> Path:
    """The checkpoint of a detector, fitted by train.py under `<folder>/<name>` where there is none yet.

    It is a process of its own: its memory is free afterwards, it may use as many processes as its own trainer section says, and what was
    begun is gone on with.

    Args:
        name: The detector's.
        detector: Its checkpoint or configuration.
        folder: Where detectors are fitted.
        options: Of train.py, laid over the configuration.
        hardware: Options that say where it runs; they may change between the starts of a study.

    Raises:
        RunError: The name is not one of a folder, or training failed.
    """
    if detector.checkpoint is not None:
        return Path(detector.checkpoint)
    if not name or name.startswith((".", "/")) or ".." in name.split("/"):
        msg = f"detectors.{name}: this name cannot be that of a folder"
        raise RunError(msg)
    configs = detector.files()
    arguments = fit_arguments(name, detector, folder, options)
    # A manifest whose lines have changed is another one.
    named = [str(value) for value in (*detector.overrides.values(), *(option.partition("=")[2] for option in options))]
    contents = [Path(path).read_bytes() for path in [*configs, *named] if Path(path).is_file() and Path(path).stat().st_size < MAX_READ]
    identity = fingerprint({"arguments": arguments, "contents": [hashlib.sha256(content).hexdigest() for content in contents]})
    run = folder / folder_name(name)
    done, checkpoint = run / "fitted.txt", run / "checkpoints" / "best.ckpt"
    if checkpoint.exists() and done.exists() and done.read_text() == identity:
        return checkpoint
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or "SLURM_NTASKS" in os.environ:
        msg = f"detectors.{name} has no checkpoint: under torchrun or SLURM, fit it first by train.py, and name its checkpoint"
        raise RunError(msg)
    log.info("fitting %s", name)
    command = [sys.executable, str(TRAIN), *arguments, *hardware, "--resume=auto"]
    if status := subprocess.run(command, check=False, stdout=sys.stderr.fileno() if _is_file(sys.stderr) else None).returncode:
        changed = done.exists() or (run / "log.csv").exists()
        msg = (
            f"detectors.{name}: train.py ended with status {status}; what it said is above. Where an option is wrong, correct "
            f"detectors.{name}.config or its overrides; where it was stopped, the same command with --resume auto goes on"
            + (f"; where its configuration has changed, delete {run} or give the detector another name" if changed else "")
        )
        raise RunError(msg)
    write_atomically(done, identity.encode())
    return checkpoint


def fit_arguments(name: str, detector: FittedDetector, folder: Path, options: Sequence[str]) -> list[str]:
    """Arguments of train.py for a detector of a study; as for `fit`."""
    named = [f"--name={folder_name(name)}", f"--runs_dir={folder}", f"--group={folder.parent.name}"]
    return [*(f"--config={path}" for path in detector.files()), *options, *as_options(detector.overrides), *named]


def read_run(path: Path) -> dict[str, Any]:
    """The configuration that train.py wrote of a run.

    Raises:
        RunError: It is none.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        msg = f"{path} cannot be read ({type(error).__name__}); name the config.yaml of the run that trained the checkpoint by --config"
        raise RunError(msg) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in ("model", "data", "trainer")):
        msg = f"{path} is no configuration of a training run: it lacks the sections model, data and trainer"
        raise RunError(msg)
    return content


def folder_name(name: str) -> str:
    """A detector's name, which may hold a generator's after its `@`, as that of one folder."""
    plain = re.sub(r"[^\w@+.-]+", "_", name.replace("!", "all_but_"))
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def check_options(detectors: Mapping[str, FittedDetector], folder: Path, options: Sequence[str] = ()) -> None:
    """Find out what is wrong with the options of a study's detectors before the first of them is fitted; arguments as for `fit`.

    Raises:
        RunError: train.py would not take them, or there is no such file of weights.
    """
    for name, detector in detectors.items():
        if detector.checkpoint is not None:
            continue
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # meant for this use
                UndertowCLI([*fit_arguments(name, detector, folder, options), "--print_config"])
        except SystemExit as stop:  # that of --print_config has the status 0
            if stop.code:
                msg = f"detectors.{name}: train.py does not take this configuration and its overrides; what is wrong is said above"
                raise RunError(msg) from stop
        for path in _weights(yaml.safe_load(printed.getvalue())["model"]):
            if not Path(path).is_file():
                msg = f"detectors.{name}: there is no file {path} of weights (model.weights, start or prior)"
                raise RunError(msg)


def _weights(settings: Any) -> list[str]:
    """The files of weights that a detector's settings name, at any depth."""
    if not isinstance(settings, dict):
        return []
    found = [path for value in settings.values() for path in _weights(value)]
    return found + [settings[name] for name in ("weights", "start", "prior") if isinstance(settings.get(name), str)]


def _is_file(stream: Any) -> bool:
    """Whether another process can write to a stream, as to a terminal, and unlike to what a test puts in its place."""
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False


def as_options(overrides: Mapping[str, Any]) -> list[str]:
    """Options and their values as arguments of the command line."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in overrides.items()]
