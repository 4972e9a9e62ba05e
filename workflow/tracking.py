"""Loggers of a run: a CSV file that survives resuming, and Weights & Biases, none of whose failures stops a run."""

import contextlib
import csv
import functools
import io
import logging
import os
import secrets
import shlex
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.files import write_atomically

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
# W&B would try for 90 s at the start, wait without end for a lost network at the end, and lose the last 15 s where a process is killed.
SETTINGS = {"init_timeout": 30.0, "finish_timeout": 300.0, "x_transaction_log_flush_interval": 2.0}
LIBRARIES = ("torch", "torchvision", "lightning", "diffusers", "transformers", "timm", "open_clip_torch")
EMPTY_LOG = 7  # bytes: the header of an offline log, and no record
DATA_VARIABLE = "WANDB_DATA_DIR"


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


def _tolerant(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, with a warning in place of any exception; an interrupt passes through."""

    @functools.wraps(method)
    def call(self: "TolerantWandbLogger", *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            return self.went_wrong(error)

    return call


class TolerantWandbLogger(WandbLogger):
    """W&B's logger; where W&B fails the run goes on, offline if it can, and says once why.

    Args:
        folder: The run directory.
        kept: The file in it that has what is logged, whatever W&B does.
        options: What `WandbLogger` and `wandb.init` take.

    Attributes:
        given_up: Whether W&B does not work at all, offline neither.
    """

    def __init__(self, folder: Path, kept: str = "log.csv", **options: Any) -> None:
        super().__init__(save_dir=str(folder), **options)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it, whatever its value
        self.folder, self.kept = folder, folder / kept
        self._warned = False
        self.given_up = False

    @property
    def experiment(self) -> Any:
        """W&B's run: online, or offline where the server cannot be reached, or an object that does nothing."""
        if self.given_up:
            return _DummyExperiment()
        try:
            return super().experiment
        except Exception as error:
            return self._offline_instead(error)

    @property
    def offline(self) -> bool:
        """Whether nothing is sent: as it was told to be, or since the server could not be reached."""
        return self._wandb_init.get("mode") == "offline"

    def _offline_instead(self, error: Exception) -> Any:
        try:
            if self._experiment is None and self._wandb_init.get("mode") != "offline":
                log.info("W&B cannot be reached (%s): this run is logged offline. %s", error, how_to_sync(self.folder))
                _go_offline()  # with another service: this one holds the id for the run that failed
                self._wandb_init["mode"] = "offline"
                return super().experiment
        except Exception as second:
            error = second
        self.given_up = True
        self.went_wrong(error)
        return _DummyExperiment()

    def went_wrong(self, error: Exception) -> None:
        """Say, once, that W&B failed and what there still is."""
        if not self._warned:
            self._warned = True
            told = f"{type(error).__name__}: {error}"
            log.warning("W&B failed (%s). The run goes on; all that it logs is in %s", told, self.kept)

    @contextlib.contextmanager
    def staging(self) -> Iterator[None]:
        """Within it W&B keeps the pictures of tables, until they are sent, in the run directory and not in the user's home."""
        if DATA_VARIABLE in os.environ:
            yield
            return
        os.environ[DATA_VARIABLE] = str(self.folder.resolve() / "wandb")
        try:
            yield
        finally:
            del os.environ[DATA_VARIABLE]

    watch = _tolerant(WandbLogger.watch)
    log_hyperparams = _tolerant(WandbLogger.log_hyperparams)
    log_metrics = _tolerant(WandbLogger.log_metrics)
    log_table = _tolerant(WandbLogger.log_table)
    log_image = _tolerant(WandbLogger.log_image)
    after_save_checkpoint = _tolerant(WandbLogger.after_save_checkpoint)
    finalize = _tolerant(WandbLogger.finalize)


def wandb_logger(
    folder: Path,
    name: str,
    job_type: str,
    group: str,
    config: dict[str, Any] | None = None,
    *,
    part: str = "",
    kept: str = "log.csv",
    tags: Sequence[str] = (),
) -> TolerantWandbLogger:
    """W&B's logger for a run directory; offline where there is no key or no server, with the command that syncs it later.

    W&B's own environment variables (`WANDB_PROJECT`, `WANDB_MODE`, `WANDB_ENTITY`, …) hold as always. The run's id is kept in the run
    directory, so that a resumed run goes on in the same W&B run.

    Args:
        folder: The run directory.
        name: The run's name.
        job_type: The detector's name.
        group: The study's name.
        config: The resolved configuration, which W&B's tables filter and compare by; the code's version is added to it.
        part: Of a run directory with several W&B runs, what this one is of, as a part of a file's name: its id is kept under that.
        kept: The file in the run directory that has what is logged, whatever W&B does.
        tags: W&B's tags of the run.
    """
    code = code_version()
    mode = os.environ.get("WANDB_MODE")
    if main := not getattr(rank_zero_only, "rank", 0):
        end_service()  # Lightning would log this run into the one before
        _remove_empty_logs(folder)
        if not mode and not _has_key():
            log.info("W&B has no key: this run is logged offline. %s", how_to_sync(folder))
            mode = "offline"  # Lightning's own `offline` sets a mode that W&B has dropped
            _go_offline()
        elif mode != "offline" and unsynced(folder):
            _warn_of_unsynced(folder)
    logger = TolerantWandbLogger(
        folder,
        kept,
        name=name,
        project=os.environ.get("WANDB_PROJECT", "undertow"),
        id=_run_id(folder, part),
        resume="allow",
        group=group,
        job_type=job_type,
        config={**(config or {}), "versions": {library: version(library) for library in LIBRARIES}} | ({"code": code} if code else {}),
        settings=_settings(code),
        **({"tags": list(tags)} if tags else {}),
        **({"mode": mode} if mode else {}),
    )
    if main and mode != "offline":
        _ = logger.experiment  # now, before hours of extraction
    return logger


@functools.cache
def _warn_of_unsynced(folder: Path) -> None:
    """Once a directory: a study has many W&B runs in its own."""
    log.warning("Earlier starts of this run were logged offline, and belong before this one. %s", how_to_sync(folder))


def unsynced(folder: Path) -> list[Path]:
    """W&B's logs of the starts of a run that were offline and have not been sent, oldest first; of a study those of all its W&B runs."""
    logs = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [path for path in logs if not path.with_suffix(".wandb.synced").exists()]


def how_to_sync(folder: Path) -> str:
    """The command that sends all offline starts of a run, in their order, into one W&B run."""
    return f"Send it with: wandb sync {shlex.quote(str(folder / 'wandb'))}"


def code_version(root: Path = ROOT) -> dict[str, Any]:
    """`commit`, and `dirty` where a tracked file differs from it; empty where `root` is not the top of a git checkout."""
    told = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    top, _, commit = (told or "").partition("\n")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    # The checkout of something else that this code was unpacked into says nothing about it.
    if not commit or changes is None or Path(top).resolve() != root.resolve():
        return {}
    return {"commit": commit, "dirty": bool(changes)}


def _git(root: Path, *command: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, timeout=20, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _settings(code: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `wandb.init`, but for those that the user's environment sets and those that this W&B does not know."""
    import wandb

    wanted = SETTINGS | ({"git_root": str(ROOT)} if code else {"disable_git": True})
    return {
        name: value for name, value in wanted.items() if name in wandb.Settings.model_fields and f"WANDB_{name.upper()}" not in os.environ
    }


def end_service() -> None:
    """End the W&B run and service of this process, also a dead one: what comes next reads the environment anew."""
    import wandb

    for end in (wandb.run.finish if wandb.run else None, wandb.teardown):
        try:
            if end is not None:
                end()
        except Exception as error:
            log.debug("W&B's service did not end as it should: %s: %s", type(error).__name__, error)
        except SystemExit as stop:  # so W&B ends a process whose service failed; a signal's is a class of its own
            if type(stop) is not SystemExit:
                raise
    wandb.run = None  # a run that could not be ended


def _go_offline() -> None:
    """Let W&B do all that follows in this process without the network, its telemetry included."""
    import wandb

    end_service()
    wandb.setup(wandb.Settings(mode="offline"))


def _remove_empty_logs(folder: Path) -> None:
    """Delete logs of starts that were killed before their first record: with one of them `wandb sync` sends none of the others."""
    for path in unsynced(folder):
        if path.stat().st_size <= EMPTY_LOG:
            path.unlink()


def _has_key() -> bool:
    import wandb

    try:
        return wandb.login(prompt=False, verify=False)
    except Exception as error:
        log.warning("W&B does not take the key that it found: %s", error)
        return False


@rank_zero_only
def _run_id(folder: Path, part: str = "") -> str:
    """The run's W&B id: made once, by a sweep's agent or here, and kept beside the run's files; rank 0 alone logs."""
    kept = folder / "wandb" / (f"run_id-{part}.txt" if part else "run_id.txt")
    if kept.exists():
        return kept.read_text().strip()
    made = ("" if part else os.environ.get("WANDB_RUN_ID")) or secrets.token_hex(4)  # an agent's id is that of one run
    try:
        write_atomically(kept, made.encode())
    except OSError as error:
        log.warning("W&B's id of this run cannot be kept (%s): resumed, it will be another W&B run", error)
    return made
