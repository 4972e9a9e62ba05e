"""Detectors × perturbations in one table: for a terminal, as CSV, and with intervals in the columns of `targets/*.json`."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.files import write_atomically
from evaluation.rows import one_line, plain
from evaluation.statistics import CROSSED, KEPT

MEANS = ("macro", "size_weighted")
COLUMNS = ("detector", "train", "dataset", "generator", "perturbation", "metric", "value", "low", "high", "n_real", "n_fake")
WIDTH = 120
_LONGEST = 28  # characters of a name in a terminal's table
MISSING: Mapping[str, Any] = {"value": None, "low": None, "high": None, "reason": "not measured"}

Documents = Mapping[str, Mapping[str, Any]]


def documents_of(metrics: Mapping[str, Any], name: str) -> Documents:
    """The parts of `metrics.json` by detector.

    Args:
        metrics: What `metrics.json` holds.
        name: The detector's name, where there is one only and `metrics` does not say it.
    """
    return metrics.get("detectors") or {name: metrics}


def perturbations_of(documents: Documents) -> list[str]:
    """All perturbations, in the order in which they were measured."""
    return list(dict.fromkeys(name for document in documents.values() for name in document["by_perturbation"]))


def cells(documents: Documents, metric: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    """`{"value", "low", "high"}`, with `"reason"` where one is null, by detector and perturbation, all generators together.

    Args:
        documents: Parts of `metrics.json` by detector.
        metric: A name of `statistics.KEPT`.
    """
    names = perturbations_of(documents)
    return {
        detector: {name: cell_of(document["by_perturbation"].get(name), KEPT[metric]) or MISSING for name in names}
        for detector, document in documents.items()
    }


def cell_of(record: Any, place: Sequence[str]) -> Mapping[str, Any] | None:
    """The cell at a place within a record M; None where it has none."""
    for step in place:
        if not isinstance(record, Mapping):
            return None
        record = record.get(step)
    return record if isinstance(record, Mapping) and "value" in record else None


def datasets_of(documents: Documents) -> list[str]:
    """All data sets that have fakes, in the order in which they were measured."""
    found = (part.get("by_dataset_and_perturbation", {}) for part in documents.values())
    return list(dict.fromkeys(name for by_dataset in found for records in by_dataset.values() for name in records))


def cells_of_dataset(documents: Documents, metric: str, dataset: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    """As `cells`, of the generators of one data set."""
    names = perturbations_of(documents)
    found = {}
    for detector, document in documents.items():
        known = document.get("by_dataset_and_perturbation", {})
        found[detector] = {name: cell_of(known.get(name, {}).get(dataset), KEPT[metric]) or MISSING for name in names}
    return found


def text(documents: Documents, width: int = WIDTH) -> str:
    """AUROC and TPR at FPR 0.1, a line a detector and a column a perturbation; in several blocks where they are too wide.

    All images together come first; where there are several data sets, each follows on its own.

    Args:
        documents: Parts of `metrics.json` by detector.
        width: Columns of the terminal.
    """
    notes: dict[str, int] = {}
    lines: list[str] = []
    datasets = datasets_of(documents)
    # A data set's own name may be anything.
    parts: list[tuple[str, list[dict[str, dict[str, Mapping[str, Any]]]]]] = [
        (f"all generators{' and data sets' if len(datasets) > 1 else ''} together", [cells(documents, metric) for metric in CROSSED])
    ]
    if len(datasets) > 1:
        parts += [(one_line(name), [cells_of_dataset(documents, metric, name) for metric in CROSSED]) for name in datasets]
    names = perturbations_of(documents)
    for title, grids in parts:
        shown = [(detector, {name: _pair([grid[detector][name] for grid in grids], notes) for name in names}) for detector in documents]
        lines += [f"AUROC and TPR at FPR 0.1, {title}:", *layout("detector", names, shown, width)]
    return "\n".join([*lines, *told(notes)])


def layout(first: str, columns: Sequence[str], rows: Sequence[tuple[str, Mapping[str, str]]], width: int = WIDTH) -> list[str]:
    """Lines of a grid of texts; in several blocks where it is too wide.

    Args:
        first: Head of the first column.
        columns: Names of the others.
        rows: Each with its name, and its texts by column.
        width: Columns of the terminal.
    """
    heads = {name: short(name) for name in columns}
    widths = {name: max(len(head), *(len(row[name]) for _, row in rows)) for name, head in heads.items()}
    least = max(len(first), *(len(short(name)) for name, _ in rows))
    table = [(first, heads), *((short(name), row) for name, row in rows)]
    lines = []
    for block in _blocks(widths, width - least):
        lines += ["".join([f"{name:<{least}}", *(f"  {row[each]:>{widths[each]}}" for each in block)]).rstrip() for name, row in table]
    return lines


def told(notes: Mapping[str, int]) -> list[str]:
    """A line for each note, by its number."""
    return [f"({number}) {reason}" for reason, number in notes.items()]


def mark(cell: Mapping[str, Any], notes: dict[str, int]) -> str:
    """Nothing where a cell has a value, else the number of the note that says why it has none."""
    if cell["value"] is not None:
        return ""
    return f" ({notes.setdefault(one_line(str(cell.get('reason') or 'no reason is given')), len(notes) + 1)})"


def short(name: str, most: int = _LONGEST) -> str:
    """A name in one line that a terminal is not upset by, cut where it is too long."""
    safe = one_line(name)
    return safe if len(safe) <= most else f"{safe[: most - 1]}…"


def _pair(pair: Sequence[Mapping[str, Any]], notes: dict[str, int]) -> str:
    """Both numbers of a cell; where one is missing a dash, and the number of the note that says why."""
    values = ["-" if cell["value"] is None else f"{cell['value']:.3f}" for cell in pair]
    marks = "".join(dict.fromkeys(mark(cell, notes) for cell in pair))
    return (values[0] if values == ["-", "-"] else " ".join(values)) + marks


def _blocks(widths: Mapping[str, int], room: int) -> list[list[str]]:
    """Columns that fit beside each other, at least one at a time."""
    blocks: list[list[str]] = [[]]
    used = 0
    for name, width in widths.items():
        if blocks[-1] and used + width + 2 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += width + 2
    return blocks


def long_rows(documents: Documents) -> list[dict[str, Any]]:
    """A row with the columns `COLUMNS` for each detector, data set, generator, perturbation and metric.

    Each generator is measured against the real images of its own data set, or those that `reals_from` names. `train` is null: no
    checkpoint says what its detector was trained on in words. Accuracies are at the detector's stored threshold.
    """
    rows = []
    for detector, document in documents.items():
        for perturbation, records in document["by_generator_and_perturbation"].items():
            for record in records.values():
                where = {"detector": detector, "dataset": record["dataset"], "generator": record["generator"], "perturbation": perturbation}
                counts = {"train": None, "n_real": record["n_real"], "n_fake": record["n_fake"]}
                for metric, place in KEPT.items():
                    cell = cell_of(record, place) or MISSING
                    rows.append({**where, **counts, "metric": metric, **{name: cell[name] for name in ("value", "low", "high")}})
    return rows


def write_tables(folder: Path, documents: Documents) -> list[Path]:
    """Write the tables of a run.

    `auroc.csv` and `tpr_at_fpr_0.1.csv`: a line a detector, a column a perturbation. Where there are several data sets,
    `auroc_by_dataset.csv` and `tpr_at_fpr_0.1_by_dataset.csv`: the same with a line a detector and data set. `by_generator.csv`: AUROC of
    the images as they are, a line a detector, a column a generator, and the means over generators (see `statistics.AVERAGED`) last.
    `table.csv`: see `long_rows`.

    Args:
        folder: Usually `runs/<name>/tables`.
        documents: Parts of `metrics.json` by detector.

    Returns:
        The files.
    """
    written = []
    names, datasets = perturbations_of(documents), datasets_of(documents)
    for metric in CROSSED:
        wide = [{"detector": name} | _values(row) for name, row in cells(documents, metric).items()]
        written.append(write_csv(folder / f"{metric}.csv", wide, ["detector", *names]))
        if len(datasets) > 1:
            by_dataset = {dataset: cells_of_dataset(documents, metric, dataset) for dataset in datasets}
            rows = [{"detector": name, "dataset": each} | _values(part[name]) for name in documents for each, part in by_dataset.items()]
            written.append(write_csv(folder / f"{metric}_by_dataset.csv", rows, ["detector", "dataset", *names]))
    generators = list(dict.fromkeys(name for part in documents.values() for name in part.get("by_generator", {})))
    if generators:
        by_generator = [{"detector": name} | _values(_by_generator(part, generators)) for name, part in documents.items()]
        written.append(write_csv(folder / "by_generator.csv", by_generator, ["detector", *generators, *MEANS]))
    return [*written, write_csv(folder / "table.csv", long_rows(documents), COLUMNS)]


def _values(row: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {name: cell["value"] for name, cell in row.items()}


def _by_generator(document: Mapping[str, Any], generators: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """AUROC of each generator of the images as they are, and its means."""
    found = {name: cell_of(document["by_generator"].get(name), ("auroc",)) or MISSING for name in generators}
    means = document.get("means_over_generators", {}).get("all")
    return found | {name: cell_of(means, (name, "auroc")) or MISSING for name in MEANS}


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Path:
    """Write rows as CSV, whole or not at all: numbers exactly, nulls empty, text in one line."""
    buffer = io.StringIO()
    made = [plain(row, columns) for row in rows]
    # Counts beside nulls would become floats in a column of pandas' own choice.
    frame = pd.DataFrame(made, columns=list(columns), dtype=object)
    frame.to_csv(buffer, index=False, header=[one_line(name) for name in columns], lineterminator="\n")
    write_atomically(path, buffer.getvalue().encode())
    return path
