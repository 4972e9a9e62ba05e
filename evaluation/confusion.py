"""Confusion matrices: which class a detector takes for which, as counts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.tables import write_csv

REAL, UNKNOWN = "real", "unknown"
CONFUSIONS = {
    "families": ("true family", "predicted family"),
    "generators": ("true generator", "predicted family"),
    "predicted_generators": ("true generator", "predicted generator"),
    "answers": ("source of the images", "called"),
}
"""The confusion matrices by name, with what their rows and columns are."""
COLUMNS = ("true", "known", "trained_on", "predicted", "count", "share")

Matrix = Mapping[str, Any]
"""A confusion matrix as it stands in `metrics.json`: `true` (names of the rows), `predicted` (of the columns), `counts` (a list a row), and
for each row `right` (the column of the right answer, None where there is none), `known` (whether its class is one of the detector's) and
`trained_on` (whether it was trained on just these images' generator; None where that is not known or says nothing)."""


def confusion(true: Sequence[str], predicted: Sequence[str | None], rows: Mapping[str, str], classes: Sequence[str]) -> dict[str, Any]:
    """Count answers.

    Args:
        true: `[N]`, names of rows.
        predicted: `[N]`, the answers; None where there was none, which is not counted.
        rows: All rows in order, each with its class: the right answer is that, or `unknown` where it is none of `classes`.
        classes: What the detector can answer besides `unknown`, in order. They all have a column, `unknown` where it occurs.

    Returns:
        A `Matrix`; `trained_on` is as `known`.
    """
    extra = {name for name in predicted if name is not None} - set(classes)
    columns = [*classes, *sorted(extra - {UNKNOWN}), *([UNKNOWN] if UNKNOWN in extra else [])]
    row_of, column_of = ({name: n for n, name in enumerate(names)} for names in (rows, columns))
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    for name, answer in zip(true, predicted, strict=True):
        if answer is not None:
            counts[row_of[name], column_of[answer]] += 1
    known = [name in classes for name in rows.values()]
    return {
        "true": list(rows),
        "predicted": columns,
        "known": known,
        "trained_on": known,
        "right": [column_of.get(name if name in classes else UNKNOWN) for name in rows.values()],
        "counts": counts.tolist(),
    }


def answers_at(frame: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """What a detector of real and fake calls the images of each source at a threshold.

    Args:
        frame: Rows of one detector under one perturbation; those without a score are not counted.
        threshold: Scores greater than this are called fake.

    Returns:
        A `Matrix` with the columns `real` and `fake`, and a row for each source (see `source_names`): those of real images first. Besides,
        `sources`: of each row `dataset/generator`, as the table has it.
    """
    scored = frame[frame["score"].notna()]
    names = source_names(scored)
    kinds = {name: label for label in (0, 1) for name in sorted(set(names[scored["label"] == label]))}
    called = np.where(scored["score"] > threshold, "fake", REAL).tolist()
    rows = {name: "fake" if label else REAL for name, label in kinds.items()}
    told = dict(zip(names, _sources(scored), strict=True))
    found = confusion(names.tolist(), called, rows, (REAL, "fake"))
    return found | {"trained_on": [None] * len(rows), "sources": [told[name] for name in rows]}


def source_names(frame: pd.DataFrame) -> "pd.Series[str]":
    """What the source of each image is called: `dataset/generator`, and ` (real)` after it where fakes have the name of real images.

    Args:
        frame: A predictions table.
    """
    names, real = _sources(frame), frame["label"] == 0
    taken, shown = set(names), {}
    for name in sorted(set(names[real]) & set(names[~real])):
        shown[name] = f"{name} (real)"
        while shown[name] in taken:  # a source may be called just that
            shown[name] += " (real)"
        taken.add(shown[name])
    return names.mask(real & names.isin(list(shown)), names.map(shown))


def _sources(frame: pd.DataFrame) -> "pd.Series[str]":
    return frame["dataset"].astype(str) + "/" + frame["generator"].astype(str)


def long_rows(matrix: Matrix) -> list[dict[str, Any]]:
    """A row with `COLUMNS` for each cell of a matrix; `share` is that of its row's images, null where there are none."""
    found = []
    for true, known, trained_on, counts in zip(matrix["true"], matrix["known"], matrix["trained_on"], matrix["counts"], strict=True):
        total = sum(counts)
        for predicted, count in zip(matrix["predicted"], counts, strict=True):
            share = count / total if total else None
            values = (true, known, trained_on, predicted, count, share)
            found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def write_confusions(folder: Path, matrices: Mapping[str, Matrix]) -> list[Path]:
    """Write `confusion_<name>.csv` for each matrix, a line a cell (see `long_rows`).

    Args:
        folder: Usually `runs/<name>/tables`.
        matrices: By the names of `CONFUSIONS`.

    Returns:
        The files.
    """
    return [write_csv(folder / f"confusion_{name}.csv", long_rows(matrix), COLUMNS) for name, matrix in matrices.items()]
