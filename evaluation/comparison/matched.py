"""The matched-pair audit: does a detector lose AUROC when the real images look more like the fakes they are compared with?

SynRIS (FakeInversion, Cazenavette et al. 2024) pairs every fake with a real image of the same content, so that a detector cannot win by
content and style alone. No pair is perfect. Here the worst-matched pairs, by an encoder's cosine similarity, are dropped step by step. A
detector that sees content loses AUROC on the better-matched pairs; one that sees traces of generation does not.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.comparison.macro import Aurocs, measure_aurocs
from evaluation.resampling import RESAMPLES, Interval, group_codes, interval_of, resample_weights, too_few_groups
from evaluation.statistics import clean_rows
from evaluation.tables import WIDTH, layout, mark, told, write_csv

DROPPED = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Shares of the pairs, those with the lowest similarity, that are dropped in turn."""
HALF = 0.5
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 30
FALLS, RISES, UNCHANGED, OPEN = VERDICTS = ("falls", "rises", "no change shown", "not known")
MACRO = "macro"
COLUMNS = (
    *("detector", "name", "quantity", "dropped", "value", "low", "high", "n_real", "n_fake", "least_similarity", "verdict", "reason"),
)


@dataclass(frozen=True)
class _Pairs:
    """The matched pairs of one generator.

    Attributes:
        name: `dataset/generator`.
        fakes: Rows of its fakes that have a pair, the most similar first, with the column `gap`: fake's score − mean of its reals'.
        reals: Rows of the reals that they are paired with.
        left_out: Number of its fakes without a pair or similarity.
    """

    name: str
    fakes: pd.DataFrame
    reals: pd.DataFrame
    left_out: int

    def best(self, dropped: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Fakes and reals without this share of the worst pairs; a real stays while any fake that is kept has it."""
        fakes = self.fakes.head(len(self.fakes) - math.floor(dropped * len(self.fakes) + 1e-9))
        return fakes, self.reals[self.reals["pair"].isin(set(fakes["pair"]))]


def matched(frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """AUROC of each generator, and their mean, as the worst-matched pairs are dropped.

    Measured on pairs alone: fakes with a `pair_similarity` and a real image of the same `pair`, and those reals. Which pairs are dropped
    is decided once, on all pairs, equal similarities by key; every number then comes from the very same resamples of groups, so that the
    difference between all pairs and the best half has a paired interval. Null with the reason where there is nothing to measure.

    Args:
        frame: Rows of one detector; of unperturbed images, or of the first perturbation where there are none. Columns `pair` and
            `pair_similarity` as in the predictions table.
        reals_from: For a data set, the one whose reals its generators are measured against.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        `generators`, and `macro` (mean over those that have pairs; None where there are none), each with `name`, `n_pairs`, `n_left_out`
        (fakes without pair or similarity), `similarity` (`quantiles`, `mean`, `counts` over `edges`), `auroc` (for each of `DROPPED` a
        cell with `dropped`, `n_real`, `n_fake`, `least_similarity`), `correlation` (Spearman's, of similarity and score difference fake −
        real, in [−1, 1]), `trend` (AUROC of all pairs − of the best half) and its `verdict`; `edges` of the histogram; `reason` why there
        is nothing at all.
    """
    rows = clean_rows(frame)
    rows = rows[rows["perturbation"] == rows["perturbation"].iloc[0]] if len(rows) else rows
    pairs = _pairs(rows, reals_from or {})
    some = [each for each in pairs if len(each.fakes)]
    edges = _edges([each.fakes["pair_similarity"].to_numpy(np.float64) for each in some])
    reason = None if some else _nothing(rows)
    if reason:
        nothing = [_empty(each.name, each.left_out, "none of its fakes has a real image of its pair and a similarity") for each in pairs]
        return {"generators": nothing, "macro": None, "edges": [], "reason": reason}
    aurocs = measure_aurocs(_stacked(some), None, resamples, seed)
    correlations = _correlations(some, resamples, seed)
    found = {each.name: _described([each], each.name, aurocs, correlations[i], edges) for i, each in enumerate(some)}
    empty = "none of its fakes has a real image of its pair and a similarity"
    generators = [found.get(each.name) or _empty(each.name, each.left_out, empty) for each in pairs]
    macro = _described(some, MACRO, aurocs, correlations[-1], edges)
    return {"generators": generators, "macro": macro, "edges": edges.tolist(), "reason": None}


def _nothing(rows: pd.DataFrame) -> str:
    """Why there is no pair at all."""
    if absent := [name for name in ("pair", "pair_similarity") if name not in rows.columns]:
        return f"the predictions table has no column {' and '.join(absent)}"
    if not np.isfinite(_numbers(rows)[rows["label"] == 1]).any():
        return "no fake has a similarity to a real image of its pair"
    return "no fake has a real image of its pair in the table"


def _numbers(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Similarities `[N]`, NaN where there is none."""
    return pd.to_numeric(rows["pair_similarity"], errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _pairs(rows: pd.DataFrame, reals_from: Mapping[str, str]) -> list[_Pairs]:
    """The pairs of each generator, in the order of the names."""
    known = {"pair", "pair_similarity"} <= set(rows.columns)
    names = rows["pair"].map(lambda name: str(name) if name is not None and name == name else "") if known else ""  # NaN is not itself
    rows = rows.assign(pair=names, pair_similarity=_numbers(rows) if known else np.nan)
    reals = rows[(rows["label"] == 0) & (rows["pair"] != "")]
    by_dataset = {str(name): part for name, part in reals.groupby("dataset")}
    found = []
    for (dataset, generator), fakes in rows[rows["label"] == 1].groupby(["dataset", "generator"], sort=True):
        candidates = by_dataset.get(reals_from.get(str(dataset), str(dataset)), reals.head(0))
        # Summed and divided, since the mean of a group would pass over scores that are missing.
        own = candidates.groupby("pair")["score"].agg(["sum", "size", "count"])
        means = (own["sum"] / own["size"]).where(own["count"] == own["size"]).to_dict()
        is_paired = fakes["pair"].isin(set(own.index)) & np.isfinite(fakes["pair_similarity"])
        kept = fakes[is_paired].sort_values(["pair_similarity", "key"], ascending=[False, True])
        kept = kept.assign(gap=kept["score"] - kept["pair"].map(means).astype(np.float64))
        partners = candidates[candidates["pair"].isin(set(kept["pair"]))]
        found.append(_Pairs(f"{dataset}/{generator}", kept, partners, int((~is_paired).sum())))
    return found


def _part(name: str, dropped: float) -> str:
    return f"{name} ({_kept(dropped)})"


def _kept(dropped: float) -> str:
    return "all pairs" if not dropped else f"best {100 * (1 - dropped):g}%"


def _stacked(pairs: Sequence[_Pairs]) -> pd.DataFrame:
    """All subsets below each other, each as a data set of its own: so one call measures all of them on the same resamples."""
    parts = []
    for each in pairs:
        for dropped in DROPPED:
            parts += [part.assign(dataset=_part(each.name, dropped)) for part in each.best(dropped)]
    return pd.concat(parts, ignore_index=True).assign(generator="")


def _described(pairs: Sequence[_Pairs], name: str, aurocs: Aurocs, correlation: Interval, edges: NDArray[np.float64]) -> dict[str, Any]:
    """The record of some generators together."""
    similarities = np.concatenate([each.fakes["pair_similarity"].to_numpy(np.float64) for each in pairs])
    parts = {dropped: [f"{_part(each.name, dropped)}/" for each in pairs] for dropped in DROPPED}
    curve = []
    for dropped in DROPPED:
        kept = [each.best(dropped) for each in pairs]
        counts = {"n_real": sum(len(reals) for _, reals in kept), "n_fake": sum(len(fakes) for fakes, _ in kept)}
        least = min(float(fakes["pair_similarity"].min()) for fakes, _ in kept)
        curve.append({"dropped": dropped, **counts, "least_similarity": least, **_plain(aurocs.mean(parts[dropped]))})
    difference = aurocs.difference(parts[0.0], parts[HALF])
    is_measured = not any(part in aurocs.doubts for part in (*parts[0.0], *parts[HALF]))
    return {
        "name": name,
        "n_pairs": len(similarities),
        "n_left_out": sum(each.left_out for each in pairs),
        "similarity": {
            "mean": float(similarities.mean()),
            "quantiles": {f"{q:g}": float(np.quantile(similarities, q)) for q in QUANTILES},
            "counts": np.histogram(similarities, edges)[0].tolist(),
        },
        "auroc": curve,
        "correlation": correlation.cell(),
        "trend": _plain(difference),
        "verdict": _verdict(difference, is_measured),
    }


def _plain(interval: Interval) -> dict[str, Any]:
    """Its cell; a reason names parts as `measure_aurocs` does, with the slash before the generator's empty name."""
    cell = interval.cell()
    return cell if interval.reason is None else cell | {"reason": interval.reason.replace(")/: ", "): ")}


def _empty(name: str, left_out: int, reason: str) -> dict[str, Any]:
    cell = Interval(None, reason=reason).cell()
    counts = {"n_real": 0, "n_fake": 0, "least_similarity": None}
    similarity: dict[str, Any] = {"mean": None, "quantiles": {f"{q:g}": None for q in QUANTILES}, "counts": []}
    record = {"name": name, "n_pairs": 0, "n_left_out": left_out, "similarity": similarity}
    curve = [{"dropped": dropped, **counts, **cell} for dropped in DROPPED]
    return record | {"auroc": curve, "correlation": cell, "trend": cell, "verdict": OPEN}


def _verdict(difference: Interval, is_measured: bool) -> str:
    """What AUROC does as pairs are matched better: whether 0 is outside the interval of all − best half, and on which side."""
    if difference.value is None or not is_measured:
        return OPEN
    # Where all resamples give the same difference, there is no interval, but no doubt of the side either.
    low, high = (difference.value if end is None else end for end in (difference.low, difference.high))
    return UNCHANGED if low <= 0 <= high else FALLS if low > 0 else RISES


def _edges(similarities: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Edges `[BINS + 1]` of the histogram of all similarities."""
    pooled = np.concatenate([np.empty(0), *similarities])
    low, high = (float(pooled.min()), float(pooled.max())) if pooled.size else (0.0, 1.0)
    return np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, BINS + 1)


def _correlations(pairs: Sequence[_Pairs], resamples: int, seed: int) -> list[Interval]:
    """Spearman's correlation of similarity and score difference of each generator, and their mean, all on the same resamples."""
    fakes = pd.concat([each.fakes for each in pairs], ignore_index=True)
    groups = group_codes(fakes["group"].tolist(), fakes["key"].tolist())
    ends = np.cumsum([0, *(len(each.fakes) for each in pairs)])
    columns = fakes[["pair_similarity", "gap"]].to_numpy(np.float64)
    places = [slice(start, end) for start, end in itertools.pairwise(ends)]

    def measured(weights: Tensor) -> Tensor:
        return torch.stack([spearman(columns[place, 0], columns[place, 1], weights[:, place]) for place in places], dim=1)

    values = measured(torch.ones(1, len(fakes), dtype=torch.int64))[0]
    drawn = [measured(weights) for weights in resample_weights(np.ones(len(fakes), np.int64), groups, resamples, seed)]
    samples = torch.cat(drawn) if drawn else values.new_empty(0, len(pairs))
    doubts: list[str | None] = []
    for place in places:
        missing = int(np.isnan(columns[place, 1]).sum())
        few = too_few_groups((0, np.unique(groups[place]).size), (1,))
        doubts.append(f"{missing} of {place.stop - place.start} score differences are missing (NaN)" if missing else few)
    single = [interval_of(float(values[i]), samples[:, i], reason=doubt) for i, doubt in enumerate(doubts)]
    first = next((f"{each.name}: {doubt}" for each, doubt in zip(pairs, doubts, strict=True) if doubt), None)
    return [*single, interval_of(float(values.mean()), samples.mean(1), reason=first)]


def spearman(first: NDArray[np.float64], second: NDArray[np.float64], weights: Tensor) -> Tensor:
    """Spearman's rank correlation in resamples: Pearson's of the mid-ranks, each observation as often as its weight says.

    Args:
        first: `[n]`, finite.
        second: `[n]`; NaN makes the result NaN.
        weights: int64 `[r, n]`, not negative.

    Returns:
        Double `[r]` in [−1, 1]; NaN where either is constant.
    """
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return torch.full((len(weights),), torch.nan, dtype=torch.float64)
    share = weights.double() / weights.sum(1, keepdim=True)
    ranks = [_mid_ranks(values, weights) for values in (first, second)]
    left, right = (rank - (share * rank).sum(1, keepdim=True) for rank in ranks)
    spreads = [(share * side.square()).sum(1) for side in (left, right)]
    found = (share * left * right).sum(1) / (spreads[0] * spreads[1]).sqrt()
    varies = [_varies(values, weights) for values in (first, second)]
    return torch.where(varies[0] & varies[1], found.clamp(-1, 1), torch.nan)


def _varies(values: NDArray[np.float64], weights: Tensor) -> Tensor:
    """Whether a resample holds two different values, `[r]`; by the values themselves, since a spread that should be 0 is rounded."""
    held = weights > 0
    numbers = torch.from_numpy(values)
    return torch.where(held, numbers, -torch.inf).amax(1) > torch.where(held, numbers, torch.inf).amin(1)


def _mid_ranks(values: NDArray[np.float64], weights: Tensor) -> Tensor:
    """Rank of each of `[n]` in each resample, `[r, n]`; of equal ones the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    sums = torch.nn.functional.pad(weights[:, torch.from_numpy(order)].cumsum(1), (1, 0))
    below, upto = (torch.from_numpy(np.searchsorted(ranked, values, side=side)) for side in ("left", "right"))
    return (sums[:, below] + sums[:, upto] + 1).double() / 2


def sentence(found: Mapping[str, Any]) -> str:
    """What the trend comes to, in one sentence.

    Args:
        found: Of `matched`.
    """
    if found["macro"] is None:
        return f"Nothing is known of matched pairs: {found['reason']}."
    macro = found["macro"]
    trend = macro["trend"]
    count = sum(1 for each in found["generators"] if each["n_pairs"])
    over = f"over {count} generator{'s' * (count != 1)}, {macro['n_pairs']:,} pairs"
    if trend["value"] is None:
        return f"Whether AUROC depends on how well pairs match is not known ({trend['reason']})."
    ends = "" if trend["low"] is None else f" [{trend['low']:.3f}, {trend['high']:.3f}]"
    told_of = {
        FALLS: "is lower where the real image is more like the fake: part of what it sees is content or style, "
        "or how unlike a photograph the fake is",
        RISES: "is higher where the real image is more like the fake",
        UNCHANGED: "does not show a change as pairs are matched better",
        OPEN: f"has no interval for its change ({trend.get('reason')})",
    }
    return f"AUROC {told_of[macro['verdict']]}. All pairs − best half: {trend['value']:+.3f}{ends}, {over}."


def text(found: Mapping[str, Any], width: int = WIDTH) -> str:
    """The audit for a terminal.

    Args:
        found: Of `matched`.
        width: Columns of the terminal.
    """
    notes: dict[str, int] = {}
    rows = []
    for record in (*found["generators"], *([found["macro"]] if found["macro"] else [])):
        median = record["similarity"]["quantiles"]["0.5"]
        cells = {"pairs": str(record["n_pairs"]), "similarity": "-" if median is None else f"{median:.3f}"}
        cells |= {_kept(each["dropped"]): _said(each, notes) for each in record["auroc"]}
        cells |= {"all − half": _said(record["trend"], notes, "+.3f"), "": record["verdict"]}
        rows.append((record["name"], cells | {"correlation": _said(record["correlation"], notes, "+.3f")}))
    if not rows:
        return sentence(found)
    heads = ["pairs", "similarity", *map(_kept, DROPPED), "all − half", "", "correlation"]
    title = "AUROC as the worst-matched pairs are dropped (similarity: median; correlation: of similarity and score difference):"
    return "\n".join([title, *layout("generator", heads, rows, width), *told(notes), sentence(found)])


def _said(cell: Mapping[str, Any], notes: dict[str, int], form: str = ".3f") -> str:
    if cell["value"] is None:
        return f"-{mark(cell, notes)}"
    return f"{cell['value']:{form}}" + ("" if cell["low"] is None else f" [{cell['low']:{form}}, {cell['high']:{form}}]")


def write_matched(path: Path, documents: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the audits as CSV with the columns `COLUMNS`: a row for each detector, generator (or `macro`), quantity and share dropped.

    `quantity` is `auroc`, `correlation`, `trend`, or `similarity_0.5` and so on, a quantile of the similarities.

    Args:
        path: The file, usually `runs/<name>/tables/matched.csv`.
        documents: Of `matched`, by detector.
    """
    rows: list[dict[str, Any]] = []
    for detector, found in documents.items():
        for record in (*found["generators"], *([found["macro"]] if found["macro"] else [])):
            shared = {"detector": detector, "name": record["name"]}
            rows += [shared | {"quantity": "auroc"} | each for each in record["auroc"]]
            rows.append(shared | {"quantity": "trend", "verdict": record["verdict"]} | record["trend"])
            rows.append(shared | {"quantity": "correlation"} | record["correlation"])
            rows += [shared | {"quantity": f"similarity_{q}", "value": value} for q, value in record["similarity"]["quantiles"].items()]
    return write_csv(path, rows, COLUMNS)
