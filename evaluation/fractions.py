"""Scores by the share of an image that a generator made: of partly generated images, from which part on does a detector see it?

A detector that averages over an image answers to the share, one that looks for the strongest trace answers early. The column
`generated_fraction` of the predictions table says the share; masks of a few stated areas give a point each, others are put into bins.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.comparison.matched import spearman
from evaluation.resampling import RESAMPLES, Interval, group_codes, groups_by_class, interval_of, resample_weights, too_few_groups
from evaluation.statistics import against_reals, clean_rows, measure, statistics
from evaluation.tables import write_csv
from modules.metrics.functional import Threshold

COLUMN = "generated_fraction"
MOST_POINTS = 12
"""Of more different fractions `BINS` bins of equal width are made."""
BINS = 10
MEASURED = ("tpr_at_threshold", "auroc")
COLUMNS = (
    *("detector", "dataset", "generator", "label", "fraction", "least", "most", "n", "n_groups"),
    *("mean_score", "mean_score_low", "mean_score_high", "called_fake", "called_fake_low", "called_fake_high"),
    *("auroc", "auroc_low", "auroc_high", "reason"),
)


def by_fraction(
    frame: pd.DataFrame,
    threshold: Threshold,
    reals_from: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean score, share that is called fake, and AUROC of each generator's fakes by generated fraction.

    Intervals are from resamples of groups: the fakes of one photograph stay together. Fakes without a fraction are left out.

    Args:
        frame: Rows of one detector; of unperturbed images, or of the first perturbation where there are none. With the column
            `generated_fraction` in [0, 1].
        threshold: The detector's stored threshold.
        reals_from: For a data set, the one whose reals its generators are measured against.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        For each generator whose fakes have two different fractions at least, by `dataset/generator`: `dataset`, `generator`, `n_left_out`
        (fakes without a fraction), `binned`, `reals` and, in `points`, from the lowest fraction to the highest, `fraction` (mean), `least`,
        `most`, `n`, `n_groups`, and the cells `mean_score`, `tpr_at_threshold` and `auroc` (against all its reals). `reals` has `n`,
        `n_groups`, `mean_score` and `fpr_at_threshold`. `correlation` is Spearman's, of fraction and score, in [−1, 1].
    """
    rows = clean_rows(frame)
    rows = rows[rows["perturbation"] == rows["perturbation"].iloc[0]] if len(rows) else rows
    found = {}
    for name, table in against_reals(rows, reals_from).items():
        fractions = pd.to_numeric(table[COLUMN], errors="coerce")
        fakes = table["label"] == 1
        known = table[~fakes | fractions.notna()]
        if len(fractions[fakes].dropna().unique()) > 1:
            record = _of_generator(known, threshold, resamples, seed)
            found[name] = record | {"n_left_out": int((fakes & fractions.isna()).sum())}
    return found


def _of_generator(table: pd.DataFrame, threshold: Threshold, resamples: int, seed: int) -> dict[str, Any]:
    fakes = table["label"].to_numpy() == 1
    fractions = np.where(fakes, table[COLUMN].to_numpy(np.float64, na_value=np.nan), np.nan)
    places, binned = _places(fractions)
    parts = [places == place for place in np.unique(places[fakes])]
    means = _means(table, [~fakes, *parts], resamples, seed)
    points = []
    for part, mean in zip(parts, means[1:], strict=True):
        chosen = [each for each in statistics(threshold) if each.place[0] in MEASURED]
        told = measure(table[~fakes | part], threshold, resamples, seed, chosen)
        span = _span(fractions[part])
        counts = {"n": told["n_fake"], "n_groups": told["n_groups_fake"]}
        points.append(span | counts | {"mean_score": mean.cell()} | {name: told[name] for name in MEASURED})
    chosen = [each for each in statistics(threshold) if each.place[0] == "fpr_at_threshold"]
    told = measure(table[~fakes], threshold, resamples, seed, chosen)
    reals = {"n": told["n_real"], "n_groups": told["n_groups_real"], "mean_score": means[0].cell()}
    return {
        "dataset": str(table["dataset"][fakes].iloc[0]),
        "generator": str(table["generator"][fakes].iloc[0]),
        "binned": binned,
        "reals": reals | {"fpr_at_threshold": told["fpr_at_threshold"]},
        "points": points,
        "correlation": _correlation(table[fakes], fractions[fakes], resamples, seed).cell(),
    }


def _span(fractions: NDArray[np.float64]) -> dict[str, float]:
    least, most = float(fractions.min()), float(fractions.max())
    mean = least if least == most else float(fractions.mean())  # the mean of equal numbers is rounded
    return {"fraction": mean, "least": least, "most": most}


def _places(fractions: NDArray[np.float64]) -> tuple[NDArray[np.int64], bool]:
    """Point or bin of each image, `[N]`, −1 without a fraction; and whether they are bins, which hold their upper ends."""
    known = np.isfinite(fractions)
    values, codes = np.unique(fractions[known], return_inverse=True)
    binned = values.size > MOST_POINTS
    if binned:  # rounded: 0.3 · 10 is 3.0000000000000004 for some 0.3
        codes = np.maximum(np.ceil(np.round(fractions[known] * BINS, 9)), 1).astype(np.int64)
    places = np.full(fractions.size, -1, dtype=np.int64)
    places[known] = codes
    return places, binned


def _means(table: pd.DataFrame, parts: list[NDArray[np.bool_]], resamples: int, seed: int) -> list[Interval]:
    """Mean score of each part of the rows, with an interval over groups, all on the same resamples."""
    labels, scores = table["label"].to_numpy(np.int64), table["score"].to_numpy(np.float64)
    groups = group_codes(table["group"].tolist(), table["key"].tolist())
    finite = np.isfinite(scores)
    inside = torch.from_numpy(np.stack(parts, axis=1)).double()  # [N, parts]
    summed = inside * torch.from_numpy(np.where(finite, scores, 0.0))[:, None]
    drawn = [(w.double() @ summed) / (w.double() @ inside) for w in resample_weights(labels, groups, resamples, seed)]
    samples: Tensor = torch.cat(drawn)
    found = []
    for i, part in enumerate(parts):
        if not part.any() or not finite[part].all():
            lost = int((~finite[part]).sum())
            reason = f"{lost} of {int(part.sum())} scores are not finite numbers" if lost else "there are no such images"
            found.append(Interval(None, reason=reason))
            continue
        few = too_few_groups(groups_by_class(labels[part], groups[part]), (int(labels[part][0]),))
        found.append(interval_of(float(scores[part].mean()), samples[:, i], reason=few))
    return found


def _correlation(fakes: pd.DataFrame, fractions: NDArray[np.float64], resamples: int, seed: int) -> Interval:
    scores = np.array(fakes["score"], dtype=np.float64)  # a copy that torch may share
    if missing := int(np.isnan(scores).sum()):
        return Interval(None, reason=f"{missing} of {scores.size} scores are missing (NaN)")
    groups = group_codes(fakes["group"].tolist(), fakes["key"].tolist())
    ones = np.ones(scores.size, dtype=np.int64)
    value = spearman(fractions, scores, torch.ones(1, scores.size, dtype=torch.int64))
    drawn = [spearman(fractions, scores, weights) for weights in resample_weights(ones, groups, resamples, seed)]
    return interval_of(float(value[0]), torch.cat(drawn), reason=too_few_groups((0, np.unique(groups).size), (1,)))


def sentence(record: Mapping[str, Any]) -> str:
    """What scores by fraction come to, of one generator.

    Args:
        record: Of `by_fraction`.
    """
    first, last = record["points"][0], record["points"][-1]
    told = [f"with {100 * each['fraction']:.3g}% generated {_percent(each['tpr_at_threshold'])}" for each in (first, last)]
    name, false = f"{record['dataset']}/{record['generator']}", record["reals"]["fpr_at_threshold"]
    called = "" if false["value"] is None else f", of real images {_percent(false)}"
    correlation = record["correlation"]
    trend = _trend(correlation)
    if first["tpr_at_threshold"]["value"] is None:
        return f"{name}: {trend} (there is no threshold to say what is called fake)."
    return f"{name}: {trend}. Called fake: {told[0]}, {told[1]}{called}."


def _trend(cell: Mapping[str, Any]) -> str:
    if cell["value"] is None:
        return f"whether scores follow the generated share is not known ({cell.get('reason')})"
    told = f"Spearman's correlation {cell['value']:+.2f}"
    if cell["low"] is None:
        return f"the correlation of score and generated share has no interval ({told}; {cell.get('reason')})"
    told = f"{told} [{cell['low']:+.2f}, {cell['high']:+.2f}]"
    if cell["low"] <= 0 <= cell["high"]:
        return f"scores are not shown to follow the generated share ({told})"
    return f"scores {'rise' if cell['low'] > 0 else 'fall'} with the generated share ({told})"


def _percent(cell: Mapping[str, Any]) -> str:
    return "–" if cell["value"] is None else f"{100 * cell['value']:.0f}%"


def write_fractions(path: Path, documents: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write them as CSV with the columns `COLUMNS`: for each detector and generator its reals (fraction 0), then a row a fraction or bin.

    `called_fake` is the TPR at the stored threshold, of reals the FPR.

    Args:
        path: The file, usually `runs/<name>/tables/by_fraction.csv`.
        documents: Of `by_fraction`, by detector.
    """
    rows: list[dict[str, Any]] = []
    for detector, found in documents.items():
        for record in found.values():
            shared = {"detector": detector, "dataset": record["dataset"], "generator": record["generator"]}
            reals = record["reals"]
            at_zero = {"label": 0, "fraction": 0.0, "least": 0.0, "most": 0.0}
            rows.append(shared | at_zero | _row(reals, reals["fpr_at_threshold"]))
            for point in record["points"]:
                span = {name: point[name] for name in ("fraction", "least", "most")}
                rows.append(shared | {"label": 1} | span | _row(point, point["tpr_at_threshold"]))
    return write_csv(path, rows, COLUMNS)


def _row(record: Mapping[str, Any], called: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"n": record["n"], "n_groups": record["n_groups"]}
    reasons = []
    for name, cell in (("mean_score", record["mean_score"]), ("called_fake", called), ("auroc", record.get("auroc", {}))):
        row |= {name: cell.get("value"), f"{name}_low": cell.get("low"), f"{name}_high": cell.get("high")}
        reasons += [f"{name}: {cell['reason']}"] if cell.get("reason") else []
    return row | {"reason": "; ".join(reasons) or None}
