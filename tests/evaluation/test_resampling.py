"""Bootstrap over groups: against a naive loop, and does the interval cover?"""

import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.resampling import bootstrap, bootstrap_interval, group_codes, groups_by_class, interval_of, resample_weights
from modules.metrics.functional import Curve, auroc, average_precision, tpr_at_fpr

AUROC_OF_UNIT_SHIFT = 0.760250  # Φ(1/√2)


def mixed_groups(rng, n=90):
    labels = rng.integers(0, 2, n)
    groups = np.where(labels == 1, rng.integers(0, 25, n), rng.integers(15, 40, n)).astype(np.int64)
    return labels, rng.normal(size=n).round(1) + labels, groups


def test_equals_a_naive_loop_over_resampled_arrays():
    labels, scores, groups = mixed_groups(np.random.default_rng(0))
    found = bootstrap(labels, scores, groups, lambda c: torch.stack([c.auroc(), c.average_precision()], -1), 30, seed=3)
    for row, weights in zip(found, torch.cat(list(resample_weights(labels, groups, 30, 3))).numpy(), strict=True):
        many = np.repeat(np.arange(labels.size), weights)
        assert float(row[0]) == pytest.approx(roc_auc_score(labels[many], scores[many]), abs=1e-12)
        assert float(row[1]) == pytest.approx(average_precision_score(labels[many], scores[many]), abs=1e-12)


def test_whole_groups_are_drawn_within_strata():
    labels, _, groups = mixed_groups(np.random.default_rng(1))
    weights = torch.cat(list(resample_weights(labels, groups, 50, 0))).numpy()
    kinds = {g: tuple(np.unique(labels[groups == g])) for g in np.unique(groups)}
    assert set(kinds.values()) == {(0,), (1,), (0, 1)}
    for row in weights:
        for g in kinds:  # both classes of a group move together
            assert np.unique(row[groups == g]).size == 1
        for kind in set(kinds.values()):
            members = [g for g in kinds if kinds[g] == kind]
            assert sum(row[groups == g][0] for g in members) == len(members)


def test_resamples_do_not_depend_on_chunks_rows_or_other_names(monkeypatch):
    labels, scores, groups = mixed_groups(np.random.default_rng(2))
    whole = bootstrap(labels, scores, groups, Curve.auroc, 40, seed=1)
    order = np.random.default_rng(3).permutation(labels.size)
    shuffled = bootstrap(labels[order], scores[order], groups[order], Curve.auroc, 40, seed=1)
    assert torch.equal(whole, shuffled)
    assert not torch.equal(whole, bootstrap(labels, scores, groups, Curve.auroc, 40, seed=2))
    monkeypatch.setattr("evaluation.resampling._ELEMENTS", 700)
    assert bootstrap(labels, scores, groups, Curve.auroc, 40, seed=1).shape == (40,)


def test_empty_groups_are_groups_of_their_own():
    codes = group_codes(["a", "", "a", "", "z"], ["1", "2", "3", "4", "5"])
    assert codes[0] == codes[2]
    assert np.unique(codes).size == 4
    assert groups_by_class(np.array([0, 0, 1, 1, 1]), codes) == (2, 3)
    assert group_codes(["image x"], ["y"]).size == 1
    assert np.unique(group_codes(["", "x"], ["x", "y"])).size == 2  # a group is never taken for a key


@pytest.mark.parametrize("metric", [auroc, average_precision, partial(tpr_at_fpr, fpr=0.1)])
def test_interval_holds_value_and_takes_metrics(metric):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    scores = rng.normal(size=200) + labels
    metric = metric if not isinstance(metric, partial) else lambda s, y, w: tpr_at_fpr(s, y, 0.1, w)
    found = bootstrap_interval(labels, scores, None, metric, resamples=200)
    assert found.low < found.value < found.high
    assert found.reason is None
    assert found == bootstrap_interval(labels.tolist(), scores.tolist(), [""] * 200, metric, resamples=200)
    assert found.value == float(metric(torch.tensor(scores), torch.tensor(labels), None))
    narrow = bootstrap_interval(labels, scores, None, metric, resamples=200, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_few_groups_give_no_interval():
    labels = np.repeat([0, 1], 30)
    groups = [f"r{i % 9}" for i in range(30)] + [f"f{i}" for i in range(30)]
    found = bootstrap_interval(labels, np.arange(60.0)[::-1], groups, auroc)
    assert (found.value, found.low, found.high) == (0.0, None, None)
    assert found.reason == "too few groups for an interval: 9 of real images, 10 needed"


@pytest.mark.filterwarnings("ignore")
def test_undefined_and_constant_values():
    assert bootstrap_interval([1] * 20, np.arange(20.0), None, auroc).value is None
    assert bootstrap_interval([0, 1] * 20, [math.nan] * 40, None, auroc).cell()["value"] is None
    perfect = bootstrap_interval([0, 1] * 20, [0.0, 1.0] * 20, None, auroc)
    assert (perfect.value, perfect.low) == (1.0, None)
    assert "all resamples give the same value" in perfect.reason
    partly = interval_of(0.5, torch.tensor([0.1, math.nan, 0.2]))
    assert (partly.value, partly.low, partly.reason) == (0.5, None, "not defined in 1 of 3 resamples")


def coverage(make, codes, repetitions=150):
    hits = 0
    for repetition in range(repetitions):
        labels, scores = make(np.random.default_rng(repetition))
        samples = bootstrap(labels, scores, codes, Curve.auroc, 300, seed=repetition)
        low, high = torch.quantile(samples, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        hits += low <= AUROC_OF_UNIT_SHIFT <= high
    return hits / repetitions


def test_coverage_without_groups():
    labels = np.repeat([0, 1], 200)
    found = coverage(lambda rng: (labels, rng.normal(size=400) + labels), np.arange(400))
    assert 0.9 <= found <= 0.99


def test_coverage_with_groups_and_how_images_alone_fail():
    labels, groups = np.repeat([0, 1], 33 * 4), np.repeat(np.arange(66), 4)

    def correlated(rng):
        return labels, labels + (rng.normal(size=66)[groups] + rng.normal(size=264)) / math.sqrt(2)

    grouped = coverage(correlated, groups)
    images = coverage(correlated, np.arange(264))
    assert 0.88 <= grouped <= 0.99
    assert images < grouped - 0.05


def test_coverage_where_groups_hold_both_classes():
    labels, groups = np.repeat([0, 1], 33 * 4), np.tile(np.repeat(np.arange(33), 4), 2)

    def pairs(rng):
        return labels, labels + (rng.normal(size=33)[groups] + rng.normal(size=264)) / math.sqrt(2)

    assert 0.88 <= coverage(pairs, groups) <= 0.99
