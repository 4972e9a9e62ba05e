"""Files of a benchmark that say more of its images: prompts, captions, labels."""

import logging
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from datamodules.captions import read_annotations
from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular
from datamodules.layouts.form import Table
from datamodules.layouts.patterns import render
from datamodules.records import MAX_CAPTION
from datamodules.tables import MissingColumnError, read_table

logger = logging.getLogger(__name__)

_MAX_BYTES = 65_536  # of a text beside an image
_MAX_LINE = 1_000_000

Row = tuple[str, ...]


class TableReader:
    """One table of a layout in one folder; each of its files is read once, when an image needs it.

    A file is opened only where it lies, with all links resolved, in the folder in which the layout begins, or in one that it shares with
    the image: a tree may be put together of links to folders, which its images are read through as well.

    Args:
        base: Folder in which the layout begins.
        table: What the layout says of it.
    """

    def __init__(self, base: str, table: Table) -> None:
        self.base = os.path.normpath(base)
        self.table = table
        self._rows: dict[str, dict[str, Row]] = {}
        self._there: dict[tuple[str, str], bool] = {}
        self._real_folders: dict[str, str] = {}

    def file(self, parts: Mapping[str, str]) -> str | None:
        """Path of the file for an image of such parts; none where there is none.

        Raises:
            DataError: A link leads out of the folder.
        """
        folder = os.path.normpath(os.path.join(self.base, os.path.dirname(parts.get("below", ""))))
        for template in self.table.files:
            name = render(template, parts)
            if name is not None and self._is_there(os.path.normpath(path := os.path.join(self.base, name)), folder):
                return path
        return None

    def fits(self, parts: Mapping[str, str]) -> bool:
        """Whether there is such a file, with the columns that are needed, and a row at least.

        Raises:
            DataError: There is one, and it cannot be read.
        """
        path = self.file(parts)
        if path is None or self.table.form != "table":
            return path is not None
        try:
            return any(set(self._columns) <= row.keys() for _, row in islice(self._table_rows(path), 1))
        except MissingColumnError:
            return False

    def parts(self, image: str, parts: Mapping[str, str]) -> dict[str, str]:
        """Further parts of an image.

        Args:
            image: Its absolute path.
            parts: What its path says.

        Raises:
            DataError: The file cannot be read.
        """
        path = self.file(parts)
        if path is None:
            return {}
        if self.table.form == "text":
            return self._named((_text_of(path),))
        if path not in self._rows:
            self._rows[path] = dict(self._read(path))
        name = render(self.table.of, parts) if self.table.of else _posix(os.path.relpath(image, os.path.dirname(path)))
        return self._named(self._rows[path].get(name or "", ()))

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.table.key, *self.table.parts.values())))

    def _is_there(self, path: str, folder: str) -> bool:
        """Whether there is a file, which may be opened for the images of a folder."""
        shared = os.path.commonpath([os.path.dirname(path), folder])
        if (path, shared) in self._there:
            return self._there[path, shared]
        found = os.path.isfile(path)
        if found:
            self._check_inside(path, shared)
        if self.table.form != "text":  # of which there is one an image
            self._there[path, shared] = found
        return found

    def _check_inside(self, path: str, shared: str) -> None:
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(self._real(os.path.dirname(path)), os.path.basename(path))
        if not any(real.startswith(self._real(folder).rstrip(os.sep) + os.sep) for folder in (self.base, shared)):
            message = f"{path} is a link that leads out of {self.base}, to {real}: put the file itself there, or remove the link."
            raise DataError(message)

    def _real(self, folder: str) -> str:
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return self._real_folders[folder]

    def _named(self, values: Row) -> dict[str, str]:
        return {part: value for part, value in zip((*self.table.parts, *self.table.more), values, strict=False) if value}

    def _read(self, path: str) -> Iterator[tuple[str, Row]]:
        logger.info("Reading %s.", path)
        if self.table.form == "coco":
            yield from _coco(path)
        elif self.table.form == "token":
            yield from _tokens(path)
        else:
            columns = (*self.table.parts.values(), *self.table.more.values())
            for _, row in self._table_rows(path):
                if name := _cell(row.get(self.table.key)):
                    yield _posix(name), tuple(_cell(row.get(column)) for column in columns)

    def _table_rows(self, path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
        return read_table(Path(path), self._columns, (*self._columns, *self.table.more.values()))


def _coco(path: str) -> Iterator[tuple[str, Row]]:
    """Name of each file without suffix and its first caption, of MSCOCO's annotations."""
    for found in read_annotations(Path(path), lambda where, why: None):
        yield PurePosixPath(found.file_name).stem, (found.caption,)


def _tokens(path: str) -> Iterator[tuple[str, Row]]:
    """Name of each file and its caption number 0, of lines `image.jpg#0<tab>caption`."""
    try:
        with open_regular(path) as file:
            while line := file.readline(_MAX_LINE):
                name, tab, caption = line.decode("utf-8").partition("\t")
                image, _, number = name.rpartition("#")
                if tab and number.strip() == "0":
                    yield image, (_one_line(caption),)
    except OSError as error:
        message = f"The captions {path} cannot be read ({describe_os_error(error)}): check the file."
        raise DataError(message) from error
    except UnicodeDecodeError as error:
        message = f"The captions {path} are not UTF-8 text: save the file as UTF-8."
        raise DataError(message) from error


def _text_of(path: str) -> str:
    """A file's text as one line; nothing where it is none."""
    try:
        with open_regular(path) as file:
            return _one_line(file.read(_MAX_BYTES).decode("utf-8", "ignore"))
    except OSError:
        return ""


def _cell(value: object) -> str:
    """A cell as one line; nothing for an empty one, and for what is neither text nor a number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        value = int(value)
    text = _one_line(str(value)) if isinstance(value, str | int) else ""
    return "" if text.lower() in ("nan", "null", "none", "<na>") else text


def _one_line(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else " " for letter in text.encode("utf-8", "ignore").decode())
    return " ".join(shown.split())[:MAX_CAPTION]


def _posix(path: str) -> str:
    path = os.path.normpath(path).replace(os.sep, "/")
    return path.removeprefix("./")
