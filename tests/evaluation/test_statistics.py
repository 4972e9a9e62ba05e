"""`metrics.json`: its contract, and that nothing in it is claimed without grounds."""

import json
import math
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from evaluation.predictions import make_table
from evaluation.statistics import against_reals, bootstrap_interval, measure, metrics_document
from modules.metrics.functional import Threshold, auroc
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table

NUMBERS = ("auroc", "average_precision", "accuracy", "balanced_accuracy", "tpr_at_threshold", "fpr_at_threshold")


def cells(tree):
    """All `{"value", "low", "high"}` in a document."""
    if isinstance(tree, dict) and "low" in tree:
        yield tree
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from cells(branch)


def test_document_keeps_the_contract():
    document = metrics_document(usual_table(), THRESHOLD, resamples=50)
    json.dumps(document, allow_nan=False)
    assert {"overall", "by_generator", "by_perturbation", "threshold"} <= set(document)
    assert set(document["by_generator"]) == {"faces/sd", "faces/gan", "scenes/sd"}
    assert set(document["by_perturbation"]) == {"none"}
    assert document["threshold"] == {"value": 0.5, "fpr": 0.05, "n": 99, "reason": None}
    assert document["bootstrap"] == {"resamples": 50, "seed": 0, "level": 0.95, "unit": "group"}
    for record in [document["overall"], *document["by_generator"].values(), *document["by_perturbation"].values()]:
        assert {"n_real", "n_fake", "n_groups", *NUMBERS} <= set(record)
        assert list(record["tpr_at_fpr"]) == ["0.1", "0.05", "0.01", "0.001"]
        assert list(record["precision_at_prevalence"]) == ["0.01", "0.001"]
    found = list(cells(document))
    assert len(found) > 50
    for cell in found:
        assert {"value", "low", "high"} <= set(cell) <= {"value", "low", "high", "reason"}
        assert ("reason" in cell) == (cell["value"] is None or cell["low"] is None)
        assert cell["low"] is None or cell["low"] <= cell["high"]


def test_values_are_those_of_scikit_learn_and_of_the_rows():
    table = usual_table()
    document = metrics_document(table, THRESHOLD, resamples=50)
    assert document["overall"]["auroc"]["value"] == pytest.approx(roc_auc_score(table["label"], table["score"]), abs=1e-12)
    rows = table[(table["dataset"] == "faces") & ((table["label"] == 0) | (table["generator"] == "sd"))]
    record = document["by_generator"]["faces/sd"]
    assert (record["n_real"], record["n_fake"], record["n_groups"]) == (240, 120, 100)
    assert (record["n_groups_real"], record["n_groups_fake"]) == (60, 40)
    called = rows["score"] > 0.5
    assert record["average_precision"]["value"] == pytest.approx(average_precision_score(rows["label"], rows["score"]))
    assert record["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(rows["label"], called))
    tpr, fpr = called[rows["label"] == 1].mean(), called[rows["label"] == 0].mean()
    assert record["tpr_at_threshold"]["value"] == pytest.approx(tpr)
    assert record["fpr_at_threshold"]["value"] == pytest.approx(fpr)
    assert record["precision_at_prevalence"]["0.01"]["value"] == pytest.approx(0.01 * tpr / (0.01 * tpr + 0.99 * fpr))


def test_same_rows_same_seed_same_numbers():
    table = usual_table()
    first = metrics_document(table, THRESHOLD, resamples=60, seed=4)
    assert metrics_document(table.sample(frac=1, random_state=0), THRESHOLD, resamples=60, seed=4) == first
    assert metrics_document(table, THRESHOLD, resamples=60, seed=5) != first


def test_measure_agrees_with_bootstrap_interval():
    table = usual_table().query("dataset == 'faces'")
    found = measure(table, THRESHOLD, resamples=100, seed=2)["auroc"]
    alone = bootstrap_interval(table["label"].to_numpy(), table["score"].to_numpy(), table["group"].tolist(), auroc, 100, seed=2)
    assert (found["value"], found["low"], found["high"]) == (alone.value, alone.low, alone.high)


def test_few_groups_have_values_without_intervals():
    record = metrics_document(usual_table(), THRESHOLD, resamples=20)["by_generator"]["scenes/sd"]
    assert record["auroc"]["value"] > 0.5
    assert record["auroc"]["low"] is None
    assert "8 of real images, 10 needed" in record["auroc"]["reason"]
    assert record["tpr_at_threshold"]["low"] is not None  # of the fakes there are 20 groups


@pytest.mark.parametrize(("reals", "value", "interval"), [(9, False, False), (10, True, False), (99, True, False), (100, True, True)])
def test_tpr_at_fpr_needs_enough_reals(reals, value, interval):
    table = make_table(some_rows("a", "r", 0, reals) + some_rows("a", "f", 1, 60))
    cell = measure(table, THRESHOLD, resamples=20)["tpr_at_fpr"]["0.1"]
    assert (cell["value"] is not None, cell["low"] is not None) == (value, interval)


def test_reals_come_from_the_own_set_or_the_named_one():
    table = make_table(some_rows("a", "r", 0, 50) + some_rows("a", "f", 1, 50) + some_rows("b", "f", 1, 50, shift=0.2))
    document = metrics_document(table, THRESHOLD, resamples=20)
    lonely = document["by_generator"]["b/f"]
    assert lonely["n_real"] == 0
    assert lonely["auroc"] == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "there are no real images; reals_from can name a data set that has some",
    }
    assert lonely["tpr_at_threshold"]["value"] is not None
    helped = metrics_document(table, THRESHOLD, {"b": "a"}, resamples=20)
    assert helped["by_generator"]["b/f"]["n_real"] == 50
    assert helped["reals_from"] == {"b": "a"}
    assert helped["by_generator"]["a/f"] == document["by_generator"]["a/f"]
    assert len(against_reals(table, {"b": "a"})["b/f"]) == 100


def test_without_a_threshold_its_numbers_are_null_with_its_reason():
    record = metrics_document(usual_table(), Threshold(None, 0.05, 3, "too few reals"), resamples=20)
    json.dumps(record, allow_nan=False)
    for name in ("accuracy", "balanced_accuracy", "tpr_at_threshold", "fpr_at_threshold"):
        assert record["overall"][name] == {"value": None, "low": None, "high": None, "reason": "too few reals"}
    assert record["overall"]["auroc"]["value"] is not None
    assert record["by_source_of_reals"]["faces/ffhq"]["fpr_at_threshold"]["reason"] == "too few reals"


def test_row_35_nan_scores_and_one_class():
    table = usual_table()
    table.loc[3, "score"] = math.nan
    document = metrics_document(table, THRESHOLD, resamples=20)
    json.dumps(document, allow_nan=False)
    assert document["overall"]["auroc"]["reason"] == "1 of 560 scores are missing (NaN)"
    assert document["by_generator"]["scenes/sd"]["auroc"]["value"] is not None
    reals = metrics_document(usual_table().query("label == 0"), THRESHOLD, resamples=20)
    assert reals["overall"]["auroc"]["reason"] == "there are no fake images"
    assert reals["overall"]["fpr_at_threshold"]["value"] is not None
    assert reals["by_generator"] == {}


def test_infinite_scores_are_scores():
    table = usual_table()
    table.loc[0, "score"], table.loc[300, "score"] = -math.inf, math.inf
    json.dumps(metrics_document(table, THRESHOLD, resamples=20), allow_nan=False)


def test_precision_without_a_false_alarm_is_not_claimed():
    table = make_table(some_rows("a", "r", 0, 50, shift=-9) + some_rows("a", "f", 1, 50, shift=9))
    record = measure(table, THRESHOLD, resamples=20)
    assert record["precision_at_prevalence"]["0.01"]["value"] is None
    assert "no false alarm" in record["precision_at_prevalence"]["0.01"]["reason"]
    assert record["auroc"]["value"] == 1
    assert record["auroc"]["low"] is None


def test_perturbations_share_the_threshold_and_overall_is_clean():
    clean = usual_table()
    moved = clean.assign(perturbation="jpeg_40", score=clean["score"] + 1)
    document = metrics_document(pd.concat([clean, moved]), THRESHOLD, resamples=20)
    assert document["by_perturbation"]["none"] == document["overall"] == metrics_document(clean, THRESHOLD, resamples=20)["overall"]
    jpeg = document["by_perturbation"]["jpeg_40"]
    assert jpeg["auroc"]["value"] == pytest.approx(document["overall"]["auroc"]["value"])
    assert jpeg["fpr_at_threshold"]["value"] > document["overall"]["fpr_at_threshold"]["value"]
    only = metrics_document(moved, THRESHOLD, resamples=20)
    assert only["overall"] == only["by_perturbation"]["jpeg_40"]


def test_false_alarms_by_source_of_reals():
    found = metrics_document(usual_table(), THRESHOLD, resamples=50)["by_source_of_reals"]
    assert set(found) == {"faces/ffhq", "scenes/photos"}
    assert found["faces/ffhq"]["fpr_at_threshold"]["low"] is not None
    assert found["scenes/photos"]["fpr_at_threshold"]["low"] is None
    assert "auroc" not in found["faces/ffhq"]


def test_several_detectors():
    table = pd.concat([usual_table(), usual_table().assign(detector="svm@jpeg_40")])
    both = metrics_document(table, {"probe": THRESHOLD, "svm@jpeg_40": Threshold(1.0, 0.05, 99)}, resamples=20)
    assert set(both) == {"detectors"}
    assert both["detectors"]["probe"] == metrics_document(usual_table(), THRESHOLD, resamples=20)
    assert both["detectors"]["svm@jpeg_40"]["threshold"]["value"] == 1
    with pytest.raises(ValueError, match=r"no threshold for the detectors svm@jpeg_40"):
        metrics_document(table, THRESHOLD)
    with pytest.raises(ValueError, match="no predictions"):
        metrics_document(usual_table().head(0), THRESHOLD)


def test_a_thousand_resamples_of_twenty_thousand_scores_take_seconds():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 10_000)
    start = time.perf_counter()
    found = bootstrap_interval(labels, rng.normal(size=20_000) + labels, None, auroc)
    assert time.perf_counter() - start < 30  # about 2 s where nothing else runs
    assert found.high - found.low == pytest.approx(0.013, abs=0.002)


def collections_table():
    """Two collections: one of two data sets, one of a single data set with two generators of other sizes."""
    rows = some_rows("synris/dalle3", "real", 0, 40, 20) + some_rows("synris/dalle3", "dalle3", 1, 30, 15)
    rows += some_rows("synris/sdxl", "real", 0, 50, 25) + some_rows("synris/sdxl", "sdxl", 1, 60, 20, shift=0.4)
    return make_table(rows + usual_table().query("dataset == 'faces'").to_dict("records"))


def test_means_over_generators_of_all_and_of_each_collection():
    table = collections_table()
    document = metrics_document(table, THRESHOLD, resamples=50)
    json.dumps(document, allow_nan=False)
    means, parts = document["means_over_generators"], against_reals(table)
    assert {name: part["n_generators"] for name, part in means.items()} == {"all": 4, "faces": 2, "synris": 2}
    values, sizes = {}, {}
    for name, part in parts.items():
        called = part["score"] > THRESHOLD.value
        reals = np.sort(part.loc[part["label"] == 0, "score"])[::-1]
        at = reals[int(0.1 * reals.size)]  # the lowest real that more than a tenth reach
        values[name] = {
            "auroc": roc_auc_score(part["label"], part["score"]),
            "tpr_at_fpr": (part.loc[part["label"] == 1, "score"] > at).mean(),
            "accuracy": (called == part["label"]).mean(),
            "balanced_accuracy": balanced_accuracy_score(part["label"], called),
        }
        sizes[name] = int((part["label"] == 1).sum())
    for collection, found in means.items():
        chosen = [name for name in parts if collection in ("all", name.split("/")[0])]
        for metric in ("auroc", "tpr_at_fpr", "accuracy", "balanced_accuracy"):
            numbers = [values[name][metric] for name in chosen]
            for kind, weights in (("macro", None), ("size_weighted", [sizes[name] for name in chosen])):
                cell = found[kind][metric]["0.1"] if metric == "tpr_at_fpr" else found[kind][metric]
                assert cell["value"] == pytest.approx(np.average(numbers, weights=weights), abs=1e-12)
                # The reals of one set and those of others are too few for an interval at that rate.
                assert (cell["low"] is None) == (metric == "tpr_at_fpr" and collection != "faces")
    assert document["means_over_generators_and_perturbation"] == {"none": means["all"]}


def test_one_generator_is_its_own_mean_and_one_collection_is_not_told_twice():
    table = usual_table().query("dataset == 'faces'")
    assert set(metrics_document(table, THRESHOLD, resamples=5)["means_over_generators"]) == {"all"}
    one = metrics_document(table.query("generator != 'gan'"), THRESHOLD, resamples=30)
    found, record = one["means_over_generators"]["all"], one["by_generator"]["faces/sd"]
    assert found["macro"] == found["size_weighted"]
    assert found["macro"]["auroc"] == record["auroc"]
    assert found["macro"]["tpr_at_fpr"] == {"0.1": record["tpr_at_fpr"]["0.1"]}
    none = metrics_document(table.query("label == 0"), THRESHOLD, resamples=5)["means_over_generators"]["all"]
    assert (none["n_generators"], none["macro"]["auroc"]["reason"]) == (0, "there are no such generators")


def test_a_mean_over_a_generator_without_reals_is_null_and_names_it():
    table = make_table(some_rows("a", "r", 0, 50) + some_rows("a", "f", 1, 50) + some_rows("b", "f", 1, 50, shift=0.2))
    found = metrics_document(table, THRESHOLD, resamples=20)["means_over_generators"]["all"]["macro"]["auroc"]
    assert (found["value"], found["reason"].split(";")[0]) == (None, "b/f: there are no real images")
    helped = metrics_document(table, THRESHOLD, {"b": "a"}, resamples=20)["means_over_generators"]["all"]["macro"]["auroc"]
    assert helped["low"] < helped["value"] < helped["high"]


def test_a_collection_that_is_called_all_does_not_replace_the_mean_over_all():
    rows = some_rows("all", "r", 0, 20) + some_rows("all", "f", 1, 20) + some_rows("all", "g", 1, 20)
    table = make_table(rows + some_rows("b", "r", 0, 20) + some_rows("b", "f", 1, 20))
    found = metrics_document(table, THRESHOLD, resamples=5)["means_over_generators"]
    assert {name: each["n_generators"] for name, each in found.items()} == {"all": 3, "all/": 2}


def test_means_and_false_alarms_under_each_perturbation():
    clean = usual_table()
    moved = clean.assign(perturbation="jpeg_40", score=clean["score"] + np.where(clean["dataset"] == "faces", 1.0, 0.0))
    document = metrics_document(pd.concat([clean, moved]), THRESHOLD, {"scenes": "faces"}, resamples=40)
    alone = metrics_document(moved, THRESHOLD, {"scenes": "faces"}, resamples=40)
    assert document["means_over_generators_and_perturbation"]["jpeg_40"] == alone["means_over_generators"]["all"]
    assert document["means_over_generators_and_perturbation"]["none"] == document["means_over_generators"]["all"]
    found = document["by_source_of_reals_and_perturbation"]
    assert found["none"] == document["by_source_of_reals"]
    assert set(found["jpeg_40"]) == {"faces/ffhq", "scenes/photos"}
    for name, rows in (("none", clean), ("jpeg_40", moved)):
        for (dataset, source), part in rows[rows["label"] == 0].groupby(["dataset", "generator"]):
            cell = found[name][f"{dataset}/{source}"]
            assert cell["fpr_at_threshold"]["value"] == pytest.approx((part["score"] > THRESHOLD.value).mean())
            assert cell["n_real"] == len(part)
    assert found["jpeg_40"]["faces/ffhq"]["fpr_at_threshold"]["low"] > found["none"]["faces/ffhq"]["fpr_at_threshold"]["high"]
    assert found["jpeg_40"]["scenes/photos"] == found["none"]["scenes/photos"]
