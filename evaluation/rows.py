"""Rows written as they come: CSV or JSON lines that a stopped run keeps and a later one goes on with, or Parquet."""

import csv
import fcntl
import io
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from evaluation.files import write_atomically

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
NUMBERS = ("score", "probability", "spread", "family_probability", "novelty")

Row = Mapping[str, Any]
Mode = Literal["new", "resume", "overwrite"]

# Control characters, line and paragraph separators, marks that turn the direction of writing, bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class RowsError(ValueError):
    """A file of rows that cannot be written as asked; the message names it and says what to do."""


def one_line(text: str) -> str:
    r"""Text that no table, line or terminal is upset by: what is unsafe is written as `\x1b` or `\u202e`, all else stays."""

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not UTF-8
            code -= 0xDC00
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return _UNSAFE.sub(escaped, text)


def plain(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """The row's columns in order: text in one line, numbers that are not finite as null."""
    values = {}
    for name in columns:
        value = row.get(name)
        if isinstance(value, str):
            value = one_line(value)
        elif isinstance(value, float) and not math.isfinite(value):
            value = None
        values[name] = value
    return values


class RowWriter(ABC):
    """Where rows go.

    Attributes:
        columns: Names of the columns, in order.
        name: What messages call the file.
    """

    def __init__(self, columns: Sequence[str], name: str) -> None:
        self.columns = list(columns)
        self.name = name

    @abstractmethod
    def write(self, rows: Iterable[Row]) -> None:
        """Write rows; what a row lacks is null."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file; also after a run that was stopped."""

    def written(self) -> Iterator[dict[str, Any]]:
        """The rows that an earlier run left."""
        return iter(())


class LineWriter(RowWriter):
    """CSV or JSON lines, a line a row, on disk with every call of `write`.

    Args:
        stream: What is written to, unbuffered.
        form: `csv` or `jsonl`.
        columns: Names of the columns.
        name: What messages call the file.
    """

    def __init__(self, stream: io.FileIO, form: str, columns: Sequence[str], name: str) -> None:
        super().__init__(columns, name)
        self.stream = stream
        self.form = form
        self.is_empty = True

    def write(self, rows: Iterable[Row]) -> None:
        """Write rows; what a row lacks is null, which CSV leaves empty.

        Raises:
            RowsError: If the disk is full, or the like.
        """
        lines = [self._line(plain(row, self.columns)) for row in rows]
        if not lines:
            return
        if self.is_empty and self.form == "csv":
            lines.insert(0, _csv_line(self.columns))
        data = memoryview("".join(lines).encode())
        self.is_empty = False
        try:
            while data:
                data = data[self.stream.write(data) or 0 :]
            self.stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            msg = f"{self.name} cannot be written ({error.strerror}); what is in it stays, and --resume goes on from there"
            raise RowsError(msg) from error

    def close(self) -> None:
        """Let go of the file."""
        self.stream.close()

    def written(self) -> Iterator[dict[str, Any]]:
        """The rows that an earlier run left; a last line that was cut is removed from the file.

        Raises:
            RowsError: If the file is another table than this run would write.
        """
        self.stream.seek(0)
        kept = 0
        reader = io.BufferedReader(io.FileIO(self.stream.fileno(), closefd=False))
        for number, line in enumerate(reader, 1):
            if not line.endswith(b"\n"):
                break
            kept += len(line)
            if (row := self._parsed(line, number)) is not None:
                yield row
        self.stream.truncate(kept)
        self.stream.seek(kept)
        self.is_empty = kept == 0

    def _parsed(self, line: bytes, number: int) -> dict[str, Any] | None:
        """The row of a line, or none for the header."""
        try:
            if self.form == "jsonl":
                row = json.loads(line)
                names = list(row)
            else:
                values = next(csv.reader([line.decode()]))
                if number == 1:
                    row, names = None, values
                else:
                    row, names = dict(zip(self.columns, values, strict=True)), self.columns
        except (ValueError, TypeError, StopIteration, csv.Error) as error:
            msg = f"line {number} of {self.name} is no row of this command; name another --output, or --overwrite it"
            raise RowsError(msg) from error
        if names != self.columns:
            told = (", ".join(map(str, given)) for given in (names, self.columns))
            msg = "{} has the columns {}, this run writes {}: name another --output".format(self.name, *told)
            raise RowsError(msg)
        return row

    def _line(self, row: Row) -> str:
        if self.form == "csv":
            return _csv_line(["" if value is None else value for value in row.values()])
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _csv_line(values: Iterable[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


class ParquetWriter(RowWriter):
    """Parquet, written whole at the end from the rows that were collected.

    Args:
        path: The file.
        columns: Names of the columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(columns, str(path))
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def write(self, rows: Iterable[Row]) -> None:
        """Keep rows."""
        self.rows.extend(plain(row, self.columns) for row in rows)

    def close(self) -> None:
        """Write the file.

        Raises:
            RowsError: If it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.float64() if name in NUMBERS else pa.string()) for name in self.columns])
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self.rows, schema=schema), buffer, compression="zstd")
        try:
            write_atomically(self.path, buffer.getvalue())
        except OSError as error:
            msg = f"{self.path} cannot be written ({error.strerror})"
            raise RowsError(msg) from error


def check_new(output: Path | None, mode: Mode) -> None:
    """Refuse a file that exists, before anything that takes long.

    Raises:
        RowsError: If something is in it and the mode is `new`.
    """
    if output is not None and mode == "new" and output.is_file() and output.stat().st_size:
        msg = f"{output} exists: --resume goes on with it, --overwrite replaces it"
        raise RowsError(msg)


def open_rows(output: Path | None, form: str, columns: Sequence[str], mode: Mode) -> RowWriter:
    """A writer of rows.

    Args:
        output: The file; None for standard output.
        form: `csv`, `jsonl` or `parquet`.
        columns: Names of the columns.
        mode: `new` refuses a file that exists, `resume` goes on with it (not Parquet), `overwrite` replaces it.

    Raises:
        RowsError: If the file exists and the mode is `new`, another process writes it, or it cannot be opened.
    """
    if output is None:
        return LineWriter(io.FileIO(1, "wb", closefd=False), form, columns, "standard output")
    check_new(output, mode)
    if form == "parquet":
        return ParquetWriter(output, columns)
    try:
        return LineWriter(_opened(output, mode), form, columns, str(output))
    except OSError as error:
        msg = f"{output} cannot be written ({error.strerror})"
        raise RowsError(msg) from error


def _opened(output: Path, mode: Mode) -> io.FileIO:
    """The file, held against other processes; emptied where it is to be overwritten. A pipe or a device is only opened."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists() and not output.is_file():
        return io.FileIO(output, "wb")
    stream = io.FileIO(os.open(output, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666), "r+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        msg = f"{output} is being written by another process; name another --output, or wait for it"
        raise RowsError(msg) from error
    if mode == "overwrite":
        stream.truncate(0)
    return stream
