"""Loggers of a run: a CSV file that survives resuming, and Weights & Biases."""

import csv
import io
import logging
import os
import secrets
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.files import write_atomically

log = logging.getLogger(__name__)


class AppendingCSVLogger(Logger):
    """`log.csv`: one row a call, a column a name, appended to when a run is resumed (Lightning's own deletes earlier rows).

    A row's columns are known only when it comes, so the header may widen: then the file is written anew, whole or not at all.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "log.csv"
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Lightning's name for this logger."""
        return "csv"

    @property
    def version(self) -> str:
        """One file a run: there is only one."""
        return "0"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved configuration is in `config.yaml`; nothing is written here."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row of metrics with its step and the time in seconds since the epoch."""
        row = {"step": "" if step is None else step, "time": round(time.time(), 3), **metrics}
        columns = self._known_columns()
        new = [name for name in row if name not in columns]
        if new:
            columns.extend(new)
            self._widen(columns)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerow(row)

    def _known_columns(self) -> list[str]:
        if self._columns is None:
            self._columns = []
            if self.path.exists():
                with self.path.open(newline="") as file:
                    self._columns = next(csv.reader(file), [])
        return self._columns

    def _widen(self, columns: list[str]) -> None:
        rows: list[dict[str, str]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())


def wandb_logger(folder: Path, name: str, job_type: str, group: str, config: dict[str, Any] | None = None) -> Logger:
    """W&B's logger for a run directory; offline where there is no key, with the command that syncs it later.

    W&B's own environment variables (`WANDB_PROJECT`, `WANDB_MODE`, `WANDB_ENTITY`, …) hold as always. The run's id is kept in the run
    directory, so that a resumed run goes on in the same W&B run.

    Args:
        folder: The run directory.
        name: The run's name.
        job_type: The detector's name.
        group: The study's name.
        config: The resolved configuration, which W&B's tables filter and compare by.
    """
    from lightning.pytorch.loggers import WandbLogger

    def build(**mode: Any) -> WandbLogger:
        return WandbLogger(
            name=name,
            save_dir=str(folder),
            project=os.environ.get("WANDB_PROJECT", "undertow"),
            id=_run_id(folder),
            resume="allow",
            group=group,
            job_type=job_type,
            config=config or {},
            **mode,
        )

    told = os.environ.get("WANDB_MODE")
    reason = "" if told or _has_key() else "has no key"
    if not reason:
        # W&B reads the variable only once a process; given with the run, it holds whatever was read before
        logger = build(mode=told) if told else build()
        if getattr(rank_zero_only, "rank", 0) or told == "offline":
            return logger
        try:
            _ = logger.experiment  # now, before hours of extraction
            return logger
        except Exception as error:  # no failure of W&B's may stop a run
            reason = f"cannot be reached ({error})"
    log.info("W&B %s: this run is logged offline; send it later with: wandb sync %s", reason, folder / "wandb" / "offline-run-*")
    return build(mode="offline")  # Lightning's own `offline` sets a mode that W&B has dropped


def _has_key() -> bool:
    import wandb

    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        log.warning("W&B does not take the key that it found: %s", error)
        return False


@rank_zero_only
def _run_id(folder: Path) -> str:
    """The run's W&B id: made once, kept beside the run's files; rank 0 alone logs."""
    kept = folder / "wandb" / "run_id.txt"
    if kept.exists():
        return kept.read_text().strip()
    made = secrets.token_hex(4)
    write_atomically(kept, made.encode())
    return made
