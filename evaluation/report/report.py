"""`report.html`: what was measured, on what, how sure one can be, and the mistakes, in one file without a network.

This module makes plain values and pictures from the table and the metrics; `report.html.j2` lays them out.
"""

import io
import warnings as python_warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from evaluation import figures
from evaluation.comparison import Targets
from evaluation.comparison.compared import Compared, flat, numbered, verdict
from evaluation.embedding_map import EmbeddingMap
from evaluation.files import write_atomically
from evaluation.report.audit import audit_part
from evaluation.report.families import family_part, map_part
from evaluation.report.parts import Chart, Part, data_uri, drawn
from evaluation.report.verdict import concerns, findings, percent
from evaluation.statistics import CLEAN, CROSSED, against_reals, by_perturbation, clean_rows
from evaluation.tables import cell_of, documents_of

Load = Callable[[str], Mapping[str, NDArray[np.uint8]]]

MISTAKES = 6  # of each kind
THUMBNAIL = 256  # longest side of an embedded picture, in pixels
_WRONG = {1: "missed", 0: "false alarm"}
_LOSSLESS = 128  # up to this side a picture is embedded as PNG
_COLUMNS = {
    "AUROC": ("auroc",),
    "average precision": ("average_precision",),
    "balanced accuracy": ("balanced_accuracy",),
    "accuracy": ("accuracy",),
    "TPR at FPR 0.1": ("tpr_at_fpr", "0.1"),
    "TPR at FPR 0.05": ("tpr_at_fpr", "0.05"),
    "TPR at FPR 0.01": ("tpr_at_fpr", "0.01"),
    "TPR at FPR 0.001": ("tpr_at_fpr", "0.001"),
}
_AT_THRESHOLD = {
    "AUROC": ("auroc",),
    "TPR at FPR 0.1": ("tpr_at_fpr", "0.1"),
    "TPR at threshold": ("tpr_at_threshold",),
    "FPR at threshold": ("fpr_at_threshold",),
}
_COMPARED = ("AUROC", "TPR at FPR 0.1")
_SOURCES = {"FPR at threshold": ("fpr_at_threshold",)}


def write_report(
    run_dir: Path,
    frame: pd.DataFrame,
    metrics: Mapping[str, Any],
    load: Load,
    title: str = "Detection report",
    facts: Mapping[str, object] | None = None,
    warnings: Sequence[str] = (),
    published: tuple[Targets, Sequence[Compared]] | None = None,
    *,
    maps: Mapping[str, EmbeddingMap | str] | None = None,
    parts: Sequence[Part] = (),
) -> Path:
    """Write `report.html`.

    Args:
        run_dir: Where it is written.
        frame: The rows that `metrics` was made of.
        metrics: What `statistics.metrics_document` returned for them.
        load: From a key to the pictures that the detector saw, each uint8 `[H, W, 3]`, by name (`image`, `noise_map`,
            …). Asked only for the worst mistakes; where it fails the report says so.
        title: Heading, usually the run's name.
        facts: What was run, by name: detector, checkpoint, configuration, versions.
        warnings: Further sentences that a reader must see first.
        published: Published numbers, each beside the measured one (see `compared.compare`).
        maps: Maps of the embeddings by detector, or why there is none.
        parts: Further parts about the run as a whole; they stand before those of single detectors.

    Returns:
        The file.
    """
    documents = documents_of(metrics, str(frame["detector"].iloc[0]))
    sections = [
        _section(name, frame[frame["detector"] == name], document, load) | {"parts": _parts(document, (maps or {}).get(name))}
        for name, document in documents.items()
    ]
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    # Names of generators, files and runs come from others' data: everything is escaped.
    environment = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("report.html.j2").render(
        title=title,
        facts=dict(facts or {}),
        warnings=[*warnings, *_shortcuts_of_all(sections)],
        sections=sections,
        one=len(sections) == 1,
        comparisons={name: _comparison(documents, place) for name, place in zip(_COMPARED, CROSSED.values(), strict=True)},
        detectors=_chart_of_detectors(frame, list(documents)),
        published=None if published is None else _published(*published),
        parts=parts,
    )
    path = run_dir / "report.html"
    write_atomically(path, html.encode())
    return path


def _shortcuts_of_all(sections: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be seen first of several detectors, whose own concerns stand further down: flagged shortcuts, a sentence each."""
    if len(sections) == 1:
        return []
    found = [f"{each['name']}: {sentence}" for each in sections for sentence in each["concerns"] if sentence.startswith("Shortcut")]
    more = [f"Shortcuts are flagged for {len(found) - 3} more; see each detector's part."] if len(found) > 3 else []
    return [*found[:3], *more]


def _section(name: str, frame: pd.DataFrame, document: Mapping[str, Any], load: Load) -> dict[str, Any]:
    """All that the template shows of one detector."""
    clean = clean_rows(frame)
    threshold = document["threshold"]["value"]
    by_generator = against_reals(clean, document["reals_from"])
    tables = {"all": clean, **by_generator} if len(by_generator) > 1 else by_generator
    perturbed = document["by_perturbation"] if len(document["by_perturbation"]) > 1 else {}
    return {
        "name": name,
        "findings": findings(document, clean),
        "concerns": concerns(document),
        "generators": _table({"all": document["overall"], **document["by_generator"]}, _COLUMNS),
        "perturbations": _table(perturbed, _AT_THRESHOLD),
        "sources": _table(document["by_source_of_reals"], _SOURCES),
        "charts": _charts(tables, threshold),
        "charts_by_perturbation": _charts_by_perturbation(by_perturbation(frame), threshold),
        "mistakes": _mistakes(clean, threshold, load),
        "bootstrap": document["bootstrap"],
    }


def _parts(document: Mapping[str, Any], found: EmbeddingMap | str | None) -> list[Part]:
    """What there is besides of one detector."""
    parts = [audit_part(each) for each in document.get("shortcuts", {}).values()]
    parts += [family_part(document["families"])] if "families" in document else []
    return parts if found is None else [*parts, map_part(found)]


def _comparison(documents: Mapping[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """One number of all detectors side by side: over all images, by generator, and by perturbation where there are several."""

    def parts(document: Mapping[str, Any]) -> dict[str, Any]:
        perturbed = document["by_perturbation"] if len(document["by_perturbation"]) > 1 else {}
        return {
            "all": document["overall"],
            **document["by_generator"],
            **{f"all, {name}": part for name, part in perturbed.items() if name != CLEAN},
        }

    rows: dict[str, dict[str, Any]] = {}
    for name, document in documents.items():
        for where, part in parts(document).items():
            rows.setdefault(where, dict(part)).update({f"number of {name}": cell_of(part, place)})
    whole = {where: row for where, row in rows.items() if all(f"number of {name}" in row for name in documents)}
    return _table(whole, {name: (f"number of {name}",) for name in documents})


def _published(targets: Targets, rows: Sequence[Compared]) -> dict[str, Any]:
    """Published numbers beside measured ones, and why others stand alone."""
    beside = [row for row in rows if row.measured is not None]
    notes, reasons = numbered(beside)
    left_out: dict[str, int] = {}
    for row in rows:
        if row.measured is None:
            left_out[row.why] = left_out.get(row.why, 0) + 1
    images = list(dict.fromkeys(row.target.images for row in rows))
    return {
        "targets": targets,
        "images": images[0],
        "several": len(images) > 1,
        "verdict": verdict(rows),
        "rows": [told | {"note": note} for told, note in zip(flat(beside), notes, strict=True)],
        "notes": reasons,
        "left_out": left_out,
    }


def _table(records: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Heads, rows of cells, and the reasons for what is missing as numbered notes."""
    notes: dict[str, int] = {}
    rows = []
    for name, record in records.items():
        cells = []
        for place in columns.values():
            cell = record
            for step in place:
                cell = cell[step]
            note = notes.setdefault(cell["reason"], len(notes) + 1) if cell.get("reason") else None
            cells.append({"value": cell["value"], "low": cell["low"], "high": cell["high"], "note": note})
        rows.append({"name": name, "cells": cells, **{key: record[key] for key in ("n_fake", "n_real", "n_groups_fake", "n_groups_real")}})
    return {"heads": list(columns), "rows": rows, "notes": list(notes), "fakes": any(row["n_fake"] for row in rows)}


def _charts(tables: Mapping[str, pd.DataFrame], threshold: float | None) -> dict[str, list[Chart]]:
    """ROC curves and a histogram for each table, in the colours of a light and of a dark page."""
    names, edges = ", ".join(tables), figures.bin_edges(tables)
    rocs = [
        drawn(figures.roc_figure(tables, log, figures.ON_LIGHT), f"ROC curves on a {scale} axis: {names}")
        for log, scale in ((False, "linear"), (True, "logarithmic"))
    ]
    histograms = [
        drawn(figures.histogram_figure({name: table}, threshold, figures.ON_LIGHT, edges), f"Histogram of scores: {name}", name)
        for name, table in tables.items()
    ]
    return {"roc": rocs, "histograms": histograms}


def _charts_by_perturbation(tables: Mapping[str, pd.DataFrame], threshold: float | None) -> list[Chart]:
    """ROC curves and histograms of all perturbations; none where there is one only."""
    if len(tables) < 2:
        return []
    names = ", ".join(tables)
    return [
        drawn(figures.roc_figure(tables, theme=figures.ON_LIGHT), f"ROC curves by perturbation: {names}"),
        drawn(figures.histogram_figure(tables, threshold, figures.ON_LIGHT), f"Histograms of scores by perturbation: {names}"),
    ]


def _chart_of_detectors(frame: pd.DataFrame, names: Sequence[str]) -> Chart | None:
    """ROC curves of all detectors on the images as they are; None where there is one only."""
    if len(names) < 2:
        return None
    tables = {name: clean_rows(frame[frame["detector"] == name]) for name in names}
    return drawn(figures.roc_figure(tables, theme=figures.ON_LIGHT), f"ROC curves of the detectors: {', '.join(names)}")


def worst_mistakes(frame: pd.DataFrame, threshold: float | None, label: int, count: int = MISTAKES) -> pd.DataFrame:
    """The fakes that look most real to a detector, or the reals that look most fake, the worst first.

    Args:
        frame: Rows of one detector.
        threshold: Scores greater than this are called fake; None where there is none.
        label: 1 for fakes, 0 for reals.
        count: How many rows at most.

    Returns:
        Rows of `frame`, and in `verdict` whether each is `missed`, a `false alarm` or `right`; None without a threshold.
    """
    rows = _ranked(frame, label).head(count)
    wrong = _is_wrong(rows, threshold)
    named = [None if threshold is None else _WRONG[label] if each else "right" for each in wrong]
    return rows.assign(verdict=pd.Series(named, index=rows.index, dtype=object))


def _ranked(frame: pd.DataFrame, label: int) -> pd.DataFrame:
    """The scored images of a class, each once, from the one that looks most like the other class."""
    scored = frame[frame["score"].notna()].drop_duplicates("key")
    return scored[scored["label"] == label].sort_values(["score", "key"], ascending=[label == 1, True])


def _is_wrong(rows: pd.DataFrame, threshold: float | None) -> "pd.Series[bool]":
    return (rows["score"] > (np.nan if threshold is None else threshold)) != rows["label"].astype(bool)


def _mistakes(frame: pd.DataFrame, threshold: float | None, load: Load) -> list[dict[str, Any]]:
    """The worst mistakes of both kinds with their pictures, and how many there are."""
    shown = []
    for label, heading in ((1, "Fakes that look most real to it"), (0, "Real images that look most fake to it")):
        rows = _ranked(frame, label)
        total = None if threshold is None else int(_is_wrong(rows, threshold).sum())
        share = None if total is None or rows.empty else f"{total:,} of {len(rows):,} ({percent(total / len(rows))})"
        cards = [
            _card({str(name): value for name, value in row.items()}, load)
            for row in worst_mistakes(frame, threshold, label).to_dict("records")
        ]
        shown.append({"heading": heading, "wrong": _WRONG[label], "share": share, "cards": cards})
    return shown


def _card(row: Mapping[str, Any], load: Load) -> dict[str, Any]:
    """One image with its pictures."""
    source = f"{row['dataset']}/{row['generator']}"
    kind = "fake" if row["label"] else "real"
    problem, views = None, []
    try:
        for name, pixels in load(row["key"]).items():
            shown = name.replace("_", " ")
            alt = f"{shown} of {kind} image {row['key'][:12]} from {source}, score {row['score']:.4g}"
            views.append({"name": shown, "alt": alt, "small": max(pixels.shape[:2]) <= _LOSSLESS, "uri": _picture(pixels)})
    except Exception as error:  # a picture that is not there must not cost the report of a whole run
        problem = f"{type(error).__name__}: {error}"
        python_warnings.warn(f"no pictures of {row['key']} in the report: {problem}", stacklevel=2)
    path = row["path"] if isinstance(row["path"], str) else None
    return {
        "source": source,
        "key": row["key"],
        "path": path,
        "score": f"{row['score']:.4g}",
        "verdict": row["verdict"],
        "views": views,
        "problem": problem,
    }


def thumbnail(pixels: NDArray[np.uint8]) -> Image.Image:
    """A picture, uint8 `[H, W, 3]`, at most `THUMBNAIL` pixels wide and high.

    Raises:
        ValueError: It is of another type or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        message = f"a picture is uint8 [H, W, 3]; got {pixels.dtype} {list(pixels.shape)}"
        raise ValueError(message)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return image


def _picture(pixels: NDArray[np.uint8]) -> str:
    """A picture's thumbnail as a data URI."""
    image = thumbnail(pixels)
    buffer = io.BytesIO()
    if max(image.size) <= _LOSSLESS:
        image.save(buffer, "PNG", optimize=True)
        return data_uri(buffer.getvalue(), "image/png")
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    return data_uri(buffer.getvalue(), "image/jpeg")
