"""A tar file from a stranger, read once from its beginning: from disk, or while it comes over the network.

Not by Python's `tarfile`, whose extended headers and sparse files make it read as much as a header says, and not by `webdataset`,
which unpickles some members. Nothing is written by a member's name.
"""

import tarfile
from collections.abc import Iterator
from typing import Protocol

BLOCK = 512
MAX_MEMBERS = 2_000_000
MAX_NAME = 1000

_MAX_HEADER = 65_536  # bytes of an extended header: a name, and little else
_PIECE = 1 << 18
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


class Readable(Protocol):
    """A binary stream that is read forward."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


class DamagedError(ValueError):
    """A tar file that cannot be read on: cut, damaged, or none at all."""


class Member:
    """One member; its content can be read until the next one is asked for.

    Attributes:
        name: As the headers say, with `/` between folders.
        size: Length of its content.
        refused: Why it is left out, whatever it holds; empty where it may be read.
    """

    def __init__(self, archive: "Archive", name: str, size: int, refused: str) -> None:
        self._archive = archive
        self.name = name
        self.size = size
        self.refused = refused
        self._left = size

    def read(self) -> bytes:
        """The whole content: the caller looks at `size` first.

        Raises:
            DamagedError: The file ends before it.
        """
        content = self._archive.read_whole(self._left, f"the member {self.name!r:.80}")
        self._left = 0
        return content

    def finish(self) -> None:
        """Pass over what was not read, and over what fills the last block."""
        self._archive.pass_over(self._left + -self.size % BLOCK, f"the member {self.name!r:.80}")
        self._left = 0


class Archive:
    """The members of a tar file in their order.

    Args:
        stream: The file from its beginning.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._position = 0

    def __iter__(self) -> Iterator[Member]:
        """Members that hold data, and those that are refused; folders are passed over.

        Raises:
            DamagedError: The file is cut or damaged; what came before is sound.
        """
        count = 0
        while (member := self._next()) is not None:
            count += 1
            if count > MAX_MEMBERS:
                msg = f"it has more than {MAX_MEMBERS} members"
                raise DamagedError(msg)
            yield member
            member.finish()

    def _next(self) -> Member | None:
        name, size, sparse = None, None, False
        while True:
            header = self._header()
            if header is None:
                return None
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                told = _extended(self._extra(header))
                name, size = told.get("path", name), _number(told.get("size"), size)
                sparse = sparse or any(key.startswith("GNU.sparse") for key in told)
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                name = self._extra(header).rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                self._extra(header)
            elif header.isdir():
                name, size = None, None
            else:
                return self._member(header, header.name if name is None else name, header.size if size is None else size, sparse)

    def _member(self, header: tarfile.TarInfo, name: str, size: int, sparse: bool) -> Member:
        if header.type not in _PLAIN or sparse:
            # Links have no content, whatever their header says; other kinds may.
            size = 0 if header.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else size
            return Member(self, name, size, "it is a link or something else than a plain file")
        return Member(self, name, size, refusal(name))

    def _header(self) -> tarfile.TarInfo | None:
        start = self._position
        block = self._read(BLOCK)
        if start == 0 and (kind := next((kind for magic, kind in _COMPRESSED.items() if block.startswith(magic)), None)):
            msg = f"it is compressed ({kind}); only plain tar files are read: decompress it"
            raise DamagedError(msg)
        if not block:
            msg = "it is empty" if start == 0 else "it ends without the mark of an end: it may have been cut"
            raise DamagedError(msg)
        if len(block) == BLOCK and not block.strip(b"\0"):
            return None
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            msg = "it is no tar file" if start == 0 else f"there is no whole member at byte {start} ({error})"
            raise DamagedError(msg) from error
        if header.size < 0:
            msg = f"the member at byte {start} has a negative size"
            raise DamagedError(msg)
        return header

    def _extra(self, header: tarfile.TarInfo) -> bytes:
        if header.size > _MAX_HEADER:
            msg = f"an extended header has {header.size} bytes"
            raise DamagedError(msg)
        content = self.read_whole(header.size, "an extended header")
        self.pass_over(-header.size % BLOCK, "an extended header")
        return content

    def read_whole(self, size: int, what: str) -> bytes:
        """Exactly so many bytes.

        Raises:
            DamagedError: The file ends before.
        """
        content = self._read(size)
        if len(content) != size:
            msg = f"it ends in the middle of {what}"
            raise DamagedError(msg)
        return content

    def pass_over(self, size: int, what: str) -> None:
        """Read so many bytes and forget them.

        Raises:
            DamagedError: The file ends before.
        """
        while size > 0:
            size -= len(self.read_whole(min(size, _PIECE), what))

    def _read(self, size: int) -> bytes:
        pieces = []
        while size > 0 and (piece := self._stream.read(min(size, _PIECE))):
            pieces.append(piece)
            size -= len(piece)
            self._position += len(piece)
        return b"".join(pieces)


def refusal(name: str) -> str:
    """Why a member of this name is left out, empty where it is not. No file is ever written by it, but a sound shard has none such."""
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        return "its name leads out of the archive"
    return f"its name has {len(name)} characters" if len(name) > MAX_NAME else ""


def _extended(content: bytes) -> dict[str, str]:
    """The records of a POSIX extended header, `length key=value` each.

    Raises:
        DamagedError: It is none.
    """
    told = {}
    position = 0
    while position < len(content) and content[position] != 0:
        digits, _, _ = content[position : position + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not length or len(record) != length or not equals or not record.endswith(b"\n"):
            msg = "an extended header is damaged"
            raise DamagedError(msg)
        told[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position += length
    return told


def _number(text: str | None, otherwise: int | None) -> int | None:
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        msg = "an extended header names no size"
        raise DamagedError(msg)
    return int(text)
