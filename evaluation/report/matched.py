"""What a report says of how AUROC depends on how well real images and fakes match."""

from collections.abc import Mapping
from typing import Any

from evaluation import figures
from evaluation.comparison.matched import DROPPED, sentence
from evaluation.figures.matched import matched_figure
from evaluation.report.parts import Cell, Chart, Grid, Part, drawn

HEADING = "Do better-matched pairs change the result?"
_HEADS = ("pairs", "median similarity", *(f"{100 * (1 - share):g}%" for share in DROPPED), "all − best half", "", "correlation")


def matched_part(documents: Mapping[str, Mapping[str, Any]]) -> Part:
    """The matched-pair audit of one or several detectors: a sentence, a table and a chart each.

    Args:
        documents: Of `comparison.matched.matched`, by detector; a single one's name is not shown.
    """
    several = len(documents) > 1
    sentences = [
        "Each fake has a real image of the same content. Here the pairs whose two images are least alike are dropped step by step, and "
        "AUROC is measured on what is left: a detector that judges content or style loses where pairs match better. Intervals are from "
        "resamples of groups; that of the difference is paired. Correlation: Spearman's, of similarity and score difference fake − real."
    ]
    grids, charts = [], []
    for name, found in documents.items():
        sentences.append(f"{name}: {sentence(found)}" if several else sentence(found))
        rows = {record["name"]: _row(record) for record in found["generators"]}
        if found["macro"] and len(rows) > 1:
            rows["mean of the generators"] = _row(found["macro"])
        if rows:
            caption = "AUROC on all pairs and on the best-matched share of them" + (f", {name}" if several else "")
            grids.append(Grid(caption, name if several else "generator", _HEADS, rows))
        if found["macro"]:
            charts.append(_chart(found, name if several else ""))
    return Part(HEADING, sentences, grids, charts)


def _row(record: Mapping[str, Any]) -> list[Cell]:
    median = {"value": record["similarity"]["quantiles"]["0.5"], "low": None, "high": None}
    return [record["n_pairs"], median, *record["auroc"], record["trend"], record["verdict"], record["correlation"]]


def _chart(found: Mapping[str, Any], name: str) -> Chart:
    """Its alternative text says the numbers of the mean."""
    numbers = [f"{100 * cell['dropped']:g}%: {cell['value']:.3f}" for cell in found["macro"]["auroc"] if cell["value"] is not None]
    alt = f"AUROC by the share of the worst-matched pairs dropped ({', '.join(numbers)}), and a histogram of the pairs' similarities"
    return drawn(matched_figure(found, figures.ON_LIGHT), alt, name)
