"""Before and after an adaptation: paired differences, against closed forms and simulations."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison.changes import COLUMNS, _compared, changes, text, write_changes
from evaluation.predictions import make_table
from evaluation.statistics import against_reals, measure
from modules.metrics.functional import Threshold
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table

BOTH = (THRESHOLD, THRESHOLD)


def adapted():
    """`gan` is won, `sd` of the faces is forgotten, scenes stay as they are."""
    table = usual_table()
    gan, forgotten = table["generator"] == "gan", (table["generator"] == "sd") & (table["dataset"] == "faces")
    rng = np.random.default_rng(1)
    noise = rng.normal(size=len(table)) * 0.3 * (table["dataset"] == "faces")
    return table.assign(score=table["score"] + noise + 1.5 * gan - 1.0 * forgotten, detector="adapted")


@pytest.fixture(scope="module")
def found():
    return changes(
        usual_table(), adapted().sample(frac=1, random_state=0), (THRESHOLD, Threshold(0.3, None, 0)), ["faces/gan"], resamples=200
    )


def by_name(rows):
    return {row["name"]: row for row in rows}


def test_before_and_after_are_the_numbers_of_metrics_json(found):
    json.dumps(found, allow_nan=False)
    for side, table, threshold in (("before", usual_table(), THRESHOLD), ("after", adapted(), Threshold(0.3, None, 0))):
        for name, part in against_reals(table).items():
            record, row = measure(part, threshold, resamples=200), by_name(found["generators"])[name]
            assert (row["auroc"][side], row["tpr"][side]) == (record["auroc"], record["tpr_at_threshold"])
            assert (row["n_real"], row["n_fake"]) == (record["n_real"], record["n_fake"])
        reals = table[(table["label"] == 0) & (table["dataset"] == "faces")]
        assert by_name(found["reals"])["faces/ffhq"]["fpr"][side] == measure(reals, threshold, resamples=200)["fpr_at_threshold"]


def test_differences_are_after_minus_before_and_the_verdict_is_that_of_their_interval(found):
    rows = by_name(found["generators"])
    for row in rows.values():
        cell = row["auroc"]["difference"]
        assert cell["value"] == pytest.approx(row["auroc"]["after"]["value"] - row["auroc"]["before"]["value"])
    assert {name: row["auroc"]["verdict"] for name, row in rows.items()} == {
        "faces/gan": "won",
        "faces/sd": "lost",
        "scenes/sd": "not known",  # 8 groups of reals
    }
    assert rows["faces/gan"]["auroc"]["difference"]["low"] > 0
    assert rows["faces/sd"]["auroc"]["difference"]["high"] < 0
    assert {name: row["new"] for name, row in rows.items()} == {"faces/gan": True, "faces/sd": False, "scenes/sd": False}
    assert by_name(found["reals"])["faces/ffhq"]["fpr"]["verdict"] == "lost"  # the threshold went down: more false alarms
    assert by_name(found["reals"])["faces/ffhq"]["fpr"]["difference"]["low"] > 0


def test_means_of_old_and_of_new_generators(found):
    means = by_name(found["means"])
    rows = by_name(found["generators"])
    assert (means["old"]["generators"], means["new"]["generators"]) == (2, 1)
    for side in ("before", "after"):
        old = [rows[name]["auroc"][side]["value"] for name in ("faces/sd", "scenes/sd")]
        assert means["old"]["auroc"][side]["value"] == pytest.approx(np.mean(old))
        assert means["new"]["auroc"][side]["value"] == pytest.approx(rows["faces/gan"]["auroc"][side]["value"])
    assert means["new"]["auroc"]["verdict"] == "won"
    assert means["old"]["auroc"]["verdict"] == "not known"
    assert "scenes/sd: too few groups" in means["old"]["auroc"]["difference"]["reason"]


def test_a_detector_against_itself_has_changed_by_exactly_nothing():
    table = usual_table().query("dataset == 'faces'")
    found = changes(table, table.sample(frac=1, random_state=3), BOTH, resamples=100)
    for row in [*found["generators"], *found["means"], *found["reals"]]:
        for metric in {"auroc", "tpr", "fpr"} & set(row):
            assert row[metric]["before"] == row[metric]["after"]
            assert row[metric]["difference"]["value"] == 0
            assert (row[metric]["difference"]["low"], row[metric]["verdict"]) == (None, "unchanged")


def test_the_interval_of_a_difference_of_rates_is_that_of_its_standard_error():
    rng = np.random.default_rng(0)
    before = make_table(some_rows("a", "r", 0, 400) + some_rows("a", "f", 1, 400))
    after = before.assign(score=before["score"] + rng.normal(size=800) * 0.7)
    found = changes(before, after, BOTH, resamples=2000)["generators"][0]["tpr"]["difference"]
    fakes = before["label"] == 1
    moved = (after["score"] > 0.5)[fakes].astype(float) - (before["score"] > 0.5)[fakes].astype(float)
    assert found["value"] == pytest.approx(moved.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * moved.std(ddof=0) / 20, rel=0.08)


def test_groups_are_resampled_whole():
    # 20 groups of 20 equal images: the standard error is that of 20 images.
    rng = np.random.default_rng(2)
    before = make_table(some_rows("a", "r", 0, 400, 20) + some_rows("a", "f", 1, 400, 20))
    group = before["group"].str.rpartition("-")[2].astype(int) + 20 * before["label"]
    scores = rng.normal(size=(2, 40)) + 0.5
    pair = [before.assign(score=side[group]) for side in scores]
    found = changes(*pair, BOTH, resamples=2000)["generators"][0]["tpr"]["difference"]
    moved = (scores[1, 20:] > 0.5).astype(float) - (scores[0, 20:] > 0.5)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * moved.std(ddof=0) / math.sqrt(20), rel=0.15)


def test_intervals_of_auroc_differences_cover_the_truth():
    """Binormal scores: the AUROC is Φ(shift / √2) each, and both detectors share most of an image's score."""
    rng = np.random.default_rng(5)
    truth = 0.5 * math.erf(1.3 / 2) - 0.5 * math.erf(1.0 / 2)
    rows = make_table(some_rows("a", "r", 0, 80) + some_rows("a", "f", 1, 80))
    labels, covered, widths = rows["label"].to_numpy(), 0, []
    trials = 50
    for _ in range(trials):
        shared = rng.normal(size=160) * math.sqrt(0.8)
        scores = [shared + rng.normal(size=160) * math.sqrt(0.2) + shift * labels for shift in (1.0, 1.3)]
        tables = [rows.assign(score=each) for each in scores]
        cell = _compared(tables, BOTH, ("auroc",), 150, 0)["auroc"]
        covered += cell["difference"]["low"] <= truth <= cell["difference"]["high"]
        widths.append([cell[side]["high"] - cell[side]["low"] for side in ("before", "after", "difference")])
        assert cell["difference"]["value"] == pytest.approx(roc_auc_score(labels, scores[1]) - roc_auc_score(labels, scores[0]))
    assert 0.85 <= covered / trials <= 1  # 0.95 is aimed at; its standard error is 0.03
    before, after, difference = np.mean(widths, axis=0)
    assert difference < 0.6 * math.hypot(before, after)  # pairing is what makes small changes visible


def test_a_certain_change_without_an_interval_has_a_side():
    before = make_table(some_rows("a", "r", 0, 40, shift=-9) + some_rows("a", "f", 1, 40, shift=-20))
    after = before.assign(score=before["score"] + 40 * before["label"])
    row = changes(before, after, BOTH, resamples=50)["generators"][0]
    assert (row["auroc"]["difference"]["value"], row["auroc"]["difference"]["low"]) == (1, None)
    assert (row["auroc"]["verdict"], row["tpr"]["verdict"]) == ("won", "won")


def test_images_of_one_side_are_left_out_and_counted():
    table = usual_table()
    found = changes(table.iloc[5:], table.iloc[:-3], BOTH, resamples=20)
    assert (found["n_images"], found["n_left_out"]) == (len(table) - 8, 8)
    assert "8 images that only one of the two has scored are left out; 552 are compared." in text(found)
    with pytest.raises(ValueError, match="different images"):
        changes(table.iloc[:5], table.iloc[5:], BOTH)
    with pytest.raises(ValueError, match="560 images have another group"):
        changes(table, table.assign(group=table["key"]), BOTH)


def test_only_clean_images_count():
    table = usual_table()
    worse = pd.concat([table, table.assign(perturbation="jpeg_40", score=0.0)])
    assert changes(worse, worse, BOTH, resamples=10) == changes(table, table, BOTH, resamples=10)


def test_no_threshold_missing_scores_and_lent_reals():
    table = usual_table()
    found = changes(table, table, (THRESHOLD, Threshold(None, 0.05, 3, "too few reals")), reals_from={"scenes": "faces"}, resamples=20)
    rows = by_name(found["generators"])
    assert rows["scenes/sd"]["n_real"] == 240
    assert rows["scenes/sd"]["tpr"]["before"]["value"] is not None
    assert rows["scenes/sd"]["tpr"]["difference"] == {"value": None, "low": None, "high": None, "reason": "too few reals"}
    assert rows["scenes/sd"]["tpr"]["verdict"] == "not known"
    broken = table.assign(score=table["score"].mask(table["generator"] == "gan"))
    rows = by_name(changes(table, broken, BOTH, resamples=20)["generators"])
    assert rows["faces/gan"]["auroc"]["difference"]["reason"] == "120 of 360 scores are missing (NaN)"
    assert rows["faces/sd"]["auroc"]["verdict"] == "unchanged"


def test_printed_and_written(found, tmp_path):
    lines = text(found).splitlines()
    cell = by_name(found["generators"])["faces/gan"]["auroc"]
    row = next(line for line in lines if line.startswith("+ faces/gan"))
    assert f"{cell['before']['value']:.3f} [{cell['before']['low']:.3f}, {cell['before']['high']:.3f}]" in row
    assert f"{cell['difference']['value']:+.3f} [{cell['difference']['low']:+.3f}, {cell['difference']['high']:+.3f}]" in row
    assert row.endswith("won")
    assert lines[0] == "AUROC (+: adapted to it)"
    assert "FPR at its own threshold" in lines
    assert any(line.startswith("  mean of the old generators") for line in lines)
    assert max(map(len, lines)) <= 120
    table = pd.read_csv(write_changes(tmp_path / "changes.csv", found))
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 3 * 2 + 2 + 2
    written = table.set_index(["images", "metric"]).loc[("faces/gan", "auroc")]
    assert (written["difference_low"], written["verdict"], bool(written["new"])) == (cell["difference"]["low"], "won", True)
