"""A sweep's best: chosen on one half of the groups, reported on the other; the winner's curse by simulation."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison.selection import CHOICES, COLUMNS, halves, selection, text, write_selection
from evaluation.predictions import make_table
from evaluation.statistics import against_reals, measure
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table


def images(groups=40):
    return make_table(some_rows("a", "r", 0, 120, groups) + some_rows("a", "f", 1, 80, groups) + some_rows("a", "g", 1, 40, groups // 2))


def sweep(table, shifts, noise=0.3):
    rng = np.random.default_rng(1)
    parts = [
        table.assign(detector=f"d{n}", score=table["score"] + rng.normal(size=len(table)) * noise + shift * table["label"])
        for n, shift in enumerate(shifts)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table():
    return sweep(images(), (0.0, 0.1, 0.2, 0.1))


@pytest.fixture(scope="module")
def found(table):
    return selection(table, resamples=100, seed=2)


def in_half(table, place, seed):
    one = table[table["detector"] == table["detector"].iloc[0]].sort_values(["dataset", "key"])
    return table[table["key"].isin(one["key"][halves(one, seed) == place])]


def test_halves_keep_groups_whole_and_have_both_classes_alike():
    mixed = make_table(
        some_rows("a", "r", 0, 90, 30) + some_rows("a", "f", 1, 90, 30) + some_rows("b", "r", 0, 31) + some_rows("b", "f", 1, 33)
    )
    both = mixed["generator"].eq("f") & mixed["dataset"].eq("a") & mixed["group"].str.endswith(("1", "2"))
    mixed.loc[both, "group"] = mixed.loc[both, "group"].str.replace("-f-", "-r-")
    for seed in range(5):
        found = halves(mixed, seed)
        named = mixed.assign(half=found)
        whole = named[named["group"] != ""].groupby("group")["half"]
        assert (whole.min() == whole.max()).all()
        for (dataset, label), part in named.groupby(["dataset", "label"]):
            groups = part.assign(unit=part["group"].where(part["group"] != "", part["key"])).drop_duplicates("unit")
            assert abs((groups["half"] == 0).sum() - (groups["half"] == 1).sum()) <= 3, (dataset, label)
    shuffled = mixed.sample(frac=1, random_state=0)
    assert (pd.Series(halves(shuffled, 4), shuffled["key"]).loc[mixed["key"]].to_numpy() == found).all()
    assert 0.2 < (halves(mixed, 0) == halves(mixed, 1)).mean() < 0.8
    first = np.mean([halves(mixed, seed)[0] for seed in range(40)])
    assert 0.2 < first < 0.8


def test_numbers_are_those_of_the_halves(table, found):
    json.dumps(found, allow_nan=False)
    assert [(way["chosen_on"], way["reported_on"]) for way in found["halves"]] == [("A", "B"), ("B", "A")]
    for place, way in enumerate(found["halves"]):
        own, other = in_half(table, place, 2), in_half(table, 1 - place, 2)
        values = {name: roc_auc_score(rows["label"], rows["score"]) for name, rows in own.groupby("detector")}
        assert way["detector"] == max(values, key=values.get)
        assert way["where_chosen"]["value"] == pytest.approx(values[way["detector"]])
        reported = other[other["detector"] == way["detector"]]
        assert way["value"] == pytest.approx(measure(reported, THRESHOLD, 100, 2)["auroc"])
        assert way["optimism"] == pytest.approx(way["where_chosen"]["value"] - way["value"]["value"])
        groups = reported.groupby("label")["group"].nunique()
        assert (way["groups_real"], way["groups_fake"]) == (groups[0], groups[1])
    values = {name: roc_auc_score(rows["label"], rows["score"]) for name, rows in table.groupby("detector")}
    naive = found["naive"]
    assert (naive["detector"], naive["value"]["value"]) == (max(values, key=values.get), pytest.approx(max(values.values())))
    assert naive["optimism"] == pytest.approx(max(values.values()) - np.mean([way["value"]["value"] for way in found["halves"]]))


def test_the_best_of_many_that_know_nothing_is_reported_as_knowing_nothing():
    rng = np.random.default_rng(3)
    table = images()
    chosen, reported, naive = [], [], []
    for seed in range(6):
        noise = [table.assign(detector=f"d{n}", score=rng.normal(size=len(table))) for n in range(8)]
        found = selection(pd.concat(noise), resamples=2, seed=seed)
        chosen += [way["where_chosen"]["value"] for way in found["halves"]]
        reported += [way["value"]["value"] for way in found["halves"]]
        naive.append(found["naive"]["value"]["value"])
    assert np.mean(reported) == pytest.approx(0.5, abs=0.035)  # 12 of a standard deviation of 0.053 each
    assert np.mean(chosen) > 0.55
    assert np.mean(naive) > 0.54


def test_metrics(table):
    for metric in CHOICES:
        way = selection(table, metric, resamples=20)["halves"][0]
        assert way["value"]["value"] is not None
    rows = in_half(table, 1, 0)
    rows = rows[rows["detector"] == way["detector"]]
    parts = [roc_auc_score(part["label"], part["score"]) for part in against_reals(rows).values()]
    assert way["value"]["value"] == pytest.approx(np.mean(parts))
    with pytest.raises(ValueError, match=r"auroc, tpr_at_fpr_0\.1, macro_auroc; there is no 'loss'"):
        selection(table, "loss")


def test_reals_that_are_lent_count_for_the_mean_over_generators():
    table = sweep(usual_table(), (0.0, 0.3))
    own, lent = (selection(table, "macro_auroc", reals_from, resamples=5)["naive"]["value"] for reals_from in (None, {"scenes": "faces"}))
    assert own["value"] != lent["value"]


def test_too_few_groups_one_class_and_nothing(table):
    few = selection(sweep(images(groups=18), (0.0, 0.1)), resamples=10)
    for way in few["halves"]:
        assert (way["detector"], way["value"]["value"], way["optimism"]) == (None, None, None)
        assert way["value"]["reason"] == "9 groups of a class in a half of the images, 10 needed"
    assert few["naive"]["detector"] is not None
    assert few["naive"]["optimism"] is None
    assert "9 groups of a class" in text(few)
    one = selection(table[table["label"] == 1], resamples=10)
    assert (one["naive"]["detector"], one["halves"][0]["value"]["value"]) == (None, None)
    assert text(one)
    apart = selection(pd.concat([table[:240][:100], table[240:480][100:]]), resamples=5)
    json.dumps(apart, allow_nan=False)
    assert (apart["n_images"], apart["n_left_out"], apart["naive"]["detector"]) == (0, None, None)
    assert {way["value"]["reason"] for way in apart["halves"]} == {"there is no image that all detectors have scored"}
    assert selection(table[table["detector"] == "d0"]) == {}
    assert selection(table[:0]) == {}
    assert (text({}), write_selection(None, {})) == ("", [])


def test_missing_scores_are_not_chosen_and_ties_are_the_first(table):
    equal = pd.concat([table[table["detector"] == "d2"].assign(detector=name) for name in ("z", "y", "x")])
    assert {way["detector"] for way in selection(equal, resamples=5)["halves"]} == {"z"}
    broken = equal.assign(score=equal["score"].mask(equal["detector"] == "z"))
    found = selection(broken, resamples=5)
    assert ({way["detector"] for way in found["halves"]}, found["naive"]["detector"]) == ({"y"}, "y")


def test_images_that_not_all_have_scored_are_left_out(table):
    found = selection(table.drop(table.index[:9]), resamples=5)
    assert (found["n_images"], found["n_left_out"], found["candidates"]) == (231, 9, 4)


def test_printed_and_written(found, tmp_path):
    lines = text(found).splitlines()
    assert lines[0].startswith("Best of 4 detectors by AUROC, chosen on one half")
    cell = found["halves"][0]["value"]
    assert any(f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" in line for line in lines)
    assert f"it would have been {found['naive']['detector']} with {found['naive']['value']['value']:.3f}" in lines[-1]
    (path,) = write_selection(tmp_path, found)
    table = pd.read_csv(path)
    assert (path.name, tuple(table.columns), len(table)) == ("selection.csv", COLUMNS, 2)
    assert table["value"][0] == pytest.approx(cell["value"])
    assert table["optimism"][1] == pytest.approx(found["halves"][1]["optimism"])
