"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
import socket
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, flush it to disk, and rename it."""
    with replacing(path) as file:
        file.write(content)


def write_new(path: Path, content: bytes) -> None:
    """As `write_atomically`, but a file that is there by then stays: of two processes the other one may know more."""
    temporary = path.parent / temporary_name(f"{secrets.token_hex(4)}.tmp")
    write_atomically(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write under a temporary name beside its own, which it gets, flushed to disk, where nothing was raised meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / temporary_name(f"{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make renames within a directory durable, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary_name(stem: str) -> str:
    """A hidden file name that says which process writes it, so that leftovers of dead ones can be told."""
    return f".writing-{socket.gethostname()}-{os.getpid()}-{stem}"


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that processes of this machine left when they were killed."""
    prefix = f".writing-{socket.gethostname()}-"
    for path in folder.glob(f"{prefix}*"):
        process = path.name.removeprefix(prefix).partition("-")[0]
        if process.isdigit() and not _alive(int(process)):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file: one process at a time goes on, the others wait. On a file system without locks all go on."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)


def append_lines(path: Path, payloads: Iterable[bytes]) -> None:
    """Append lines that carry a checksum to a file that several processes append to.

    Args:
        path: The file; made where it is missing.
        payloads: What the lines hold, without line breaks.
    """
    # A line break first: what another process left unfinished then damages no line of ours.
    lines = [b"", *(b"%08x %s" % (zlib.crc32(payload), payload) for payload in payloads)]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, b"\n".join(lines) + b"\n")  # one call: appends of several processes stay whole
    finally:
        os.close(descriptor)


def payload_of(line: bytes) -> bytes | None:
    """What a line of `append_lines` holds; None of one that is cut or damaged."""
    checksum, _, payload = line.rstrip(b"\n").partition(b" ")
    try:
        return payload if int(checksum, 16) == zlib.crc32(payload) else None
    except ValueError:
        return None
