"""Brier score and expected calibration error: against scikit-learn and by hand."""

import json
import math
import time

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as log_loss_of_scikit_learn

from evaluation.calibration import brier, calibration, expected_calibration_error, log_loss, reliability, temperature, wilson
from evaluation.predictions import make_table
from evaluation.resampling import group_codes, resample_weights
from evaluation.statistics import metrics_document
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table


def table_of(probabilities, labels, rows=None):
    rows = rows or some_rows("a", "r", 0, len(labels))
    return make_table([row | {"label": int(label), "probability": p} for row, label, p in zip(rows, labels, probabilities, strict=True)])


def test_brier_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 500), rng.random(500)
    assert brier(probabilities, labels) == pytest.approx(brier_score_loss(labels, probabilities), abs=1e-12)


def test_calibration_error_by_hand():
    # Two bins of two: |0.1 + 0.3 - 1| and |0.6 + 0.8 - 2|, over four images.
    assert expected_calibration_error(np.array([0.8, 0.1, 0.6, 0.3]), np.array([1, 0, 1, 1]), bins=2) == pytest.approx((0.6 + 0.6) / 4)
    assert expected_calibration_error(np.array([0.5] * 8), np.array([0, 1] * 4)) == pytest.approx(0)
    assert expected_calibration_error(np.array([0.9] * 8), np.array([0, 1] * 4)) == pytest.approx(0.4)


def test_calibration_error_equals_a_loop_over_bins_of_equal_size():
    rng = np.random.default_rng(1)
    probabilities = rng.permutation(np.linspace(0.01, 0.99, 300))
    labels = (rng.random(300) < probabilities**2).astype(int)
    order = np.argsort(probabilities)
    bins = np.split(order, 15)
    expected = sum(len(part) / 300 * abs(probabilities[part].mean() - labels[part].mean()) for part in bins)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_the_order_of_images_does_not_matter_with_ties():
    rng = np.random.default_rng(2)
    probabilities, labels = rng.integers(0, 5, 200) / 4, rng.integers(0, 2, 200)
    again = rng.permutation(200)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(
        expected_calibration_error(probabilities[again], labels[again]), abs=1e-12
    )


def test_interval_is_over_groups():
    labels = np.repeat([0, 1], 60)
    rng = np.random.default_rng(3)
    shared = np.clip(labels * 0.4 + 0.3 + np.repeat(rng.normal(0, 0.2, 24), 5), 0, 1)
    rows = [row | {"group": f"g{place // 5}"} for place, row in enumerate(some_rows("a", "r", 0, 120))]
    grouped = calibration(table_of(shared, labels, rows=rows), resamples=400)["brier"]
    alone = calibration(table_of(shared, labels), resamples=400)["brier"]
    assert grouped["value"] == alone["value"] == pytest.approx(brier(shared, labels))
    assert grouped["low"] < grouped["value"] < grouped["high"]
    assert grouped["high"] - grouped["low"] > 1.5 * (alone["high"] - alone["low"])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ([None] * 40, "the detector gives no probabilities"),
        ([None] * 3 + [0.5] * 37, "3 of 40 probabilities are missing"),
        ([1.5] + [0.5] * 39, "1 of 40 probabilities are not between 0 and 1"),
    ],
)
def test_no_probabilities_no_numbers_and_the_reason(changed, reason):
    found = calibration(table_of(changed, [0, 1] * 20), resamples=10)
    nothing = {"value": None, "low": None, "high": None, "reason": reason}
    assert found == {name: nothing for name in ("brier", "log_loss", "ece", "temperature")} | {"reliability": None, "histogram": None}


def test_metrics_of_all_images_and_of_each_perturbation_have_them():
    table = usual_table()
    table = table.assign(probability=1 / (1 + np.exp(-table["score"])))
    document = metrics_document(table, THRESHOLD, resamples=20)
    json.dumps(document, allow_nan=False)
    assert document["overall"]["brier"]["value"] == pytest.approx(brier_score_loss(table["label"], table["probability"]))
    assert document["overall"]["ece"]["low"] is None
    assert not math.isclose(document["overall"]["ece"]["value"], 0)
    assert document["by_perturbation"]["none"]["ece"] == document["overall"]["ece"]
    assert metrics_document(usual_table(), THRESHOLD, resamples=20)["overall"]["brier"]["reason"] == "the detector gives no probabilities"


def made_up(n=400, true_temperature=2.5, seed=4):
    """Log-odds that are so many times too far from 0, and the labels that they were drawn for."""
    rng = np.random.default_rng(seed)
    right = rng.normal(0, 1.5, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-right))).astype(int)
    return right * true_temperature, labels


def probabilities_of(log_odds):
    return 1 / (1 + np.exp(-log_odds))


def test_log_loss_is_that_of_scikit_learn():
    log_odds, labels = made_up()
    given = probabilities_of(log_odds)
    assert log_loss(given, labels) == pytest.approx(log_loss_of_scikit_learn(labels, given), abs=1e-12)
    assert log_loss(np.array([0.5] * 4), np.array([0, 1] * 2)) == pytest.approx(math.log(2))
    assert log_loss(np.array([0.0, 1.0]), np.array([0, 1])) == 0


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5, 40.0])
def test_temperature_is_that_of_scikit_learn_and_of_scipy_on_each_resample(true):
    log_odds, labels = made_up(true_temperature=true)
    weights = torch.cat([torch.ones(1, 400, dtype=torch.int64), *resample_weights(labels, np.arange(400) // 4, 6, 0)])
    found = temperature(torch.tensor(log_odds), torch.tensor(labels), weights)
    for row, given in zip(weights.numpy(), found.tolist(), strict=True):
        line = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=1000)
        line.fit((log_odds / true)[:, None], labels, sample_weight=row)
        assert given == pytest.approx(true / line.coef_[0, 0], rel=1e-4)

        def loss(logarithm, row=row):
            return float((row * np.logaddexp(0, np.where(labels == 1, -1, 1) * log_odds / np.exp(logarithm))).sum())

        best = minimize_scalar(loss, bounds=(np.log(true) - 2, np.log(true) + 2), method="bounded", options={"xatol": 1e-10})
        assert given == pytest.approx(np.exp(best.x), rel=1e-5)
    for near in (0.01, 3.0, 500.0):
        again = temperature(torch.tensor(log_odds), torch.tensor(labels), weights, near)
        assert again.tolist() == pytest.approx(found.tolist(), rel=1e-6)


def test_temperature_where_classes_are_nearly_apart_or_the_wrong_way_round():
    log_odds = torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0, -1e-3], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    weights = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    nearly, apart = temperature(log_odds, labels, weights).tolist()
    best = minimize_scalar(
        lambda b: float(np.logaddexp(0, np.where(labels.numpy() == 1, -1, 1) * log_odds.numpy() * math.exp(b)).sum()),
        bounds=(-5, 20),
        method="bounded",
        options={"xatol": 1e-12},
    )
    assert nearly == pytest.approx(math.exp(-best.x), rel=1e-4)
    assert apart == 0
    assert math.isnan(temperature(-log_odds, labels, weights)[0])
    assert math.isnan(temperature(torch.zeros(6, dtype=torch.float64), labels, weights)[0])


def test_the_document_has_the_temperature_with_its_interval_over_groups():
    log_odds, labels = made_up()
    rows = [row | {"group": f"g{place // 4}"} for place, row in enumerate(some_rows("a", "r", 0, 400))]
    table = table_of(probabilities_of(log_odds), labels, rows)
    found = calibration(table, resamples=60, seed=3)
    json.dumps(found, allow_nan=False)
    fitted = found["temperature"]
    assert 1 < fitted["low"] < fitted["value"] < fitted["high"]
    groups = group_codes(table["group"].tolist(), table["key"].tolist())
    weights = torch.cat(list(resample_weights(table["label"].to_numpy(), groups, 60, 3)))
    samples = []
    for row in weights.numpy():
        line = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(log_odds[:, None], labels, sample_weight=row)
        samples.append(1 / line.coef_[0, 0])
    assert [fitted["low"], fitted["high"]] == pytest.approx(np.quantile(samples, [0.025, 0.975]), rel=1e-3)
    losses = [log_loss_of_scikit_learn(labels, probabilities_of(log_odds), sample_weight=row) for row in weights.numpy()]
    assert [found["log_loss"]["low"], found["log_loss"]["high"]] == pytest.approx(np.quantile(losses, [0.025, 0.975]), rel=1e-9)


@pytest.mark.parametrize(
    ("probabilities", "labels", "reason"),
    [
        ([0.0, 0.7] + [0.2, 0.8] * 19, [0, 1] * 20, "1 of 40 probabilities are exactly 0 or 1, whose log-odds are infinite"),
        ([0.2, 0.8] * 20, [1] * 40, "all images are of one class"),
        ([0.5] * 40, [0, 1] * 20, "all probabilities are one half"),
        (
            [0.2, 0.8] * 20,
            [0, 1] * 20,
            "all probabilities are on the right side of one half: the lower the temperature, the better it fits",
        ),
        ([0.8, 0.2] * 20, [0, 1] * 20, "no positive temperature fits best: fakes do not have the higher log-odds"),
    ],
)
def test_no_temperature_and_the_reason(probabilities, labels, reason):
    found = calibration(table_of(probabilities, labels), resamples=10)
    json.dumps(found, allow_nan=False)
    assert (found["temperature"]["value"], found["temperature"]["reason"]) == (None, reason)
    assert found["brier"]["value"] == pytest.approx(np.mean((np.array(probabilities) - labels) ** 2))
    assert found["log_loss"]["value"] is not None


def test_a_certain_mistake_has_no_log_loss():
    found = calibration(table_of([1.0, 0.7] + [0.2, 0.8] * 19, [0, 1] * 20), resamples=10)
    assert found["log_loss"]["value"] is None
    assert found["log_loss"]["reason"] == "infinite: 1 of 40 probabilities are exactly 0 or 1, and wrong"
    assert found["brier"]["low"] is not None


def test_few_groups_have_a_temperature_without_an_interval():
    log_odds, labels = made_up(40)
    rows = [row | {"group": f"g{place % 5}"} for place, row in enumerate(some_rows("a", "r", 0, 40))]
    found = calibration(table_of(probabilities_of(log_odds), labels, rows), resamples=10)
    assert found["temperature"]["value"] > 0
    assert "too few groups" in found["temperature"]["reason"]


@pytest.mark.parametrize(("fakes", "n"), [(0, 12), (3, 12), (12, 12), (1, 1), (40, 90)])
def test_the_interval_of_a_share_is_wilsons(fakes, n):
    expected = binomtest(fakes, n).proportion_ci(method="wilson")
    assert wilson(fakes / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_reliability_diagram_has_the_bins_of_the_calibration_error():
    log_odds, labels = made_up()
    given = np.round(probabilities_of(log_odds), 2)
    bins = reliability(given, labels, np.arange(400))
    assert sum(each["n"] for each in bins) == 400
    assert [each["probability"] for each in bins] == sorted(each["probability"] for each in bins)
    error = sum(each["n"] * abs(each["probability"] - each["share"]) for each in bins) / 400
    assert error == pytest.approx(expected_calibration_error(given, labels), abs=1e-12)
    for each in bins:
        assert each["effective_n"] == pytest.approx(each["n"])
        assert each["low"] <= each["share"] <= each["high"]


def test_images_of_a_group_count_as_one_in_the_interval_of_a_share():
    labels = np.repeat([0, 1, 1], 10)
    (alone,) = reliability(np.full(30, 0.4), labels, np.arange(30))
    (grouped,) = reliability(np.full(30, 0.4), labels, np.repeat(np.arange(3), 10))
    assert (alone["n"], alone["effective_n"], grouped["n"], grouped["effective_n"]) == (30, 30, 30, 3)
    assert (grouped["low"], grouped["high"]) == pytest.approx(binomtest(2, 3).proportion_ci(method="wilson"))
    (uneven,) = reliability(np.full(30, 0.4), labels, np.concatenate([np.zeros(28, int), [1, 2]]))
    assert uneven["effective_n"] == pytest.approx(30**2 / (28**2 + 2))


def test_the_histogram_counts_every_image_once():
    found = calibration(table_of([0.0, 0.049, 0.05, 1.0] * 10, [0, 0, 1, 1] * 10), resamples=5)["histogram"]
    assert (found["real"][0], found["fake"][1], found["fake"][-1]) == (20, 10, 10)
    assert (sum(found["real"]), sum(found["fake"])) == (20, 20)


def test_a_thousand_resamples_of_twenty_thousand_probabilities_take_seconds():
    log_odds, labels = made_up(20_000)
    rows = {"label": labels, "probability": probabilities_of(log_odds), "group": "", "key": [f"k{i}" for i in range(20_000)]}
    start = time.perf_counter()
    found = calibration(pd.DataFrame(rows))
    assert time.perf_counter() - start < 30  # about 2 s where nothing else runs
    assert found["temperature"]["low"] < 2.5 < found["temperature"]["high"]
