"""The pure metrics against scikit-learn, brute force, and the cases that others get wrong."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score, roc_curve
from torchmetrics.classification import BinaryAUROC

from modules.metrics.functional import (
    Threshold,
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    curve,
    threshold_at_fpr,
    tpr_at_fpr,
)

FPRS = (0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 1.0)


def tpr_by_roc_curve(labels, scores, fpr, weights=None):
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False, sample_weight=weights)
    return true[false <= fpr + 1e-12].max()


def samples(seed):
    """Scores of one of several kinds: continuous, heavily tied, all equal, with infinities."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 300))
    labels = rng.integers(0, 2, n)
    labels[:2] = [0, 1]
    scores = rng.normal(size=n) * 10.0 ** rng.integers(-3, 4) + labels * rng.normal()
    kind = seed % 4
    if kind == 1:
        scores = np.round(scores / np.abs(scores).max() * 4)
    elif kind == 2:
        scores = np.zeros(n)
    elif kind == 3:
        scores[rng.integers(0, n, 3)] = np.inf
        scores[rng.integers(0, n, 3)] = -np.inf
    return scores, labels, rng


def finite(scores):
    """Infinities as numbers beyond all others, for scikit-learn."""
    return np.nan_to_num(scores, posinf=1e9, neginf=-1e9)


@pytest.mark.parametrize("seed", range(40))
def test_equals_scikit_learn(seed):
    scores, labels, _ = samples(seed)
    s, y = torch.tensor(scores), torch.tensor(labels)
    assert float(auroc(s, y)) == pytest.approx(roc_auc_score(labels, finite(scores)), abs=1e-12)
    assert float(average_precision(s, y)) == pytest.approx(average_precision_score(labels, finite(scores)), abs=1e-12)
    for fpr in FPRS:
        assert float(tpr_at_fpr(s, y, fpr)) == pytest.approx(tpr_by_roc_curve(labels, finite(scores), fpr), abs=1e-12)
    for threshold in (-0.3, 0.0, float(finite(scores)[0])):
        called = finite(scores) > threshold
        assert float(accuracy(s, y, threshold)) == pytest.approx(accuracy_score(labels, called), abs=1e-12)
        assert float(balanced_accuracy(s, y, threshold)) == pytest.approx(balanced_accuracy_score(labels, called), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["integer", "real"])
def test_weights_equal_scikit_learn(seed, kind):
    scores, labels, rng = samples(seed)
    shape = (2, 3, scores.size)
    weights = rng.integers(0, 4, shape) if kind == "integer" else rng.random(shape)
    weights[..., :2] = 1  # both classes stay
    s, y, w = torch.tensor(scores), torch.tensor(labels), torch.tensor(weights)
    found = {
        "auroc": auroc(s, y, w),
        "average_precision": average_precision(s, y, w),
        "accuracy": accuracy(s, y, 0.1, w),
        "balanced_accuracy": balanced_accuracy(s, y, 0.1, w),
        "tpr": tpr_at_fpr(s, y, 0.2, w),
    }
    assert all(values.shape == (2, 3) for values in found.values())
    for place in np.ndindex(2, 3):
        one = {"sample_weight": weights[place]}
        called = finite(scores) > 0.1
        assert float(found["auroc"][place]) == pytest.approx(roc_auc_score(labels, finite(scores), **one), abs=1e-9)
        assert float(found["average_precision"][place]) == pytest.approx(average_precision_score(labels, finite(scores), **one), abs=1e-9)
        assert float(found["accuracy"][place]) == pytest.approx(accuracy_score(labels, called, **one), abs=1e-9)
        assert float(found["balanced_accuracy"][place]) == pytest.approx(balanced_accuracy_score(labels, called, **one), abs=1e-9)
        if kind == "integer":
            expected = tpr_by_roc_curve(np.repeat(labels, weights[place]), np.repeat(finite(scores), weights[place]), 0.2)
            assert float(found["tpr"][place]) == pytest.approx(expected, abs=1e-12)


def test_curve_counts_and_groups_ties():
    points = curve(torch.tensor([3.0, 1.0, 3.0, 2.0]), torch.tensor([1, 0, 0, 1]))
    assert points.thresholds.tolist() == [3, 2, 1]
    assert points.true.tolist() == [0, 1, 2, 2]
    assert points.false.tolist() == [0, 1, 1, 2]


def test_order_and_monotone_maps_do_not_matter():
    scores, labels, rng = samples(1)
    order = rng.permutation(scores.size)
    expected = auroc(torch.tensor(scores), torch.tensor(labels))
    assert auroc(torch.tensor(scores[order]), torch.tensor(labels[order])) == expected
    assert auroc(torch.tensor(np.exp(scores / 4)), torch.tensor(labels)) == expected


def test_row_35_saturated_logits_in_batches():
    """The stock metric applies a sigmoid to some batches only; raw scores need none."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1024)
    scores = (rng.normal(size=1024) * 8 + labels * 25).astype(np.float32)
    scores[:128] = np.abs(scores[:128]) / 100  # two batches that happen to lie in [0, 1]
    truth = roc_auc_score(labels, scores)
    stock = BinaryAUROC()
    for start in range(0, 1024, 64):
        stock.update(torch.tensor(scores[start : start + 64]), torch.tensor(labels[start : start + 64]))
    assert float(auroc(torch.tensor(scores), torch.tensor(labels))) == pytest.approx(truth, abs=1e-12)
    assert abs(float(stock.compute()) - truth) > 0.01


@pytest.mark.parametrize("label", [0, 1])
def test_row_35_one_class_is_nan_and_said(label):
    scores, labels = torch.tensor([0.1, 0.2, 0.3]), torch.full((3,), label)
    for metric in (auroc, average_precision, lambda s, y: tpr_at_fpr(s, y, 0.1), lambda s, y: balanced_accuracy(s, y, 0.15)):
        with pytest.warns(UserWarning, match=f"all 3 images are {'fake' if label else 'real'}"):
            assert math.isnan(float(metric(scores, labels)))
    assert float(accuracy(scores, labels, 0.15)) == pytest.approx(2 / 3 if label else 1 / 3)


def test_row_35_nan_scores_are_nan_and_counted():
    scores, labels = torch.tensor([0.1, math.nan, 0.3, math.nan]), torch.tensor([0, 1, 1, 0])
    for metric in (auroc, average_precision, lambda s, y: tpr_at_fpr(s, y, 0.1), lambda s, y: accuracy(s, y, 0.15)):
        with pytest.warns(UserWarning, match="2 of 4 scores are NaN"):
            assert math.isnan(float(metric(scores, labels)))


def test_no_scores_at_all():
    empty = torch.empty(0)
    for metric in (auroc, average_precision, lambda s, y: tpr_at_fpr(s, y, 0.1), lambda s, y: accuracy(s, y, 0.0)):
        with pytest.warns(UserWarning, match="no scores"):
            assert math.isnan(float(metric(empty, empty.long())))


def test_half_precision_and_large_values_are_not_rounded_further():
    scores = torch.tensor([60000.0, 59968.0, -1.0], dtype=torch.float16)
    assert float(auroc(scores, torch.tensor([1, 0, 0]))) == 1
    close = torch.tensor([1.0, 1.0 + 1e-15], dtype=torch.float64)
    assert float(auroc(close, torch.tensor([0, 1]))) == 1


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "match"),
    [
        (torch.zeros(3), torch.zeros(2), None, r"both \[N\]"),
        (torch.zeros(3, 1), torch.zeros(3, 1), None, r"both \[N\]"),
        (torch.zeros(3), torch.tensor([0, 1, 2]), None, "labels are 0"),
        (torch.zeros(3), torch.tensor([0, 1, -1]), None, "labels are 0"),
        (torch.zeros(3), torch.tensor([0, 1, 1]), torch.ones(2), "weights are"),
    ],
)
def test_bad_arguments(scores, labels, weights, match):
    with pytest.raises(ValueError, match=match):
        auroc(scores, labels, weights)


def threshold_by_brute_force(reals, fpr):
    """The smallest score s of n reals such that at most a share fpr of n + 1 exchangeable ones can exceed it."""
    n = len(reals)
    for rank, score in enumerate(sorted(reals), start=1):
        if round((n + 1 - rank) - fpr * (n + 1), 9) <= 0:
            return score
    return None


@pytest.mark.parametrize("fpr", [0.3, 0.1, 0.05, 0.01, 0.001])
def test_threshold_by_brute_force(fpr):
    rng = np.random.default_rng(int(fpr * 1000))
    for n in [1, 2, 3, 8, 9, 10, 18, 19, 20, 98, 99, 100, 101, 998, 999, 1000]:
        reals = np.round(rng.normal(size=n), 1 if n % 2 else 6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = threshold_at_fpr(torch.tensor(reals), fpr)
        assert found.value == threshold_by_brute_force(reals, fpr), n
        assert (found.fpr, found.n) == (fpr, n)
        assert (found.reason is None) == (found.value is not None)
        if found.value is not None:
            assert (reals > found.value).mean() <= fpr


def test_threshold_keeps_its_promise_on_further_reals():
    rng = np.random.default_rng(5)
    exceed = []
    for _ in range(2000):
        reals = rng.normal(size=40)
        threshold = threshold_at_fpr(torch.tensor(reals[:39]), 0.05).value
        exceed.append(reals[39] > threshold)
    assert np.mean(exceed) == pytest.approx(0.05, abs=0.015)


def test_threshold_without_a_value_says_why():
    with pytest.warns(UserWarning, match="needs at least 19 validation reals, there are 18"):
        assert threshold_at_fpr(torch.zeros(18), 0.05) == Threshold(
            None, 0.05, 18, "a false positive rate of 0.05 needs at least 19 validation reals, there are 18"
        )
    with pytest.warns(UserWarning, match="1 of 50 validation reals have no score"):
        assert threshold_at_fpr(torch.tensor([math.nan] + [0.0] * 49), 0.05).value is None
    with pytest.warns(UserWarning, match="is inf"):
        assert threshold_at_fpr(torch.full((50,), math.inf), 0.05).value is None
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        threshold_at_fpr(torch.zeros(50), 5.0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        tpr_at_fpr(torch.zeros(2), torch.tensor([0, 1]), 5.0)


def test_equal_scores_are_not_called_fake():
    """With all reals at one value, the threshold is that value and none of them is a false alarm."""
    threshold = threshold_at_fpr(torch.zeros(100), 0.05)
    assert threshold.value == 0.0
    labels = torch.tensor([0] * 100 + [1] * 10)
    scores = torch.tensor([0.0] * 100 + [1e-6] * 10)
    assert float(accuracy(scores, labels, threshold.value)) == 1.0
