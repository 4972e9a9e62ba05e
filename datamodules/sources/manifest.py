"""Images listed in a table: CSV, Parquet or JSON lines."""

import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.records import FAKE, MISSING, REAL, Record
from datamodules.sources.base import Source, safe_name
from datamodules.tables import Row, read_table

REQUIRED = ("path", "label")
TEXTS = ("dataset", "generator", "family", "group", "pair", "split", "caption", "caption_source", "source_format")
SHARED = ("dataset", "generator", "family", "caption_source", "source_format")
"""Texts that many rows have."""
NUMBERS = ("source_width", "source_height", "source_bytes")
OPTIONAL = (*TEXTS, *NUMBERS, "generated_fraction")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of splits that manifests and folders use, and what they are called here."""

_LABELS = {"0": REAL, "0.0": REAL, "real": REAL, "1": FAKE, "1.0": FAKE, "fake": FAKE}
_NAMELESS = frozenset({"manifest", "metadata", "index", "data", "images", "labels"})
_COUNT = re.compile(r"([1-9][0-9]{0,14})(\.0*)?")  # pandas writes 256.0 where another cell of the column is empty


class ManifestSource(Source):
    """Images listed in a CSV, Parquet or JSON lines file (`.csv`, `.parquet`, `.jsonl`).

    The columns `path` and `label` (0 or real, 1 or fake) are required; `dataset`, `generator`, `family`, `group`, `pair`,
    `split`, `caption` and `caption_source` are used where they are, and so are `source_format`, `source_width`, `source_height`
    and `source_bytes` (whole numbers): what a file was before it was copied or stored again, and
    `generated_fraction`: the share of an image's pixels that a generator made, in [0, 1]. All others are ignored. Empty
    cells, `nan` and `null` count as missing. Without a generator, a real image has `real` and a generated one `unknown`.

    Args:
        path: The table. Paths in it are relative to its folder.
        dataset: Name of the data set for rows that have none; by default the name of the table or of its folder.
        allow_outside: Also read files outside of the table's folder, by absolute paths, `..` or links. Off, because a
            table from somewhere else could then make any file of this machine part of a data set.
    """

    def __init__(self, path: str, dataset: str | None = None, allow_outside: bool = False) -> None:
        super().__init__()
        self.path = path
        self.dataset = dataset
        self.allow_outside = allow_outside

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser().absolute()

    @property
    def _dataset(self) -> str:
        if self.dataset is not None:
            return self.dataset
        return self._file.parent.name if self._file.stem.lower() in _NAMELESS else self._file.stem

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        return safe_name(self._dataset)

    @property
    def location(self) -> str:
        """Path of the table."""
        return str(self._file)

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """One record a row, in the order of the rows.

        Args:
            cache_dir: Not used.

        Raises:
            DataError: The table cannot be read, lacks a column, or a row of it is wrong; the message names the row.
        """
        file = self._file
        folder = _Folder(file.parent, self.allow_outside)
        for where, row in read_rows(file):
            yield self._record(row, f"{file}, {where}", folder)

    def _record(self, row: Row, where: str, folder: "_Folder") -> Record:
        texts = {column: _text(row.get(column), column, where) for column in ("path", *TEXTS)}
        texts |= {column: _shared(texts[column]) for column in SHARED}
        label = _label(row.get("label"), where)
        if texts["path"] is None:
            message = f"{where}: the path is missing. Fill it in or remove the row."
            raise DataError(message)
        return Record(
            key="",
            label=label,
            dataset=texts["dataset"] or self._dataset,
            generator=texts["generator"] or ("real" if label == REAL else "unknown"),
            path=folder.locate(texts["path"], where),
            family="real" if label == REAL else texts["family"] or "unknown",
            split=_split(texts["split"], where),
            caption=texts["caption"],
            caption_source=texts["caption_source"],
            group=texts["group"] or "",
            pair=texts["pair"],
            source_format=texts["source_format"],
            source_width=_count(row.get("source_width"), "source_width", where),
            source_height=_count(row.get("source_height"), "source_height", where),
            source_bytes=_count(row.get("source_bytes"), "source_bytes", where),
            generated_fraction=_fraction(row.get("generated_fraction"), where),
        )


class _Folder:
    """The manifest's folder, which paths must not leave."""

    def __init__(self, root: Path, allow_outside: bool) -> None:
        self.root = os.path.abspath(root)
        self.allow_outside = allow_outside
        self._real_root = os.path.realpath(root)
        self._inside: dict[str, bool] = {}

    def locate(self, path: str, where: str) -> str:
        """Absolute path of a file that the manifest names."""
        if "\0" in path:
            message = f"{where}: the path {_shown(path)} has a null byte. Correct the row."
            raise DataError(message)
        full = os.path.normpath(os.path.join(self.root, path))
        if not self.allow_outside and not self._is_inside(full):
            message = f"{where}: the path {_shown(path)} leads out of {self.root}. If that is meant, set allow_outside to true."
            raise DataError(message)
        return full

    def _is_inside(self, full: str) -> bool:
        parent = os.path.dirname(full)
        if parent not in self._inside:
            self._inside[parent] = _within(parent, self.root) and _within(os.path.realpath(parent), self._real_root)
        return self._inside[parent] and (not os.path.islink(full) or _within(os.path.realpath(full), self._real_root))


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: it is empty, no number, or a word that stands for that."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _shared(text: str | None) -> str | None:
    """The text as one object for all rows: a hundred thousand rows name a handful of generators."""
    return None if text is None else sys.intern(text)


def _text(value: Any, column: str, where: str) -> str | None:
    if is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes floats of whole numbers where one is missing
    try:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise TypeError
        text = str(value).strip()
        text.encode("utf-8")  # JSON can spell half a character, which no file name or table can hold
    except (TypeError, ValueError) as error:
        message = f"{where}: the {column} {_shown(value)} is not text. Correct the row."
        raise DataError(message) from error
    return text


def _count(value: Any, column: str, where: str) -> int | None:
    if is_missing(value):
        return None
    found = None if isinstance(value, bool) or not isinstance(value, str | int | float) else _COUNT.fullmatch(str(value).strip())
    if found is None:
        message = f"{where}: the {column} {_shown(value)} is not a positive whole number. Correct the row, or leave the cell empty."
        raise DataError(message)
    return int(found[1])


def _fraction(value: Any, where: str) -> float | None:
    if is_missing(value):
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found <= 1:
        message = f"{where}: the generated_fraction {_shown(value)} is not a number from 0 to 1. Correct the row, or leave the cell empty."
        raise DataError(message)
    return found


def _label(value: Any, where: str) -> int:
    label = None if is_missing(value) else _LABELS.get(str(int(value) if isinstance(value, bool) else value).strip().lower())
    if label is None:
        message = f"{where}: the label {_shown(value)} is not one of 0, 1, real, fake. Correct the row."
        raise DataError(message)
    return label


def _split(value: str | None, where: str) -> str | None:
    if value is None:
        return None
    if value.lower() not in SPLIT_NAMES:
        message = f"{where}: the split {_shown(value)} is not one of {', '.join(SPLIT_NAMES)}. Correct the row, or leave the cell empty."
        raise DataError(message)
    return SPLIT_NAMES[value.lower()]


def checked_cells(row: Row, where: str) -> dict[str, Any]:
    """What a row says of an image besides where it lies: `label` and each of `TEXTS`, None where it is missing.

    Args:
        row: Cells by column name.
        where: File and line, for messages.

    Raises:
        DataError: A cell is not what its column holds.
    """
    texts = {column: _text(row.get(column), column, where) for column in TEXTS}
    return texts | {"label": _label(row.get("label"), where), "split": _split(texts["split"], where)}


def read_rows(path: Path, required: Sequence[str] = REQUIRED, wanted: Sequence[str] = (*REQUIRED, *OPTIONAL)) -> Iterator[tuple[str, Row]]:
    """Rows of a table with the columns of a manifest, or others: see `datamodules.tables.read_table`.

    Args:
        path: A `.csv`, `.parquet` or `.jsonl` file.
        required: Columns that a CSV or Parquet file must have.
        wanted: Columns that must not stand there twice, and the only ones that are read of a Parquet file.

    Raises:
        DataError: The file is missing, of another kind, or damaged.
    """
    return read_table(path, required, wanted)
