"""What a report says of one detector: its numbers by generator and perturbation, curves, histograms, answers at the threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation import figures
from evaluation.confusion import CONFUSIONS, answers_at
from evaluation.embedding_map import EmbeddingMap
from evaluation.figures.confusion import ON_DARK, ON_LIGHT, confusion_figure
from evaluation.report.audit import audit_part
from evaluation.report.families import family_part, map_part
from evaluation.report.fragments import images_of
from evaluation.report.parts import Cell, Chart, Grid, Part, Text, drawn
from evaluation.report.verdict import percent
from evaluation.statistics import against_reals, by_perturbation, clean_rows
from evaluation.tables import cell_of

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
_ANSWERS = {True: "right", False: "wrong"}
_SOURCES = {"FPR at threshold": ("fpr_at_threshold",)}


def detector_parts(
    name: str,
    frame: pd.DataFrame,
    document: Mapping[str, Any],
    embeddings: EmbeddingMap | str | None = None,
    *,
    with_browser: bool = False,
) -> list[Part]:
    """All that there is to say of one detector but for its mistakes.

    Args:
        name: The detector's.
        frame: Its rows.
        document: Its part of `metrics.json`.
        embeddings: The map of its embeddings, or why there is none; None where it sees no vectors.
        with_browser: Whether rows of tables can lead to the images.
    """
    clean, threshold = clean_rows(frame), document["threshold"]["value"]
    tables = tables_of(clean, document)
    perturbed = by_perturbation(frame)
    parts = [_by_generator(name, document, with_browser)]
    if len(perturbed) > 1:
        parts.append(_by_perturbation(document, perturbed, threshold))
    if document["by_source_of_reals"]:
        heading = "False alarms by source of real images"
        parts.append(Part(heading, grids=[metrics_grid(heading, "data set / source", document["by_source_of_reals"], _SOURCES)]))
    parts += [_rocs(tables), _scores(tables, threshold)]
    if threshold is not None and clean["score"].notna().any():
        parts.append(_answers(name, clean, threshold, document["reals_from"], with_browser))
    parts += [family_part(document["families"])] if "families" in document else []
    parts += [] if embeddings is None else [map_part(embeddings)]
    return parts + [audit_part(each) for each in document.get("shortcuts", {}).values()]


def tables_of(clean: pd.DataFrame, document: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The rows of each generator with those of its reals, and of all where there are several generators."""
    by_generator = against_reals(clean, document["reals_from"])
    return {"all": clean, **by_generator} if len(by_generator) > 1 else by_generator


def metrics_grid(
    caption: str,
    first: str,
    records: Mapping[str, Any],
    columns: Mapping[str, tuple[str, ...]],
    links: Mapping[str, str] | None = None,
) -> Grid:
    """A table of records of `metrics.json`, with how many images and groups each was measured on.

    Args:
        caption: What it shows.
        first: Head of the column of names.
        records: By name a record M.
        columns: By head the place of its cell within M.
        links: See `Grid`.
    """
    with_fakes = any(record["n_fake"] for record in records.values())
    rows: dict[str, Sequence[Cell]] = {}
    for name, record in records.items():
        counts = {kind: Text(f"{record[f'n_{kind}']:,}", f"({record[f'n_groups_{kind}']:,})", sort=record[f"n_{kind}"]) for kind in _KINDS}
        cells = [cell_of(record, place) for place in columns.values()]
        rows[name] = [*cells, *([counts["fake"]] if with_fakes else []), counts["real"]]
    return Grid(caption, first, [*columns, *(["fakes (groups)"] if with_fakes else []), "reals (groups)"], rows, links or {})


_KINDS = ("fake", "real")


def _by_generator(name: str, document: Mapping[str, Any], with_browser: bool) -> Part:
    records = {"all": document["overall"], **document["by_generator"]}
    links = {each: images_of(detector=name, source=each) for each in document["by_generator"]} if with_browser else {}
    bootstrap = document["bootstrap"]
    told = [
        f"Intervals: 95%, from {bootstrap['resamples']:,} bootstrap resamples of whole groups (all images of one photograph or prompt), "
        f"seed {bootstrap['seed']}.",
        "TPR at FPR f is the share of fakes above the lowest threshold that at most a share f of these real images exceeds. Each generator "
        "is measured against the real images of its own data set, unless reals_from names another.",
    ]
    grid = metrics_grid("Metrics by generator", "data set / generator", records, _COLUMNS, links)
    return Part("By generator", grids=[grid], small_print=told)


def _by_perturbation(document: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], threshold: float | None) -> Part:
    names = ", ".join(tables)
    charts = [
        drawn(figures.roc_figure(tables, theme=figures.ON_LIGHT), f"ROC curves by perturbation: {names}"),
        drawn(figures.histogram_figure(tables, threshold, figures.ON_LIGHT), f"Histograms of scores by perturbation: {names}"),
    ]
    grid = metrics_grid("Metrics by perturbation", "perturbation", document["by_perturbation"], _AT_THRESHOLD)
    return Part("By perturbation", grids=[grid], charts=charts, together=True)


def _rocs(tables: Mapping[str, pd.DataFrame]) -> Part:
    names = ", ".join(tables)
    charts = [
        drawn(figures.roc_figure(tables, log, figures.ON_LIGHT), f"ROC curves on a {scale} axis: {names}", caption)
        for log, scale, caption in ((False, "linear", "Linear axis"), (True, "logarithmic", "Logarithmic axis, for few false alarms"))
    ]
    return Part("ROC curves", charts=charts, together=True)


def _scores(tables: Mapping[str, pd.DataFrame], threshold: float | None) -> Part:
    edges = figures.bin_edges(tables)
    charts = [
        drawn(figures.histogram_figure({name: table}, threshold, figures.ON_LIGHT, edges), f"Histogram of scores: {name}", name)
        for name, table in tables.items()
    ]
    return Part("Scores", charts=charts, together=True)


def _answers(name: str, clean: pd.DataFrame, threshold: float, reals_from: Mapping[str, str], with_browser: bool) -> Part:
    """The confusion matrix at the stored threshold, a row a source of images."""
    matrix = answers_at(clean, threshold)
    rows: dict[str, Sequence[Cell]] = {}
    for shown, source, counts, right in zip(matrix["true"], matrix["sources"], matrix["counts"], matrix["right"], strict=True):
        total = sum(counts)
        shares = [Text("–" if not total else percent(count / total), sort=count / total if total else None) for count in counts]
        view = {"detector": name, "source": source} | ({"label": "0"} if shown != source else {})
        linked = [
            Text(f"{count:,}", href=images_of(**view, answer=_ANSWERS[answer == right]) if with_browser and count else "", sort=count)
            for answer, count in enumerate(counts)
        ]
        rows[shown] = [*linked, shares[1]]
    grid = Grid("Answers at the threshold", "data set / source", ["called real", "called fake", "share called fake"], rows)
    alt = f"Confusion matrix at the threshold, what an image is by what it is called: {', '.join(matrix['true'])}"
    chart: Chart = drawn(confusion_figure(matrix, *CONFUSIONS["answers"], ON_LIGHT), alt, "", ON_LIGHT, ON_DARK)
    sentence = (
        f"A score above {threshold:.4g} is called fake. Reals stand first; a frame is around the right answer, the colour is the share of "
        "its row."
    )
    return Part("Confusion matrix", [sentence], [grid], [chart], together=True)
