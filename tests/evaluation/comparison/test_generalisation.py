"""Seen and unseen generators, numbers of training generators, and generators that were left out."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison.generalisation import LEFT_OUT_COLUMNS, NUMBER_COLUMNS, SEEN_COLUMNS, generalisation, text, write_generalisation
from tests.evaluation.studies import ALL, study, study_of_left_out, study_of_numbers


def auroc(table, detector, generator):
    rows = table[(table["detector"] == detector) & ((table["label"] == 0) | (table["generator"] == generator.partition("/")[2]))]
    return roc_auc_score(rows["label"], rows["score"])


@pytest.fixture(scope="module")
def drawn():
    return study_of_numbers()


@pytest.fixture(scope="module")
def left_out():
    return study_of_left_out()


def test_seen_and_unseen_are_macro_means_over_generators_and_families(drawn):
    table, found = drawn
    json.dumps(found, allow_nan=False)
    rows = {(row["detector"], row["family"], row["images"]): row for row in found["seen"]}
    name = "svm@generators_2_seed_0"  # trained on a and b
    seen, unseen = rows[name, "all", "seen"], rows[name, "all", "unseen"]
    assert (seen["generators"], unseen["generators"]) == (ALL[:2], ALL[2:])
    assert seen["auroc"]["value"] == pytest.approx(np.mean([auroc(table, name, each) for each in ALL[:2]]))
    assert unseen["auroc"]["low"] < unseen["auroc"]["value"] < unseen["auroc"]["high"]
    gap = rows[name, "all", "unseen - seen"]["auroc"]
    assert gap["value"] == pytest.approx(unseen["auroc"]["value"] - seen["auroc"]["value"])
    assert gap["high"] < 0
    assert rows[name, "gan", "seen"]["generators"] == ALL[:2]
    assert (name, "gan", "unseen") not in rows
    assert rows[name, "diffusion", "unseen"]["auroc"]["value"] == unseen["auroc"]["value"]
    assert ("svm@all", "all", "unseen") not in rows


def test_draws_of_training_generators_are_repetitions(drawn):
    table, found = drawn
    rows = {(row["training_generators"], row["set"]): row for row in found["number"]}
    assert set(rows) == {(1, "unseen"), (2, "unseen")}  # `all` has seen everything, so nothing is unseen by all
    values = [np.mean([auroc(table, f"svm@generators_1_seed_{s}", each) for each in ALL if each != ALL[-s % 4]]) for s in (0, 1)]
    row = rows[1, "unseen"]
    assert [row[name] for name in ("mean", "lowest", "highest")] == pytest.approx([np.mean(values), min(values), max(values)])
    assert row["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert [point["tested_generators"] for point in row["detectors"].values()] == [3, 3]


def test_numbers_are_compared_on_what_no_detector_has_seen():
    table, told = study({"svm@generators_1_seed_0": ALL[:1], "svm@generators_2_seed_0": ALL[:2], "svm@!set/d": ALL[:3]})
    rows = {(row["training_generators"], row["set"]): row for row in generalisation(table, told, resamples=10)["number"]}
    assert set(rows) == {(1, "unseen"), (1, "unseen by all"), (2, "unseen"), (2, "unseen by all")}  # one left out is a question of its own
    both = np.mean([auroc(table, "svm@generators_1_seed_0", each) for each in ALL[2:]])
    assert rows[1, "unseen by all"]["mean"] == pytest.approx(both)
    assert rows[1, "unseen by all"]["deviation"] is None
    assert rows[1, "unseen by all"]["detectors"]["svm@generators_1_seed_0"]["tested_generators"] == 2


def test_one_left_out_stands_beside_the_head_that_was_trained_on_all(left_out):
    table, found = left_out
    assert [(row["left_out"], row["reference"]) for row in found["left_out"]] == [(name, ["svm@all"]) for name in ALL]
    for row in found["left_out"]:
        name = row["left_out"]
        without, reference = auroc(table, f"svm@!{name}", name), auroc(table, "svm@all", name)
        assert (row["without"]["value"], row["with"]["value"]) == pytest.approx((without, reference))
        difference = row["difference"]
        assert difference["value"] == pytest.approx(without - reference)
        assert difference["low"] < difference["value"] < difference["high"] < 0


def test_without_it_they_stand_beside_the_mean_of_those_that_saw_it():
    table, told = study({f"svm@!{name}": [each for each in ALL if each != name] for name in ALL[:3]})
    rows = generalisation(table, told, resamples=20)["left_out"]
    assert rows[0]["reference"] == [f"svm@!{name}" for name in ALL[1:3]]
    assert rows[0]["with"]["value"] == pytest.approx(np.mean([auroc(table, f"svm@!{name}", ALL[0]) for name in ALL[1:3]]))


def test_what_stands_beside_nothing_says_why():
    table, told = study({"svm@!set/a": ALL[1:], "mlp@all": ALL})
    row = generalisation(table, told, resamples=20)["left_out"][0]
    assert row["without"]["value"] is not None
    assert row["difference"] == {"value": None, "low": None, "high": None, "reason": "no other detector of this head was trained on set/a"}
    table, told = study({"svm@!set/a": ALL[1:], "svm@all": ALL})
    cut = table.drop(table.index[-1])
    assert generalisation(cut, told, resamples=20)["left_out"][0]["with"]["reason"] == "svm@all was measured on other images"


def test_without_knowledge_of_training_or_anything_unseen_nothing_is_said(tmp_path):
    table, told = study({"svm@jpeg_40": ALL, "mlp@jpeg_40": ALL})
    for trained in (told, {}, {"svm@jpeg_40": {"generators": None}}):
        found = generalisation(table, trained, resamples=10)
        assert found == {"seen": [], "number": [], "left_out": []}
        assert text(found) == ""
        assert write_generalisation(tmp_path, found) == []


def test_printed(drawn, left_out):
    lines = text(drawn[1]).splitlines()
    assert lines[0] == "Mean AUROC over generators that were trained on and over others (how many):"
    assert lines[1].split("  ")[0] == "detector"
    cell = drawn[1]["seen"][0]["auroc"]
    assert f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}] (1)" in lines[2]
    assert any("unseen (3)" in line and "±" in line for line in lines)
    rows = text(left_out[1]).splitlines()
    assert any(line.startswith("svm, set/a") for line in rows)
    assert max(map(len, [*lines, *rows])) <= 120


def test_written(drawn, left_out, tmp_path):
    write_generalisation(tmp_path, drawn[1])
    write_generalisation(tmp_path, left_out[1])
    columns = {"generalisation": SEEN_COLUMNS, "training_generators": NUMBER_COLUMNS, "left_out": LEFT_OUT_COLUMNS}
    tables = {name: pd.read_csv(tmp_path / f"{name}.csv") for name in columns}
    for name, table in tables.items():
        assert tuple(table.columns) == columns[name]
    assert tables["left_out"]["difference_high"].max() < 0
    assert tables["training_generators"]["detectors"].tolist() == [2, 2]
    assert tables["generalisation"]["low"].notna().all()


def test_a_nan_score_costs_its_generator_only():
    table, told = study({"svm@set/a": ALL[:1]})
    table.loc[table.query("generator == 'b'").index[0], "score"] = math.nan
    rows = {(row["family"], row["images"]): row["auroc"] for row in generalisation(table, told, resamples=10)["seen"]}
    assert rows["gan", "unseen"]["reason"] == "set/b: 1 of 100 scores are missing (NaN)"
    assert rows["diffusion", "unseen"]["value"] is not None


def test_with_seeds_the_detector_of_all_generators_is_the_reference_of_its_seed():
    trained = {f"svm@{condition}@seed_{seed}": names for seed in (0, 1) for condition, names in {"all": ALL, f"!{ALL[0]}": ALL[1:]}.items()}
    table, told = study(trained)
    found = generalisation(table, told, resamples=20)["left_out"]
    assert [(row["head"], row["reference"]) for row in found] == [(f"svm@seed_{seed}", [f"svm@all@seed_{seed}"]) for seed in (0, 1)]
