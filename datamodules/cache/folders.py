"""Which directories under a cache's root are feature caches, and what lies in them."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.files import remove_leftovers
from datamodules.shards import ShardError, index_path
from datamodules.shards.index import SHARD_NAME, read_index, read_plain, shards_of
from datamodules.shards.lock import LOCK, alone

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 256 * 2**20  # it lists all failures

_FINGERPRINTED = re.compile(r".+-[0-9a-f]{12}")
_INDEX_NAME = re.compile(r"shard-\d{4}-\d{6}\.index\.json")
WRITING = ".writing-"


@dataclass(slots=True)
class Summary:
    """What one cache directory holds.

    Attributes:
        folder: The directory.
        settings: `settings` of its manifest; None where there is no manifest that can be read.
        images: Images with features, by its indexes.
        failures: Images that gave none.
        bytes: Length of all its files.
        changed: When the newest of them was written, in seconds since 1970.
        notes: What a person should know of it.
    """

    folder: Path
    settings: dict[str, Any] | None = None
    images: int = 0
    failures: int = 0
    bytes: int = 0
    changed: float = 0.0
    notes: list[str] = field(default_factory=list)


def find_folders(root: Path) -> list[Path]:
    """Directories named `<extractor>-<fingerprint>/<source>-<perturbation>-<fingerprint>` under a root; links are not followed."""
    return [inner for outer in _fingerprinted(root) for inner in _fingerprinted(outer)]


def _fingerprinted(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if _FINGERPRINTED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def choose_folders(root: Path, named: Sequence[str]) -> list[Path]:
    """Cache directories that a command is about: the named ones and those within them, or all.

    Args:
        root: The cache's root.
        named: Paths, also relative to the root.

    Raises:
        DataError: If one of them is no directory, or holds no features.
    """
    if not named:
        return find_folders(root)
    chosen: list[Path] = []
    for name in named:
        path = Path(name) if Path(name).is_dir() else root / name
        if not path.is_dir():
            msg = f"there is no directory {name!r}, neither here nor in {root}; `python -m datamodules.cache list` tells which there are"
            raise DataError(msg)
        within = [path] if _holds_features(path) else [*_fingerprinted(path)] if _FINGERPRINTED.fullmatch(path.name) else find_folders(path)
        if not within:
            msg = f"{path} is no cache directory: no shards are in it; `python -m datamodules.cache list` tells which there are"
            raise DataError(msg)
        chosen += within
    return list(dict.fromkeys(chosen))


def _holds_features(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or any(_is_ours(path.name) for path in folder.iterdir() if path.name != LOCK)


def summarize(folder: Path) -> Summary:
    """Look at one cache directory, at its indexes and manifest only."""
    found = Summary(folder)
    for path in folder.iterdir():
        status = path.lstat()
        found.bytes += status.st_size
        found.changed = max(found.changed, status.st_mtime)
    keys: set[tuple[str, str]] = set()
    broken = 0
    for shard in shards_of(folder):
        try:
            index = read_index(shard) if index_path(shard).exists() else None
        except ShardError:
            broken += 1
            continue
        if index is not None:
            keys.update((row.key, row.caption) for row in index.rows)
            found.failures += len(index.failures)
    found.images = len(keys)
    found.settings = read_settings(folder)
    found.notes = _notes(found, broken)
    return found


def _notes(found: Summary, broken: int) -> list[str]:
    names = os.listdir(found.folder)
    leftovers = sum(name.startswith(WRITING) for name in names)
    lost = sum(bool(SHARD_NAME.fullmatch(name)) and f"{name[:-4]}.index.json" not in names for name in names)
    told = {
        "no readable manifest.json: extraction has not ended": found.settings is None,
        f"{broken} damaged indexes": broken,
        f"{lost} shards without index": lost,
        f"{leftovers} unfinished files": leftovers,
    }
    return [sentence for sentence, holds in told.items() if holds]


def read_settings(folder: Path) -> dict[str, Any] | None:
    """`settings` of a directory's manifest, None where it is missing or cannot be read."""
    try:
        settings = json.loads(read_plain(folder / MANIFEST, MAX_MANIFEST_BYTES))["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def delete(folder: Path, root: Path) -> int:
    """Delete one cache directory, and its extractor's where it was the last one in it.

    Only the files that a cache writes are deleted, one by one, and no link is followed: of anything else, nothing is deleted.

    Args:
        folder: One of `find_folders(root)`.
        root: The cache's root, which nothing outside of is touched.

    Returns:
        Bytes that were freed.

    Raises:
        DataError: If it is no cache directory below the root, or holds something else.
        BusyError: If another process writes it.
    """
    check_deletable(folder, root)
    freed = 0
    with alone(folder):
        remove_leftovers(folder)
        if any(path.name.startswith(WRITING) for path in folder.iterdir()):
            msg = f"{folder} holds unfinished files of a process that lives, or of another machine: nothing in it is deleted"
            raise DataError(msg)
        # Tar files before their indexes: whenever this is killed, what is left is a cache with fewer images.
        for path in sorted(folder.iterdir(), key=lambda path: path.name.endswith(".json")):
            if path.name != LOCK:
                freed += path.lstat().st_size
                path.unlink()
        (folder / LOCK).unlink()
        folder.rmdir()
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return freed


def check_deletable(folder: Path, root: Path) -> None:
    """Refuse to delete what is no cache directory.

    Raises:
        DataError: If it does not lie below the root under a cache directory's name, is reached by a link, or holds something else.
    """
    inside = folder.parent.parent.resolve() == root.resolve() and not folder.is_symlink() and not folder.parent.is_symlink()
    if not inside or not all(_FINGERPRINTED.fullmatch(part.name) for part in (folder, folder.parent)):
        msg = f"{folder} is no cache directory below {root}: it is not deleted"
        raise DataError(msg)
    foreign = [path.name for path in folder.iterdir() if not _is_ours(path.name) or (path.is_dir() and not path.is_symlink())]
    if foreign:
        msg = f"{folder} holds {foreign[0]!r}, which is not of a cache: nothing in it is deleted; move that file away first"
        raise DataError(msg)


def _is_ours(name: str) -> bool:
    return name in (MANIFEST, LOCK) or name.startswith(WRITING) or bool(SHARD_NAME.fullmatch(name) or _INDEX_NAME.fullmatch(name))


def total_bytes(folders: Iterable[Path]) -> int:
    """Length of all files of some directories."""
    return sum(path.lstat().st_size for folder in folders for path in folder.iterdir())
