"""What a report says of scores by the generated share of an image."""

from collections.abc import Mapping
from typing import Any

from evaluation import figures
from evaluation.figures.fraction import MOST_GENERATORS, fraction_figure
from evaluation.fractions import sentence
from evaluation.report.parts import Cell, Grid, Part, Text, drawn

HEADING = "How much of an image must be generated?"
_HEADS = ("images", "mean score", "called fake", "AUROC")


def fraction_part(documents: Mapping[str, Mapping[str, Any]]) -> Part | None:
    """Scores by generated fraction of one or several detectors: a sentence, a table and a chart each.

    Args:
        documents: Of `fractions.by_fraction`, by detector; a single one's name is not shown.

    Returns:
        None where no detector has any.
    """
    documents = {name: found for name, found in documents.items() if found}
    if not documents:
        return None
    several = len(documents) > 1
    sentences = [
        "Of each fake it is known what share of its pixels a generator made; the rest is the photograph's own. Called fake: at the stored "
        "threshold. Intervals are from resamples of groups. AUROC is against the real images. In the chart, diamonds at 0% are real images."
    ]
    grids, charts = [], []
    for name, found in documents.items():
        for generator, record in found.items():
            sentences.append(f"{name}: {sentence(record)}" if several else sentence(record))
            caption = f"Scores of {generator} by generated share" + (f", {name}" if several else "")
            grids.append(Grid(caption, f"{name}: {generator}" if several else generator, _HEADS, _rows(record)))
        if len(found) > MOST_GENERATORS:
            sentences.append(f"The chart shows the first {MOST_GENERATORS} of {len(found)} generators; all are in tables/by_fraction.csv.")
        charts.append(drawn(fraction_figure(found, figures.ON_LIGHT), _alt(found), name if several else ""))
    return Part(HEADING, sentences, grids, charts)


def _rows(record: Mapping[str, Any]) -> dict[str, list[Cell]]:
    reals = record["reals"]
    rows: dict[str, list[Cell]] = {"real images": [reals["n"], _score(reals["mean_score"]), reals["fpr_at_threshold"], None]}
    for point in record["points"]:
        spread = f" ({100 * point['least']:.3g} to {100 * point['most']:.3g}%)" if record["binned"] else ""
        cells = [point["n"], _score(point["mean_score"]), point["tpr_at_threshold"], point["auroc"]]
        rows[f"{100 * point['fraction']:.3g}%{spread}"] = cells
    return rows


def _score(cell: Mapping[str, Any]) -> Cell:
    """A mean score to four digits: scores of some detectors are hundreds, of others thousandths."""
    if cell["value"] is None:
        return cell
    ends = "" if cell["low"] is None else f"{cell['low']:.4g} to {cell['high']:.4g}"
    return Text(f"{cell['value']:.4g}", ends, sort=cell["value"])


def _alt(found: Mapping[str, Any]) -> str:
    """Says the numbers of the first generator."""
    name, record = next(iter(found.items()))
    numbers = [
        f"{100 * point['fraction']:.3g}%: {point['tpr_at_threshold']['value']:.2f}"
        for point in record["points"]
        if point["tpr_at_threshold"]["value"] is not None
    ]
    return (
        f"Mean score and share called fake by the generated share of an image. {name}, called fake: {', '.join(numbers) or 'no threshold'}"
    )
