"""Members of shards as the untrusted input that they are.

Nothing is unpickled, extracted to disk or handed to a shell: a member is a regular file named `<key>.safetensors` or `<key>.json`.
"""

import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from datamodules.shards.index import BLOCK, KEY, MAX_FEATURE_BYTES, MAX_RECORD_BYTES, MAX_ROWS, Row, as_text, check_row, finite

MEMBER = re.compile(rf"(?P<key>{KEY.pattern})\.(?P<kind>safetensors|json)")

Arrays = dict[str, NDArray[Any]]


class Member(NamedTuple):
    """One member of a tar file.

    Attributes:
        name: As the header says.
        offset: First byte of its content.
        size: Length of its content.
        refused: Why a shard may not hold it, empty where it may.
    """

    name: str
    offset: int
    size: int
    refused: str = ""


def padded(size: int) -> int:
    """Bytes that a member's content takes in a tar file."""
    return -(-size // BLOCK) * BLOCK


def read_member(descriptor: int, position: int, total: int) -> Member | None:
    """The member whose header stands at a position, None at the archive's end.

    Not by `tarfile.open`: its extended headers and sparse files make it read what a shard never holds, as long as a header says.

    Args:
        descriptor: The open tar file.
        position: First byte of the header.
        total: Length of the file.

    Raises:
        ValueError: If there is no whole member.
    """
    return member_of(os.pread(descriptor, BLOCK, position), position, total)


def member_of(header: bytes | bytearray, position: int, total: int) -> Member | None:
    """As `read_member`, of a header that has been read already."""
    if len(header) == BLOCK and not header.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.TarError, ValueError) as error:
        msg = f"there is no whole member at byte {position} ({error})"
        raise ValueError(msg) from error
    offset = position + BLOCK
    if not 0 <= info.size <= total - offset:
        msg = f"the member {info.name!r:.80} of {info.size} bytes does not fit into the file"
        raise ValueError(msg)
    return Member(info.name, offset, info.size, _refusal(info))


def _refusal(info: tarfile.TarInfo) -> str:
    matched = MEMBER.fullmatch(info.name)
    if not info.isreg() or info.issparse():
        return f"the member {info.name!r:.80} is a link or something else than a plain file"
    if matched is None:
        return f"the member {info.name!r:.80} is neither <key>.safetensors nor <key>.json"
    limit = MAX_RECORD_BYTES if matched["kind"] == "json" else MAX_FEATURE_BYTES
    return f"the member {info.name} has {info.size} bytes, more than {limit}" if info.size > limit else ""


def members(descriptor: int, total: int) -> Iterator[Member]:
    """All members of a tar file in order, their headers only.

    Raises:
        ValueError: Where the file is cut, or no header follows.
    """
    position = 0
    while (member := read_member(descriptor, position, total)) is not None:
        yield member
        position = member.offset + padded(member.size)


def read_features(descriptor: int, row: Row, total: int) -> bytearray:
    """The safetensors member that a row tells of: its header and its content agree with the row.

    Raises:
        ValueError: If they do not.
    """
    return checked_features(os.pread(descriptor, BLOCK, row.offset - BLOCK), read_bytes(descriptor, row), row, total)


def checked_features(header: bytes | bytearray, content: bytearray, row: Row, total: int) -> bytearray:
    """The content of a safetensors member that lies where a row says; arguments and errors as for `read_features`."""
    name = f"{row.key}.safetensors"
    if not _plainly(header, name, row.size):
        member = member_of(header, row.offset - BLOCK, total)
        if member is None or member.refused or (member.name, member.size) != (name, row.size):
            msg = f"the sample {row.key} is not where the index says"
            raise ValueError(msg)
    if len(content) != row.size or zlib.crc32(content) != row.checksum:
        msg = f"the sample {row.key} does not have the checksum of the index"
        raise ValueError(msg)
    return content


def _plainly(header: bytes | bytearray, name: str, size: int) -> bool:
    """Whether a header is what a shard's writer makes for a plain file; a few comparisons, where parsing it costs more than its content."""
    named = header.startswith(name.encode().ljust(100, b"\0")) and not header[345:].strip(b"\0")
    return named and header[124:136] == b"%011o\0" % size and header[156:157] == tarfile.REGTYPE


def read_bytes(descriptor: int, row: Row) -> bytearray:
    """The bytes where a row says that its features are, none where the file ends before; a buffer that arrays can be views of."""
    content = bytearray(row.size)
    return content if os.preadv(descriptor, [content], row.offset) == row.size else bytearray()


def read_record(descriptor: int, member: Member | None) -> dict[str, Any]:
    """The JSON member of a sample.

    Raises:
        ValueError: If it is missing, or is no JSON object with a caption hash and diagnostics.
    """
    try:
        if member is None or member.refused or not member.name.endswith(".json"):
            msg = "its JSON member is missing"
            raise ValueError(msg)
        told = json.loads(os.pread(descriptor, member.size, member.offset))
        as_text(told["caption_hash"])
        finite(told["diagnostics"])
    except (KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        msg = f"its JSON member cannot be read ({type(error).__name__})"
        raise ValueError(msg) from error
    return dict(told)


def decode(content: bytes | bytearray) -> Arrays:
    """Tensors of a safetensors member, views of a `bytearray`; their sizes must add up to its length.

    Raises:
        ValueError: If it is none.
    """
    known = _layouts.get(_header(content))
    if known is not None and known.total == len(content):
        return known.views(content)
    try:
        arrays = dict(load_tensors(bytes(content)))
    except (SafetensorError, KeyError, TypeError, ArithmeticError) as error:
        msg = f"its features are not readable safetensors ({type(error).__name__}: {str(error)[:100]})"
        raise ValueError(msg) from error
    _remember(content, arrays)
    return arrays


class Layout(NamedTuple):
    """Where the tensors of members with one header lie: samples of a cache differ in their numbers only.

    Attributes:
        header: Length of what stands before the tensors, and the tensors' names, shapes and places.
        total: Length of such a member.
        places: Of each tensor, in the order of their bytes, its name; dtype, number of values and first byte; and shape.
    """

    header: bytes
    total: int
    places: list[tuple[str, tuple[np.dtype[Any], int, int], tuple[int, ...]]]

    def views(self, content: bytes | bytearray) -> Arrays:
        """The tensors of such a member."""
        return {name: np.frombuffer(content, *place).reshape(shape) for name, place, shape in self.places}


_layouts: dict[bytes, Layout] = {}
_MOST_LAYOUTS, _LONGEST_HEADER = 64, 4096


def _header(content: bytes | bytearray) -> bytes:
    """The first bytes, which say what follows."""
    return bytes(content[: 8 + min(int.from_bytes(content[:8], "little"), _LONGEST_HEADER)])


def known_layout(descriptor: int, row: Row) -> Layout | None:
    """The layout of the member that a row tells of, where one with the same header has been decoded before.

    Raises:
        OSError: It cannot be read.
    """
    return _layouts.get(_header(os.pread(descriptor, min(row.size, 8 + _LONGEST_HEADER), row.offset)))


def read_into(descriptor: int, row: Row, layout: Layout, parts: Sequence[memoryview], checked: bool) -> bool:
    """Read a member's tensors to where they shall stand, without a copy on the way.

    Args:
        descriptor: The open tar file.
        row: Where the member lies.
        layout: What it is expected to look like.
        parts: Of contiguous arrays, one for each of the layout's tensors, that are written to.
        checked: It has been compared with its row before.

    Returns:
        Whether it is that member; else `parts` may hold anything.

    Raises:
        OSError: It cannot be read.
    """
    block, header = bytearray(BLOCK), bytearray(len(layout.header))
    if row.size != layout.total or os.preadv(descriptor, [block, header, *parts], row.offset - BLOCK) != BLOCK + row.size:
        return False
    if header != layout.header:
        return False
    return checked or (_plainly(block, f"{row.key}.safetensors", row.size) and _checksum(header, *parts) == row.checksum)


def _checksum(*parts: bytearray | memoryview) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


def _remember(content: bytes | bytearray, arrays: Arrays) -> None:
    """Keep the layout of a member that safetensors has accepted, so that it need not take the next one apart, and copy it, again."""
    header = _header(content)
    if len(_layouts) >= _MOST_LAYOUTS or len(header) >= 8 + _LONGEST_HEADER:
        return
    told = json.loads(header[8:])
    starts = {name: len(header) + told[name]["data_offsets"][0] for name in arrays}
    ordered = sorted(arrays.items(), key=lambda item: starts[item[0]])
    places = [(name, (array.dtype, array.size, starts[name]), array.shape) for name, array in ordered]
    layout = Layout(header, len(content), places)
    if all(array.size and starts[name] % array.itemsize == 0 for name, array in arrays.items()):  # torch wants them aligned
        views = layout.views(content)
        if all(views[name].tobytes() == array.tobytes() for name, array in arrays.items()):
            _layouts[header] = layout


class Contents(NamedTuple):
    """What a tar file holds.

    Attributes:
        rows: Its whole samples.
        damaged: Reasons by key of the samples that are not whole.
        problems: What else is wrong with it.
    """

    rows: list[Row]
    damaged: dict[str, str]
    problems: list[str]


def read_contents(descriptor: int, total: int) -> Contents:
    """Read a whole tar file without an index, as far as it can be read.

    Args:
        descriptor: The open tar file.
        total: Its length in bytes.
    """
    found, problems = member_names(descriptor, total)
    contents = Contents([], {}, problems)
    for name, member in found.items():
        key, _, kind = name.rpartition(".")
        if kind != "safetensors":
            continue
        try:
            contents.rows.append(_row(descriptor, total, member, found.get(f"{key}.json")))
        except (ValueError, TypeError, ArithmeticError, OSError) as error:
            contents.damaged[key] = str(error)
    return contents


def member_names(descriptor: int, total: int) -> tuple[dict[str, Member], list[str]]:
    """Members that a shard may hold, by name, and what is wrong with the others."""
    found: dict[str, Member] = {}
    problems = []
    try:
        for member in members(descriptor, total):
            if member.refused or member.name in found or len(found) >= 2 * MAX_ROWS:
                problems.append(member.refused or f"the member {member.name} stands in it twice, or it has too many")
            else:
                found[member.name] = member
            if len(problems) > MAX_ROWS:
                break
    except (ValueError, OSError) as error:
        problems.append(str(error))
    return found, problems


def _row(descriptor: int, total: int, member: Member, record: Member | None) -> Row:
    content = os.pread(descriptor, member.size, member.offset)
    decode(content)
    told = read_record(descriptor, record)
    checksum = zlib.crc32(content)
    if told.get("checksum", checksum) != checksum:
        msg = "its features do not have the checksum of its JSON member"
        raise ValueError(msg)
    row = Row(member.name.rpartition(".")[0], told["caption_hash"], member.offset, member.size, checksum, finite(told["diagnostics"]))
    check_row(row, total)
    return row
