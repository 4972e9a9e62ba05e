"""Processes of one command: they stop together, each with its work in a whole state.

Nothing heavy is imported here, so that a rank can be watched from its first moment.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

log = logging.getLogger(__name__)

# The process that started the others, for those that it starts.
LAUNCHER_VARIABLE = "UNDERTOW_LAUNCHER"
LOOK_SECONDS = 2.0  # between two looks at whether the launcher lives
GRACE_SECONDS = 20.0  # for a process to finish its work once it was told to stop

# Processes that this one has started as further ranks; a second Trainer uses those of the first.
_children: list["subprocess.Popen[bytes]"] = []
# The lists of them that Lightning's observers look into.
_observed: list["list[subprocess.Popen[bytes]]"] = []


def end_with_launcher() -> None:
    """Let this process end when the one that started it as a further rank has ended, however that came about.

    Lightning (and torchrun) leave such processes behind when the launcher is killed: they would go on alone, and then wait in a
    collective operation for half an hour. Each root script calls this first; in a process that is nobody's rank it only notes who started
    the others. The process first gets a SIGTERM, and ends hard where that is not enough.
    """
    if "LOCAL_RANK" not in os.environ:
        os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
        return
    launcher = int(os.environ.get(LAUNCHER_VARIABLE) or os.getppid())
    if launcher != os.getpid():
        threading.Thread(target=_watch, args=(launcher,), daemon=True, name="launcher-watch").start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOK_SECONDS)
    log.error("the process %d that started this one has ended: stopping", launcher)
    # In C, so that it works where the interpreter hangs in a collective operation or at exit.
    faulthandler.dump_traceback_later(GRACE_SECONDS, exit=True)
    os.kill(os.getpid(), signal.SIGTERM)


class GracefulStop:
    """SIGTERM and Ctrl-C as an exception of the main thread, held back while something must not be cut in two.

    Lightning's predict loop takes no notice of SIGTERM, and answers Ctrl-C by killing the other ranks. Here every rank raises
    Lightning's `SIGTERMException` (exit status 143, or 130 for Ctrl-C) for itself, without waiting for another; the main process passes
    the signal on to the ranks that it has started, and waits for them.

    Attributes:
        received: The first signal that came, if any.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._held = False
        self._process = os.getpid()

    def install(self, children: "list[subprocess.Popen[bytes]]") -> None:
        """Take over both signals; Lightning gives them back when its Trainer ends.

        Args:
            children: Processes that Lightning's launcher has started, its own list.
        """
        remember_children(children)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._receive)
            signal.signal(signal.SIGINT, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a loader's worker that was forked: its parent decides
            raise KeyboardInterrupt
        if self.received is not None:
            return
        self.received = signal.Signals(number)
        stop_observing()
        for child in _children:
            child.send_signal(signal.SIGTERM)
        if not self._held:
            self.check()

    def check(self) -> None:
        """Raise if a signal came.

        Raises:
            SIGTERMException: With a shell's exit status for that signal.
        """
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        if self.received is not None:
            raise SIGTERMException(128 + self.received)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the exception back to the end of the block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()


def remember_children(children: "list[subprocess.Popen[bytes]]") -> None:
    """Note the processes that Lightning's launcher has started.

    Args:
        children: Its own list.
    """
    _children.extend(child for child in children if child not in _children)
    _observed.append(children)


def stop_observing() -> None:
    """Let the other ranks end with a signal's status: Lightning's observers would kill this process for it."""
    for children in _observed:
        children.clear()


def wait_for_children(seconds: float = GRACE_SECONDS) -> None:
    """Wait for the ranks that this process has started and told to stop; those that do not end in time are killed."""
    _wait(_children, time.monotonic() + seconds)


def _wait(children: "Sequence[subprocess.Popen[bytes]]", deadline: float) -> None:
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process %d did not stop in time and is killed", child.pid)
            child.kill()
            child.wait()
