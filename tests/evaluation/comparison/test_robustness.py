"""Robustness: values of scikit-learn, paired intervals by hand, and verdicts that cannot be had by calling everything fake."""

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison.robustness import COLUMNS, Kind, kind_of, ordered, robustness, text, write_robustness
from evaluation.resampling import group_codes, resample_weights
from evaluation.statistics import against_reals, measure, metrics_document
from modules.metrics.functional import Threshold
from tests.evaluation.robust import MANY, STRICT, perturbed
from tests.evaluation.rows import usual_table

FROM = {"scenes": "faces"}


def with_scores(scores, name="jpeg_40", threshold=STRICT, resamples=60):
    """What is found where images get other scores under one perturbation."""
    clean = usual_table().query("dataset == 'faces'")
    table = pd.concat([clean, clean.assign(perturbation=name, score=scores(clean))])
    return robustness(table, {"probe": threshold}, resamples=resamples)["probe"]["perturbations"][name]


def side(cell):
    return (cell["low"] > 0) - (cell["high"] < 0)


def test_values_are_those_of_the_rows_under_each_perturbation():
    table = perturbed()
    found = robustness(table, {"probe": STRICT}, FROM, resamples=20)["probe"]
    json.dumps(found, allow_nan=False)
    assert (found["wanted_fpr"], found["has_clean"], list(found["perturbations"])) == (0.05, True, ["none", "jpeg_90", "jpeg_40"])
    for name, record in found["perturbations"].items():
        rows = table[table["perturbation"] == name]
        called = rows["score"] > STRICT.value
        assert (record["n_real"], record["n_fake"], record["n_left_out"]) == (280, 280, 0)
        expected = {"auroc": roc_auc_score(rows["label"], rows["score"])}
        expected |= {"tpr": called[rows["label"] == 1].mean(), "fpr": called[rows["label"] == 0].mean()}
        macro = {metric: [] for metric in expected}
        for part in against_reals(rows, FROM).values():
            hits = part["score"] > STRICT.value
            macro["auroc"].append(roc_auc_score(part["label"], part["score"]))
            macro["tpr"].append(hits[part["label"] == 1].mean())
            macro["fpr"].append(hits[part["label"] == 0].mean())
        for metric, value in expected.items():
            assert record["all"][metric]["value"]["value"] == pytest.approx(value, abs=1e-12)
            assert record["macro"][metric]["value"]["value"] == pytest.approx(np.mean(macro[metric]), abs=1e-12)


def test_all_images_have_the_numbers_of_metrics_json():
    table = perturbed()
    records = metrics_document(table, STRICT, FROM, resamples=30)["by_perturbation"]
    for name, record in robustness(table, {"probe": STRICT}, FROM, resamples=30)["probe"]["perturbations"].items():
        for metric, place in (("auroc", "auroc"), ("tpr", "tpr_at_threshold"), ("fpr", "fpr_at_threshold")):
            assert record["all"][metric]["value"] == records[name][place]


def test_changes_have_intervals_of_the_same_resamples_of_the_same_images():
    table = perturbed(("none", "jpeg_40")).query("dataset == 'faces'")
    before, after = (table[table["perturbation"] == name].sort_values("key").reset_index(drop=True) for name in ("none", "jpeg_40"))
    record = robustness(table, {"probe": STRICT}, resamples=50, seed=7)["probe"]["perturbations"]["jpeg_40"]["all"]
    groups = group_codes(before["group"].tolist(), before["key"].tolist())
    labels = before["label"].to_numpy()
    changes = {"auroc": [], "tpr": [], "fpr": []}
    for row in np.concatenate([w.numpy() for w in resample_weights(labels, groups, 50, 7)]):
        aurocs = [roc_auc_score(labels, each["score"], sample_weight=row) for each in (before, after)]
        changes["auroc"].append(aurocs[1] - aurocs[0])
        for metric, label in (("tpr", 1), ("fpr", 0)):
            mine = labels == label
            rates = [np.average(each["score"][mine] > STRICT.value, weights=row[mine]) for each in (before, after)]
            changes[metric].append(rates[1] - rates[0])
    for metric, samples in changes.items():
        cells = record[metric]
        assert cells["change"]["value"] == pytest.approx(cells["value"]["value"] - cells["clean"]["value"])
        assert [cells["change"]["low"], cells["change"]["high"]] == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=1e-12)
        unpaired = math.hypot(*(cells[side]["high"] - cells[side]["low"] for side in ("value", "clean")))
        assert cells["change"]["high"] - cells["change"]["low"] < unpaired


def test_a_detector_that_calls_everything_fake_finds_all_fakes_and_its_threshold_does_not_hold():
    record = with_scores(lambda clean: clean["score"] + 100)
    assert record["all"]["tpr"]["value"]["value"] == record["all"]["fpr"]["value"]["value"] == 1
    assert record["all"]["fpr"]["value"]["low"] is None  # all resamples say 1: no interval, and no doubt
    assert record["all"]["auroc"]["change"]["value"] == 0
    assert record["verdict"] == "threshold no longer holds; finds more fakes"


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        (lambda clean: clean["score"], "unchanged"),
        (lambda clean: clean["score"] - 100, "fewer false alarms; misses more fakes"),
        (lambda clean: -clean["score"], "ranking lost; misses more fakes"),
        (lambda clean: clean["score"] + 3 * clean["label"], "ranking won; finds more fakes"),
        (lambda clean: clean["score"] + 1.5 * (1 - clean["label"]), "ranking lost; threshold no longer holds"),
    ],
)
def test_verdicts(scores, verdict):
    found = with_scores(scores)["verdict"]
    assert found == verdict


def test_a_threshold_without_a_wanted_rate_cannot_fail_to_hold_but_more_false_alarms_are_said():
    own = Threshold(1.6, None, 0)
    verdict = with_scores(lambda clean: clean["score"] + 0.7, threshold=own)["verdict"]
    assert "more false alarms" in verdict
    assert "holds" not in verdict
    assert with_scores(lambda clean: clean["score"], threshold=own)["verdict"] == "unchanged"


def test_a_threshold_that_never_held_is_not_said_to_hold_no_longer():
    low = Threshold(0.0, 0.05, 99)
    clean = usual_table()
    table = pd.concat([clean, clean.assign(perturbation="blur_1.0"), clean.assign(perturbation="jpeg_40", score=clean["score"] + 0.7)])
    found = robustness(table, {"probe": low}, resamples=40)["probe"]["perturbations"]
    assert found["none"]["verdict"] == found["blur_1.0"]["verdict"] == "threshold does not hold"
    assert found["jpeg_40"]["verdict"] == "threshold does not hold; more false alarms; finds more fakes"
    assert robustness(clean, {"probe": STRICT}, resamples=40)["probe"]["perturbations"]["none"]["verdict"] == "as they are"


def test_images_that_a_perturbation_could_not_be_applied_to_are_left_out_of_both():
    table = perturbed(("none", "jpeg_90", "crop_256"))
    gone = table.query("perturbation == 'crop_256'").index[[3, 7, 400]]
    only = table.query("perturbation == 'none'").index[[10]]
    found = robustness(table.drop([*gone, *only]), {"probe": STRICT}, FROM, resamples=20)["probe"]["perturbations"]
    assert {name: each["n_left_out"] for name, each in found.items()} == {"none": 0, "jpeg_90": 1, "crop_256": 4}
    lost = table.loc[[*gone, *only], ["dataset", "key"]].apply(tuple, axis=1)
    kept = table[~table[["dataset", "key"]].apply(tuple, axis=1).isin(set(lost))]
    clean = kept[kept["perturbation"] == "none"]
    cells = found["crop_256"]["all"]["auroc"]
    assert cells["clean"]["value"] == pytest.approx(roc_auc_score(clean["label"], clean["score"]), abs=1e-12)
    assert found["crop_256"]["n_real"] + found["crop_256"]["n_fake"] == len(clean) == 556
    # The images as they are are measured again for each perturbation that lacks some.
    assert cells["clean"]["value"] != found["jpeg_90"]["all"]["auroc"]["clean"]["value"]


def test_without_images_as_they_are_there_is_no_change_and_no_crash(tmp_path):
    table = perturbed(("jpeg_90", "jpeg_40"))
    found = robustness(table, {"probe": STRICT}, FROM, resamples=20)["probe"]
    json.dumps(found, allow_nan=False)
    assert found["has_clean"] is False
    cells = found["perturbations"]["jpeg_40"]["all"]["auroc"]
    assert cells["value"]["low"] is not None
    assert cells["change"] == cells["clean"]
    assert (cells["change"]["value"], cells["change"]["reason"]) == (None, "there are no images as they are (none) to compare with")
    assert found["perturbations"]["jpeg_40"]["verdict"] == "not known"
    assert "(1) there are no images as they are" in text({"probe": {"robustness": found}})
    other = table[table["perturbation"] == "jpeg_40"].assign(perturbation="none", key=lambda t: "x" + t["key"])
    apart = robustness(pd.concat([table, other]), {"probe": STRICT}, FROM, resamples=5)["probe"]["perturbations"]["jpeg_90"]
    assert apart["all"]["tpr"]["change"]["reason"] == "none of these images was scored as it is (none)"
    assert apart["n_left_out"] == 1120


def test_no_threshold_one_class_and_missing_scores_are_said():
    lacking = Threshold(None, 0.05, 3, "too few validation reals")
    record = with_scores(lambda clean: -clean["score"], threshold=lacking)
    assert record["verdict"] == "ranking lost"
    assert record["all"]["tpr"]["value"] == {"value": None, "low": None, "high": None, "reason": "too few validation reals"}
    table = perturbed()
    reals = robustness(table.query("label == 0"), {"probe": STRICT}, resamples=20)["probe"]["perturbations"]["jpeg_40"]
    assert reals["n_fake"] == 0
    assert reals["verdict"] == {0: "not known", 1: "more false alarms", -1: "fewer false alarms"}[side(reals["all"]["fpr"]["change"])]
    assert reals["all"]["auroc"]["value"]["reason"] == "there are no fake images"
    assert reals["all"]["fpr"]["value"]["low"] is not None
    assert reals["macro"]["auroc"]["value"]["reason"] == "there are no such generators"
    table.loc[table.query("perturbation == 'jpeg_40'").index[0], "score"] = math.nan
    missing = robustness(table, {"probe": STRICT}, FROM, resamples=20)["probe"]["perturbations"]
    assert missing["jpeg_40"]["all"]["auroc"]["change"]["reason"] == "1 of 560 scores are missing (NaN)"
    assert missing["jpeg_90"]["all"]["auroc"]["change"]["low"] is not None
    with pytest.raises(ValueError, match=r"no threshold for the detectors probe"):
        robustness(table, {})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("none", Kind("none")),
        ("jpeg_90", Kind("jpeg", 90)),
        ("jpeg_90_444", Kind("jpeg_444", 90)),
        ("resize_0.5", Kind("resize", 0.5)),
        ("resize_2.0", Kind("enlarge", 2)),
        ("limit_1600+jpeg_80", Kind("re-upload")),
        ("resize_0.5+jpeg_75", Kind("chain")),
        ("crop_half", Kind("crop_half", 0.5)),
        ("crop_half+crop_half+crop_half", Kind("crop_half", 0.125)),
        ("crop_256", Kind("crop", 256)),
        ("horizontal_flip", Kind("horizontal_flip")),
        ("equalise_224", Kind("equalise", 224)),
        ("<b>_1e9\n", Kind("<b>_1e9\n")),
        ("", Kind("")),
    ],
)
def test_names_say_family_and_strength(name, kind):
    assert kind_of(name) == kind


def test_families_go_from_mild_to_strong():
    names = ("jpeg_40", "none", "blur_2.0", "jpeg_95", "blur_0.5", "limit_2+jpeg_9", "limit_1+jpeg_95", "resize_0.25", "resize_0.75")
    assert ordered(names) == {
        "jpeg": ["jpeg_95", "jpeg_40"],
        "blur": ["blur_0.5", "blur_2.0"],
        "re-upload": ["limit_2+jpeg_9", "limit_1+jpeg_95"],
        "resize": ["resize_0.75", "resize_0.25"],
    }


def test_a_terminal_shows_every_perturbation_of_every_detector():
    found = robustness(perturbed(MANY, ("a", "b")), {"a": STRICT, "b": STRICT}, FROM, resamples=5)
    lines = text({name: {"robustness": each} for name, each in found.items()}).splitlines()
    assert max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines if line.startswith("jpeg_40")] == ["jpeg_40", "jpeg_40"]
    assert len(lines) == 2 * (2 + len(MANY))
    cells = found["b"]["perturbations"]["jpeg_40"]["all"]
    row = [line for line in lines if line.startswith("jpeg_40")][1].split()
    assert row[1:5] == [
        f"{cells['auroc']['value']['value']:.3f}",
        f"{cells['auroc']['change']['value']:+.3f}",
        f"{cells['tpr']['value']['value']:.3f}",
        f"{cells['fpr']['value']['value']:.3f}",
    ]
    assert text({"probe": {}}) == ""


def test_the_table_has_every_number(tmp_path):
    table = perturbed().assign(detector="=1+1\n\x1b[2J")
    found = robustness(table, {"=1+1\n\x1b[2J": STRICT}, FROM, resamples=20)
    (path,) = write_robustness(tmp_path, {name: {"robustness": each} for name, each in found.items()})
    assert "\x1b" not in path.read_text()
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 3 * 2 * 3
    (one,) = (row for row in rows if (row["perturbation"], row["images"], row["metric"]) == ("jpeg_40", "macro", "fpr"))
    (cells,) = [each["perturbations"]["jpeg_40"]["macro"]["fpr"] for each in found.values()]
    assert float(one["value"]) == cells["value"]["value"]
    assert float(one["change_low"]) == cells["change"]["low"]
    assert float(one["clean_high"]) == cells["clean"]["high"]
    assert (one["family"], float(one["strength"]), one["wanted_fpr"], one["n_left_out"]) == ("jpeg", 40, "0.05", "0")
    assert write_robustness(tmp_path / "none", {"probe": {}}) == []


def test_a_single_generator_and_all_images_agree():
    table = perturbed().query("dataset == 'faces' and generator != 'gan'")
    record = robustness(table, {"probe": STRICT}, resamples=30)["probe"]["perturbations"]["jpeg_40"]
    assert record["all"] == record["macro"]
    part = table[table["perturbation"] == "jpeg_40"]
    assert record["all"]["auroc"]["value"] == measure(part, STRICT, 30)["auroc"]
