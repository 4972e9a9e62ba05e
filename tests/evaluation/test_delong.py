"""AUROC in closed form: against the definition pair by pair, scikit-learn, simulations and the bootstrap."""

import math
import time
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from evaluation.delong import AurocEstimates, aurocs
from evaluation.resampling import bootstrap
from modules.metrics.functional import Curve


def some_scores(rng, count=3, reals=40, fakes=30, ties=True):
    labels = rng.permutation(np.repeat([0, 1], [reals, fakes]))
    scores = rng.normal(size=(count, labels.size)) + rng.normal(size=labels.size) + labels
    return labels, scores.round(1) if ties else scores


def pairwise(labels, scores):
    """AUROC and DeLong's covariance by the definition: each fake against each real."""
    fakes, reals = scores[:, labels == 1], scores[:, labels == 0]
    wins = (fakes[:, :, None] > reals[:, None, :]) + 0.5 * (fakes[:, :, None] == reals[:, None, :])
    of_fakes, of_reals = wins.mean(axis=2), wins.mean(axis=1)
    covariance = np.cov(of_fakes) / fakes.shape[1] + np.cov(of_reals) / reals.shape[1]
    return wins.mean(axis=(1, 2)), covariance, of_fakes, of_reals


def obuchowski(labels, scores, groups):
    """The clustered covariance of two scores r, s term by term, as the paper writes it."""
    values, _, of_fakes, of_reals = pairwise(labels, scores)
    m, n, names = (labels == 1).sum(), (labels == 0).sum(), np.unique(groups)
    with_fakes, with_reals = len(set(groups[labels == 1])), len(set(groups[labels == 0]))
    found = np.empty((len(scores),) * 2)
    for r in range(len(scores)):
        for s in range(len(scores)):
            s10 = s01 = s11 = 0.0
            for name in names:
                own_fakes, own_reals = groups[labels == 1] == name, groups[labels == 0] == name
                x = [of_fakes[k][own_fakes].sum() - own_fakes.sum() * values[k] for k in (r, s)]
                y = [of_reals[k][own_reals].sum() - own_reals.sum() * values[k] for k in (r, s)]
                s10 += x[0] * x[1] * with_fakes / ((with_fakes - 1) * m)
                s01 += y[0] * y[1] * with_reals / ((with_reals - 1) * n)
                s11 += (x[0] * y[1] + x[1] * y[0]) * len(names) / (len(names) - 1)
            found[r, s] = s10 / m + s01 / n + s11 / (m * n)
    return found


@pytest.mark.parametrize("ties", [True, False])
def test_values_and_covariance_are_those_of_the_definition(ties):
    labels, scores = some_scores(np.random.default_rng(0), ties=ties)
    found = aurocs(labels, scores)
    values, covariance, *_ = pairwise(labels, scores)
    assert found.values == pytest.approx([roc_auc_score(labels, row) for row in scores], abs=1e-12)
    assert found.values == pytest.approx(values, abs=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-14)


def test_groups_of_both_classes_give_the_covariance_of_the_paper():
    rng = np.random.default_rng(1)
    labels, scores = some_scores(rng)
    groups = np.where(labels == 1, rng.integers(0, 14, 70), rng.integers(8, 25, 70)) * 7
    found = aurocs(labels, scores, groups)
    np.testing.assert_allclose(found.covariance, obuchowski(labels, scores, groups), atol=1e-14)
    assert found.n_groups == (len(set(groups[labels == 0])), len(set(groups[labels == 1])))


def test_groups_of_one_image_give_exactly_delong():
    labels, scores = some_scores(np.random.default_rng(2))
    alone = aurocs(labels, scores, np.arange(labels.size)[::-1])
    np.testing.assert_allclose(alone.covariance, aurocs(labels, scores).covariance, rtol=1e-12)


def test_the_variance_is_that_of_many_samples():
    rng = np.random.default_rng(3)
    found = [aurocs(*some_scores(rng, 2, 60, 50, ties=False)) for _ in range(1500)]
    simulated = np.cov(np.stack([each.values for each in found]), rowvar=False)
    mean = np.mean([each.covariance for each in found], axis=0)
    np.testing.assert_allclose(mean, simulated, rtol=0.12)  # 3 standard errors of a variance from 1,500
    apart = np.array([each.difference(0, 1).p for each in found])
    assert (apart < 0.05).mean() == pytest.approx(0.05, abs=0.02)  # both have the same true AUROC
    truth = norm.cdf(1 / 2)  # normal scores of variance 2 each, 1 apart
    intervals = [each.interval(0) for each in found]
    assert np.mean([each.low <= truth <= each.high for each in intervals]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("mixed", [False, True])
def test_grouped_standard_errors_are_those_of_the_bootstrap_over_groups(mixed):
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(120), 5)
    labels = rng.integers(0, 2, 600) if mixed else groups % 2
    shared = rng.normal(size=(2, 120))[:, groups]
    scores = shared + rng.normal(size=(2, 600)) + labels
    found = aurocs(labels, scores, groups)
    drawn = [bootstrap(labels, row, groups, Curve.auroc, 1500) for row in scores]
    expected = torch.cov(torch.stack(drawn)).numpy()
    ratio = np.sqrt(np.diag(found.covariance) / np.diag(expected))
    assert ratio == pytest.approx([1, 1], abs=0.08)
    alone = np.sqrt(np.diag(aurocs(labels, scores).covariance))
    ratio = alone / np.sqrt(np.diag(found.covariance))
    assert (ratio < 0.75 if not mixed else ratio > 1.05).all()  # a group's shift tells its classes apart, or moves them together


def test_interval_and_test_are_those_of_the_normal_distribution():
    estimates = AurocEstimates(np.array([0.9, 0.8]), np.array([[4e-4, 1e-4], [1e-4, 9e-4]]), (20, 20))
    interval = estimates.interval(0)
    logit = math.log(9)
    error = 0.02 / 0.09
    assert (interval.low, interval.high) == pytest.approx(tuple(1 / (1 + np.exp(-(logit + z * error))) for z in norm.ppf([0.025, 0.975])))
    test = estimates.difference(0, 1, level=0.9)
    error = math.sqrt(11e-4)
    assert (test.z, test.p) == pytest.approx((0.1 / error, 2 * norm.sf(0.1 / error)))
    assert (test.difference.low, test.difference.high) == pytest.approx(tuple(0.1 + error * norm.ppf([0.05, 0.95])))
    assert estimates.difference(1, 0).p == pytest.approx(test.p)


def test_missing_scores_make_only_their_own_numbers_undefined():
    labels, scores = some_scores(np.random.default_rng(5))
    whole = aurocs(labels, scores)
    scores[1, 7] = math.nan
    found = aurocs(labels, scores)
    assert np.isnan(found.values).tolist() == [False, True, False]
    assert np.isnan(found.covariance).tolist() == [[False, True, False], [True, True, True], [False, True, False]]
    np.testing.assert_allclose(found.covariance[::2, ::2], whole.covariance[::2, ::2])
    assert (found.interval(1).value, found.difference(0, 1).difference.value, found.difference(0, 1).p) == (None, None, None)
    assert "NaN" in found.interval(1).reason


def test_infinities_ties_of_all_and_perfect_scores():
    labels = np.repeat([0, 1], 20)
    scores = np.stack([np.zeros(40), np.where(labels == 1, math.inf, -1), np.where(labels == 1, -math.inf, math.inf), labels * 2.0])
    found = aurocs(labels, scores)
    assert found.values.tolist() == [0.5, 1, 0, 1]
    assert np.abs(found.covariance).max() == 0
    assert "variance" in found.interval(0).reason
    assert (found.interval(1).value, found.interval(1).low) == (1, None)
    apart = found.difference(1, 2)
    assert (apart.difference.value, apart.difference.low, apart.p) == (1, None, None)
    assert found.difference(1, 3).difference.value == 0


def test_a_score_against_itself_has_no_test():
    labels, scores = some_scores(np.random.default_rng(6), ties=False)
    test = aurocs(labels, np.stack([scores[0], np.exp(scores[0])])).difference(0, 1)
    assert (test.difference.value, test.p) == (0, None)
    assert "variance of the difference is 0" in test.difference.reason


@pytest.mark.parametrize("grouped", [False, True])
def test_one_class_one_image_few_groups_and_nothing(grouped):
    def found(labels, scores):
        return aurocs(np.array(labels), np.array(scores, float), np.arange(len(labels)) if grouped else None)

    assert np.isnan(found([1, 1], [[1, 2]]).values).all()
    assert np.isnan(found([], np.empty((2, 0))).values).all()
    assert found([0, 1], np.empty((0, 2))).values.shape == (0,)
    single = found([0, 0, 1], [[1, 3, 2]])
    assert (single.values.tolist(), np.isnan(single.covariance).all()) == ([0.5], True)
    few = found([0, 0, 0, 1, 1, 1], [[1, 3, 2, 2, 3, 4]])
    assert (few.covariance > 0).all()
    assert few.interval(0).reason == "too few groups for an interval: 3 of real images and 3 of fake images, 10 needed"


def test_what_does_not_fit_is_refused():
    call = partial(aurocs, np.array([0, 1]))
    with pytest.raises(ValueError, match="scores \\[K, N\\]"):
        call(np.zeros(2))
    with pytest.raises(ValueError, match="labels are \\[N\\]"):
        call(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="groups"):
        call(np.zeros((1, 2)), np.zeros(3, int))
    with pytest.raises(ValueError, match="0 \\(real\\) or 1"):
        aurocs(np.array([0, 2]), np.zeros((1, 2)))


def test_twenty_scores_of_many_images_take_seconds():
    labels, scores = some_scores(np.random.default_rng(7), 20, 50_000, 50_000, ties=False)
    started = time.perf_counter()
    aurocs(labels, scores, np.arange(100_000) // 3)
    assert time.perf_counter() - started < 10
