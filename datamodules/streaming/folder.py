"""The directory of features somewhere else: which one it is, which shards are in it, and their indexes, which are remembered."""

import hashlib
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files import write_atomically
from datamodules.shards import ShardError, index_path
from datamodules.shards.index import MAX_INDEX_BYTES, SHARD_NAME, Index, parse_index, read_plain
from datamodules.sources.tars.fetch import FetchError
from datamodules.streaming.places import AbsentError, Place
from datamodules.streaming.ranges import tried

log = logging.getLogger(__name__)

MEMORY = "streams"
"""Folder under the cache that remembers the indexes of shards elsewhere."""

_FINGERPRINTED = re.compile(r"(?P<name>.+)-[0-9a-f]{12}")
_THREADS = 16


def find_folder(root: Place, wanted: Path) -> Place:
    """The directory with the features of some settings, as a cache here would name it.

    Args:
        root: A cache's root, or the very directory: then the names of it and its parent must be those that these settings give, but for the
            data set's name.
        wanted: Path of the directory in a cache of this machine.

    Raises:
        DataError: It is a directory of other settings.
    """
    if not _FINGERPRINTED.fullmatch(root.name):
        return root.child(wanted.parent.name).child(wanted.name)
    if root.name == wanted.parent.name:
        return root.child(wanted.name)
    ending = "-".join(wanted.name.rsplit("-", 2)[1:])
    if root.parent().name == wanted.parent.name and root.name.endswith(f"-{ending}"):
        return root
    message = (
        f"{root.shown} holds features of other settings: these are {wanted.parent.name}/…-{ending}. Name the cache's root in "
        "data.stream.url to have the directory found, keep directories' names where you copy them, or set what differs as it was in the "
        "extraction"
    )
    raise DataError(message)


def list_shards(folder: Place) -> list[Place]:
    """The shards of a directory, by name.

    Raises:
        DataError: There is no such directory, or no shard in it.
    """
    try:
        names = tried(folder.names)
    except AbsentError as error:
        message = (
            f"there are no features in {folder.shown} ({error}). Check data.stream.url, and that extraction had these settings: "
            "`python -m datamodules.cache explain` tells which directory a configuration reads"
        )
        raise DataError(message) from error
    found = sorted(name for name in names if SHARD_NAME.fullmatch(name))
    if not found:
        message = f"there is no shard in {folder.shown}: check data.stream.url"
        raise DataError(message)
    return [folder.child(name) for name in found]


def load_indexes(folder: Place, shards: list[Place], cache_dir: Path) -> list[Index | None]:
    """The index of each shard, None where it has none; fetched once, since extraction writes an index last and never changes it.

    Args:
        folder: The directory.
        shards: Those of it.
        cache_dir: Root of this machine's cache, which remembers them.

    Raises:
        ShardError: One cannot be had, or is not what an index may be; the message names the shard.
    """
    memory = remembered(folder, cache_dir)
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(lambda shard: _load_index(folder, shard, memory), shards))


def remembered(folder: Place, cache_dir: Path) -> Path:
    """Where the indexes of a directory are remembered."""
    digits = hashlib.sha256(folder.shown.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_dir / MEMORY / digits


def _load_index(folder: Place, shard: Place, memory: Path) -> Index | None:
    path = index_path(memory / shard.name)
    try:
        return parse_index(read_plain(path, MAX_INDEX_BYTES))
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        path.unlink(missing_ok=True)
    try:
        content = tried(lambda: folder.child(path.name).content(MAX_INDEX_BYTES))
        index = parse_index(content)
    except AbsentError:
        log.warning("%s has no index beside it and is left out: it is being written, or %s was not copied", shard.shown, path.name)
        return None
    except (FetchError, ValueError) as error:
        message = f"the index of the shard {shard.shown} cannot be used: {error}"
        raise ShardError(message) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return index
