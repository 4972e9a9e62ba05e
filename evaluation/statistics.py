"""Every number of `metrics.json`, from rows of the predictions table, a stored threshold and a seed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evaluation.calibration import calibration
from evaluation.means import OfGenerators, measure_generators, no_interval, no_value
from evaluation.resampling import LEVEL, RESAMPLES, Interval, bootstrap, group_codes, groups_by_class, interval_of
from evaluation.resampling import bootstrap_interval as bootstrap_interval
from modules.metrics.functional import FPRS, Curve, Threshold, curve

PREVALENCES = (0.01, 0.001)
CLEAN = "none"
CROSSED = {"auroc": ("auroc",), "tpr_at_fpr_0.1": ("tpr_at_fpr", "0.1")}
"""What detectors are compared by under each perturbation, by the names that published tables use, with their places within M."""
AVERAGED = {**CROSSED, "accuracy": ("accuracy",), "balanced_accuracy": ("balanced_accuracy",)}
"""The statistics that have means over generators; accuracies are at the detector's stored threshold."""
KEPT = {**AVERAGED, "tpr_at_threshold": ("tpr_at_threshold",), "fpr_at_threshold": ("fpr_at_threshold",)}
"""The statistics of each generator, and of each data set, under each perturbation."""


@dataclass(frozen=True)
class Statistic:
    """One number of `metrics.json`.

    Attributes:
        place: Its keys within M.
        compute: From a curve to `[...]`; None where it needs a threshold and there is none.
        classes: The classes that it needs.
        fpr: The false positive rate that it is taken at, if it is: then it needs 1/fpr reals, its interval 10/fpr.
        objection: From the curve of all images to the reason why the value would mislead, or None.
    """

    place: tuple[str, ...]
    compute: Callable[[Curve], Tensor] | None
    classes: tuple[int, ...] = (0, 1)
    fpr: float | None = None
    objection: Callable[[Curve], str | None] = lambda _: None


def statistics(threshold: Threshold) -> list[Statistic]:
    """All numbers of M, in their order."""
    ranking = [
        Statistic(("auroc",), Curve.auroc),
        Statistic(("average_precision",), Curve.average_precision),
        *(Statistic(("tpr_at_fpr", f"{fpr:g}"), partial(_tpr_at_fpr, fpr=fpr), fpr=fpr) for fpr in FPRS),
    ]
    return ranking + _at_threshold(threshold.value)


def _at_threshold(at: float | None) -> list[Statistic]:
    def bind(compute: Callable[..., Tensor], **options: float) -> Callable[[Curve], Tensor] | None:
        return None if at is None else partial(compute, threshold=at, **options)

    def no_false_alarm(points: Curve) -> str | None:
        return _no_false_alarm(points, at) if at is not None else None

    return [
        Statistic(("accuracy",), bind(Curve.accuracy)),
        Statistic(("balanced_accuracy",), bind(Curve.balanced_accuracy)),
        Statistic(("tpr_at_threshold",), bind(_tpr), (1,)),
        Statistic(("fpr_at_threshold",), bind(_fpr), (0,)),
        *(
            Statistic(("precision_at_prevalence", f"{share:g}"), bind(_precision, prevalence=share), objection=no_false_alarm)
            for share in PREVALENCES
        ),
    ]


def _tpr_at_fpr(points: Curve, fpr: float) -> Tensor:
    return points.tpr_at_fpr(fpr)


def _tpr(points: Curve, threshold: float) -> Tensor:
    return points.called_fake(threshold)[1] / points.fakes


def _fpr(points: Curve, threshold: float) -> Tensor:
    return points.called_fake(threshold)[0] / points.reals


def _precision(points: Curve, threshold: float, prevalence: float) -> Tensor:
    """Share of fakes among what is called fake where `prevalence` of all images are fakes (Bayes' rule)."""
    hits = prevalence * _tpr(points, threshold)
    return hits / (hits + (1 - prevalence) * _fpr(points, threshold))


def _no_false_alarm(points: Curve, threshold: float) -> str | None:
    if points.called_fake(threshold)[0] > 0:
        return None
    return "no false alarm among these real images: too few to say how rare they are"


def measure(
    frame: pd.DataFrame,
    threshold: Threshold,
    resamples: int = RESAMPLES,
    seed: int = 0,
    chosen: Sequence[Statistic] | None = None,
) -> dict[str, Any]:
    """The record M of `metrics.json` for some rows of one detector.

    Args:
        frame: Rows of the predictions table, reals and fakes.
        threshold: The detector's stored threshold.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.
        chosen: Which statistics; all by default.

    Returns:
        Counts, and `{"value", "low", "high"}` for each number, with `"reason"` where one of them is null.
    """
    chosen = statistics(threshold) if chosen is None else chosen
    labels, scores = frame["label"].to_numpy(np.int64), frame["score"].to_numpy(np.float64)
    groups = group_codes(frame["group"].tolist(), frame["key"].tolist())
    counts, group_counts = (int((labels == 0).sum()), int((labels == 1).sum())), groups_by_class(labels, groups)
    result: dict[str, Any] = {"n_real": counts[0], "n_fake": counts[1], "n_groups": np.unique(groups).size}
    result |= {"n_groups_real": group_counts[0], "n_groups_fake": group_counts[1]}

    points = curve(torch.tensor(scores), torch.tensor(labels))
    problems = [_no_value(each, counts, int(np.isnan(scores).sum()), threshold, points) for each in chosen]
    doubts = [_no_interval(each, counts, group_counts) for each in chosen]
    functions = [each.compute for each, *why in zip(chosen, problems, doubts, strict=True) if each.compute and why == [None, None]]
    samples: list[Tensor] = []
    if functions:
        drawn = bootstrap(labels, scores, groups, lambda many: torch.stack([f(many) for f in functions], dim=-1), resamples, seed)
        samples = list(drawn.unbind(-1))
    for each, problem, doubt in zip(chosen, problems, doubts, strict=True):
        if problem is not None or each.compute is None:
            interval = Interval(None, reason=problem)
        else:
            interval = interval_of(float(each.compute(points)), samples.pop(0) if doubt is None else None, LEVEL, doubt)
        _put(result, each.place, interval.cell())
    return result


def _no_value(each: Statistic, counts: tuple[int, int], missing: int, threshold: Threshold, points: Curve) -> str | None:
    """Why a statistic has no value on these images."""
    lacking = None if each.compute is not None else threshold.reason or "there is no threshold"
    return no_value(counts, missing, each.classes, each.fpr, lacking) or each.objection(points)


def _no_interval(each: Statistic, counts: tuple[int, int], groups: tuple[int, int]) -> str | None:
    """Why a statistic that has a value has no interval."""
    return no_interval(counts, groups, each.classes, each.fpr)


def _put(tree: dict[str, Any], place: tuple[str, ...], leaf: object) -> None:
    for name in place[:-1]:
        tree = tree.setdefault(name, {})
    tree[place[-1]] = leaf


def metrics_document(
    frame: pd.DataFrame,
    threshold: Threshold | Mapping[str, Threshold],
    reals_from: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What `metrics.json` holds.

    `overall` and `by_generator` are of the images as they are (`none`) where there are such rows, else of all.

    Args:
        frame: A predictions table; the rows of one split.
        threshold: The stored threshold, or one for each detector by name.
        reals_from: For a data set, the one whose reals its generators are measured against; its own by default.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Raises:
        ValueError: The table is empty, or a detector has no threshold in `threshold`.
    """
    if frame.empty:
        message = "there are no predictions to measure"
        raise ValueError(message)
    names = sorted(frame["detector"].unique())
    thresholds = {names[0]: threshold} if isinstance(threshold, Threshold) else threshold
    order = list(thresholds)  # a study's own
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    if lacking := [name for name in names if name not in thresholds]:
        message = f"no threshold for the detectors {', '.join(lacking)}; give one for each by name"
        raise ValueError(message)
    one = partial(_one_detector, reals_from=reals_from or {}, resamples=resamples, seed=seed)
    documents = {name: one(frame[frame["detector"] == name], thresholds[name]) for name in names}
    return documents[names[0]] if len(names) == 1 else {"detectors": documents}


def clean_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of unperturbed images; all rows where there are none."""
    clean = frame[frame["perturbation"] == CLEAN]
    return frame if clean.empty else clean


def by_perturbation(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each perturbation, in the order in which they come, which is that of a study's configuration."""
    return {str(name): rows for name, rows in frame.groupby("perturbation", sort=False)}


def against_reals(frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None) -> dict[str, pd.DataFrame]:
    """For each `dataset/generator` its fakes, and the reals of its data set or of the one that `reals_from` names."""
    fakes, reals = frame[frame["label"] == 1], frame[frame["label"] == 0]
    tables = {}
    for (dataset, generator), rows in fakes.groupby(["dataset", "generator"], sort=True):
        source = (reals_from or {}).get(str(dataset), str(dataset))
        tables[f"{dataset}/{generator}"] = pd.concat([reals[reals["dataset"] == source], rows])
    return tables


def against_reals_by_dataset(frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None) -> dict[str, pd.DataFrame]:
    """For each data set that has fakes all of them, and its reals or those of the data set that `reals_from` names."""
    fakes, reals = frame[frame["label"] == 1], frame[frame["label"] == 0]
    sources = {str(name): (reals_from or {}).get(str(name), str(name)) for name in sorted(fakes["dataset"].unique())}
    return {name: pd.concat([reals[reals["dataset"] == source], fakes[fakes["dataset"] == name]]) for name, source in sources.items()}


def _one_detector(frame: pd.DataFrame, threshold: Threshold, reals_from: Mapping[str, str], resamples: int, seed: int) -> dict[str, Any]:
    take = partial(measure, threshold=threshold, resamples=resamples, seed=seed)
    averaged = partial(_means, reals_from=reals_from, threshold=threshold, resamples=resamples, seed=seed)

    def whole(rows: pd.DataFrame) -> dict[str, Any]:
        return take(rows) | calibration(rows, resamples, seed)

    clean = clean_rows(frame)
    overall = whole(clean)
    by_generator = {name: take(rows) for name, rows in against_reals(clean, reals_from).items()}
    means, sources = averaged(clean, by_generator), _by_source(clean, threshold, take)
    perturbed = by_perturbation(frame)
    records, crossed, all_means, all_sources = {}, {}, {}, {}
    by_dataset: dict[str, dict[str, Any]] = {}
    for name, rows in perturbed.items():
        same = name == CLEAN or len(perturbed) == 1
        records[name] = overall if same else whole(rows)
        known = by_generator if same else {}
        tables = against_reals(rows, reals_from)
        if len(tables) == 1 and all(len(table) == len(rows) for table in tables.values()):
            known = dict.fromkeys(tables, records[name])
        crossed[name] = {each: _crossed(table, known.get(each), take, threshold) for each, table in tables.items()}
        all_means[name] = (means if same else averaged(rows, crossed[name]))["all"]
        all_sources[name] = sources if same else _by_source(rows, threshold, take)
        by_dataset[name] = {}
        for dataset, table in against_reals_by_dataset(rows, reals_from).items():
            one = [each for each, part in tables.items() if len(part) == len(table) and part["dataset"].iloc[-1] == dataset]
            record = records[name] if len(table) == len(rows) else crossed[name][one[0]] if one else None
            by_dataset[name][dataset] = _crossed(table, record, take, threshold) | {"generator": None}
    return {
        "overall": overall,
        "by_generator": by_generator,
        "means_over_generators": means,
        "by_perturbation": records,
        "by_generator_and_perturbation": crossed,
        "by_dataset_and_perturbation": by_dataset,
        "means_over_generators_and_perturbation": all_means,
        "by_source_of_reals": sources,
        "by_source_of_reals_and_perturbation": all_sources,
        "threshold": asdict(threshold),
        "reals_from": dict(reals_from),
        "bootstrap": {"resamples": resamples, "seed": seed, "level": LEVEL, "unit": "group"},
    }


def _by_source(rows: pd.DataFrame, threshold: Threshold, take: Callable[..., dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The false positive rate that really results from the threshold, for each `dataset/source` of reals."""
    chosen = [each for each in statistics(threshold) if each.place == ("fpr_at_threshold",)]
    sources = rows[rows["label"] == 0].groupby(["dataset", "generator"], sort=True)
    return {f"{dataset}/{source}": take(part, chosen=chosen) for (dataset, source), part in sources}


def _means(
    rows: pd.DataFrame,
    records: Mapping[str, Any],
    reals_from: Mapping[str, str],
    threshold: Threshold,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Means over all generators, and over those of each collection where there are several collections.

    A collection is what data sets have before the first `/` of their names. In `macro` each generator counts the same, in `size_weighted`
    as many times as it has fakes.

    Args:
        rows: Of one perturbation.
        records: What is known of each generator of them, by `dataset/generator`: a single one is its own mean.
        reals_from: For a data set, the one whose reals its generators are measured against.
        threshold: The stored threshold.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
    """
    if len(records) == 1:
        (only,) = records.values()
        same = {key: _picked(only, AVERAGED.values()) for key in ("macro", "size_weighted")}
        return {"all": {"n_generators": 1, **same}}
    found = measure_generators(rows, reals_from, threshold, resamples, seed, tuple(AVERAGED))
    collections: dict[str, list[str]] = {}
    for name in records:
        collections.setdefault(name.split("/", 1)[0], []).append(name)
    parts = {name: chosen for name, chosen in collections.items() if len(chosen) > 1 and len(collections) > 1}
    return {
        "all": _mean(found, list(records)),
        **{"all/" if name == "all" else name: _mean(found, chosen) for name, chosen in parts.items()},
    }


def _mean(found: Mapping[str, OfGenerators], chosen: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"n_generators": len(chosen)}
    for kind in ("macro", "size_weighted"):
        for metric, place in AVERAGED.items():
            _put(result, (kind, *place), found[metric].mean(chosen, by_size=kind == "size_weighted").cell())
    return result


def _picked(record: Mapping[str, Any], places: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """The numbers of a record at some places, in the same places."""
    return {place[0]: {place[1]: record[place[0]][place[1]]} if len(place) == 2 else record[place[0]] for place in places}


def _crossed(
    table: pd.DataFrame, known: Mapping[str, Any] | None, take: Callable[..., dict[str, Any]], threshold: Threshold
) -> dict[str, Any]:
    """What `KEPT` names of a generator or a data set under a perturbation, from a record of the same rows where there is one."""
    chosen = [each for each in statistics(threshold) if each.place in KEPT.values()]
    record = take(table, chosen=chosen) if known is None else known
    fake = table[table["label"] == 1].iloc[0]
    kept: dict[str, Any] = {"dataset": str(fake["dataset"]), "generator": str(fake["generator"])}
    kept |= {name: record[name] for name in ("n_real", "n_fake", "n_groups", "n_groups_real", "n_groups_fake")}
    return kept | _picked(record, KEPT.values())
