"""The lists of SynRIS: for each generated image the address of the real one that was found for it."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datamodules.errors import DataError
from datamodules.records import MISSING
from datamodules.sources.manifest import read_rows

SUFFIXES = (".jsonl", ".ndjson")
MAX_DIGITS = 15
"""Of a prompt index: what a float holds exactly."""

Skip = Callable[[str, str], None]


@dataclass(slots=True)
class Listed:
    """One generator's list.

    Attributes:
        generator: The file's stem.
        addresses: By prompt index what identifies each address that is listed for it, without doubles; empty where there is none.
        lines: Number of lines that are not empty.
        unusable: Number of those without a prompt index, or whose address is no text.
        doubled: Number of those of a prompt that an earlier line has.
    """

    generator: str
    addresses: dict[int, set[str]] = field(default_factory=dict)
    lines: int = 0
    unusable: int = 0
    doubled: int = 0


def list_files(path: Path) -> list[Path]:
    """The lists at a path: the file itself, or those that lie in the folder, in the order of their names.

    Raises:
        DataError: There is none, or a name is no generator's.
    """
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and not each.name.startswith("."))
    else:
        files = [path]
    if not files:
        message = f"No list lies in {path}: it should hold one file a generator, such as dalle3.jsonl."
        raise DataError(message)
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            message = f"{file} is no list of SynRIS: it is a file of JSON lines such as dalle3.jsonl, unpacked, or a folder of them."
            raise DataError(message)
        if file.stem in {".", ".."} or not _is_text(file.stem):
            message = f"The name of {str(file)!r} is that of no generator: rename it."
            raise DataError(message)
    stems = [file.stem for file in files]
    if doubled := sorted({stem for stem in stems if stems.count(stem) > 1}):
        message = f"{path} holds two lists of {doubled[0]}: remove one."
        raise DataError(message)
    return files


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_list(file: Path, skip: Skip) -> Listed:
    """Read one generator's list.

    Lines of one prompt count as one, with all their addresses. A line without a prompt index, or with an address that is no text, is
    skipped and recorded: one such line must not stop thousands of others.

    Args:
        file: JSON lines with `prompt_index`, a whole number that is not negative, and `url`; other fields are ignored.
        skip: Gets file and line, and why that line is left out.

    Raises:
        DataError: The file cannot be read, is not text, or holds a line that is no JSON object; the message names the line.
    """
    listed = Listed(file.stem)
    for where, row in read_rows(file):
        listed.lines += 1
        place = f"{file}, {where}"
        index = prompt_index(row.get("prompt_index"))
        address = _address(row)
        if index is None:
            listed.unusable += 1
            skip(place, f"the prompt_index {_shown(row.get('prompt_index'))} is not a whole number of 0 or more")
        elif address is None:
            listed.unusable += 1
            skip(place, f"the url {_shown(row.get('url'))} is not text")
        else:
            listed.doubled += index in listed.addresses
            listed.addresses.setdefault(index, set()).update(_identity(address))
    return listed


def prompt_index(value: Any) -> int | None:
    """A prompt index as JSON may spell it (`12`, `12.0`, `"0012"`); None for everything else."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not (0 <= value < 10**MAX_DIGITS and value == int(value)):  # what is not a number compares with nothing
        return None
    return int(value)


def _address(row: Mapping[str, Any]) -> str | None:
    """The address, empty where there is none; None for what is no text."""
    value = row.get("url")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value.strip() if isinstance(value, str) else None


def _identity(address: str) -> Iterator[str]:
    """What tells the file behind an address from others: host, path and query. Nothing for what is no address of a host."""
    if address.lower() in MISSING:
        return
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return
    if host:
        yield f"{host}{parts.path}?{parts.query}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
