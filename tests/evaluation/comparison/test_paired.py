"""Detectors on the same images: paired intervals and tests against loops, closed forms and scikit-learn."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from evaluation.comparison.macro import measure_aurocs
from evaluation.comparison.paired import (
    COLUMNS,
    Difference,
    compare_detectors,
    holm,
    paired_difference,
    side_of,
    text,
    two_sided_p,
    write_comparison,
)
from evaluation.predictions import make_table
from evaluation.resampling import Interval, group_codes, resample_weights
from evaluation.statistics import against_reals, measure
from modules.metrics.functional import accuracy, auroc
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table


def several(table=None, **shifts):
    """Detectors that share most of an image's score; each adds its shift to the fakes."""
    table = usual_table() if table is None else table
    rng = np.random.default_rng(0)
    parts = [table.assign(detector="base")]
    parts += [
        table.assign(detector=name, score=table["score"] + rng.normal(size=len(table)) * 0.5 + shift * table["label"])
        for name, shift in shifts.items()
    ]
    return pd.concat(parts, ignore_index=True)


def ungrouped():
    return make_table(some_rows("a", "r", 0, 150) + some_rows("a", "f", 1, 70) + some_rows("a", "g", 1, 50))


@pytest.fixture(scope="module")
def found():
    return compare_detectors(several(good=1.0, same=0.0, bad=-1.0), {"scenes": "faces"}, resamples=200)


def rows_of(found, detector):
    return {row["images"]: row for row in next(each for each in found["detectors"] if each["detector"] == detector)["rows"]}


def test_a_paired_difference_is_that_of_a_loop_over_resampled_arrays():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 120)
    first, second = (rng.normal(size=(2, 120)) + labels).round(1)
    groups = [f"g{n}" if n < 35 else "" for n in rng.integers(0, 45, 120)]
    found = paired_difference(labels, first, second, groups, auroc, resamples=41, level=0.8, seed=3)
    assert found.value == pytest.approx(roc_auc_score(labels, second) - roc_auc_score(labels, first), abs=1e-12)
    codes = group_codes(groups, [f"{place:012d}" for place in range(120)])
    drawn = []
    for weights in torch.cat(list(resample_weights(labels, codes, 41, 3))).numpy():
        many = np.repeat(np.arange(120), weights)
        drawn.append(roc_auc_score(labels[many], second[many]) - roc_auc_score(labels[many], first[many]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.1, 0.9])), abs=1e-12)
    assert found.p == pytest.approx(min(1, 2 * (1 + min(sum(d <= 0 for d in drawn), sum(d >= 0 for d in drawn))) / 42))


def test_interval_and_p_of_a_difference_of_accuracies_are_those_of_its_standard_error():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 300)
    shared = rng.normal(size=600)
    first, second = (shared + rng.normal(size=600) * 0.6 + shift * labels for shift in (1.0, 1.08))

    def right(scores, labels, weights=None):
        return accuracy(scores, labels, 0.5, weights)

    found = paired_difference(labels, first, second, None, right, resamples=4000)
    moved = ((second > 0.5) == labels).astype(float) - ((first > 0.5) == labels)
    error = math.sqrt(sum(moved[labels == c].var() / 300 for c in (0, 1)) / 4)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.p == pytest.approx(2 * norm.sf(abs(moved.mean()) / error), abs=0.06)


def test_copies_of_an_image_in_its_group_say_nothing_new():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 40)
    scores = rng.normal(size=(2, 80)) + labels
    alone = paired_difference(labels, *scores, None, auroc, resamples=300)
    names = [f"{place:012d}" for place in range(80)]
    copied = paired_difference(np.repeat(labels, 5), *np.repeat(scores, 5, axis=1), np.repeat(names, 5).tolist(), auroc, resamples=300)
    assert copied.cell() == pytest.approx(alone.cell(), abs=1e-12)
    wrong = paired_difference(np.repeat(labels, 5), *np.repeat(scores, 5, axis=1), None, auroc, resamples=300)
    assert wrong.high - wrong.low < 0.6 * (alone.high - alone.low)


def test_the_same_scores_and_opposite_ones():
    labels = np.repeat([0, 1], 20)
    scores = np.random.default_rng(4).normal(size=40)
    same = paired_difference(labels, scores, np.exp(scores), None, auroc, resamples=50)
    assert (same.value, same.low, same.p) == (0, None, 1)
    assert "all resamples give the same value" in same.reason
    apart = paired_difference(labels, -labels, labels, None, auroc, resamples=50)
    assert (apart.value, apart.low, apart.p) == (1, None, pytest.approx(2 / 51))


def test_what_cannot_be_said_and_what_does_not_fit():
    labels = np.repeat([0, 1], [9, 30])
    few = paired_difference(labels, np.arange(39), -np.arange(39), None, auroc)
    assert (few.value, few.low, few.p) == (-1, None, None)
    assert few.reason == "too few groups for an interval: 9 of real images, 10 needed"
    labels = np.repeat([0, 1], 20)
    with pytest.warns(UserWarning, match="NaN"):
        missing = paired_difference(labels, np.arange(40), np.full(40, math.nan), None, auroc)
    assert (missing.value, missing.p, missing.reason) == (None, None, "not defined on these images")
    with pytest.raises(ValueError, match="40, 40, 3"):
        paired_difference(labels, np.arange(40), np.arange(3), None, auroc)


def test_p_values_are_counted_from_the_smaller_tail():
    assert two_sided_p(torch.arange(1.0, 100)) == pytest.approx(2 / 100)
    assert two_sided_p(torch.tensor([-1.0, 1, 1, 1, 1, 1, 1, 1, 1])) == pytest.approx(0.4)
    assert two_sided_p(torch.tensor([-1.0, 1])) == 1
    assert two_sided_p(torch.zeros(9)) == 1


def test_holm_is_the_example_by_hand():
    # Sorted 0.005 × 4, 0.01 × 3, 0.03 × 2, and 0.04 × 1, which is no smaller than the one before.
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]
    assert (holm([]), holm([None])) == ([], [None])


def test_sides():
    assert [side_of(Interval(*numbers)) for numbers in ((1, 0.5, 2), (-1, -2, -0.1), (1, -1, 2), (1, 0, 2))] == [1, -1, 0, 0]
    assert [side_of(Interval(1)), side_of(Interval(0)), side_of(Interval(None)), side_of(Difference(1), is_measured=False)] == [
        1,
        0,
        None,
        None,
    ]


def test_numbers_are_those_of_metrics_json_and_scikit_learn(found):
    json.dumps(found, allow_nan=False)
    table = several(good=1.0, same=0.0, bad=-1.0)
    assert (found["baseline"], [each["detector"] for each in found["detectors"]]) == ("base", ["good", "same", "bad"])
    rows = rows_of(found, "bad")
    assert list(rows) == ["all", "mean of the generators", "faces/gan", "faces/sd", "scenes/sd"]
    for side, name in (("baseline", "base"), ("detector", "bad")):
        own = table[table["detector"] == name]
        overall = measure(own, THRESHOLD, resamples=200)
        assert rows["all"]["auroc"][side] == pytest.approx(overall["auroc"])
        assert rows["all"]["tpr_at_fpr_0.1"][side] == pytest.approx(overall["tpr_at_fpr"]["0.1"])
        parts = against_reals(own, {"scenes": "faces"})
        values = {part: roc_auc_score(rows["label"], rows["score"]) for part, rows in parts.items()}
        assert {part: rows[part]["auroc"][side]["value"] for part in parts} == pytest.approx(values)
        assert rows["mean of the generators"]["auroc"][side]["value"] == pytest.approx(np.mean(list(values.values())))
    assert (rows["scenes/sd"]["n_real"], rows["scenes/sd"]["n_fake"]) == (240, 40)
    assert (rows["mean of the generators"]["n_real"], rows["mean of the generators"]["kind"]) == (None, "mean")


def test_differences_are_detector_minus_baseline_and_verdicts_those_of_their_intervals(found):
    verdicts = {name: rows_of(found, name)["all"]["auroc"]["verdict"] for name in ("good", "same", "bad")}
    assert verdicts == {"good": "better", "same": "no difference shown", "bad": "worse"}
    for name in verdicts:
        for row in rows_of(found, name).values():
            for metric in ("auroc", "tpr_at_fpr_0.1"):
                part = row[metric]
                assert part["difference"]["value"] == pytest.approx(part["detector"]["value"] - part["baseline"]["value"])
                low, high = part["difference"]["low"], part["difference"]["high"]
                assert part["verdict"] == ("better" if low > 0 else "worse" if high < 0 else "no difference shown")
    part = rows_of(found, "good")["all"]["auroc"]
    widths = [part[side]["high"] - part[side]["low"] for side in ("baseline", "detector", "difference")]
    assert widths[2] < 0.8 * math.hypot(*widths[:2])


def test_the_mean_over_generators_is_that_of_macro(found):
    table = several(good=1.0, same=0.0, bad=-1.0)
    measured = [measure_aurocs(table[table["detector"] == name], {"scenes": "faces"}, 200) for name in ("base", "good")]
    expected = measured[1].minus(measured[0], measured[0].names).cell()
    cell = rows_of(found, "good")["mean of the generators"]["auroc"]["difference"]
    assert {name: cell[name] for name in ("value", "low", "high")} == pytest.approx(
        {name: expected[name] for name in ("value", "low", "high")}
    )


def test_p_is_corrected_over_the_detectors(found):
    for images in rows_of(found, "good"):
        parts = [rows_of(found, name)[images]["tpr_at_fpr_0.1"] for name in ("good", "same", "bad")]
        assert [part["p_holm"] for part in parts] == holm([part["difference"]["p"] for part in parts])
    assert rows_of(found, "good")["all"]["auroc"]["p_holm"] == pytest.approx(3 * 2 / 201)


def test_delong_stands_beside_where_images_are_independent(found):
    delong = rows_of(found, "good")["all"]["auroc"]["delong"]
    assert (delong["p"], delong["value"], delong["reason"]) == (None, None, "images share groups")
    rows = rows_of(compare_detectors(several(ungrouped(), other=0.15), resamples=1000), "other")
    for name in ("all", "a/f", "a/g"):
        part = rows[name]["auroc"]
        assert part["delong"]["value"] == pytest.approx(part["difference"]["value"], abs=1e-12)
        for end in ("low", "high"):
            assert part["delong"][end] == pytest.approx(part["difference"][end], abs=0.012)
        assert part["delong"]["p"] == pytest.approx(part["difference"]["p"], abs=0.08)
    assert rows["mean of the generators"]["auroc"]["delong"]["reason"] == "a mean over generators has no such test"
    assert "delong" not in rows["all"]["tpr_at_fpr_0.1"]


def test_the_baseline_can_be_named_and_must_be_there():
    table = several(ungrouped(), good=1.0)
    forth, back = compare_detectors(table, resamples=50), compare_detectors(table, baseline="good", resamples=50)
    assert back["baseline"] == "good"
    one, other = (rows["all"]["auroc"]["difference"] for rows in (rows_of(forth, "good"), rows_of(back, "base")))
    assert (one["value"], one["low"], one["p"]) == pytest.approx((-other["value"], -other["high"], other["p"]))
    with pytest.raises(ValueError, match=r"no detector 'best' to compare with; there are: base, good"):
        compare_detectors(table, baseline="best")


def test_images_of_one_of_the_two_are_left_out():
    table = several(ungrouped(), good=1.0, other=0.5)
    kept = table.drop(table.index[table["detector"] == "good"][:7])
    found = compare_detectors(kept.sample(frac=1, random_state=2), baseline="base", resamples=50)
    counts = {each["detector"]: (each["n_images"], each["n_left_out"]) for each in found["detectors"]}
    assert counts == {"good": (263, 7), "other": (270, 0)}
    common = set(kept.loc[kept["detector"] == "good", "key"])
    base = kept[(kept["detector"] == "base") & kept["key"].isin(common)]
    assert rows_of(found, "good")["all"]["auroc"]["baseline"]["value"] == pytest.approx(roc_auc_score(base["label"], base["score"]))
    assert "good: 7 images that only one of the two has scored are left out; 263 are compared." in text(found)
    apart = pd.concat([table[table["detector"] == "base"][:135], table[table["detector"] == "good"][135:]])
    found = compare_detectors(apart, resamples=50)
    assert (found["detectors"][0]["n_images"], found["detectors"][0]["rows"]) == (0, [])
    assert "good and base have no scored image in common" in text(found)
    assert write_comparison(None, found) == []


def test_only_clean_images_count_or_those_under_the_first_perturbation():
    table = several(ungrouped(), good=1.0)
    expected = compare_detectors(table, resamples=20)
    noisy = pd.concat([table.assign(perturbation="jpeg_40", score=0.0), table])
    assert compare_detectors(noisy, resamples=20) == expected
    blurred = pd.concat([table.assign(perturbation="blur_1.0"), table.assign(perturbation="jpeg_40", score=0.0)])
    assert compare_detectors(blurred, resamples=20) == expected


def test_detectors_of_several_seeds_are_left_to_seeds():
    table = several(ungrouped(), **{"a@seed_0": 0.1, "a@seed_1": 0.2, "other": 0.3})
    found = compare_detectors(table, resamples=20)
    assert [each["detector"] for each in found["detectors"]] == ["other"]
    assert compare_detectors(table, baseline="a", resamples=20) == found
    alone = compare_detectors(table[table["detector"] != "a@seed_1"], resamples=20)
    assert [each["detector"] for each in alone["detectors"]] == ["a@seed_0", "other"]
    assert compare_detectors(table[table["detector"].str.startswith("a@")], resamples=20) == {}


def test_nothing_to_compare_one_class_missing_scores_and_few_groups():
    table = several(ungrouped(), good=1.0)
    assert compare_detectors(table[table["detector"] == "good"]) == {}
    assert compare_detectors(table[:0]) == {}
    assert text({}) == ""
    part = rows_of(compare_detectors(table[table["label"] == 0], resamples=10), "good")["all"]["auroc"]
    assert (part["difference"]["value"], part["verdict"], part["difference"]["reason"]) == (
        None,
        "not known",
        "all: there are no fake images",
    )
    broken = table.assign(score=table["score"].mask((table["detector"] == "good") & (table["generator"] == "g")))
    rows = rows_of(compare_detectors(broken, resamples=50), "good")
    assert rows["a/g"]["auroc"]["difference"]["reason"] == "a/g: 50 of 200 scores are missing (NaN)"
    assert rows["a/g"]["auroc"]["delong"]["p"] is None
    assert (rows["a/f"]["auroc"]["verdict"], rows["a/g"]["auroc"]["verdict"]) == ("better", "not known")
    few = several(make_table(some_rows("a", "r", 0, 90) + some_rows("a", "f", 1, 60, 8)), good=1.0)
    part = rows_of(compare_detectors(few, resamples=10), "good")["all"]["auroc"]
    assert part["difference"]["value"] > 0
    assert (part["difference"]["p"], part["p_holm"], part["verdict"]) == (None, None, "not known")
    rates = rows_of(
        compare_detectors(several(make_table(some_rows("a", "r", 0, 60) + some_rows("a", "f", 1, 60)), good=1.0), resamples=10), "good"
    )
    assert "fewer than 100 real images" in rates["all"]["tpr_at_fpr_0.1"]["difference"]["reason"]


def test_printed_and_written(found, tmp_path):
    lines = text(found).splitlines()
    cell = rows_of(found, "good")["all"]["auroc"]["difference"]
    line = next(line for line in lines if line.startswith("good, all"))
    assert f"{cell['value']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]" in line
    assert line.endswith("better")
    assert max(map(len, lines)) <= 120
    (path,) = write_comparison(tmp_path, found)
    table = pd.read_csv(path)
    assert (path.name, tuple(table.columns), len(table)) == ("comparison.csv", COLUMNS, 3 * 5 * 2)
    row = table.set_index(["detector", "images", "metric"]).loc[("good", "all", "auroc")]
    assert (row["difference_low"], row["p"], row["verdict"]) == (cell["low"], cell["p"], "better")
    assert np.isnan(row["delong_p"])


def test_names_of_detectors_do_no_harm(tmp_path):
    name = "=1+1\x1b[31m\n<script>"
    found = compare_detectors(several(ungrouped(), **{name: 1.0}), resamples=20)
    assert "\x1b" not in text(found)
    assert text(found).count("\n") == len(text(found).splitlines()) - 1
    lines = write_comparison(tmp_path, found)[0].read_text().splitlines()
    assert len(lines) == 1 + 4 * 2
