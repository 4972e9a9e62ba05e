"""Scores of reals and of each generator's fakes as distributions: their quantiles, and how far fakes lie from the reals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.statistics import against_reals, clean_rows
from evaluation.tables import write_csv

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLUMNS = (
    *("detector", "dataset", "generator", "label", "n", "missing", "mean", "sd"),
    *(f"q{100 * quantile:02.0f}" for quantile in QUANTILES),
    *("ks", "wasserstein", "reason"),
)


def distributions(frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """What is said of each detector's raw scores on the unperturbed images, by source of reals and by generator.

    Args:
        frame: A predictions table of one or several detectors.
        reals_from: For a data set, the one whose reals its generators are measured against; its own by default.

    Returns:
        A row with the columns `COLUMNS` for each detector, in the table's order, and source: first reals (`label` 0), then generators. `n`
        counts the finite scores, which all else is of, `missing` the others. `sd` is that of a sample. `ks` is the two-sample
        Kolmogorov–Smirnov statistic, the largest distance between the two cumulative distributions, in [0, 1]; `wasserstein` the mean
        distance that a score must be moved by, in units of the score; both against all reals that the generator is measured against.
        What cannot be computed is None, and `reason` says why.
    """
    rows = []
    for detector in dict.fromkeys(frame["detector"]):
        clean = clean_rows(frame[frame["detector"] == detector])
        for (dataset, source), part in clean[clean["label"] == 0].groupby(["dataset", "generator"], sort=True):
            names = {"detector": str(detector), "dataset": str(dataset), "generator": str(source), "label": 0}
            rows.append(names | _described(part) | {"ks": None, "wasserstein": None})
        for table in against_reals(clean, reals_from).values():
            fakes = table[table["label"] == 1]
            names = {"detector": str(detector), "dataset": str(fakes["dataset"].iloc[0]), "generator": str(fakes["generator"].iloc[0])}
            rows.append(names | {"label": 1} | _described(fakes) | _distances(fakes, table[table["label"] == 0]))
    return rows


def write_distributions(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows of `distributions` as CSV, usually to `runs/<name>/tables/distributions.csv`."""
    return write_csv(path, rows, COLUMNS)


def finite_scores(table: pd.DataFrame) -> NDArray[np.float64]:
    """The scores that are numbers, `[n]`."""
    scores = table["score"].to_numpy(np.float64)
    return scores[np.isfinite(scores)]


def _described(table: pd.DataFrame) -> dict[str, Any]:
    scores = finite_scores(table)
    told: dict[str, Any] = {"n": scores.size, "missing": len(table) - scores.size, "mean": None, "sd": None, "reason": None}
    at = [name for name in COLUMNS if name.startswith("q")]
    if not scores.size:
        return told | dict.fromkeys(at) | {"reason": "no score is a finite number"}
    with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e154 a square is infinite, and a table has it as null
        told |= {"mean": float(scores.mean()), "sd": float(scores.std(ddof=1)) if scores.size > 1 else None}
        told |= dict(zip(at, np.quantile(scores, QUANTILES).tolist(), strict=True))
    return told if scores.size > 1 else told | {"reason": "one image has no spread"}


def _distances(fakes: pd.DataFrame, reals: pd.DataFrame) -> dict[str, Any]:
    """Between fakes and reals; a row's own reason only where there are no distances."""
    from scipy.stats import ks_2samp, wasserstein_distance

    one, other = finite_scores(fakes), finite_scores(reals)
    if not other.size or not one.size:
        reason = (
            "no score is a finite number"
            if not one.size
            else "there are no real images"
            if reals.empty
            else "no real image has a finite score"
        )
        return {"ks": None, "wasserstein": None, "reason": reason}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        statistic = ks_2samp(one, other, method="asymp").statistic  # the exact p-value, which nothing reads, takes minutes
        return {"ks": float(statistic), "wasserstein": float(wasserstein_distance(one, other))}
