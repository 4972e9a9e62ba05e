"""Watching other processes."""

import time
from pathlib import Path


def wait_until(condition, every=0.05, seconds=240):
    """Look again and again; so long that a machine which does other things has time enough."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)


def is_running(process):
    """Whether the process of this number lives; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
