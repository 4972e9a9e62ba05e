"""The command line that all root scripts share, and the rules of a run directory."""

import difflib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from datamodules.datamodule import FeatureDataModule
from datamodules.errors import DataError
from modules.detectors.base import Detector

log = logging.getLogger("undertow")

RESUME_MODES = ("never", "auto", "last")
LAST = "last.ckpt"
# What a run directory must not hold for a new run: one that failed before it trained leaves only its configuration.
RESULTS = ("log.csv", "checkpoints", "predictions.parquet", "metrics.json", "report.html")
# The run directory that rank 0 chose, for the processes that it starts.
RUN_VARIABLE = "UNDERTOW_RUN_DIRECTORY"
# The Trainer's settings that say where things run; extraction has a Trainer of its own on the same hardware.
HARDWARE = ("accelerator", "devices", "strategy", "num_nodes")
# Options that say how to run, not what: they may differ when a run is resumed.
NOT_COMPARED = ("resume", "force", "name")


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
    last = folder / "checkpoints" / LAST
    if resume not in RESUME_MODES:
        if not Path(resume).is_file():
            msg = f"--resume {resume}: there is no such checkpoint; give a path, or one of {', '.join(RESUME_MODES)}"
            raise RunError(msg)
        return Run(folder, Path(resume))
    if resume == "last" and not last.is_file():
        msg = (
            f"--resume last: {last} does not exist; name the run to go on with by --name, or use --resume auto to start where there is none"
        )
        raise RunError(msg)
    if resume == "never" and any((folder / part).exists() for part in RESULTS):
        msg = f"{folder} holds a run already; choose another --name, or go on with it by --resume auto"
        raise RunError(msg)
    return Run(folder, last if last.is_file() else None)


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
        parser.add_argument("--force", type=bool, default=False, help="resume although the configuration has changed")
        parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.log_every_n_steps": 10})

    def before_instantiate_classes(self) -> None:
        """Choose the run directory and write its `config.yaml` before anything that takes long."""
        given = os.environ.get(RUN_VARIABLE)
        if given and not is_main_process():
            self.run = Run(Path(given), find_run(Path(given).parent, Path(given).name, "auto").checkpoint)
            return
        self.run = find_run(Path(self.config.runs_dir), self.config.name or self._default_name(), self.config.resume)
        os.environ[RUN_VARIABLE] = str(self.run.folder)
        self._write_config()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with the run directory's loggers and checkpoints added to what the configuration names."""
        from tracking import AppendingCSVLogger, wandb_logger

        configured = self.config_init.trainer.logger
        if configured in (None, True):
            group = self.config.group or self.model.name
            loggers = [wandb_logger(self.run.folder, self.run.folder.name, self.model.name, group, self._shown().as_dict())]
        else:
            loggers = [] if configured is False else configured if isinstance(configured, list) else [configured]
        self.trainer_defaults = {"callbacks": self._checkpoints()}
        # The CSV comes first: it still logs where another logger fails.
        return super().instantiate_trainer(logger=[AppendingCSVLogger(self.run.folder), *loggers], default_root_dir=str(self.run.folder))

    def hardware(self) -> dict[str, Any]:
        """The Trainer's settings that say where things run, for the extraction's own Trainer."""
        return {name: self.config_init.trainer[name] for name in HARDWARE}

    def _checkpoints(self) -> list[Callback]:
        configured = self.config_init.trainer.callbacks or []
        added: list[Callback] = [LearningRateMonitor("epoch")]
        if not any(isinstance(callback, ModelCheckpoint) for callback in configured):
            folder = self.run.folder / "checkpoints"
            added.append(
                ModelCheckpoint(folder, filename="best-{epoch}-{step}", monitor="val/loss", save_last=True, auto_insert_metric_name=False)
            )
        return added

    def _default_name(self) -> str:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            msg = "several processes would each choose a name by the time: give the run one by --name"
            raise RunError(msg)
        if self.config.resume in ("auto", "last"):
            msg = f"--resume {self.config.resume} needs --name: which run should be gone on with?"
            raise RunError(msg)
        configs = self.config.get("config") or []
        stem = Path(str(configs[0])).stem if configs else "run"
        return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"

    def _shown(self) -> Namespace:
        """The resolved configuration without the options that only say how to run."""
        shown = self.config.clone()
        for name in ("config", *NOT_COMPARED):
            shown.pop(name, None)
        return shown

    def _write_config(self) -> None:
        """Write the resolved configuration, or compare it with the one of the run that is resumed.

        Raises:
            RunError: If it differs and `--force` is not set.
        """
        from datamodules.files import write_atomically

        text = self.parser.dump(self._shown(), skip_validation=True)
        path = self.run.folder / "config.yaml"
        if self.run.checkpoint is not None and path.exists() and path.read_text() != text:
            difference = "\n".join(
                difflib.unified_diff(path.read_text().splitlines(), text.splitlines(), str(path), "now", lineterm="", n=0)
            )
            if not self.config.force:
                msg = f"the configuration is not that of the run in {self.run.folder}; --force resumes all the same:\n{difference}"
                raise RunError(msg)
            log.warning("resuming with a changed configuration:\n%s", difference)
        write_atomically(path, text.encode())


def best_checkpoint(trainer: Trainer) -> Path:
    """The checkpoint that the monitored value chose, or the last one.

    Raises:
        RunError: If training wrote none.
    """
    for callback in trainer.checkpoint_callbacks:
        chosen = getattr(callback, "best_model_path", "") or getattr(callback, "last_model_path", "")
        if chosen:
            return Path(chosen)
    msg = f"training wrote no checkpoint under {trainer.default_root_dir}"
    raise RunError(msg)
