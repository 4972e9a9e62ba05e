"""The predictions table: one row an image, detector and perturbation. All numbers that are reported come from it."""

import io
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.files import write_atomically

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("label", pa.int64(), nullable=False),  # 0 real, 1 fake
        pa.field("generator", pa.string(), nullable=False),  # of a real image: the source of the reals
        pa.field("family", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # empty: the image stands alone
        pa.field("detector", pa.string(), nullable=False),
        pa.field("perturbation", pa.string(), nullable=False),  # `none` where there was none
        pa.field("score", pa.float64()),  # raw; larger means more likely fake
        pa.field("probability", pa.float64()),  # only of a calibrated detector
        pa.field("predicted_family", pa.string()),  # only of a detector of families
    ]
)
COLUMNS = tuple(SCHEMA.names)
OPTIONAL = pa.schema(  # a table has such a column only where a row has a value
    [
        pa.field("family_probability", pa.float64()),  # of a detector of classes: of the predicted family, in [0, 1]
        pa.field("predicted_generator", pa.string()),  # only of a head of generators
        pa.field("novelty", pa.float64()),  # larger means less like anything that the detector was trained on
        pa.field("generated_fraction", pa.float64()),  # share of the image's pixels that a generator made, in [0, 1]
    ]
)
ROW = ["key", "dataset", "detector", "perturbation"]
_DEFAULTS = {"family": "unknown", "group": "", "perturbation": "none"}


class PredictionsError(ValueError):
    """A table is not what `SCHEMA` says; the message names the column and what to do."""


def make_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A predictions table from rows of plain values.

    Args:
        rows: Mappings with the names of `COLUMNS`, and of `OPTIONAL` where there are such values. What a row leaves out
            is null, or `none` for `perturbation`, `unknown` for `family`, empty for `group`.

    Returns:
        A table with `COLUMNS`, and those of `OPTIONAL` that any row has a value of.

    Raises:
        PredictionsError: A value that must not be null is, or a value has the wrong type.
    """
    filled = [_DEFAULTS | {name: value for name, value in row.items() if value is not None} for row in rows]
    fields = [*SCHEMA, *(field for field in OPTIONAL if any(field.name in row for row in filled))]
    try:
        arrays = [pa.array([row.get(field.name) for row in filled], type=field.type, from_pandas=True) for field in fields]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        message = f"a value of the new rows has the wrong type: {error}"
        raise PredictionsError(message) from error
    return _checked(pa.table(arrays, names=[field.name for field in fields]), "the new rows")


def write_predictions(path: Path, frame: pd.DataFrame) -> Path:
    """Check `frame` and write it as Parquet, whole or not at all.

    Args:
        path: The file, usually `runs/<name>/predictions.parquet`.
        frame: A table with at least `COLUMNS`; further columns are kept, those of `OPTIONAL` where any row has a value.

    Raises:
        PredictionsError: The table does not keep the contract.
    """
    checked = _checked(pa.Table.from_pandas(frame, preserve_index=False), "the table to be written")
    table = pa.Table.from_pandas(checked, preserve_index=False)
    known = {field.name: field for field in (*SCHEMA, *OPTIONAL)}
    table = table.cast(pa.schema([known.get(field.name, field) for field in table.schema]))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())
    return path


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a predictions table and check it.

    Doubled rows (same key, data set, detector and perturbation: a distributed sampler repeats images) are dropped with a warning.

    Raises:
        PredictionsError: The file is not a table of predictions; the message says why.
    """
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        message = f"{path} is not a Parquet file ({error}); write it again with evaluate.py"
        raise PredictionsError(message) from error
    return _checked(table, str(path))


def _checked(table: pa.Table, where: str) -> pd.DataFrame:
    """The table with the columns of `SCHEMA` first, then those of `OPTIONAL` that hold a value, in their types, each row once."""
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        message = f"{where} lacks the columns {', '.join(missing)}; a predictions table has {', '.join(COLUMNS)}"
        raise PredictionsError(message)
    told = [field for field in OPTIONAL if field.name in table.column_names and table[field.name].null_count < len(table)]
    columns = {field.name: _column(table[field.name], field, where) for field in (*SCHEMA, *told)}
    columns |= {name: table[name] for name in table.column_names if name not in columns and name not in OPTIONAL.names}
    frame = pa.table(columns).to_pandas()
    if not frame["label"].isin([0, 1]).all():
        message = f"{where}: column label is 0 (real) or 1 (fake); it holds {sorted(frame['label'].unique())[:10]}"
        raise PredictionsError(message)
    for name in ("family_probability", "generated_fraction"):
        shares = frame.get(name, pd.Series(dtype=float)).dropna()
        if not (inside := shares.between(0, 1)).all():
            message = f"{where}: column {name} is in [0, 1]; it holds {sorted(shares[~inside].unique().tolist())[:10]}"
            raise PredictionsError(message)
    return _each_once(frame, where)


def _column(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    """One column in the type of `field`."""
    found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(field.type):
        fits = pa.types.is_string(found) or pa.types.is_large_string(found)
    else:
        fits = pa.types.is_floating(found) or pa.types.is_integer(found) or pa.types.is_boolean(found)
    try:
        if not (fits or pa.types.is_null(found)):
            raise pa.ArrowInvalid(str(found))
        column = column.cast(field.type)
    except pa.ArrowInvalid as error:
        message = f"{where}: column {field.name} has the type {found}, needed is {field.type} ({error})"
        raise PredictionsError(message) from error
    if field.name == "group":
        column = column.fill_null("")
    if column.null_count and not field.nullable:
        default = _DEFAULTS.get(field.name)
        advice = f"; write {default!r} where nothing is known" if default else ""
        message = f"{where}: column {field.name} is null in {column.null_count} of {len(column)} rows{advice}"
        raise PredictionsError(message)
    return column


def _each_once(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    doubled = frame.duplicated(ROW)
    if not doubled.any():
        return frame
    warnings.warn(
        f"{where}: {int(doubled.sum())} of {len(frame)} rows were there before (same {', '.join(ROW)}); the first of each was kept",
        stacklevel=4,
    )
    return frame[~doubled].reset_index(drop=True)
