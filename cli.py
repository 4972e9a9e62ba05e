"""The command line that all root scripts share, and the rules of a run directory."""

import copy
import difflib
import fcntl
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from datamodules.datamodule import FeatureDataModule
from datamodules.errors import DataError
from datamodules.files import write_atomically
from evaluation.options import ReportOptions
from modules.detectors.base import Detector
from workflow.callbacks import BEST, LAST, PREVIOUS, LastCheckpoint, StopOnNonFiniteLoss, StopOnSignal, StopPrediction, is_complete

log = logging.getLogger("undertow")

RESUME_MODES = ("never", "auto", "last")
# What a run directory must not hold for a new run: one that failed before it trained leaves only its configuration.
RESULTS = ("log.csv", "checkpoints", "cells", "detectors", "predictions.parquet", "metrics.json", "report.html")
# The run directory and the checkpoint that rank 0 chose, for the processes that it starts.
RUN_VARIABLE, CHECKPOINT_VARIABLE = "UNDERTOW_RUN_DIRECTORY", "UNDERTOW_RESUME_FROM"
# The Trainer's settings that say where things run; extraction has a Trainer of its own on the same hardware.
HARDWARE = ("accelerator", "devices", "strategy", "num_nodes", "enable_progress_bar")
# Options that say how to run, not what: they may differ when a run is resumed.
NOT_COMPARED = {
    "group",
    "runs_dir",
    "data.audit",
    "data.cache_dir",
    "data.num_workers",
    "data.extract_workers",
    "data.extract_batch_size",
    "data.shard_samples",
    "data.memory_limit",
    "data.stream.url",
    "data.stream.allow_http",
    "data.stream.allow_private",
    "report.images",
    "report.megabytes",
    "report.spectra",
}
NOT_COMPARED |= {f"trainer.{name}" for name in (*HARDWARE, "enable_model_summary", "logger", "default_root_dir")}


# Open lock files of the run directories that this process writes; they are let go when it ends.
_held: dict[Path, TextIO] = {}


class RunError(DataError):
    """A run directory that cannot be used as asked."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run's directory, and the checkpoint that it goes on from.

    Attributes:
        folder: `runs/<name>`.
        checkpoint: What training resumes from, or None for a new run.
    """

    folder: Path
    checkpoint: Path | None


def is_main_process() -> bool:
    """Whether this is rank 0 of all nodes."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def find_run(runs: Path, name: str, resume: str) -> Run:
    """Choose the run directory, never one that holds another run's results.

    Args:
        runs: Directory of all runs.
        name: The run's name.
        resume: `never` (the run must be new), `auto` (go on where there is a checkpoint, else start), `last` (there must be
            one), or the path of a checkpoint to go on from.

    Raises:
        RunError: If the name is taken, or there is nothing to resume from; says what to do.
    """
    folder = runs / name
    if resume not in RESUME_MODES:
        return Run(folder, _named_checkpoint(folder, resume))
    if resume == "never":
        if has_results(folder):
            msg = f"{folder} holds a run already; choose another --name (train.py can go on with it by --resume auto)"
            raise RunError(msg)
        return Run(folder, None)
    found = last_checkpoint(folder / "checkpoints")
    if found is None and resume == "last":
        msg = (
            f"--resume last: {folder / 'checkpoints' / LAST} does not exist; name the run to go on with by --name, or use --resume auto to "
            "start where there is none"
        )
        raise RunError(msg)
    return Run(folder, found)


def _named_checkpoint(folder: Path, path: str) -> Path:
    if not Path(path).is_file():
        msg = f"--resume {path}: there is no such checkpoint; give a path, or one of {', '.join(RESUME_MODES)}"
        raise RunError(msg)
    if not is_complete(Path(path)):
        msg = f"--resume {path}: the file is damaged or cut short; give another one of {Path(path).parent}"
        raise RunError(msg)
    if has_results(folder) and Path(path).resolve().parent != (folder / "checkpoints").resolve():
        msg = f"{folder} holds another run than --resume {path}; choose another --name"
        raise RunError(msg)
    return Path(path)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; None where there is none at all.

    A file that was cut short (a full disk, a power cut) is passed over with a warning.

    Raises:
        RunError: There are checkpoints, and all are damaged.
    """
    present = [folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).is_file()]
    for path in present:
        if is_complete(path):
            return path
        log.warning("%s is damaged or cut short; going on from the checkpoint before it", path)
    if present:
        msg = f"all checkpoints in {folder} are damaged; start anew under another --name (the cached features are kept)"
        raise RunError(msg)
    return None


def has_results(folder: Path) -> bool:
    """Whether a run directory holds anything that must not be written over."""
    return any((folder / part).exists() for part in RESULTS)


def hold(folder: Path) -> None:
    """Take a run directory for the life of this process.

    Raises:
        RunError: If another process of this machine has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() in _held:
        return
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        msg = f"{folder} is being written by another process; choose another --name, or wait for it"
        raise RunError(msg) from error
    except OSError as error:  # NFS and others without locks
        log.warning("%s lies on a file system without locks (%s): do not write it twice at once", folder, error.strerror)
    _held[folder.resolve()] = file


class UndertowCLI(LightningCLI):
    """Lightning's command line over any `Detector` and the one `FeatureDataModule`, without subcommands: flat YAML files."""

    run: Run

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            Detector,
            FeatureDataModule,
            run=False,
            args=args,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"description": "Train a detector of generated images. Results go to runs/<name>/."},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of the run itself."""
        parser.add_argument("--name", type=str | None, default=None, help="name of the run directory; by default the config's and the time")
        parser.add_argument("--group", type=str | None, default=None, help="study that the run belongs to, for W&B")
        parser.add_argument("--runs_dir", type=str, default="runs", help="directory of all run directories")
        parser.add_argument("--resume", type=str, default="never", help="never, auto, last, or the path of a checkpoint")
        parser.add_argument(
            "--monitor", type=str, default="val/loss", help="logged value that chooses best.ckpt; a loss is best low, all else high"
        )
        parser.add_class_arguments(ReportOptions, "report")
        parser.add_argument("--force", action="store_true", help="resume although the configuration has changed")
        parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.log_every_n_steps": 10})

    def before_instantiate_classes(self) -> None:
        """Choose the run directory and write its `config.yaml` before anything that takes long."""
        if self.config.data.evaluate_only is not None:
            msg = "data.evaluate_only is for trained detectors; leave it out of train.py"
            raise RunError(msg)
        try:
            ReportOptions(**vars(self.config.report))
        except ValueError as error:
            raise RunError(str(error)) from error
        given = os.environ.get(RUN_VARIABLE)
        if given and not is_main_process():
            self.run = Run(Path(given), Path(os.environ[CHECKPOINT_VARIABLE]) if os.environ[CHECKPOINT_VARIABLE] else None)
            return
        self.run = find_run(Path(self.config.runs_dir), self.config.name or self._default_name(), self.config.resume)
        if is_main_process():
            hold(self.run.folder)
        os.environ[RUN_VARIABLE] = str(self.run.folder)
        os.environ[CHECKPOINT_VARIABLE] = str(self.run.checkpoint or "")
        if is_main_process():
            self._write_config()

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses is the user's to mend.

        Raises:
            RunError: With the constructor's sentence.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise RunError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with the run directory's loggers and checkpoints added to what the configuration names."""
        from workflow.tracking import AppendingCSVLogger, wandb_logger

        # A strategy object belongs to one Trainer: extraction's gets copies from before this one is built.
        self.hardware = {name: copy.deepcopy(self.config_init.trainer[name]) for name in HARDWARE}
        configured = self.config_init.trainer.logger
        if configured in (None, True):
            group = self.config.group or self.model.name
            loggers = [wandb_logger(self.run.folder, self.run.folder.name, self.model.name, group, self.shown())]
        else:
            loggers = [] if configured is False else configured if isinstance(configured, list) else [configured]
        self.trainer_defaults = {"callbacks": self._checkpoints()}
        # The CSV comes first: it still logs where another logger fails.
        return super().instantiate_trainer(logger=[AppendingCSVLogger(self.run.folder), *loggers], default_root_dir=str(self.run.folder))

    def _checkpoints(self) -> list[Callback]:
        configured = self.config_init.trainer.callbacks or []
        configured = configured if isinstance(configured, list) else [configured]
        folder = self.run.folder / "checkpoints"
        last = LastCheckpoint(folder)
        added: list[Callback] = [LearningRateMonitor("epoch"), StopOnNonFiniteLoss(), StopOnSignal(last), StopPrediction()]
        if not any(isinstance(callback, ModelCheckpoint) for callback in configured):
            monitor = self.config.monitor
            mode = "min" if monitor.endswith("loss") else "max"
            added.append(ModelCheckpoint(folder, filename=Path(BEST).stem, monitor=monitor, mode=mode, enable_version_counter=False))
        return [*added, last]  # after the one that keeps the best: what that knows of this epoch is in the last one

    def _default_name(self) -> str:
        several = [int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "SLURM_NTASKS")]
        if max(*several, self.config.trainer.num_nodes) > 1:
            msg = "several processes would each choose a name by the time: give the run one by --name"
            raise RunError(msg)
        if self.config.resume in ("auto", "last"):
            msg = f"--resume {self.config.resume} needs --name: which run should be gone on with?"
            raise RunError(msg)
        configs = self.config.get("config") or []
        stem = "+".join(Path(str(config)).stem for config in configs) or "run"
        name = started = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 1
        while (Path(self.config.runs_dir) / name).exists():
            number += 1
            name = f"{started}-{number}"
        return name

    def shown(self) -> dict[str, Any]:
        """The resolved configuration in plain types, without the options of this one start."""
        plain: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_validation=True))
        return {name: value for name, value in plain.items() if name not in ("config", "resume", "force", "name")}

    def _write_config(self) -> None:
        """Write the resolved configuration, or compare it with the one of the run that is resumed.

        Raises:
            RunError: If it differs and `--force` is not set.
        """
        path = self.run.folder / "config.yaml"
        if self.run.checkpoint is not None and path.exists():
            before, now = (_compared(told) for told in (yaml.safe_load(path.read_text()), self.shown()))
            difference = "\n".join(difflib.unified_diff(before, now, str(path), "now", lineterm="", n=0))
            if difference and not self.config.force:
                msg = f"the configuration is not that of the run in {self.run.folder}; --force resumes all the same:\n{difference}"
                raise RunError(msg)
            if difference:
                log.warning("resuming with a changed configuration:\n%s", difference)
        write_atomically(path, yaml.safe_dump(self.shown(), sort_keys=False).encode())


def _compared(config: dict[str, Any]) -> list[str]:
    """Lines `path: value` of a configuration, without what may differ between the starts of a run."""

    def lines(part: dict[str, Any], prefix: str) -> list[str]:
        found = []
        for name, value in part.items():
            path = f"{prefix}{name}"
            if path not in NOT_COMPARED:
                found += lines(value, f"{path}.") if isinstance(value, dict) else [f"{path}: {value}"]
        return found

    return lines(config, "")


def best_checkpoint(trainer: Trainer) -> Path:
    """The checkpoint that the monitored value chose, or the last one.

    Raises:
        RunError: If training wrote none.
    """
    folder = Path(trainer.default_root_dir) / "checkpoints"
    chosen = [Path(callback.best_model_path) for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    # The path is that of the run which wrote it; the directory may have been renamed since.
    candidates = [path for named in chosen if named.name for path in (folder / named.name, named)]
    for path in candidates:
        if path.is_file():
            return path
    if (last := last_checkpoint(folder)) is not None:
        log.warning("there is no best checkpoint: scoring with %s", last)
        return last
    msg = f"training wrote no checkpoint under {trainer.default_root_dir}"
    raise RunError(msg)
