"""Who may change a cache directory: any number of writers of new shards, or one process that repairs or deletes.

Writers hold the lock together, and only while a shard of theirs is unfinished. The locks are advisory and end with their process.
"""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modules.errors import UserError

log = logging.getLogger(__name__)

LOCK = ".lock"


class BusyError(UserError):
    """A cache directory that another process writes."""


def join_writers(folder: Path) -> BinaryIO | None:
    """Hold a directory as one of its writers, after whoever repairs it.

    Args:
        folder: The cache directory; must exist.

    Returns:
        What `leave` gives back; None where the file system has no locks.
    """
    file = _open(folder)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s is being repaired or deleted by another process: waiting for it.", folder)
            fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:  # NFS and others without locks: shards have names of their own, so that writers need none
        file.close()
        return None
    return file


def leave(held: BinaryIO | None) -> None:
    """Let go of a directory. Told to the system: a forked loader worker may hold the file open for longer."""
    if held is not None:
        fcntl.flock(held, fcntl.LOCK_UN)
        held.close()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a directory while nobody else writes it.

    Raises:
        BusyError: If another process does, or the file system cannot tell.
    """
    with _open(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"{folder} is being written by another process; wait until it has ended, and run this again"
            raise BusyError(msg) from error
        except OSError as error:
            msg = f"{folder} lies on a file system without locks ({error.strerror}): whether another process writes it cannot be told"
            raise BusyError(msg) from error
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def is_written(folder: Path) -> bool:
    """Whether some process has an unfinished shard there; False where that cannot be told."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _open(folder: Path) -> BinaryIO:
    return (folder / LOCK).open("ab")
