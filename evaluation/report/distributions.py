"""What a report says of the distributions of scores: which detector ranks whose fakes above or below the reals."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.comparison.compared import Settings, lookup
from evaluation.distributions import QUANTILES, distributions
from evaluation.figures.distributions import MOST_DETECTORS, MOST_GENERATORS, distributions_figure
from evaluation.figures.theme import ON_LIGHT
from evaluation.report.parts import Cell, Grid, Part, drawn
from evaluation.tables import Documents

LIKELIHOODS = ("log_likelihood", "log_prior")
"""Statistics whose name ends so are log-likelihoods: of these it is said what is more and what is less likely."""
_FEW = 4  # names in a sentence
_WORDS = ("score above the reals", "score below the reals")


def distributions_part(
    frame: pd.DataFrame,
    documents: Documents,
    reals_from: Mapping[str, str] | None = None,
    settings: Mapping[str, Settings] | None = None,
) -> Part | None:
    """Sentences, a table and a figure of the scores of reals and of each generator's fakes.

    Args:
        frame: The predictions that are measured, of one or several detectors.
        documents: Parts of `metrics.json` by detector, for the intervals of AUROC.
        reals_from: For a data set, the one whose reals its generators are measured against.
        settings: Of each detector, as for `comparison.compare`: of one whose statistic is a log-likelihood it is said so.

    Returns:
        None where no score is a finite number.
    """
    figure = distributions_figure(frame, ON_LIGHT, reals_from)
    if figure is None:
        return None
    rows = distributions(frame, reals_from)
    names = list(dict.fromkeys(row["detector"] for row in rows))
    shown = names[:MOST_DETECTORS]
    sentences = [_ranking(name, documents.get(name, {}), _words(name, settings or {})) for name in shown]
    sentences.append(
        "In brackets the AUROC. Not told apart: its 95% interval holds 0.5; with many generators 1 in 20 leaves it by chance. "
        "K–S: the largest distance between the cumulative distributions of fakes and reals. Wasserstein: how far a score would have to be "
        "moved, on average, to make one the other, in units of the score, which two detectors do not share."
    )
    most = max(sum(row["label"] for row in rows if row["detector"] == name) for name in shown)
    if len(names) > len(shown):
        sentences.append(f"These are the first {MOST_DETECTORS} of {len(names)} detectors; all are in tables/distributions.csv.")
    if most > MOST_GENERATORS:
        sentences.append(f"The figure shows the first {MOST_GENERATORS} of {most} generators.")
    grids = [_grid(name, [row for row in rows if row["detector"] == name]) for name in shown]
    alt = f"Distributions of scores of real images and of each generator's fakes: {', '.join(shown)}"
    return Part("Distributions of scores", sentences, grids, [drawn(figure, alt)])


def _words(name: str, settings: Mapping[str, Settings]) -> tuple[str, str]:
    """What a score above the reals' means, and one below."""
    try:
        statistic, orientation = (str(lookup(settings[name], f"detector.{path}")) for path in ("statistic", "orientation"))
    except KeyError:
        return _WORDS
    if not statistic.endswith(LIKELIHOODS):
        return _WORDS
    told = ("are less likely than the reals", "are more likely than the reals")
    return told if orientation == "smaller_is_fake" else told[::-1]


def _ranking(name: str, document: Mapping[str, Any], words: Sequence[str]) -> str:
    """One sentence on a detector's generators, by the intervals of their AUROC."""
    found: dict[str, list[str]] = {"above": [], "below": [], "open": [], "unknown": []}
    for generator, record in document.get("by_generator", {}).items():
        cell = record["auroc"]
        value = "no value" if cell["value"] is None else f"{cell['value']:.2f}"
        side = "unknown" if cell["low"] is None else "above" if cell["low"] > 0.5 else "below" if cell["high"] < 0.5 else "open"
        found[side].append(f"{generator} ({value})")
    endings = {"above": words[0], "below": words[1], "open": "are not told apart from them", "unknown": "have no interval"}
    told = [f"fakes of {_some(names)} {endings[side]}" for side, names in found.items() if names]
    return f"{name}: {'; '.join(told) or 'there are no fakes to rank'}."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"{', '.join(names[:_FEW])}{more}"


def _grid(name: str, rows: Sequence[Mapping[str, Any]]) -> Grid:
    heads = ["images", "mean", "sd", *(f"{100 * each:.0f}%" for each in QUANTILES), "K–S", "Wasserstein"]
    columns = ["mean", "sd", *(f"q{100 * each:02.0f}" for each in QUANTILES), "ks", "wasserstein"]
    shown: dict[str, Sequence[Cell]] = {}
    for row in rows:
        missing = f"{row['n']:,} ({row['missing']:,} not finite)" if row["missing"] else row["n"]
        kind = "" if row["label"] else " (real)"
        shown[f"{row['dataset']}/{row['generator']}{kind}"] = [missing, *(_number(row[each]) for each in columns)]
    return Grid(f"Scores of {name}: quantiles, and distances of each generator's fakes from the reals", name, heads, shown)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
