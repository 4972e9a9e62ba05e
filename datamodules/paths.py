"""Images that somebody names on a command line: files, folders, patterns, lists; collected on disk, each once."""

import csv
import glob
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, walk_files
from datamodules.reader import SUFFIXES

UNREAD = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".psd", ".eps", ".svg"})
"""Suffixes of images that the reader does not decode: their user should hear of them."""

_PIECE = 1 << 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NamedImage:
    """One file that may be an image.

    Attributes:
        path: Absolute path.
        caption: What it shows, where somebody says so.
        reason: Why it cannot be looked at, empty where it can.
    """

    path: str
    caption: str | None = None
    reason: str = ""


class ImageList:
    """Files in the order in which they were named, each once, in a temporary database: memory does not grow with their number.

    A file is named twice where its absolute path is the same; a link to it is another name.

    Attributes:
        passed_over: Number of files in folders that have no image's suffix.
    """

    def __init__(self) -> None:
        self.passed_over = 0
        self._database = sqlite3.connect("")  # a file that SQLite deletes, and writes only when its cache is full
        self._database.execute("CREATE TABLE images (path BLOB PRIMARY KEY, reason TEXT, caption TEXT)")

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM images").fetchone()[0])

    def add(self, path: str, reason: str = "") -> None:
        """Add one file, unless it is there already."""
        self._database.execute("INSERT OR IGNORE INTO images VALUES (?, ?, NULL)", (os.fsencode(os.path.abspath(path)), reason))

    def add_named(self, name: str) -> None:
        """Add what a person names.

        Args:
            name: A file, whatever its suffix; a folder, of which all files with an image's suffix are added, hidden ones left
                out; or a pattern with `*`, `?`, `[]` or `**`, each match of which counts as named. What is not there is added
                with its reason.
        """
        if os.path.lexists(name):
            self._add_existing(name)
        elif glob.has_magic(name):
            self._add_pattern(name)
        else:
            self.add(name, "There is no such file.")

    def add_list(self, stream: BinaryIO, separator: bytes = b"\n") -> None:
        """Add the files and folders of a list: one a line, or separated by null bytes; no patterns."""
        for name in read_names(stream, separator):
            if os.path.lexists(name):
                self._add_existing(name)
            else:
                self.add(name, "There is no such file.")

    def add_captions(self, table: Path) -> int:
        """Take over captions of images that are in the list.

        Args:
            table: CSV with the columns `path` (relative to the table's folder) and `caption`.

        Returns:
            How many images got one.

        Raises:
            DataError: If the table cannot be read or lacks a column.
        """
        folder = os.path.dirname(os.path.abspath(table))
        try:
            with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                rows = csv.DictReader(file)
                if not {"path", "caption"} <= set(rows.fieldnames or ()):
                    msg = f"captions {table}: the columns are {rows.fieldnames}; path and caption are needed"
                    raise DataError(msg)
                pairs = ((row["caption"], os.fsencode(os.path.abspath(os.path.join(folder, row["path"])))) for row in rows if row["path"])
                self._database.executemany("UPDATE images SET caption = nullif(?, '') WHERE path = ?", pairs)
        except (OSError, csv.Error, UnicodeError) as error:
            reason = describe_os_error(error) if isinstance(error, OSError) else error
            msg = f"captions {table} cannot be read ({reason}); a CSV file with the columns path and caption is needed"
            raise DataError(msg) from error
        return self.captioned

    @property
    def captioned(self) -> int:
        """Number of images with a caption."""
        return int(self._database.execute("SELECT count(caption) FROM images").fetchone()[0])

    @property
    def readable(self) -> int:
        """Number of files that can be looked at."""
        return int(self._database.execute("SELECT count(*) FROM images WHERE reason = ''").fetchone()[0])

    def get(self, path: str) -> NamedImage | None:
        """The image of an absolute path, or none where the list does not have it."""
        rows = self._database.execute("SELECT path, caption, reason FROM images WHERE path = ?", (path.encode("utf-8", "replace"),))
        found = rows.fetchone()
        return _named(*found) if found else None

    def leave_out(self, written: Iterable[str], shown: Callable[[str], str]) -> None:
        """Remove images that a table has already.

        Args:
            written: Their paths as the table shows them.
            shown: From a path to how the table shows it.
        """
        self._database.create_function("shown", 1, lambda path: shown(os.fsdecode(path)), deterministic=True)
        self._database.execute("CREATE TABLE written (path TEXT PRIMARY KEY)")
        self._database.executemany("INSERT OR IGNORE INTO written VALUES (?)", ((path,) for path in written))
        self._database.execute("DELETE FROM images WHERE shown(path) IN (SELECT path FROM written)")

    def chunks(self, size: int) -> Iterator[list[NamedImage]]:
        """The images in order, so many at a time."""
        last = 0
        query = "SELECT rowid, path, caption, reason FROM images WHERE rowid > ? ORDER BY rowid LIMIT ?"
        while rows := self._database.execute(query, (last, size)).fetchall():
            last = rows[-1][0]
            yield [_named(*row[1:]) for row in rows]

    def _add_existing(self, name: str) -> None:
        if not os.path.isdir(name):
            self.add(name)
            return
        for path in walk_files(name, self._add_unread_folder):
            suffix = os.path.splitext(path)[1].lower()
            if suffix in SUFFIXES:
                self.add(path)
            elif suffix in UNREAD:
                self.add(path, f"{suffix} files are not read: convert it to PNG.")
            else:
                self.passed_over += 1

    def _add_unread_folder(self, folder: str, reason: str) -> None:
        """Add a folder that cannot be read; one that was passed over since it was read already can be."""
        try:
            os.scandir(folder).close()
        except OSError:
            self.add(folder, f"The folder cannot be read: {reason}.")

    def _add_pattern(self, pattern: str) -> None:
        try:
            names = sorted(_matches(pattern), key=os.fsencode)
        except ValueError as error:  # `a**` in Python 3.11 and 3.12
            self.add(pattern, f"The pattern is not understood: {error}.")
            return
        for name in names:
            self._add_existing(name)
        if not names:
            self.add(pattern, "Nothing matches this pattern.")


def find_images(paths: Iterable[str], standard_input: BinaryIO, separator: bytes, captions: Path | None) -> ImageList:
    """What a person names.

    Args:
        paths: Files, folders, patterns; `-` for a list on standard input.
        standard_input: Where that list comes from.
        separator: What ends a name of that list.
        captions: CSV of paths and captions.

    Raises:
        DataError: If there is nothing to look at.
    """
    images = ImageList()
    for name in paths:
        if name == "-":
            images.add_list(standard_input, separator)
        else:
            images.add_named(name)
    others = f"; {images.passed_over} files without an image's suffix are passed over" if images.passed_over else ""
    if not images.readable:
        reasons = [f"{image.path}: {image.reason}" for image in next(images.chunks(3), [])]
        msg = f"no image found ({'; '.join(reasons) or 'the paths name none'}{others})"
        raise DataError(msg)
    if captions is not None:
        images.add_captions(captions)
    log.info("%d images%s", len(images), others)
    return images


def _named(path: bytes, caption: str | None, reason: str) -> NamedImage:
    return NamedImage(os.fsdecode(path), caption, reason)


def _matches(pattern: str) -> Iterator[str]:
    """What a pattern matches; hidden names only where the pattern asks for them. Links to folders are not followed by `**`."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root, rest = Path(*parts[:first]), list(parts[first:])
    hidden = any(part.startswith(".") for part in rest)
    while rest and rest[-1] == "**":  # a folder means all that is in it
        rest.pop()
    for match in root.glob(os.path.join(*rest)) if rest else [root]:
        if hidden or not any(part.startswith(".") for part in match.relative_to(root).parts):
            yield str(match)


def read_names(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    """Names from a list.

    Args:
        stream: The list, read to its end.
        separator: One byte: a line feed (a carriage return before it is dropped), or a null byte.

    Yields:
        Names that are not empty, decoded as the file system's names are.
    """
    rest = b""
    while piece := stream.read(_PIECE):
        *whole, rest = (rest + piece).split(separator)
        yield from _decoded(whole, separator)
    yield from _decoded([rest], separator)


def _decoded(names: list[bytes], separator: bytes) -> Iterator[str]:
    for name in names:
        stripped = name.removesuffix(b"\r") if separator == b"\n" else name
        if stripped:
            yield os.fsdecode(stripped)
