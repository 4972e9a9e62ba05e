"""Shards' names, limits and indexes. A cache may come from a stranger: an index is typed JSON within limits, a path is a plain file."""

import json
import math
import os
import re
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.files import write_atomically, write_new
from datamodules.records import Failure
from modules.errors import UserError

SHARD_NAME = re.compile(r"shard-\d{4}-\d{6}\.tar")
KEY = re.compile(r"[0-9A-Za-z_-]{1,64}")  # no dots, no slashes: keys are parts of members' names
INDEX_VERSION = 1

MAX_WRITERS = 10_000  # processes with names of their own: four digits of a shard's name; two of one number count on from each other
MAX_SHARDS = 1_000_000  # of one process: their numbers have six digits
MAX_ROWS = 100_000  # samples, and failures, of one shard
MAX_INDEX_BYTES = 64 * 2**20
MAX_FEATURE_BYTES = 256 * 2**20  # features of one image
MAX_RECORD_BYTES = 16 * 2**20  # JSON member of one image
MAX_DIAGNOSTICS = 64  # figures of one image
BLOCK = 512  # of a tar file


class ShardError(UserError):
    """A shard or its index is damaged, is not what a shard may be, or cannot be written."""


class Row(NamedTuple):
    """Where one sample's features lie.

    Attributes:
        key: The record's key.
        caption: Hash of the caption that the features depend on, empty where they depend on none.
        offset: First byte of the safetensors member's content in the tar file.
        size: Its length in bytes.
        checksum: CRC-32 of it.
        diagnostics: Finite figures that the extractor gave of this image, for example its round-trip PSNR.
    """

    key: str
    caption: str
    offset: int
    size: int
    checksum: int
    diagnostics: dict[str, float]


class Index(NamedTuple):
    """What a shard's index says: the tar file's length in bytes, its samples, and the images that gave no features."""

    bytes: int
    rows: list[Row]
    failures: list[Failure]


def index_path(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_suffix(".index.json")


def shards_of(folder: Path, rank: int | None = None) -> list[Path]:
    """Paths in a directory that are named like shards, in order.

    Args:
        folder: The directory; may be missing.
        rank: Only those that this process wrote; all of them by default.
    """
    begins = "shard-" if rank is None else f"shard-{rank:04d}-"
    try:
        names = os.listdir(folder)
    except OSError:  # missing, or not ours to read: nothing is found there
        return []
    return [folder / name for name in sorted(names) if name.startswith(begins) and SHARD_NAME.fullmatch(name)]


def damaged(shard: Path, what: str) -> ShardError:
    """The error that names a shard and the command that repairs it."""
    command = f"python -m datamodules.cache repair {shlex.quote(str(shard.parent))}"
    return ShardError(f"shard {shard} is damaged: {what}. Repair it by: {command} (its good images stay, the others are extracted anew)")


def open_plain(path: Path) -> int:
    """Descriptor of a plain file: a link, a pipe or a device in a cache is nobody's feature file.

    Raises:
        OSError: If it is missing, cannot be read, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        msg = f"{path} is not a plain file"
        raise OSError(msg)
    return descriptor


def read_plain(path: Path, limit: int) -> bytes:
    """A small file's content.

    Raises:
        OSError: As `open_plain`.
        ValueError: If it is longer than `limit` bytes.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        msg = f"it is longer than {limit} bytes"
        raise ValueError(msg)
    return content


def write_index(shard: Path, index: Index, replace: bool = True) -> None:
    """Write a shard's index, atomically; without `replace` only where it has none yet."""
    columns = {name: [getattr(row, name) for row in index.rows] for name in Row._fields}
    failures = [{"key": failure.key, "where": failure.where, "reason": failure.reason} for failure in index.failures]
    document = {"version": INDEX_VERSION, "bytes": index.bytes, "rows": columns, "failures": failures}
    write = write_atomically if replace else write_new
    write(index_path(shard), json.dumps(document, allow_nan=False).encode())


def read_index(shard: Path) -> Index:
    """A shard's index, every value of it checked.

    Raises:
        ShardError: If it cannot be read, or says what cannot be.
    """
    try:
        content = read_plain(index_path(shard), MAX_INDEX_BYTES)
    except (ValueError, OSError) as error:
        raise damaged(shard, f"its index cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    try:
        return parse_index(content)
    except ValueError as error:
        raise damaged(shard, str(error)) from error


def parse_index(content: bytes) -> Index:
    """An index out of its file's content, every value of it checked.

    Raises:
        ValueError: If it is none, or says what cannot be.
    """
    try:
        document = json.loads(content)
        version = document["version"]
        if version != INDEX_VERSION:
            msg = f"it is of version {_shown(version)}, not {INDEX_VERSION}"
            raise ValueError(msg)
        size = _integer(document["bytes"], 0, 2**63)
        rows = _rows(document["rows"], size)
        failures = [Failure(*(as_text(item[name]) for name in ("where", "reason", "key"))) for item in _list(document["failures"])]
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        msg = f"its index cannot be read ({type(error).__name__}: {str(error)[:200]})"
        raise ValueError(msg) from error
    return Index(size, rows, failures)


def _rows(columns: Any, size: int) -> list[Row]:
    rows = [Row(*values) for values in zip(*(_list(columns[name]) for name in Row._fields), strict=True)]
    for row in rows:
        check_row(row, size)
    if len({row.key for row in rows}) < len(rows):
        msg = "a key stands in it twice"
        raise ValueError(msg)
    return rows


def check_row(row: Row, size: int) -> None:
    """Refuse a row of an index that cannot be true of a shard of `size` bytes.

    Raises:
        ValueError: With what is wrong.
        TypeError: If a value is of another type.
        ArithmeticError: If a number is too large.
    """
    if not KEY.fullmatch(as_text(row.key)) or (as_text(row.caption) and not KEY.fullmatch(row.caption)):
        msg = f"the key {row.key!r:.80} or its caption hash {row.caption!r:.80} is none"
        raise ValueError(msg)
    _integer(row.offset, BLOCK, size - _integer(row.size, 0, MAX_FEATURE_BYTES))
    _integer(row.checksum, 0, 2**32 - 1)
    if len(row.diagnostics) > MAX_DIAGNOSTICS or row.diagnostics != finite(row.diagnostics):
        msg = f"the diagnostics of {row.key} are not finite numbers, at most {MAX_DIAGNOSTICS}"
        raise ValueError(msg)


def finite(figures: Mapping[str, Any]) -> dict[str, float]:
    """Those of an image's figures that are finite: JSON has no others, and equal images have an infinite PSNR."""
    kept = {name: value for name, value in figures.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return {name: float(value) for name, value in kept.items() if math.isfinite(value)}


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        msg = f"{_shown(value)} is no whole number from {low} to {high}"
        raise ValueError(msg)
    return value


def as_text(value: Any) -> str:
    """A value of JSON that must be text.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, str):
        msg = f"{_shown(value)} is no text"
        raise TypeError(msg)
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ROWS:
        msg = f"{_shown(value)} is no list of at most {MAX_ROWS} items"
        raise ValueError(msg)
    return value


def _shown(value: Any) -> str:
    """A value for a message; of a container, which may be huge, only its type."""
    return f"{value!r:.40}" if isinstance(value, (str, int, float)) else type(value).__name__
