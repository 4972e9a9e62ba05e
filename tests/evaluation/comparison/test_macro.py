"""AUROC of many generators at once: that of scikit-learn, on the images and on every resample."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison.macro import measure_aurocs
from evaluation.predictions import make_table
from evaluation.resampling import group_codes, resample_weights
from evaluation.statistics import against_reals, measure
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table


def rounded():
    """Scores with many ties, three generators of two data sets, and a perturbation that does not count."""
    table = usual_table()
    table["score"] = table["score"].round(1)
    return pd.concat([table, table.assign(perturbation="jpeg_40", score=0.0)])


@pytest.mark.parametrize("reals_from", [None, {"scenes": "faces"}])
def test_values_are_those_of_scikit_learn(reals_from):
    found = measure_aurocs(rounded().sample(frac=1, random_state=1), reals_from, resamples=5)
    tables = against_reals(rounded().query("perturbation == 'none'"), reals_from)
    assert found.names == tuple(tables)
    for name, number in zip(found.names, found.numbers.tolist(), strict=True):
        assert number == pytest.approx(roc_auc_score(tables[name]["label"], tables[name]["score"]), abs=1e-12)
    assert found.mean(found.names).value == pytest.approx(found.numbers.mean().item())


def test_resamples_are_those_of_scikit_learn_with_weights():
    table = rounded().query("perturbation == 'none'").sort_values(["dataset", "key"]).reset_index(drop=True)
    found = measure_aurocs(table, resamples=7, seed=3)
    groups = group_codes(table["group"].tolist(), table["key"].tolist())
    weights = np.concatenate([w.numpy() for w in resample_weights(table["label"].to_numpy(), groups, 7, 3)])
    for column, name in enumerate(found.names):
        dataset, generator = name.split("/")
        part = (table["dataset"] == dataset) & ((table["label"] == 0) | (table["generator"] == generator))
        for row in range(7):
            expected = roc_auc_score(table["label"][part], table["score"][part], sample_weight=weights[row][part])
            assert found.samples[row, column].item() == pytest.approx(expected, abs=1e-12)


def test_one_generator_has_the_interval_that_metrics_json_has():
    table = usual_table().query("dataset == 'faces' and generator != 'gan'")
    found = measure_aurocs(table, resamples=200, seed=1)
    assert found.mean(["faces/sd"]).cell() == pytest.approx(measure(table, THRESHOLD, 200, 1)["auroc"])


def test_the_difference_of_two_sets_of_generators_is_of_the_same_resamples():
    found = measure_aurocs(usual_table().query("dataset == 'faces'"), resamples=100)
    first, second = found.mean(["faces/sd"]), found.mean(["faces/gan"])
    apart = found.difference(["faces/sd"], ["faces/gan"])
    assert apart.value == pytest.approx(first.value - second.value)
    assert 0 < apart.low < apart.value < apart.high
    # Both share the reals: paired is narrower than if they were independent.
    assert apart.high - apart.low < math.hypot(first.high - first.low, second.high - second.low)
    assert found.difference([], ["faces/gan"]).reason == "there are no generators on one side"
    assert found.mean([]).reason == "there are no such generators"


def test_too_few_groups_missing_scores_and_no_reals_are_said():
    rows = some_rows("a", "r", 0, 60) + some_rows("a", "few", 1, 30, 4) + some_rows("a", "nan", 1, 30) + some_rows("b", "f", 1, 30)
    table = make_table(rows)
    table.loc[table.query("generator == 'nan'").index[0], "score"] = math.nan
    found = measure_aurocs(table, resamples=20)
    assert found.mean(["a/few"]).value is not None
    assert "too few groups for an interval: 4 of fake images" in found.mean(["a/few"]).reason
    assert (found.mean(["a/nan"]).value, found.mean(["a/nan"]).reason) == (None, "a/nan: 1 of 90 scores are missing (NaN)")
    assert found.mean(["b/f"]).reason == "b/f: there are no real images"
    assert "(and 2 more generators)" in found.mean(["a/few", "a/nan", "b/f"]).reason


def test_infinite_scores_and_one_class():
    table = make_table(some_rows("a", "r", 0, 40) + some_rows("a", "f", 1, 40))
    table.loc[0, "score"], table.loc[50, "score"] = math.inf, -math.inf
    expected = roc_auc_score(table["label"], table["score"].clip(-99, 99))
    assert measure_aurocs(table, resamples=20).mean(["a/f"]).value == pytest.approx(expected)
    assert measure_aurocs(table.query("label == 0"), resamples=20).names == ()


def test_a_detector_minus_itself_is_exactly_nothing_and_others_need_the_same_generators():
    found = measure_aurocs(usual_table(), resamples=50)
    none = found.minus(found, ["faces/sd", "faces/gan"])
    assert none.value == 0
    assert float((found.samples - found.samples).abs().max()) == 0
    with pytest.raises(ValueError, match="same generators"):
        found.minus(measure_aurocs(usual_table().query("dataset == 'faces'"), resamples=50), ["faces/sd"])


def test_a_resample_without_a_generator_does_not_cost_the_interval():
    rows = some_rows("a", "r", 0, 1500) + some_rows("a", "rare", 1, 12) + some_rows("a", "common", 1, 1500)
    found = measure_aurocs(make_table(rows), resamples=400)
    found.samples[3, found.names.index("a/rare")] = math.nan
    assert found.mean(["a/rare"]).low is not None
    assert found.mean(["a/rare", "a/common"]).low is not None
