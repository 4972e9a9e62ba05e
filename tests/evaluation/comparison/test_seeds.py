"""Detectors of several seeds: spread against numpy and scipy, and differences that hold over images and over seeds."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t, ttest_1samp
from sklearn.metrics import roc_auc_score

from evaluation.comparison.seeds import COLUMNS, seeds, text, write_seeds
from evaluation.predictions import make_table
from evaluation.resampling import group_codes, resample_weights
from evaluation.statistics import against_reals
from tests.evaluation.rows import some_rows


def images():
    return make_table(some_rows("a", "r", 0, 120, 40) + some_rows("a", "f", 1, 60, 30) + some_rows("a", "g", 1, 60, 30, shift=1.0))


def fitted(**shifts):
    """For each base a detector a seed; each adds its shift to the scores of the fakes."""
    table, parts = images(), []
    for base, each in shifts.items():
        for number, shift in enumerate(each):
            if shift is not None:
                noise = np.random.default_rng([number, len(base)]).normal(size=len(table)) * 0.3
                parts.append(table.assign(detector=f"{base}@seed_{number}", score=table["score"] + noise + shift * table["label"]))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table():
    return fitted(one=(0.0, 0.1, -0.1), three=(0.5, 0.7, 0.6))


@pytest.fixture(scope="module")
def found(table):
    return seeds(table, resamples=100)


def aurocs_of(table, base, generators=("f", "g")):
    rows = [part for name, part in table.groupby("detector") if name.startswith(f"{base}@")]
    return np.array([np.mean([roc_auc_score(p["label"], p["score"]) for p in parts]) for parts in (_parts(r, generators) for r in rows)])


def _parts(rows, generators):
    return [rows] if generators is None else [against_reals(rows)[f"a/{name}"] for name in generators]


def rows_of(found, kind, base):
    return {row["images"]: row for row in next(each for each in found[kind] if each["base"] == base)["rows"]}


PLACES = {"all": None, "mean of the generators": ("f", "g"), "a/f": ("f",), "a/g": ("g",)}


def test_mean_and_spread_are_those_of_the_single_detectors(table, found):
    json.dumps(found, allow_nan=False)
    assert (found["baseline"], [each["seeds"] for each in found["bases"]]) == ("one", [["0", "1", "2"]] * 2)
    for base in ("one", "three"):
        for name, generators in PLACES.items():
            part, values = rows_of(found, "bases", base)[name]["auroc"], aurocs_of(table, base, generators)
            assert list(part["seeds"].values()) == pytest.approx(values)
            assert part["mean"]["value"] == pytest.approx(values.mean())
            assert part["deviation"]["value"] == pytest.approx(values.std(ddof=1))
            assert (part["lowest"], part["highest"]) == pytest.approx((values.min(), values.max()))


def test_the_interval_of_the_mean_is_that_of_a_loop_over_common_resamples(table, found):
    detectors = [part.sort_values(["dataset", "key"]) for name, part in table.groupby("detector") if name.startswith("three@")]
    labels = detectors[0]["label"].to_numpy()
    codes = group_codes(detectors[0]["group"].tolist(), detectors[0]["key"].tolist())
    weights = torch.cat(list(resample_weights(labels, codes, 100, 0))).numpy()
    drawn = [np.mean([roc_auc_score(labels, each["score"], sample_weight=w) for each in detectors]) for w in weights]
    cell = rows_of(found, "bases", "three")["all"]["auroc"]["mean"]
    assert (cell["low"], cell["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-10)


def test_differences_are_paired_by_seed(table, found):
    for name, generators in PLACES.items():
        part = rows_of(found, "differences", "three")[name]["auroc"]
        values = aurocs_of(table, "three", generators) - aurocs_of(table, "one", generators)
        assert list(part["seeds"].values()) == pytest.approx(values)
        assert (part["difference"]["value"], part["deviation"]["value"]) == pytest.approx((values.mean(), values.std(ddof=1)))
        student = ttest_1samp(values, 0).confidence_interval()
        assert (part["over_seeds"]["low"], part["over_seeds"]["high"]) == pytest.approx((student.low, student.high))
        assert (part["higher"], part["lower"], part["equal"]) == (3, 0, 0)
        assert part["verdict"] == "better"
    back = rows_of(seeds(table, baseline="three", resamples=100), "differences", "one")["all"]["auroc"]
    forth = rows_of(found, "differences", "three")["all"]["auroc"]
    assert (back["verdict"], back["lower"]) == ("worse", 3)
    assert back["difference"]["low"] == pytest.approx(-forth["difference"]["high"])


def test_a_difference_that_depends_on_the_seed_is_not_shown():
    found = seeds(fitted(a=(0.0, 0.0, 0.0), bb=(2.5, -0.1, 0.1)), resamples=100)
    part = rows_of(found, "differences", "bb")["all"]["auroc"]
    assert part["difference"]["low"] > 0
    assert part["over_seeds"]["low"] < 0 < part["over_seeds"]["high"]
    assert part["verdict"] == "no difference shown"


def test_a_difference_that_depends_on_the_images_is_not_shown():
    table = images()
    parts = []
    for number in range(4):  # every seed adds the same to a few fakes: it is always a little better, but only on these
        noise = np.random.default_rng(number).normal(size=len(table)) * 0.001
        for base in ("plain", "lucky"):
            more = 3.0 * (base == "lucky") * ((table["label"] == 1) & table["group"].isin(["a-f-0", "a-g-3"]))
            parts.append(table.assign(detector=f"{base}@seed_{number}", score=table["score"] + noise + more))
    part = rows_of(seeds(pd.concat(parts), resamples=200), "differences", "lucky")["a/g"]["auroc"]
    assert part["over_seeds"]["low"] > 0
    assert part["difference"]["low"] <= 0
    assert part["verdict"] == "no difference shown"


def test_two_seeds_are_too_few_to_say_how_far_they_matter():
    found = seeds(fitted(one=(0.0, 0.1), three=(1.5, 1.7, 1.6)), resamples=50)
    part = rows_of(found, "bases", "one")["all"]["auroc"]
    assert part["mean"]["low"] is not None
    assert (part["deviation"]["value"], part["deviation"]["reason"]) == (None, "2 seeds, 3 needed to say how far numbers depend on them")
    difference = next(each for each in found["differences"])
    part = rows_of(found, "differences", "three")["all"]["auroc"]
    assert (difference["seeds"], part["over_seeds"]["low"], part["verdict"]) == (["0", "1"], None, "not known")
    assert part["difference"]["low"] > 0


def test_no_common_seeds_no_common_images_and_names_of_baselines():
    table = fitted(one=(0.0, 0.1, None, None), two=(None, None, 0.5, 0.6))
    found = seeds(table, resamples=20)
    assert (found["differences"][0]["rows"], found["differences"][0]["seeds"]) == ([], [])
    assert "two and one have no seed in common" in text(found)
    for baseline, expected in (("two", "two"), ("two@seed_3", "two"), ("single", "one"), (None, "one")):
        more = pd.concat([images().assign(detector="single"), table])
        assert seeds(more, baseline=baseline, resamples=5)["baseline"] == expected
    with pytest.raises(ValueError, match=r"no detector 'nine'.*one, two"):
        seeds(table, baseline="nine")
    both = fitted(one=(0.0, 0.1, 0.2), two=(0.5, 0.6, 0.5))
    own = both["detector"].str.startswith("one") == (both["key"] < "8")
    assert "two and one have no scored image in common" in text(seeds(both[own], resamples=5))
    none = fitted(one=(0.0, 0.1))
    own = none["detector"].str.endswith("0") == (none["key"] < "8")
    found = seeds(none[own], resamples=5)
    assert (found["bases"][0]["rows"], found["differences"]) == ([], [])
    assert text(found) == "the seeds of one have no scored image in common"


def test_missing_scores_and_images_of_some_seeds(table):
    broken = table.assign(score=table["score"].mask((table["detector"] == "one@seed_1") & (table["generator"] == "g")))
    found = seeds(broken, resamples=20)
    json.dumps(found, allow_nan=False)
    part = rows_of(found, "bases", "one")["a/g"]["auroc"]
    assert (part["mean"]["value"], part["mean"]["reason"]) == (None, "a/g: 60 of 180 scores are missing (NaN)")
    assert (part["deviation"]["value"], part["lowest"], part["seeds"]["1"]) == (None, None, None)
    assert part["deviation"]["reason"] == "not defined with 1 of 3 seeds"
    assert rows_of(found, "differences", "three")["a/g"]["auroc"]["verdict"] == "not known"
    assert rows_of(found, "differences", "three")["a/f"]["auroc"]["verdict"] == "better"
    fewer = table.drop(table.index[table["detector"] == "three@seed_2"][:4])
    found = seeds(fewer, resamples=20)
    assert [(each["n_images"], each["n_left_out"]) for each in found["bases"]] == [(240, 0), (236, 4)]
    assert found["differences"][0]["n_images"] == 236
    assert "three: 4 images that not all seeds have scored are left out; 236 are measured." in text(found)


def test_no_seeds_no_table():
    table = images()
    assert seeds(table) == {}
    assert seeds(table[:0]) == {}
    assert seeds(table.assign(detector="one@seed_0")) == {}
    assert (text({}), write_seeds(None, {})) == ("", [])


def test_equal_seeds_have_no_spread_and_a_certain_side():
    table = images()
    shifted = table.assign(score=table["score"] + 0.5 * table["label"])
    parts = [each.assign(detector=f"{base}@seed_{n}") for n in range(3) for base, each in (("a", table), ("b", shifted))]
    part = rows_of(seeds(pd.concat(parts), resamples=100), "differences", "b")["all"]["auroc"]
    assert part["deviation"]["value"] == pytest.approx(0, abs=1e-15)
    assert part["verdict"] == "better"


def test_printed_and_written(found, tmp_path):
    lines = text(found).splitlines()
    part = rows_of(found, "bases", "three")["all"]["auroc"]
    assert any(f"{part['mean']['value']:.3f} [" in line and f"± {part['deviation']['value']:.3f}" in line for line in lines)
    assert any(line.startswith("three, all") and "3, 0 of 3" in line and line.endswith("better") for line in lines)
    assert max(map(len, lines)) <= 120
    (path,) = write_seeds(tmp_path, found)
    table = pd.read_csv(path)
    assert (path.name, tuple(table.columns), len(table)) == ("seeds.csv", COLUMNS, 3 * 4 * 2)
    written = table[table["compared_with"] == "one"].set_index(["images", "metric"]).loc[("a/f", "auroc")]
    cell = rows_of(found, "differences", "three")["a/f"]["auroc"]
    assert (written["low"], written["over_seeds_low"]) == pytest.approx((cell["difference"]["low"], cell["over_seeds"]["low"]))
    assert (written["higher"], written["verdict"], written["seeds"]) == (3, "better", 3)


def test_the_quantile_is_students():
    from evaluation.comparison.seeds import _student

    found = _student([0.1, 0.2, 0.4, 0.2], 0.9)
    half = t.ppf(0.95, 3) * np.std([0.1, 0.2, 0.4, 0.2], ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((0.225 - half, 0.225 + half))
