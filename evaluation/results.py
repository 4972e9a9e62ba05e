"""All outputs of an evaluation in one call."""

import json
import re
import warnings as python_warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.audit import write_audit
from evaluation.comparison import Settings, Targets, compare, write_compared
from evaluation.comparison.generalisation import write_generalisation
from evaluation.comparison.matched import write_matched
from evaluation.comparison.matrices import write_matrices
from evaluation.comparison.paired import write_comparison
from evaluation.comparison.robustness import write_robustness
from evaluation.comparison.seeds import write_seeds
from evaluation.comparison.selection import write_selection
from evaluation.confusion import answers_at, write_confusions
from evaluation.distributions import distributions, write_distributions
from evaluation.document import document as make_document
from evaluation.document import measured_rows
from evaluation.embedding_map import EmbeddingMap, Vectors, embedding_map, write_map
from evaluation.families import Trained
from evaluation.figures import save_confusions, save_figure_of_detectors, save_figures, save_figures_by_perturbation, save_map
from evaluation.figures.audit import save_audit
from evaluation.figures.distributions import save_distributions
from evaluation.figures.fraction import save_fractions
from evaluation.figures.matched import save_matched
from evaluation.figures.reliability import save_reliability
from evaluation.figures.robustness import save_robustness_figures
from evaluation.figures.spectra import save_spectra
from evaluation.files import write_atomically
from evaluation.fractions import write_fractions
from evaluation.options import ReportOptions
from evaluation.predictions import read_predictions, write_predictions
from evaluation.report import Load, Part, browser, published_part, study_parts, write_report
from evaluation.report.distributions import distributions_part
from evaluation.report.mistakes import Pixels
from evaluation.report.spectra import HEADING as SPECTRA
from evaluation.report.spectra import spectra_part
from evaluation.resampling import RESAMPLES
from evaluation.spectra import spectra, write_peaks
from evaluation.statistics import CLEAN, against_reals, by_perturbation, clean_rows
from evaluation.tables import Documents, documents_of, write_tables
from modules.metrics.functional import Threshold


def write_results(
    run_dir: Path,
    frame: pd.DataFrame,
    threshold: Threshold | Mapping[str, Threshold],
    load: Load,
    facts: Mapping[str, object] | None = None,
    *,
    title: str | None = None,
    warnings: Sequence[str] = (),
    split: str | None = "test",
    reals_from: Mapping[str, str] | None = None,
    targets: Targets | None = None,
    settings: Mapping[str, Settings] | None = None,
    trained: Mapping[str, Trained] | None = None,
    baseline: str | None = None,
    choose_by: str | None = None,
    vectors: Vectors | Mapping[str, Vectors] | None = None,
    parts: Sequence[Part] | None = None,
    original: Callable[[str], Pixels] | None = None,
    options: ReportOptions | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Write `predictions.parquet`, `metrics.json`, `tables/`, `figures/` and `report.html` of a run.

    Args:
        run_dir: The run directory.
        frame: The predictions, of any splits: all are written, one is measured.
        threshold: The stored threshold, or one for each detector by name.
        load: From a key and a perturbation to the pictures that the detectors saw (see `report.write_report`).
        facts: What was run, for the report.
        title: The report's heading; the directory's name by default.
        warnings: Sentences that a reader of the report must see first.
        split: The split that is measured; None for all rows.
        reals_from: For a data set, the one whose reals its generators are measured against.
        targets: Published numbers to put beside the measured ones.
        settings: What the published numbers are compared by, by detector (see `compared.compare`).
        trained: What each detector was trained on, by name (see `families.Trained`).
        baseline: The detector that others are compared with; the first by default.
        choose_by: Of a sweep, the metric by which one detector is chosen.
        vectors: From keys to the vectors `[n, D]` that the detector sees, for a map of them; where there are several detectors, by name,
            for those that see vectors.
        parts: What the report shows besides, before the parts of a study.
        original: From a key to the image in its own pixels, uint8 `[H, W, 3]`, for the spectra; None for no spectra.
        options: What the report holds of the images.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Returns:
        What `metrics.json` holds.

    Raises:
        ValueError: There is no row of that split.
    """
    options = options or ReportOptions()
    write_predictions(run_dir / "predictions.parquet", frame)
    frame = read_predictions(run_dir / "predictions.parquet")
    measured = measured_rows(frame, split)
    metrics = make_document(
        frame,
        threshold,
        split=split,
        reals_from=reals_from,
        trained=trained,
        baseline=baseline,
        choose_by=choose_by,
        resamples=resamples,
        seed=seed,
    )
    documents = documents_of(metrics, str(measured["detector"].iloc[0]))
    write_metrics(run_dir / "metrics.json", metrics)
    _write_all_tables(run_dir / "tables", metrics, documents, trained)
    write_distributions(run_dir / "tables" / "distributions.csv", distributions(measured, reals_from))
    rows = None if targets is None else compare(targets, documents, settings or {})
    if rows is not None:
        write_compared(run_dir / "tables" / "compared.csv", rows)
    _save_all_figures(run_dir / "figures", measured, documents, reals_from)
    maps = _write_classes_and_maps(run_dir, measured, documents, vectors, seed)
    parts = [*(parts or ()), *study_parts(run_dir / "figures", metrics, documents, trained)]
    spread = distributions_part(measured, documents, reals_from, settings) if len(documents) > 1 else None
    parts += [] if spread is None else [spread]
    parts += [] if targets is None or rows is None else [published_part(targets, rows)]
    pixels = _spectra(run_dir, measured, original, reals_from, options.spectra, seed)
    thresholds = {name: document["threshold"]["value"] for name, document in documents.items()}
    shown, pictures = None, None
    if options.images:
        pictures = load
        shown = browser(frame, thresholds, load, split=split, images=options.images, megabytes=options.megabytes, seed=seed)
    more: dict[str, Any] = {"maps": maps, "parts": parts, "pixels": pixels, "images": shown}
    write_report(run_dir, measured, metrics, pictures, title or run_dir.name, facts, warnings, **more)
    return metrics


def _write_all_tables(folder: Path, metrics: Mapping[str, Any], documents: Documents, trained: Mapping[str, Trained] | None) -> None:
    """Every table that there is something for."""
    write_tables(folder, documents)
    write_matrices(folder, documents, trained)
    write_robustness(folder, documents)
    for name, write in (
        ("generalisation", write_generalisation),
        ("comparison", write_comparison),
        ("seeds", write_seeds),
        ("selection", write_selection),
    ):
        if name in metrics:
            write(folder, metrics[name])
    if audits := [found for document in documents.values() for found in document.get("shortcuts", {}).values()]:
        write_audit(folder, audits)
    if pairs := {name: document["matched"] for name, document in documents.items() if "matched" in document}:
        write_matched(folder / "matched.csv", pairs)
    if fractions := {name: document["fractions"] for name, document in documents.items() if "fractions" in document}:
        write_fractions(folder / "by_fraction.csv", fractions)


def _save_all_figures(folder: Path, frame: pd.DataFrame, documents: Documents, reals_from: Mapping[str, str] | None) -> None:
    """The figures of each detector in a folder of its own where there are several, and one of all."""
    clean, folders = {}, folders_of(documents)
    for name, document in documents.items():
        rows, threshold = frame[frame["detector"] == name], document["threshold"]["value"]
        own = folder / folders[name] if len(documents) > 1 else folder
        clean[name] = clean_rows(rows)
        if threshold is not None and clean[name]["score"].notna().any():
            matrix = {"answers": answers_at(clean[name], threshold)}
            save_confusions(own, matrix)
            write_confusions(folder.parent / "tables" / own.relative_to(folder), matrix)
        for perturbation, audited in document.get("shortcuts", {}).items():
            save_audit(own if perturbation == CLEAN else own / perturbation, audited)
        if "matched" in document:
            save_matched(own, document["matched"])
        save_fractions(own, document.get("fractions", {}))
        save_figures(own, against_reals(clean[name], reals_from), threshold)
        if len(perturbed := by_perturbation(rows)) > 1:
            save_figures_by_perturbation(own, perturbed, threshold)
    save_reliability(folder, documents)
    save_robustness_figures(folder, documents)
    if len(documents) > 1:
        save_figure_of_detectors(folder, clean)
        save_distributions(folder, pd.concat(clean.values()), reals_from)


def _spectra(
    run_dir: Path,
    frame: pd.DataFrame,
    original: Callable[[str], Pixels] | None,
    reals_from: Mapping[str, str] | None,
    images: int,
    seed: int,
) -> list[Part]:
    """The spectra of the noise residual as figures and a table, and the report's part."""
    if original is None or not images:
        return []
    try:
        found = spectra(frame, original, reals_from, images=images, seed=seed)
        save_spectra(run_dir / "figures", found)
        write_peaks(run_dir / "tables", found)
        part = spectra_part(found)
    except Exception as error:  # an odd image must not cost the report of a whole run
        part = Part(SPECTRA, [f"There are no spectra: {type(error).__name__}: {error}"])
        python_warnings.warn(f"no spectra: {type(error).__name__}: {error}", stacklevel=3)
    return [] if part is None else [part]


def _write_classes_and_maps(
    run_dir: Path, frame: pd.DataFrame, documents: Documents, vectors: Vectors | Mapping[str, Vectors] | None, seed: int
) -> dict[str, EmbeddingMap | str]:
    """Confusion matrices and maps of embeddings of each detector as figures and tables; the maps, or why there is none, by detector."""
    maps: dict[str, EmbeddingMap | str] = {}
    folders = folders_of(documents)
    for name, document in documents.items():
        figures, tables = (run_dir / kind / folders[name] if len(documents) > 1 else run_dir / kind for kind in ("figures", "tables"))
        if "families" in document:
            save_confusions(figures, document["families"]["confusion"])
            write_confusions(tables, document["families"]["confusion"])
        given = vectors.get(name) if isinstance(vectors, Mapping) else vectors
        if given is None:
            continue
        try:
            found = embedding_map(frame[frame["detector"] == name], given, document["threshold"]["value"], seed=seed)
            save_map(figures, found)
            write_map(tables, found)
            maps[name] = found
        except Exception as error:  # features that are gone must not cost the report of a whole run
            maps[name] = f"{type(error).__name__}: {error}"
            python_warnings.warn(f"no map of the embeddings of {name}: {maps[name]}", stacklevel=3)
    return maps


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> Path:
    """Write `metrics.json`, whole or not at all, as JSON that every reader takes (no NaN, no infinity)."""
    write_atomically(path, (json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())
    return path


def folders_of(detectors: Iterable[str]) -> dict[str, str]:
    """The names of detectors as those of the folders of their figures and tables, each another one."""
    found: dict[str, str] = {}
    for detector in detectors:
        plain = name = re.sub(r"[^\w@+-]+", "_", detector)
        number = 1
        while name in found.values():
            number += 1
            name = f"{plain}-{number}"
        found[detector] = name
    return found
