"""Stopping: at once, but never in the middle of a write; and no rank outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules import processes
from datamodules.processes import GracefulStop, wait_for_children
from tests.watching import is_running, wait_until


@pytest.fixture
def children(monkeypatch):
    """One rank that was started, and ends with a status of its own on SIGTERM; signal handlers are given back."""
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('ready', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    monkeypatch.setattr(processes, "_children", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield [child]
    for number, handler in before.items():
        signal.signal(number, handler)
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_this_process_and_its_children(children, number, status):
    [child] = children
    stop = GracefulStop()
    stop.install(children)
    with pytest.raises(SIGTERMException) as raised:
        signal.raise_signal(number)
    assert raised.value.code == status
    assert children == []  # Lightning's observer must not see that the child ends with another status than 0
    wait_for_children()
    assert child.returncode == 143


def test_a_second_trainer_stops_the_children_of_the_first(children):
    [child] = children
    GracefulStop().install(children)
    stop = GracefulStop()
    stop.install([])
    with pytest.raises(SIGTERMException):
        signal.raise_signal(signal.SIGTERM)
    assert child.wait(10) == 143


def test_what_must_be_whole_is_brought_to_its_end(children):
    stop = GracefulStop()
    stop.install(children)
    done = False
    with pytest.raises(SIGTERMException), stop.held():  # noqa: PT012 - the block is what is tested
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # impatience changes nothing
        done = True
    assert done
    assert stop.received == signal.SIGTERM


def test_a_child_that_does_not_stop_is_killed(children):
    [child] = children
    GracefulStop().install(children)
    wait_for_children(0.1)
    assert child.returncode == -signal.SIGKILL


def test_row_34_a_rank_ends_with_its_launcher(tmp_path):
    """Even where it hangs and takes no notice of SIGTERM; nothing else is watched."""
    rank = """
import os, signal, sys, time
from pathlib import Path
from datamodules import processes
processes.LOOK_SECONDS, processes.GRACE_SECONDS = 0.1, 10.0
signal.signal(signal.SIGTERM, lambda *_: Path(sys.argv[1], "told").touch())
processes.end_with_launcher()
if "LOCAL_RANK" not in os.environ:
    import subprocess
    subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], env=os.environ | {"LOCAL_RANK": "1"})
    Path(sys.argv[1], "launched").touch()
else:
    Path(sys.argv[1], "pid").write_text(str(os.getpid()))
while True:
    time.sleep(0.1)
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", processes.LAUNCHER_VARIABLE)}
    launcher = subprocess.Popen([sys.executable, "-c", rank, tmp_path, rank], stderr=subprocess.DEVNULL, env=environment)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    child = int((tmp_path / "pid").read_text())
    time.sleep(0.5)
    assert not (tmp_path / "told").exists()  # the launcher lives
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not is_running(child))
    assert (tmp_path / "told").exists()
