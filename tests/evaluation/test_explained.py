"""What is left of a score after another one: on data whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from evaluation.explained import ExplainedError, cross_fitted, explained, main
from evaluation.predictions import make_table, write_predictions
from evaluation.statistics import metrics_document
from tests.evaluation.rows import THRESHOLD, some_rows


def table_of(make, n=400, shift=0.8, groups=100, seed=0):
    """A detector `complexity`, larger of fakes by `shift`, and one `probe` made from it, the label and noise."""
    rng = np.random.default_rng(seed)
    rows = some_rows("faces", "ffhq", 0, n, groups) + some_rows("faces", "sd", 1, n, groups)
    label = np.repeat([0, 1], n)
    complexity = rng.normal(size=2 * n) + shift * label
    probe = make(complexity, label, rng.normal(size=2 * n))
    return make_table(
        [row | {"score": float(value)} for row, value in zip(rows, probe, strict=True)]
        + [row | {"score": float(value), "detector": "complexity"} for row, value in zip(rows, complexity, strict=True)]
    )


def test_a_score_that_is_complexity_and_noise_has_nothing_left():
    table = table_of(lambda complexity, label, noise: np.tanh(complexity) + 0.3 * noise)
    row = explained(table, "complexity", resamples=200).iloc[0]
    assert (row.detector, row.dataset, row.generator, row.n_real, row.n_fake) == ("probe", "faces", "sd", 400, 400)
    assert row.auroc > 0.65
    assert row.auroc_left_low < 0.5 < row.auroc_left_high
    assert row.auroc_left_high < 0.57
    assert row.r2_real > 0.75
    assert row.reason is None
    assert 0 < row.beyond < 0.05


def test_a_score_independent_of_complexity_keeps_all():
    table = table_of(lambda complexity, label, noise: noise + label)
    row = explained(table, "complexity", resamples=200).iloc[0]
    assert row.auroc == pytest.approx(0.76, abs=0.04)
    assert row.auroc_left == pytest.approx(row.auroc, abs=0.01)
    assert abs(row.spearman_real) < 0.12
    assert -0.06 < row.r2_real < 0.02


def test_what_complexity_hides_comes_out():
    table = table_of(lambda complexity, label, noise: 0.5 * noise + label - 1.25 * complexity)
    row = explained(table, "complexity", resamples=100).iloc[0]
    assert row.auroc == pytest.approx(0.5, abs=0.05)
    assert row.auroc_left > 0.85
    assert row.spearman_real < -0.9


def test_numbers_are_those_of_others():
    table = table_of(lambda complexity, label, noise: complexity + noise)
    row = explained(table, "complexity", resamples=50, seed=3).iloc[0]
    document = metrics_document(table[table["detector"] == "probe"], THRESHOLD, resamples=50, seed=3)
    cell = document["overall"]["auroc"]
    assert (row.auroc, row.auroc_low, row.auroc_high) == (cell["value"], cell["low"], cell["high"])
    wide = table.pivot_table(index=["label", "key"], columns="detector", values="score")
    for label, name in ((0, "spearman_real"), (1, "spearman_fake")):
        assert row[name] == pytest.approx(spearmanr(wide.loc[label, "probe"], wide.loc[label, "complexity"]).statistic)


def test_it_is_fitted_on_reals_only():
    table = table_of(lambda complexity, label, noise: complexity + 0.1 * noise + 5 * label * complexity)
    reals = explained(table, "complexity", resamples=20).iloc[0]
    changed = table.assign(score=table["score"] + 100.0 * ((table["label"] == 1) & (table["detector"] == "probe")))
    assert explained(changed, "complexity", resamples=20).iloc[0].r2_real == reals.r2_real > 0.9


def test_no_image_is_predicted_by_a_fit_to_its_group():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 20)
    by = np.repeat(rng.normal(size=30), 20)
    scores = np.repeat(rng.normal(size=30), 20)
    predicted = cross_fitted(by, scores, groups, np.ones(600, dtype=bool))
    assert 1 - np.var(scores - predicted) / np.var(scores) < 0.05  # a fit to all groups would explain more than nothing
    for group in (0, 7):
        moved = scores + 1000.0 * (groups == group)
        again = cross_fitted(by, moved, groups, np.ones(600, dtype=bool))
        np.testing.assert_array_equal(again[groups == group], predicted[groups == group])
        assert np.abs(again - predicted).max() > 1


def test_reals_are_in_every_fit_whatever_the_sizes_of_the_groups():
    groups = np.concatenate([np.repeat(np.arange(6), 200), 6 + np.arange(10)]).astype(np.int64)
    fitted = np.arange(groups.size) >= 1200
    predicted = cross_fitted(np.linspace(0, 1, groups.size), np.ones(groups.size), groups, fitted)
    np.testing.assert_allclose(predicted, 1)


def test_beyond_the_reals_it_goes_on_straight():
    rng = np.random.default_rng(1)
    by = np.concatenate([rng.uniform(0, 1, 300), [3.0]])
    predicted = cross_fitted(by, 2 * by + 1, np.arange(301), np.arange(301) < 300)
    np.testing.assert_allclose(predicted, 2 * by + 1, atol=1e-8)


def test_ties_and_constant_explaining_scores():
    table = table_of(lambda complexity, label, noise: noise + label)
    other = table["detector"] == "complexity"
    tied = table.assign(score=table["score"].where(~other, table["score"].round()))
    assert explained(tied, "complexity", resamples=20).iloc[0].auroc_left > 0.7
    constant = explained(table.assign(score=table["score"].where(~other, 1.0)), "complexity", resamples=20).iloc[0]
    assert constant.auroc_by == 0.5
    assert np.isnan(constant.spearman_real)
    assert constant.auroc_left == pytest.approx(constant.auroc, abs=0.02)


def test_a_column_explains_too_and_perturbations_are_apart():
    table = table_of(lambda complexity, label, noise: complexity + 0.1 * noise)
    probe = table[table["detector"] == "probe"].assign(bits=table.loc[table["detector"] == "complexity", "score"].to_numpy())
    row = explained(probe, "bits", resamples=20).iloc[0]
    expected = explained(table, "complexity", resamples=20).iloc[0]
    pd.testing.assert_series_equal(row, expected)
    moved = pd.concat([table, table.assign(perturbation="jpeg_40", score=-table["score"])])
    assert explained(moved, "complexity", resamples=20).iloc[0].auroc == expected.auroc
    assert explained(moved, "complexity", "jpeg_40", resamples=20).iloc[0].auroc == pytest.approx(1 - expected.auroc)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.assign(score=t["score"].where(t.index != 3)), "1 of 800 scores are missing or not finite"),
        (lambda t: t[t.index != 803], "1 of 800 explaining scores are missing or not finite"),
        (lambda t: t.assign(group=np.where(t["label"] == 0, "one", t["group"])), "1 groups of real images are too few for a regression"),
        (lambda t: t[t["label"] == 1], "0 groups of real images are too few"),
    ],
)
def test_where_nothing_can_be_said_it_says_why(change, reason):
    row = explained(change(table_of(lambda complexity, label, noise: noise)), "complexity", resamples=20).iloc[0]
    assert reason in row.reason
    assert row[["auroc", "auroc_left", "auroc_left_low", "r2_real"]].isna().all()


def test_what_is_not_there_is_named():
    table = table_of(lambda complexity, label, noise: noise)
    with pytest.raises(ExplainedError, match=r"'bits' is neither a detector \(complexity, probe\) nor a column of numbers \(probability\)"):
        explained(table, "bits")
    with pytest.raises(ExplainedError, match="no row has the perturbation 'jpeg_40'; there are none"):
        explained(table, "complexity", "jpeg_40")
    with pytest.raises(ExplainedError, match="nothing to explain"):
        explained(table[table["detector"] == "complexity"], "complexity")


def test_the_command_prints_a_table_and_writes_it(tmp_path, capsys):
    table = table_of(lambda complexity, label, noise: complexity + noise, n=100, groups=40)
    path = write_predictions(tmp_path / "predictions.parquet", table)
    assert main([str(path), "--by", "complexity", "--output", str(tmp_path / "new" / "x.csv")]) == 0
    said = capsys.readouterr().out.splitlines()
    written = pd.read_csv(tmp_path / "new" / "x.csv").iloc[0]
    assert len(said) == 2
    assert said[1].startswith("probe")
    assert f"{written.auroc_left:.3f} ({written.auroc_left_low:.3f} to {written.auroc_left_high:.3f})" in said[1]
    for arguments, message in (
        ([str(path), "--by", "x"], "neither a detector"),
        ([str(path), "--by", "complexity", "--split", "val"], "is of the split 'val'; there are: test"),
        ([str(tmp_path / "nowhere"), "--by", "x"], "nowhere"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
