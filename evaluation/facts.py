"""Facts of image files as numbers: what the columns `fact_*` of the predictions table say, one fact a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PREFIX = "fact_"
NEVER_QUANTISED = 101.0  # counts as the JPEG quality of files of other formats: finer than any
MOST_CATEGORIES = 8
_NAMES = {f"fact_{colour}": f"mean {colour}" for colour in ("red", "green", "blue")} | {"fact_jpeg_quality": "JPEG quality"}
_OF_JPEG = ("fact_jpeg_quality", "fact_chroma")

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class TrivialFacts:
    """Facts of N images as numbers.

    Attributes:
        names: For people, K of them.
        numbers: `[K, N]`; text as 0 and 1, NaN where it is not known.
        constant: Facts that are the same wherever they are known, with that value.
        notes: What a reader of the numbers must know.
    """

    names: tuple[str, ...]
    numbers: Numbers
    constant: Mapping[str, str]
    notes: tuple[str, ...]


def facts_of(frame: pd.DataFrame) -> TrivialFacts:
    """The facts of a table's images that vary.

    Numbers stay as they are. Text becomes one fact for each of its 8 most frequent values (`format is PNG`); of two values only the one
    that is commoner among fakes, for the other says the same. A file that is known not to be JPEG counts as one of JPEG quality 101, and
    of no chroma subsampling. A number that is not finite is not known. Where a fact is known of some images only, that is a fact, too
    (`source format is known`); of several that are known of the same images only the first. A fact that orders these images just as an
    earlier one does, or the other way round, such as bits per pixel where all are of one size, is left out with a note.

    Args:
        frame: Rows with `label` and columns `fact_*`.
    """
    fakes = frame["label"].to_numpy() == 1
    columns = [str(name) for name in frame.columns if str(name).startswith(PREFIX)]
    formats = frame["fact_format"] if "fact_format" in columns else pd.Series(None, index=frame.index, dtype=object)
    is_other = (formats.notna() & (formats != "JPEG")).to_numpy() if formats.notna().any() else np.ones(len(frame), bool)
    values: dict[str, Numbers] = {}
    known: dict[bytes, tuple[str, NDArray[np.bool_]]] = {}
    constant: dict[str, str] = {}
    notes = []
    for column in columns:
        name = _NAMES.get(column) or column.removeprefix(PREFIX).replace("_", " ")
        numbers, texts = _typed(frame[column])
        there = np.isfinite(numbers) if texts is None else texts.notna().to_numpy()
        if not there.any():
            continue
        if column in _OF_JPEG and (filled := is_other & ~there).any():
            there = there | filled
            if texts is None:
                numbers[filled] = NEVER_QUANTISED
                notes.append(f"{name}: {NEVER_QUANTISED:g} on files of other formats, which are never quantised like JPEG.")
            else:
                texts = texts.mask(filled, "")
        found = {name: np.where(there, numbers, np.nan)} if texts is None else _indicators(name, texts, there, fakes)
        for each, row in found.items():
            seen = row[there]
            if (seen == seen[0]).all():
                constant[name] = f"{seen[0]:g}" if texts is None else str(texts[there].iloc[0])
            else:
                values[each if each not in values else column] = row
        if not there.all():
            known.setdefault(there.tobytes(), (f"{name} is known", there))
    values |= {name: there.astype(np.float64) for name, there in known.values()}
    kept, doubled = _distinct(values)
    notes += [f"{name}: orders these images as {other} does, and is left out." for name, other in doubled.items()]
    matrix = np.stack([values[name] for name in kept]) if kept else np.empty((0, len(frame)))
    return TrivialFacts(tuple(kept), matrix, constant, tuple(notes))


def _distinct(values: Mapping[str, Numbers]) -> tuple[list[str], dict[str, str]]:
    """Names of facts that order the images each in its own way, and the others with the earlier one that does the same, or the reverse."""
    orders: dict[bytes, str] = {}
    doubled = {}
    for name, row in values.items():
        known = np.isfinite(row)
        order = np.full(row.size, -1, dtype=np.int64)
        order[known] = np.unique(row[known], return_inverse=True)[1]
        reverse = np.where(known, order.max() - order, -1)
        same = orders.setdefault(min(order.tobytes(), reverse.tobytes()), name)
        if same != name:
            doubled[name] = same
    return list(orders.values()), doubled


def _typed(column: "pd.Series[Any]") -> tuple[Numbers, "pd.Series[Any] | None"]:
    """The column as numbers, or (a second one) as texts where it holds any."""
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind in ("floating", "integer", "mixed-integer-float", "boolean", "decimal", "empty"):
        return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).copy(), None
    return np.full(len(column), np.nan), column.astype(object).where(column.notna(), None).map(str, na_action="ignore")


def _indicators(name: str, texts: "pd.Series[Any]", there: NDArray[np.bool_], fakes: NDArray[np.bool_]) -> dict[str, Numbers]:
    """0 and 1 for each value of a text; an empty text is none of them."""
    counts = texts[there].value_counts()
    order = sorted(counts.index, key=lambda text: (-int(counts[text]), text))
    if len(order) == 2:

        def excess(text: str) -> float:
            holds = (texts == text).to_numpy()
            shares = [holds[there & part].mean() if (there & part).any() else 0.0 for part in (fakes, ~fakes)]
            return float(shares[0] - shares[1])

        order = [text for text in order if text] if "" in order else [max(order, key=excess)]
    kept = [text for text in order if text][:MOST_CATEGORIES]
    made = {f"{name} is {text}": (texts == text).to_numpy() for text in kept or order}
    if len(order) > len(kept) + 1:
        made[f"{name} is none of {len(kept)}"] = ~texts.isin(kept).to_numpy()
    return {each: np.where(there, row, np.nan) for each, row in made.items()}
