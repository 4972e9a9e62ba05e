"""A run that is stopped goes on as if it had not been: the same images at every step, the same metrics, one W&B run."""

import logging
import os
import signal
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch

import train
from cli import RunError, last_checkpoint
from modules.detectors import FakeInversion
from tests.commands import options
from workflow.callbacks import TrainingError, is_complete

MORE = ("--trainer.max_epochs=3", "--data.batch_size=8")


class Watch:
    """Writes down the keys of every training step, and sends a signal to this process after some steps."""

    def __init__(self, monkeypatch, stop_at=None, number=signal.SIGTERM, spoil_at=None):
        self.keys = {}
        step = FakeInversion.training_step

        def watched(detector, batch, batch_idx):
            self.keys[detector.global_step] = batch["key"]
            if detector.global_step + 1 == stop_at:
                os.kill(os.getpid(), number)
            loss = step(detector, batch, batch_idx)
            return loss * torch.nan if detector.global_step + 1 == spoil_at else loss

        monkeypatch.setattr(FakeInversion, "training_step", watched)


def state(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(place):
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch)
        return train.main(options(place, "undisturbed", *MORE)), watch.keys


def steps_of(keys):
    return len(keys) // 3


@pytest.mark.parametrize("where", ["first batch", "middle", "last batch of an epoch", "last batch of all"])
def test_row_31_sigterm_and_resume_at_the_next_batch(place, undisturbed, monkeypatch, where):
    whole, keys = undisturbed
    epoch = steps_of(keys)
    at = {"first batch": 1, "middle": epoch + epoch // 2, "last batch of an epoch": 2 * epoch, "last batch of all": 3 * epoch}[where]
    name = where.replace(" ", "-")
    before = Watch(monkeypatch, stop_at=at)
    with pytest.raises(SystemExit) as stop:
        train.main(options(place, name, *MORE))
    assert stop.value.code == 128 + signal.SIGTERM
    folder = place / "runs" / name
    assert state(folder)["global_step"] == at
    run_id = (folder / "wandb" / "run_id.txt").read_text()
    monkeypatch.undo()
    after = Watch(monkeypatch)
    assert train.main(options(place, name, *MORE, "--resume=auto")) == folder
    assert before.keys | after.keys == keys
    assert not before.keys.keys() & after.keys.keys()
    assert state(folder)["global_step"] == state(whole)["global_step"]
    for weights, expected in zip(state(folder)["state_dict"].values(), state(whole)["state_dict"].values(), strict=True):
        torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    assert state(folder)["undertow"]["threshold"] == state(whole)["undertow"]["threshold"]
    for run in (folder, whole):
        assert (run / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    logs = [pd.read_csv(run / "log.csv") for run in (folder, whole)]
    for column in ("val/auroc", "val/loss", "train/loss"):
        np.testing.assert_array_equal(*(log[column].dropna() for log in logs))
    assert (folder / "wandb" / "run_id.txt").read_text() == run_id


def test_row_31_interrupted_by_hand(place, undisturbed, monkeypatch):
    """Ctrl-C stops like SIGTERM, with a shell's status for it."""
    Watch(monkeypatch, stop_at=2, number=signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        train.main(options(place, "by-hand", *MORE))
    assert stop.value.code == 130
    assert state(place / "runs" / "by-hand")["global_step"] == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_another_batch_size_in_mid_epoch_is_refused(place, undisturbed, monkeypatch):
    Watch(monkeypatch, stop_at=2)
    with pytest.raises(SystemExit):
        train.main(options(place, "other", *MORE))
    with pytest.raises(RunError, match=r"data\.batch_size: 4"):
        train.main(options(place, "other", *MORE, "--data.batch_size=4", "--resume=auto"))
    with pytest.raises(ValueError, match=r"after 2 batches of an epoch with .*'batch_size': 8.*now it is .*'batch_size': 4"):
        train.main(options(place, "other", *MORE, "--data.batch_size=4", "--resume=auto", "--force"))


def test_row_28_a_truncated_last_checkpoint(place, first, tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes((first / "checkpoints" / name).read_bytes())
    assert last_checkpoint(folder) == folder / "last.ckpt"
    content = bytearray((folder / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 255
    for damaged in (content, content[: len(content) // 3], b""):
        (folder / "last.ckpt").write_bytes(damaged)
        assert last_checkpoint(folder) == folder / "previous.ckpt"
    assert "last.ckpt is damaged or cut short" in caplog.text
    (folder / "previous.ckpt").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"all checkpoints in .* are damaged"):
        last_checkpoint(folder)


def test_row_28_resuming_from_the_checkpoint_before(place, undisturbed, caplog):
    """The run goes on, ends as the undisturbed one did, and the damaged file never takes the good one's place."""
    whole, _ = undisturbed
    name = "truncated"
    train.main(options(place, name, *MORE))
    folder = place / "runs" / name
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    assert torch.load(last.with_name("previous.ckpt"), weights_only=True)["epoch"] == 1
    train.main(options(place, name, *MORE, "--resume=auto"))
    assert "going on from the checkpoint before it" in caplog.text
    assert state(folder)["global_step"] == state(whole)["global_step"]
    assert is_complete(last.with_name("previous.ckpt"))
    assert (folder / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


def test_row_32_a_loss_that_is_not_a_number(place, undisturbed, monkeypatch):
    _, keys = undisturbed
    at = steps_of(keys) + 2
    Watch(monkeypatch, spoil_at=at)
    with pytest.raises(TrainingError, match=rf"not finite at step {at}; the last good checkpoint is .*last\.ckpt"):
        train.main(options(place, "spoiled", *MORE, "--trainer.log_every_n_steps=3"))
    folder = place / "runs" / "spoiled"
    kept = state(folder)
    assert kept["epoch"] == 0
    assert all(torch.isfinite(weights).all() for weights in kept["state_dict"].values())
    assert all(torch.isfinite(weights).all() for weights in torch.load(folder / "checkpoints/best.ckpt")["state_dict"].values())


def test_the_order_of_images_depends_on_the_seed(place, undisturbed, monkeypatch):
    _, keys = undisturbed
    watch = Watch(monkeypatch)
    train.main(options(place, "seed", *MORE, "--seed_everything=1", "--trainer.max_epochs=1"))
    assert watch.keys[0] != keys[0]
    assert sorted(chain(*watch.keys.values())) == sorted(chain(*(keys[i] for i in range(steps_of(keys)))))


def test_logging_of_the_stop_names_the_command(place, undisturbed, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    Watch(monkeypatch, stop_at=1)
    with pytest.raises(SystemExit):
        train.main(options(place, "told", *MORE))
    assert "Go on with: --name told --resume auto" in caplog.text


class LossOf:
    """Makes the validation loss of each epoch what the test wants."""

    def __init__(self, monkeypatch, losses):
        log = FakeInversion.log

        def told(detector, name, value, *args, **kwargs):
            return log(detector, name, torch.tensor(losses[detector.current_epoch]) if name == "val/loss" else value, *args, **kwargs)

        monkeypatch.setattr(FakeInversion, "log", told)


def test_the_best_checkpoint_stays_the_best_after_resuming(place, undisturbed, monkeypatch):
    """The last checkpoint knows of the best one of its own epoch."""
    epoch = steps_of(undisturbed[1])
    arguments = options(place, "best", *MORE, "--monitor=val/loss")
    LossOf(monkeypatch, [0.9, 0.5, 0.7])
    Watch(monkeypatch, stop_at=2 * epoch)
    with pytest.raises(SystemExit):
        train.main(arguments)
    monkeypatch.undo()
    LossOf(monkeypatch, [0.9, 0.5, 0.7])
    folder = train.main([*arguments, "--resume=auto"])
    assert torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 1


def test_a_signal_while_scoring_ends_the_run(place, undisturbed, monkeypatch):
    """Lightning's predict loop would go on to its end, and the report be written."""

    def stopped(detector, batch, *rest):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"key": batch["key"], "score": torch.zeros(len(batch["key"]))}

    monkeypatch.setattr(FakeInversion, "predict_step", stopped)
    with pytest.raises(SystemExit) as stop:
        train.main(options(place, "scoring", *MORE, "--trainer.max_epochs=1"))
    assert stop.value.code == 143
    folder = place / "runs" / "scoring"
    assert not (folder / "metrics.json").exists()
    monkeypatch.undo()
    train.main(options(place, "scoring", *MORE, "--trainer.max_epochs=1", "--resume=auto"))
    assert (folder / "metrics.json").exists()


def test_overfitting_one_batch_on_purpose(place, undisturbed):
    folder = train.main(options(place, "overfit", *MORE, "--trainer.max_epochs=2", "--trainer.overfit_batches=1"))
    assert state(folder)["global_step"] == 2


@pytest.mark.parametrize("at", [3, 4])
def test_gradients_that_are_accumulated_are_not_lost(place, undisturbed, monkeypatch, at):
    accumulate = [*MORE, "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=1"]
    whole = train.main(options(place, f"sums-{at}", *accumulate))
    step, calls = FakeInversion.training_step, []

    def watched(detector, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(detector, batch, batch_idx)

    monkeypatch.setattr(FakeInversion, "training_step", watched)
    with pytest.raises(SystemExit):
        train.main(options(place, f"cut-{at}", *accumulate))
    assert len(calls) == 4
    folder = train.main(options(place, f"cut-{at}", *accumulate, "--resume=auto"))
    for weights, expected in zip(state(folder)["state_dict"].values(), state(whole)["state_dict"].values(), strict=True):
        torch.testing.assert_close(weights, expected, rtol=0, atol=0)
