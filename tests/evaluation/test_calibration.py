"""Brier score and expected calibration error: against scikit-learn and by hand."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from evaluation.calibration import brier, calibration, expected_calibration_error
from evaluation.predictions import make_table
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
    assert found == {name: {"value": None, "low": None, "high": None, "reason": reason} for name in ("brier", "ece")}


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
