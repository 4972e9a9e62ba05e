"""Train condition × test condition: how a head that was trained under one condition does under others.

A detector's name holds its head and what it was trained under: `svm@jpeg_40` is the head `svm` trained under `jpeg_40`. The conditions
of a head are the rows of its matrices; what it was tested under are the columns: perturbations, or generators.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evaluation.rows import one_line
from evaluation.statistics import CLEAN, KEPT
from evaluation.tables import COLUMNS as LONG
from evaluation.tables import MISSING, WIDTH, Documents, cell_of, layout, long_rows, mark, perturbations_of, told, write_csv

COLUMNS = (LONG[0], "train_condition", *LONG[1:])
PLAIN = "(none named)"  # the condition of a detector that is called by its head alone
SHOWN = ("auroc", "accuracy")  # in a terminal
TITLES = {
    "auroc": "AUROC",
    "tpr_at_fpr_0.1": "TPR at FPR 0.1",
    "accuracy": "accuracy at the detector's threshold",
    "balanced_accuracy": "balanced accuracy at the detector's threshold",
    "tpr_at_threshold": "TPR at the detector's threshold",
    "fpr_at_threshold": "FPR at the detector's threshold",
}

Cell = Mapping[str, Any]
TrainedOn = Mapping[str, Mapping[str, Any]]
"""By detector what it was trained on; of that `generators`, the `dataset/generator` of its fakes, or None where they are not known."""
Axis = Literal["perturbation", "generator"]

_SEED = re.compile(r"(.*?)((?:@seed_\d+)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One number of a head by what it was trained under and what it was tested under.

    Attributes:
        head: Name of the head.
        metric: A name of `statistics.KEPT`.
        axis: What the columns are: perturbations (all generators together), or generators (each against its reals).
        perturbation: What all images went through where the columns are generators; None where the columns say it.
        rows: Training conditions.
        columns: Test conditions; those that are also training conditions come first, in the order of the rows.
        cells: `{"value", "low", "high"}`, with `"reason"` where one is null, by row and column.
        seen: Rows and columns of which the column is among what the row was trained on.
    """

    head: str
    metric: str
    axis: Axis
    perturbation: str | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[str, Mapping[str, Cell]]
    seen: frozenset[tuple[str, str]]

    @property
    def title(self) -> str:
        """Which head and number, and of which images."""
        under = "" if self.perturbation in (None, CLEAN) else f", under {self.perturbation}"
        return f"{self.head}: {TITLES[self.metric]}{under}"

    @property
    def name(self) -> str:
        """Its name as that of a file."""
        return re.sub(r"[^\w@+.-]+", "_", f"{self.head}-by_{self.axis}-{self.metric}")


def condition_of(detector: str) -> tuple[str, str]:
    """The head of a detector and what it was trained under, by its name: empty where it names nothing.

    The seed is a part of the head: `svm@jpeg_40@seed_1` is `svm@seed_1` trained under `jpeg_40`.
    """
    plain, seed = _SEED.fullmatch(detector).groups()  # type: ignore[union-attr] # every name matches
    head, _, condition = plain.partition("@")
    return head + seed, condition


def heads_of(documents: Documents) -> dict[str, dict[str, str]]:
    """For each head that was trained under a named condition its detectors' names by condition, in their order."""
    heads: dict[str, dict[str, str]] = {}
    for name in documents:
        head, condition = condition_of(name)
        heads.setdefault(head, {})[condition or PLAIN] = name
    return {head: conditions for head, conditions in heads.items() if set(conditions) != {PLAIN}}


def matrices(documents: Documents, trained: TrainedOn | None = None, metrics: Sequence[str] = tuple(KEPT)) -> list[Matrix]:
    """All matrices of a study: of each head by perturbation and by generator, where there are several of them; none of other studies.

    By generator it is of the unperturbed images, or those under the first perturbation where there are none.

    Args:
        documents: Parts of `metrics.json` by detector.
        trained: What each detector was trained on, where that is known.
        metrics: Names of `statistics.KEPT`.
    """
    names = perturbations_of(documents)
    found = []
    for head, conditions in heads_of(documents).items():
        parts = {condition: documents[name] for condition, name in conditions.items()}
        under = CLEAN if CLEAN in names else names[0]
        generators = {c: part["by_generator_and_perturbation"].get(under, {}) for c, part in parts.items()}
        several = len({name for records in generators.values() for name in records}) > 1
        for metric in metrics:
            if len(names) > 1 or not several:
                records = {condition: part["by_perturbation"] for condition, part in parts.items()}
                found.append(_matrix(head, metric, "perturbation", None, records, conditions, trained or {}))
            if several:
                found.append(_matrix(head, metric, "generator", under, generators, conditions, trained or {}))
    return found


def _matrix(
    head: str,
    metric: str,
    axis: Axis,
    perturbation: str | None,
    records: Mapping[str, Mapping[str, Any]],
    detectors: Mapping[str, str],
    trained: TrainedOn,
) -> Matrix:
    """A matrix from records M by training condition and test condition."""
    tested = list(dict.fromkeys(name for row in records.values() for name in row))
    # The diagonal of what was trained and tested on is where a reader looks first.
    columns = (*(name for name in records if name in tested), *(name for name in tested if name not in records))
    cells = {row: {name: cell_of(part.get(name), KEPT[metric]) or MISSING for name in columns} for row, part in records.items()}
    known = {row: (trained.get(name) or {}).get("generators") if axis == "generator" else None for row, name in detectors.items()}
    seen = {(row, name) for row in records for name in columns if name in ([row] if (found := known[row]) is None else found)}
    return Matrix(head, metric, axis, perturbation, tuple(records), columns, cells, frozenset(seen))


def text(documents: Documents, trained: TrainedOn | None = None, width: int = WIDTH) -> str:
    """AUROC and accuracy of each head, a line a training condition and a column a test condition; empty where there are no conditions.

    Args:
        documents: Parts of `metrics.json` by detector.
        trained: What each detector was trained on, where that is known.
        width: Columns of the terminal.
    """
    lines: list[str] = []
    notes: dict[str, int] = {}
    for matrix in matrices(documents, trained, SHOWN):
        rows = {name: [(row, _row(matrix, row, notes, name)) for row in matrix.rows] for name in ("long", "short")}
        long = layout("trained under", matrix.columns, rows["long"], width)
        wraps = len(long) > len(matrix.rows) + 1  # then intervals are left to the tables and figures
        marks = " *: trained on it." if matrix.seen else ""
        lines += [f"{one_line(matrix.title)}; a column for each {matrix.axis} tested.{marks}"]
        lines += layout("trained under", matrix.columns, rows["short"], width) if wraps else long
    return "\n".join([*lines, *told(notes)])


def _row(matrix: Matrix, row: str, notes: dict[str, int], form: str) -> dict[str, str]:
    """The cells of a row as texts, with their intervals in the `long` form."""
    shown = {}
    for name in matrix.columns:
        cell = matrix.cells[row][name]
        value = f"-{mark(cell, notes)}" if cell["value"] is None else f"{cell['value']:.3f}"
        star = "*" if (row, name) in matrix.seen else ""
        interval = "" if form == "short" or cell["low"] is None else f" [{cell['low']:.3f}, {cell['high']:.3f}]"
        shown[name] = f"{value}{star}{interval}"
    return shown


def flat(documents: Documents) -> list[dict[str, Any]]:
    """A row with the columns `COLUMNS` for each detector, perturbation and metric, of each generator and of whole data sets.

    `generator` is null where all generators of the data set are measured together, `dataset` too where it is all data sets;
    `train_condition` is null where a detector's name holds none. Accuracies are at the detector's stored threshold.
    """
    rows = [row | {"train_condition": condition_of(row["detector"])[1] or None} for row in long_rows(documents)]
    for detector, document in documents.items():
        for perturbation, record in document["by_perturbation"].items():
            by_dataset = document.get("by_dataset_and_perturbation", {}).get(perturbation, {})
            for dataset, part in {None: record, **by_dataset}.items():
                where = {"detector": detector, "train_condition": condition_of(detector)[1] or None, "dataset": dataset, "generator": None}
                where |= {"perturbation": perturbation, "n_real": part["n_real"], "n_fake": part["n_fake"]}
                for metric, place in KEPT.items():
                    cell = cell_of(part, place) or MISSING
                    rows.append({**where, "metric": metric, **{name: cell[name] for name in ("value", "low", "high")}})
    return rows


def write_matrices(folder: Path, documents: Documents, trained: TrainedOn | None = None) -> list[Path]:
    """Write `matrices.csv` (see `flat`) and, in `matrices/`, the values of each matrix: training conditions × test conditions.

    Args:
        folder: Usually `runs/<name>/tables`.
        documents: Parts of `metrics.json` by detector.
        trained: What each detector was trained on, where that is known.

    Returns:
        The files; none where no detector names a training condition.
    """
    found = matrices(documents, trained)
    if not found:
        return []
    written = [write_csv(folder / "matrices.csv", flat(documents), COLUMNS)]
    for name, matrix in file_names(found).items():
        rows = [{"train_condition": row, **{each: matrix.cells[row][each]["value"] for each in matrix.columns}} for row in matrix.rows]
        written.append(write_csv(folder / "matrices" / f"{name}.csv", rows, ["train_condition", *matrix.columns]))
    return written


def file_names(found: Sequence[Matrix]) -> dict[str, Matrix]:
    """The matrices by the names of their files, no two of which are equal."""
    named: dict[str, Matrix] = {}
    for matrix in found:
        name, number = matrix.name, 1
        while name in named:
            number += 1
            name = f"{matrix.name}-{number}"
        named[name] = matrix
    return named
