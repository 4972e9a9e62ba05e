"""The shards that somebody names: paths, patterns, braces, addresses."""

import glob
import math
import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error
from datamodules.sources.tars.fetch import is_address, shown

MAX_SHARDS = 100_000

_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)[^}]*\}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def shard_places(named: str | Sequence[str]) -> list[str]:
    """Paths and addresses of shards, each once, in the order in which they are named; what a pattern matches by name.

    Args:
        named: One or several of: a path, a folder (its `.tar` files), a pattern (`shards/*.tar`), an address; each may hold braces
            (`{00000..00099}.tar`).

    Raises:
        DataError: It is a command (`pipe:`) or another scheme, or nothing is there.
    """
    found: dict[str, None] = {}
    for text in [named] if isinstance(named, str) else named:
        for each in _expanded(text):
            found.update(dict.fromkeys([each] if is_address(each) else _local(each)))
            if len(found) > MAX_SHARDS:
                raise _too_many(text)
    if not found:
        message = "shards names no shard: give a path, a pattern or an https address."
        raise DataError(message)
    return list(found)


def _expanded(text: str) -> list[str]:
    named = shown(text)[:80]  # also refuses what begins as an address and is none
    if not is_address(text) and (scheme := _SCHEME.match(text)):
        message = f"shards names {named!r}: {scheme[0]} is not read, only paths and https addresses; no command is ever run."
        raise DataError(message)
    from braceexpand import braceexpand

    # Counted first: the library makes the whole list before it gives the first name.
    if math.prod(abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(text)) > MAX_SHARDS:
        raise _too_many(text)
    try:
        return list(islice(braceexpand(text), MAX_SHARDS + 1))
    except ValueError as error:
        message = f"The braces in {shown(text)!r} are not understood ({error})."
        raise DataError(message) from error


def _too_many(text: str) -> DataError:
    return DataError(f"shards names more than {MAX_SHARDS} files: check the braces in {shown(text)!r}.")


def _local(text: str) -> list[str]:
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        found = sorted(str(each) for each in path.glob("*.tar"))
    elif path.exists() or not glob.has_magic(text):
        found = [str(path)] if path.exists() else []
    else:
        found = sorted(glob.glob(str(path), recursive=True), key=os.fsencode)
    if not found:
        message = f"There is no shard at {path}: check the path."
        raise DataError(message)
    return found


def stamped(place: str) -> list[str | int]:
    """What tells a shard from a changed one: its address; or path, length and time.

    Raises:
        DataError: The file cannot be looked at.
    """
    if is_address(place):
        return [place]
    try:
        status = os.stat(place)
    except OSError as error:
        message = f"The shard {place} cannot be read: {describe_os_error(error)}."
        raise DataError(message) from error
    return [place, status.st_size, status.st_mtime_ns]
