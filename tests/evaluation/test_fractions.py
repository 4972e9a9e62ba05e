"""Scores by generated fraction: against numpy, by the project's own resamples, in bins, and where numbers are missing."""

import csv

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from evaluation.document import document
from evaluation.fractions import COLUMNS, by_fraction, sentence, write_fractions
from evaluation.predictions import PredictionsError, make_table
from evaluation.recompute import recompute
from evaluation.resampling import group_codes, resample_weights
from evaluation.results import write_results
from modules.metrics.functional import Threshold
from tests.evaluation.fractions import FRACTIONS, partly_generated
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table

NAME = "faces/inpaint"


def test_every_point_is_what_numpy_says():
    frame = partly_generated()
    record = by_fraction(frame, THRESHOLD, resamples=200)[NAME]
    assert [point["fraction"] for point in record["points"]] == list(FRACTIONS)
    reals = frame[frame["label"] == 0]["score"].to_numpy()
    for point in record["points"]:
        scores = frame[frame["generated_fraction"] == point["fraction"]]["score"].to_numpy()
        assert (point["n"], point["n_groups"], point["least"], point["most"]) == (24, 24, point["fraction"], point["fraction"])
        assert point["mean_score"]["value"] == pytest.approx(scores.mean())
        assert point["tpr_at_threshold"]["value"] == pytest.approx((scores > THRESHOLD.value).mean())
        assert point["auroc"]["value"] == pytest.approx((scores[:, None] > reals[None]).mean())
    assert record["reals"]["mean_score"]["value"] == pytest.approx(reals.mean())
    assert record["reals"]["fpr_at_threshold"]["value"] == pytest.approx((reals > THRESHOLD.value).mean())
    fakes = frame[frame["label"] == 1]
    assert record["correlation"]["value"] == pytest.approx(spearmanr(fakes["generated_fraction"], fakes["score"]).statistic)
    assert record["correlation"]["low"] > 0.5
    assert not record["binned"]


def test_intervals_of_means_are_those_of_resampled_groups():
    frame = partly_generated()
    record = by_fraction(frame, THRESHOLD, resamples=300, seed=4)[NAME]
    table = pd.concat([frame[frame["label"] == 0], frame[frame["label"] == 1]])
    groups = group_codes(table["group"].tolist(), table["key"].tolist())
    part = (table["generated_fraction"] == 0.5).to_numpy()
    scores = table["score"].to_numpy()[part]
    means = []
    for weights in resample_weights(table["label"].to_numpy(), groups, 300, 4):
        means += [np.average(scores, weights=row) for row in weights.numpy()[:, part]]
    cell = record["points"][1]["mean_score"]
    assert (cell["low"], cell["high"]) == pytest.approx(np.quantile(means, [0.025, 0.975]))
    expected = scores.std(ddof=1) / len(scores) ** 0.5 * 1.96  # a group has one image of the fraction: the usual interval
    assert cell["high"] - cell["value"] == pytest.approx(expected, rel=0.3)


def test_the_order_of_rows_changes_nothing():
    frame = partly_generated()
    turned = frame.sample(frac=1, random_state=1)
    assert sentence(by_fraction(frame, THRESHOLD, resamples=100)[NAME]) == sentence(by_fraction(turned, THRESHOLD, resamples=100)[NAME])


def test_many_fractions_are_put_into_bins_that_hold_their_upper_ends():
    fractions = np.linspace(0, 1, 21)[1:]  # 0.05, 0.1, …
    record = by_fraction(partly_generated(12, tuple(fractions)), THRESHOLD, resamples=50)[NAME]
    assert record["binned"]
    assert len(record["points"]) == 10
    for i, point in enumerate(record["points"]):
        assert (point["least"], point["most"]) == pytest.approx((0.1 * i + 0.05, 0.1 * i + 0.1))
        assert point["n"] == 24
        assert point["n_groups"] == 12


def test_generators_without_two_fractions_are_left_out():
    whole = partly_generated(fractions=(1.0,))
    assert by_fraction(whole, THRESHOLD, resamples=10) == {}
    frame = partly_generated()
    frame.loc[frame["generated_fraction"] == 0.5, "generated_fraction"] = np.nan
    frame.loc[frame["label"] == 0, "generated_fraction"] = np.nan  # real images need none
    record = by_fraction(frame, THRESHOLD, resamples=10)[NAME]
    assert [point["fraction"] for point in record["points"]] == [0.1, 1.0]
    assert record["n_left_out"] == 24
    assert record["reals"]["n"] == 24


def test_missing_numbers_have_their_reasons():
    few = by_fraction(partly_generated(5), Threshold(None, 0.05, 3, "too few reals"), resamples=20)[NAME]
    assert few["points"][0]["mean_score"]["low"] is None
    assert "too few groups" in few["points"][0]["mean_score"]["reason"]
    assert few["points"][0]["tpr_at_threshold"] == {"value": None, "low": None, "high": None, "reason": "too few reals"}
    assert "there is no threshold" in sentence(few)
    assert "has no interval" in sentence(few)
    frame = partly_generated()
    frame.loc[frame["generated_fraction"] == 0.5, "score"] = [np.inf] + [np.nan] + [0.0] * 22
    broken = by_fraction(frame, THRESHOLD, resamples=20)[NAME]
    assert broken["points"][1]["mean_score"]["reason"] == "2 of 24 scores are not finite numbers"
    assert broken["points"][0]["mean_score"]["value"] is not None
    assert broken["correlation"]["value"] is None


def test_sentences_say_what_is_shown():
    record = by_fraction(partly_generated(), THRESHOLD, resamples=100)[NAME]
    told = sentence(record)
    assert told.startswith("faces/inpaint: scores rise with the generated share (Spearman's correlation +0.")
    assert "Called fake: with 10% generated" in told
    assert "with 100% generated 100%" in told
    flat = partly_generated()
    flat["score"] = np.random.default_rng(0).normal(size=len(flat))
    assert "not shown to follow" in sentence(by_fraction(flat, THRESHOLD, resamples=100)[NAME])


def test_the_table_holds_reals_and_points(tmp_path):
    found = by_fraction(partly_generated(), THRESHOLD, resamples=20)
    write_fractions(tmp_path / "t.csv", {"probe": found})
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["fraction"] for row in rows] == ["0.0", *map(str, FRACTIONS)]
    assert [row["label"] for row in rows] == ["0", "1", "1", "1"]
    assert float(rows[2]["mean_score"]) == found[NAME]["points"][1]["mean_score"]["value"]
    assert rows[0]["auroc"] == ""


def test_a_run_has_table_figure_part_and_is_computed_again(tmp_path):
    frame = partly_generated(12)
    metrics = write_results(tmp_path / "run", frame, THRESHOLD, lambda key, perturbation: {}, resamples=50)
    assert metrics["fractions"][NAME]["points"][0]["n"] == 12
    assert (tmp_path / "run" / "tables" / "by_fraction.csv").is_file()
    for suffix in ("png", "svg"):
        assert (tmp_path / "run" / "figures" / f"score_by_fraction.{suffix}").is_file()
    assert "How much of an image must be generated?" in (tmp_path / "run" / "report.html").read_text()
    assert recompute(tmp_path / "run")[1] == []


def test_other_tables_say_nothing_of_fractions():
    assert "fractions" not in document(usual_table(), THRESHOLD, resamples=10)


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_fractions_lie_between_0_and_1(wrong):
    with pytest.raises(PredictionsError, match=r"generated_fraction is in \[0, 1\]"):
        make_table(some_rows("faces", "a", 1, 3, generated_fraction=wrong))
