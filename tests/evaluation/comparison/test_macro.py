"""AUROC of many generators at once: that of scikit-learn, on the images and on every resample."""

import math
import time

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from evaluation.comparison.macro import measure_aurocs
from evaluation.means import METRICS, POOLED, measure_generators
from evaluation.predictions import make_table
from evaluation.resampling import group_codes, resample_weights
from evaluation.statistics import KEPT, against_reals, measure
from modules.metrics.functional import Threshold, curve
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
    assert found.mean(["b/f"]).reason == "b/f: there are no real images; reals_from can name a data set that has some"
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


@pytest.mark.parametrize("reals_from", [None, {"scenes": "faces"}])
def test_every_number_is_that_of_the_curve_of_the_same_resample(reals_from):
    table = rounded().query("perturbation == 'none'").sort_values(["dataset", "key"]).reset_index(drop=True)
    table.loc[0, "score"], table.loc[1, "score"], table.loc[300, "score"] = math.inf, math.inf, -math.inf
    found = measure_generators(table, reals_from, THRESHOLD, resamples=5, seed=3, pooled=True)
    groups = group_codes(table["group"].tolist(), table["key"].tolist())
    weights = torch.cat(list(resample_weights(table["label"].to_numpy(), groups, 5, 3)))
    members = {name: part.index for name, part in against_reals(table, reals_from).items()} | {POOLED: table.index}
    assert found["auroc"].names == tuple(members)
    for column, (name, rows) in enumerate(members.items()):
        scores, labels = (torch.tensor(table.loc[rows, key].to_numpy()) for key in ("score", "label"))
        points, whole = curve(scores, labels, weights[:, rows]), curve(scores, labels)
        formulas = {
            "auroc": lambda c: c.auroc(),
            "tpr_at_fpr_0.1": lambda c: c.tpr_at_fpr(0.1),
            "tpr_at_threshold": lambda c: c.called_fake(0.5)[1] / c.fakes,
            "fpr_at_threshold": lambda c: c.called_fake(0.5)[0] / c.reals,
            "accuracy": lambda c: c.accuracy(0.5),
            "balanced_accuracy": lambda c: c.balanced_accuracy(0.5),
        }
        assert set(formulas) == set(METRICS) == set(KEPT)
        for metric, formula in formulas.items():
            assert torch.equal(found[metric].samples[:, column], formula(points)), (name, metric)
            assert found[metric].numbers[column] == formula(whole), (name, metric)
        assert torch.equal(found["auroc"].drawn[:, column], (weights[:, rows] * labels).sum(1).double())


def test_weighted_by_size_is_what_all_fakes_together_have_where_they_share_their_reals():
    table = usual_table().query("dataset == 'faces'")
    table = table.drop(table.query("generator == 'gan'").index[:70])
    found = measure_generators(table, None, THRESHOLD, resamples=200, seed=5)
    whole = measure(table, THRESHOLD, 200, 5)
    places = {"auroc": whole["auroc"], "tpr_at_fpr_0.1": whole["tpr_at_fpr"]["0.1"]}
    places |= {name: whole[name] for name in ("tpr_at_threshold", "fpr_at_threshold", "balanced_accuracy")}
    for metric, expected in places.items():
        assert found[metric].mean(found[metric].names, by_size=True).cell() == pytest.approx(expected), metric
        assert found[metric].sizes.tolist() == [50, 120]
    assert found["auroc"].mean(["faces/gan", "faces/sd"]).value != pytest.approx(places["auroc"]["value"], abs=1e-3)


def test_a_mean_by_size_leaves_out_what_a_resample_has_not():
    found = measure_generators(usual_table(), resamples=30)["auroc"]
    found.samples[3, 0] = math.nan
    names = found.names
    rest = list(names[1:])
    places = [names.index(name) for name in rest]
    expected = (found.samples[3, places] * found.drawn[3, places]).sum() / found.drawn[3, places].sum()
    assert found._mean_by_size(found.samples, found.drawn, names)[3] == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="number of fakes"):
        type(found)(names, found.families, found.numbers, found.samples, {}).mean(names, by_size=True)


def test_what_a_number_lacks_is_said_of_the_generator_that_lacks_it():
    table = make_table(some_rows("a", "r", 0, 40) + some_rows("a", "f", 1, 40) + some_rows("b", "r", 0, 9) + some_rows("b", "f", 1, 40))
    found = measure_generators(table, None, Threshold(None, 0.05, 3, "too few validation reals"), resamples=20)
    assert found["auroc"].mean(["a/f"]).low is not None
    few = found["tpr_at_fpr_0.1"].mean(["a/f", "b/f"])
    assert (few.value, few.reason) == (
        None,
        "b/f: fewer than 10 real images, too few for a false positive rate of 0.1 (and 1 more generators)",
    )
    assert found["tpr_at_fpr_0.1"].mean(["a/f"]).reason.startswith("a/f: fewer than 100 real images, too few for an interval")
    assert found["tpr_at_fpr_0.1"].mean(["a/f"]).value is not None
    for metric in ("accuracy", "balanced_accuracy", "tpr_at_threshold", "fpr_at_threshold"):
        assert found[metric].mean(["a/f"]).reason == "a/f: too few validation reals"
    alone = measure_generators(table.query("label == 1"), None, THRESHOLD, resamples=20)
    assert alone["tpr_at_threshold"].mean(["a/f"]).low is not None
    assert alone["fpr_at_threshold"].mean(["a/f"]).value is None


def test_a_thousand_resamples_of_ten_generators_take_seconds():
    rng = np.random.default_rng(0)
    rows = [
        {"key": f"k{i}", "dataset": "s", "generator": f"g{i % 10}" if i % 2 else "r", "label": i % 2, "group": ""} for i in range(20_000)
    ]
    table = pd.DataFrame(rows).assign(score=rng.normal(size=20_000), perturbation="none", family="f")
    start = time.perf_counter()
    found = measure_generators(table, None, THRESHOLD)
    assert time.perf_counter() - start < 30  # about 2 s where nothing else runs
    assert found["auroc"].samples.shape == (1000, 5)
