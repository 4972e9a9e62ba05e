"""What keeps a training run safe: a last checkpoint and the one before it, stopping on a signal, and on a loss that is not a number."""

import logging
import os
import signal
import threading
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.processes import GracefulStop, remember_children, stop_observing
from modules.errors import UserError

log = logging.getLogger("undertow")

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
NEVER = torch.iinfo(torch.int64).max  # the step of something that has not happened


class TrainingError(UserError):
    """Training that cannot go on."""


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint file is whole: torch writes a zip file whose directory comes last, with a checksum for each member."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError):
        return False


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` after every epoch and where the run is stopped, and keeps the one before it as `previous.ckpt`.

    Args:
        folder: The run's `checkpoints/`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LAST

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, after validation and the epoch's other hooks."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by a connector
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save now; on all ranks."""
        if trainer.is_global_zero and is_complete(self.path):  # what is broken must not take the place of what is good
            self.path.replace(self.path.with_name(PREVIOUS))
        trainer.save_checkpoint(self.path, weights_only=False)  # the optimiser and the loops as well


def _log_every(trainer: pl.Trainer) -> int:
    return int(trainer.log_every_n_steps) or 1  # type: ignore[attr-defined] # set by a connector


class StopOnSignal(Callback):
    """Ends training after the running batch on SIGTERM (preemption, a cluster's time limit) or Ctrl-C, with a checkpoint.

    Lightning looks for SIGTERM after a whole epoch only, and saves nothing. All ranks stop at the same batch, whichever got the signal. A
    second Ctrl-C interrupts at once.

    Args:
        last: What saves the checkpoint.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last
        self.received: signal.Signals | None = None
        self._agreed = False
        self._process = os.getpid()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over both signals; Lightning gives them back when it ends."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._receive)
            signal.signal(signal.SIGINT, self._receive)
        if trainer.received_sigterm:  # a moment ago, when Lightning's own handler took it
            self._receive(signal.SIGTERM, None)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A signal during the last epoch: what was trained is saved, what comes after training is not begun."""
        if self._agreed or trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            self._stop(trainer, save=False)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop where any rank was told to. The last batch's epoch is brought to its end, validation included."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # gradients that are not used yet are in no checkpoint
        self._agreed = trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)
        if self._agreed and not trainer.is_last_batch:
            if trainer.global_step % _log_every(trainer) == 0:  # Lightning logs a step after this hook
                for logger in trainer.loggers:
                    logger.log_metrics({"train/loss": float(outputs["loss"])}, step=trainer.global_step - 1)
            self._stop(trainer, save=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after the epoch's last batch."""
        trainer.should_stop |= self._agreed

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a forked worker of the loader, which ends when the training process does
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        log.info("received %s: stopping after this batch", self.received.name)

    def _stop(self, trainer: pl.Trainer, save: bool) -> None:
        if save:
            self.last.save(trainer)
        remember_children(getattr(trainer.strategy.launcher, "procs", []))
        stop_observing()
        folder = self.last.path.parent.parent
        log.info("stopped at step %d; saved %s. Go on with: --name %s --resume auto", trainer.global_step, self.last.path, folder.name)
        # Lightning runs the loggers' and callbacks' last words, and passes it on; the exit status is a shell's for that signal.
        raise SIGTERMException(128 + (self.received or signal.SIGTERM))


class StopPrediction(Callback):
    """Ends scoring at once on SIGTERM or Ctrl-C, which Lightning's predict loop takes no notice of; there is nothing to save."""

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over both signals; Lightning gives them back when it ends."""
        GracefulStop().install(getattr(trainer.strategy.launcher, "procs", []))
        if trainer.received_sigterm:
            signal.raise_signal(signal.SIGTERM)


class StopOnNonFiniteLoss(Callback):
    """Ends training when the loss is no longer a number, before a checkpoint of such weights is written.

    The loss stays on its device; it is looked at every `log_every_n_steps`, after an epoch's last batch, and before every checkpoint.
    """

    def __init__(self) -> None:
        self._first_bad: torch.Tensor | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the first step whose loss is not finite."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is None:
            return
        bad = torch.where(loss.isfinite().all(), NEVER, trainer.global_step)
        self._first_bad = bad if self._first_bad is None else torch.minimum(self._first_bad, bad)
        if trainer.is_last_batch or trainer.global_step % _log_every(trainer) == 0:
            self._check(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """No checkpoint of weights that are lost."""
        self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        if self._first_bad is None:
            return
        step = int(trainer.strategy.reduce(self._first_bad, reduce_op="min"))
        if step < NEVER:
            folder = Path(trainer.default_root_dir) / "checkpoints"
            good = next((folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).exists()), None)
            kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
            msg = (
                f"the loss is not finite at step {step}; {kept}. Lower the learning rate, clip gradients (--trainer.gradient_clip_val), or "
            )
            raise TrainingError(msg + "look at the features of the images of that step")
