"""Tables as CSV, Parquet or JSON lines, read a row at a time: manifests, lists, and what benchmarks say of their images."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular

_MAX_LINE = 1_000_000  # characters; a longer one means that the file is no table, and must not fill the memory

Row = Mapping[str, Any]


class MissingColumnError(DataError):
    """A table that can be read and lacks a column: another one than was meant."""


def read_table(path: Path, required: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Rows of a table, one at a time, so that its size does not matter.

    Args:
        path: A `.csv`, `.parquet` or `.jsonl` file.
        required: Columns that a CSV or Parquet file must have.
        wanted: Columns that must not stand there twice, and the only ones that are read of a Parquet file.

    Yields:
        Where the row stands (`line 7`, as an editor counts) and its cells by column name in lower case.

    Raises:
        MissingColumnError: It is another table.
        DataError: The file is missing, of another kind, or damaged.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".pq": _read_parquet, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl}
    if path.is_dir():
        message = f"{path} is a folder, not a table: name the manifest in it, or use FolderSource."
        raise DataError(message)
    if path.suffix.lower() not in readers:
        message = f"{path} ends in {path.suffix!r}: a manifest is one of {', '.join(sorted(readers))}."
        raise DataError(message)
    try:
        yield from readers[path.suffix.lower()](path, required, wanted)
    except OSError as error:
        message = f"The manifest {path} cannot be read ({describe_os_error(error)}): check the path."
        raise DataError(message) from error
    except UnicodeDecodeError as error:
        message = f"The manifest {path} is not UTF-8 text ({error.reason}): save it as UTF-8."
        raise DataError(message) from error


def _open_text(path: Path) -> TextIO:
    file = open_regular(path)
    if b"\0" in file.peek(4096)[:4096]:
        file.close()
        message = f"The manifest {path} is binary, or text of another encoding than UTF-8: save it as UTF-8."
        raise DataError(message)
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE:
            message = f"{path}, line {number}: longer than {_MAX_LINE} characters. This is no table of images."
            raise DataError(message)
        yield line


def _check_columns(names: Sequence[str], path: Path, required: Sequence[str], wanted: Sequence[str]) -> list[str]:
    columns = [name.strip().lower() for name in names]
    absent = [name for name in required if name not in columns]
    double = [name for name in wanted if columns.count(name) > 1]
    if absent or double:
        fault = f"has no column {', '.join(absent)}" if absent else f"has the column {', '.join(double)} twice"
        message = f"The manifest {path} {fault}. Its columns are {', '.join(map(repr, names))[:300]}, separated by commas in a CSV file."
        raise (MissingColumnError if absent else DataError)(message)
    return columns


def _read_csv(path: Path, required: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
    with _open_text(path) as file:
        reader = csv.reader(_lines(file, path), strict=True)
        try:
            columns = _check_columns(next(reader, []), path, required, wanted)
            start = reader.line_num + 1
            for cells in reader:
                where = f"line {start}"
                start = reader.line_num + 1
                if not cells:
                    continue
                if len(cells) != len(columns):
                    message = f"{path}, {where}: {len(cells)} cells for {len(columns)} columns. Put texts that contain a comma in quotes."
                    raise DataError(message)
                yield where, dict(zip(columns, cells, strict=True))
        except csv.Error as error:
            message = f"{path}, line {reader.line_num}: not a row of a CSV file ({error}). Correct the line."
            raise DataError(message) from error


def _read_jsonl(path: Path, required: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
    with _open_text(path) as file:
        for number, line in enumerate(_lines(file, path), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                message = f"{path}, line {number}: not JSON ({error}). Each line must be one object."
                raise DataError(message) from error
            if not isinstance(row, dict):
                message = f"{path}, line {number}: {line.strip()[:60]!r} is not an object with a path and a label."
                raise DataError(message)
            yield f"line {number}", {name.strip().lower(): value for name, value in row.items()}


def _read_parquet(path: Path, required: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa  # slow to import, and most manifests are text
    import pyarrow.parquet as pq

    try:
        with open_regular(path) as raw, pq.ParquetFile(raw) as table:
            names = table.schema_arrow.names
            columns = _check_columns(names, path, required, wanted)
            read = [name for name, column in zip(names, columns, strict=True) if column in wanted]
            number = 0
            for batch in table.iter_batches(batch_size=4096, columns=read):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", {name.strip().lower(): value for name, value in row.items()}
    except (pa.ArrowException, MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the system, not from the decoder
        reason = " ".join(str(error).split())[:200]
        message = f"The manifest {path} is not a Parquet file that can be read ({reason}): write it again."
        raise DataError(message) from error
