"""Content hashes of files: opened safely, computed in threads, remembered between runs."""

import errno
import fnmatch
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.files import append_lines, payload_of

logger = logging.getLogger(__name__)

NOT_WEIGHTS = (".*", "*.md", "*.png", "*.jpg", "LICENSE*")
"""What lies beside a model's weights and changes no number: cards, pictures, hidden files."""

_THREADS = min(16, (os.cpu_count() or 1) + 4)
_SLICE = 64  # files a thread takes at once; also how much an interrupted run loses
_PROGRESS_FROM = 2000  # files; below, the bar would only flicker
_SETTLED_NS = 2_000_000_000  # coarsest time stamp of a common file system: within it a second change would not show
_NAME_FROM = len("00000000 [")  # characters before the name in a line of the memo
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class FileHash(NamedTuple):
    """What is known of one file's content.

    Attributes:
        digest: SHA-256 in 64 hex digits; empty where the file could not be read.
        size: Length in bytes.
        reason: Why the file could not be read, empty where it could.
    """

    digest: str
    size: int
    reason: str = ""


class _Stamp(NamedTuple):
    size: int
    mtime_ns: int


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading, and nothing else: a pipe or a device would block or have effects.

    Args:
        path: File to open; links are followed.

    Returns:
        The open binary file.

    Raises:
        OSError: Missing, unreadable, a loop of links, a name that no file can have, or not a regular file.
    """
    try:
        _refuse_irregular(os.stat(path), path)
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a null byte, or a lone surrogate
        raise OSError(errno.EINVAL, "no file can have this name") from error
    try:
        _refuse_irregular(os.fstat(descriptor), path)  # again: the first look only spared a device from being opened
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_irregular(status: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def describe_os_error(error: OSError) -> str:
    """What the system said, without the path: `no such file or directory`."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def walk_files(root: str | Path, on_problem: Callable[[str, str], None]) -> Iterator[str]:
    """Paths of all files under a folder, hidden ones left out, in the same order on every machine.

    Links to folders are followed, each folder once, so that a loop of links ends.

    Args:
        root: Folder to read.
        on_problem: Called with a path and a reason for each folder that is not read.

    Yields:
        `root` joined with the path below it.
    """
    seen: set[tuple[int, int]] = set()
    pending = [os.fspath(root)]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                on_problem(folder, "a link to a folder that was read already")
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
        except OSError as error:
            on_problem(folder, describe_os_error(error))
            continue
        folders = [entry.path for entry in entries if _is_folder(entry)]
        inner = set(folders)
        yield from (entry.path for entry in entries if entry.path not in inner)
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: a file that will be found unreadable
        return False


class ContentHashes:
    """SHA-256 of files, remembered by absolute path, size and modification time.

    The memo is a text file that is only ever appended to, a line a file with a checksum before it. A line that was cut,
    mixed up or damaged is passed over and its file hashed again, so that any number of processes can share a memo, on
    any file system, without locks.

    Args:
        memo: File that remembers the hashes; none to remember nothing.
    """

    def __init__(self, memo: Path | None) -> None:
        self.memo = memo

    def hash_files(self, paths: Sequence[str | Path]) -> list[FileHash]:
        """Hash files in threads; those that are remembered are not read.

        Args:
            paths: Files, in any order.

        Returns:
            One result a path, in the same order. A file that cannot be read has an empty digest and a reason.
        """
        names = [os.path.abspath(path) for path in paths]
        known = self._load(names)
        results: list[FileHash | None] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            for part in pool.map(lambda slice_: [_recall(name, known.get(name)) for name in slice_], _slices(names)):
                results.extend(part)
            known.clear()
            unknown = [i for i, result in enumerate(results) if result is None]
            todo = [names[i] for i in unknown]
            with tqdm(total=len(todo), desc="Hashing files", unit="file", disable=None if len(todo) > _PROGRESS_FROM else True) as bar:
                position = 0
                for hashed in pool.map(_hash_slice, _slices(todo)):
                    self._remember([(todo[position + i], stamp, r.digest) for i, (r, stamp) in enumerate(hashed) if stamp])
                    for result, _ in hashed:
                        results[unknown[position]] = result
                        position += 1
                    bar.update(len(hashed))
        return [result for result in results if result is not None]

    def _load(self, names: Sequence[str]) -> "dict[str, tuple[_Stamp, str]]":
        """What is remembered of some files; a line of another file costs little, for a memo tells of all data sets of a cache."""
        known: dict[str, tuple[_Stamp, str]] = {}
        if self.memo is None or not names:
            return known
        wanted = {json.dumps(name).encode(): name for name in names}
        try:
            with open_regular(self.memo) as file:
                for line in file:
                    if (name := wanted.get(_name_part(line))) is not None and (found := _read_line(line)):
                        known[name] = found
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("The hashes remembered in %s cannot be read (%s): files are hashed again.", self.memo, describe_os_error(error))
        return known

    def _remember(self, hashed: list[tuple[str, _Stamp, str]]) -> None:
        if self.memo is None or not hashed:
            return
        try:
            append_lines(self.memo, [json.dumps([name, *stamp, digest]).encode() for name, stamp, digest in hashed])
        except OSError as error:
            logger.warning("Hashes cannot be remembered in %s (%s): the next run computes them again.", self.memo, describe_os_error(error))
            self.memo = None


def _name_part(line: bytes) -> bytes:
    """The JSON text of a line's name, as it stands there: `checksum ["name", size, time, "digest"]`."""
    return line[_NAME_FROM:].rsplit(b", ", 3)[0]


def _read_line(line: bytes) -> tuple[_Stamp, str] | None:
    """Stamp and digest of a line, none of one that is cut or damaged: its file is hashed again."""
    try:
        _, size, mtime_ns, digest = json.loads(payload_of(line) or b"")
        return (_Stamp(size, mtime_ns), digest) if _DIGEST.fullmatch(digest) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _recall(name: str, known: tuple[_Stamp, str] | None) -> FileHash | None:
    """The hash of a file that has still the size and time that it is remembered with."""
    if known is None:
        return None
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    return FileHash(known[1], known[0].size) if known[0] == (status.st_size, status.st_mtime_ns) else None


def _slices(names: list[str]) -> list[list[str]]:
    return [names[i : i + _SLICE] for i in range(0, len(names), _SLICE)]


def _hash_slice(names: list[str]) -> list[tuple[FileHash, _Stamp | None]]:
    return [_hash_one(name) for name in names]


def _hash_one(name: str) -> tuple[FileHash, _Stamp | None]:
    """The file's hash, and the stamp to remember it by, or none while the file may still be changing."""
    try:
        with open_regular(name) as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except OSError as error:
        return FileHash("", 0, describe_os_error(error)), None
    stamp = _Stamp(after.st_size, after.st_mtime_ns)
    steady = stamp == (before.st_size, before.st_mtime_ns) and abs(time.time_ns() - after.st_mtime_ns) > _SETTLED_NS
    return FileHash(digest, after.st_size), stamp if steady else None


def hash_of_path(path: str | Path) -> FileHash:
    """What stands for the hash of a file where no file shall be read: that of its absolute path.

    Args:
        path: File, of which the system is asked for its length alone.
    """
    try:
        status = os.stat(path)
        _refuse_irregular(status, path)
    except OSError as error:
        return FileHash("", 0, describe_os_error(error))
    except ValueError:  # a null byte
        return FileHash("", 0, "no file can have this name")
    return FileHash(hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogateescape")).hexdigest(), status.st_size)


def hash_tree(directory: str | Path, hashes: ContentHashes | None = None, leave_out: Sequence[str] = NOT_WEIGHTS) -> str:
    """One digest of all that lies under a folder: the identity of a model's weights.

    Args:
        directory: Folder, or a single file.
        hashes: Remembered hashes, for weights of many gigabytes.
        leave_out: Patterns of file names that do not count.

    Returns:
        SHA-256 over the sorted relative names and contents, in 64 hex digits; the same wherever the folder lies.

    Raises:
        DataError: Nothing there, or something that cannot be read.
    """
    root = Path(directory)
    problems: list[str] = []
    if root.is_file():
        named = {root.name: os.fspath(root)}
    else:
        found = walk_files(root, lambda path, reason: problems.append(f"{path}: {reason}"))
        named = {Path(os.path.relpath(file, root)).as_posix(): file for file in found}
    names = sorted(n for n in named if not any(fnmatch.fnmatchcase(n.rpartition("/")[2], pattern) for pattern in leave_out))
    results = (hashes or ContentHashes(None)).hash_files([named[name] for name in names])
    problems += [f"{named[name]}: {result.reason}" for name, result in zip(names, results, strict=True) if not result.digest]
    if problems or not names:
        message = f"{root} cannot be identified by its content ({problems[0] if problems else 'no files in it'}): check the path."
        raise DataError(message)
    lines = [f"{name}\0{result.digest}\n" for name, result in zip(names, results, strict=True)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
