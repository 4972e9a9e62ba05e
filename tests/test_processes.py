"""Training on two processes, as the real command: equal steps, the same numbers as one, and an end for all when one dies."""

import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from datamodules.loading import ResumableSampler, TrainingLoader
from tests.commands import options
from tests.watching import is_running, wait_until
from workflow.callbacks import is_complete

TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def ranks(total):
    return [list(ResumableSampler(range(total), 2, rank, seed=3)) for rank in (0, 1)]


@pytest.mark.parametrize("total", [12, 13, 1])
def test_row_33_equal_steps_whatever_the_shards_hold(total):
    """Images are drawn from all shards, so one with 8 samples and one with 4 are 6 and 6."""
    first, second = ranks(total)
    assert len(first) == len(second) == -(-total // 2)
    assert set(first) | set(second) == set(range(total))


def loader(epoch, state=None, total=10, batch_size=2):
    made = TrainingLoader(range(total), ResumableSampler(range(total), seed=3), batch_size=batch_size)
    if state:
        made.load_state_dict(state)
    made.sampler.set_epoch(epoch)
    return made


def test_a_loader_goes_on_where_it_was():
    whole = [batch.tolist() for batch in loader(1)]
    begun = loader(1)
    batches = iter(begun)
    seen = [next(batches).tolist() for _ in range(2)]
    state = begun.state_dict()
    after = loader(1, state)
    assert len(after) == 5
    assert seen + [batch.tolist() for batch in after] == whole
    after.sampler.set_epoch(2)
    assert [batch.tolist() for batch in after] == [batch.tolist() for batch in loader(2)]


def test_a_loader_at_an_epochs_end_begins_the_next():
    done = loader(1)
    list(done)
    assert [batch.tolist() for batch in loader(2, done.state_dict())] == [batch.tolist() for batch in loader(2)]


def children(process):
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == process and not row[2].startswith("Z") and "train.py" in row[3]]


@pytest.mark.timeout(800)
@pytest.mark.parametrize("victim", ["launcher", "child"])
def test_row_34_a_dead_rank_ends_the_others(place, first, victim):
    command = options(place, f"dead-{victim}", *TWO, "--trainer.max_epochs=10000", "--data.batch_size=8")
    with subprocess.Popen([sys.executable, "train.py", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            folder = place / "runs" / f"dead-{victim}"
            wait_until((folder / "checkpoints" / "previous.ckpt").exists)
            [child] = children(process.pid)
            os.kill({"launcher": process.pid, "child": child}[victim], signal.SIGKILL)
            wait_until(lambda: process.poll() is not None and not is_running(child))
            assert process.returncode != 0
            assert is_complete(folder / "checkpoints" / "last.ckpt") or is_complete(folder / "checkpoints" / "previous.ckpt")
        finally:
            process.kill()


@pytest.mark.timeout(800)
def test_two_processes_stop_at_the_same_step_and_go_on(place, first):
    """SIGTERM to the launcher alone, as a cluster sends it: both ranks stop after the same batch, and both go on after it."""
    command = options(place, "stopped", *TWO, "--trainer.max_epochs=10000", "--data.batch_size=8")
    log = place / "runs" / "stopped" / "log.csv"
    with subprocess.Popen([sys.executable, "train.py", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 5)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert "Go on with: --name stopped --resume auto" in said
    before = pd.read_csv(log)["train/loss"].notna().sum()
    command = [*command, "--resume=auto", "--force", "--trainer.max_epochs=10000", f"--trainer.max_steps={before + 3}"]
    done = subprocess.run([sys.executable, "train.py", *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = pd.read_csv(log).dropna(subset=["train/loss"])
    assert losses["step"].tolist() == list(range(before + 3))
