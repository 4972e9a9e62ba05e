"""Quantiles and distances of scores: those of scipy's definitions, and what is said where there are none."""

import csv
import math

import numpy as np
import pandas as pd
import pytest

from evaluation.distributions import COLUMNS, distributions, write_distributions
from evaluation.predictions import make_table
from tests.evaluation.rows import some_rows, usual_table


def by_source(table, **options):
    return {(row["dataset"], row["generator"], row["label"]): row for row in distributions(table, **options)}


def scores(table, **wanted):
    return table.loc[(table[list(wanted)] == pd.Series(wanted)).all(axis=1), "score"].to_numpy()


def test_numbers_are_those_of_their_definitions():
    table = usual_table()
    found = by_source(table)
    assert list(found) == [("faces", "ffhq", 0), ("scenes", "photos", 0), ("faces", "gan", 1), ("faces", "sd", 1), ("scenes", "sd", 1)]
    fakes, reals = scores(table, dataset="faces", generator="sd"), scores(table, dataset="faces", label=0)
    row = found["faces", "sd", 1]
    assert (row["n"], row["missing"], row["reason"]) == (120, 0, None)
    assert (row["mean"], row["sd"]) == pytest.approx((fakes.mean(), math.sqrt(((fakes - fakes.mean()) ** 2).sum() / 119)))
    assert [row[f"q{at}"] for at in ("05", "25", "50", "75", "95")] == pytest.approx(
        [np.percentile(fakes, at) for at in (5, 25, 50, 75, 95)]
    )
    grid = np.sort(np.concatenate([fakes, reals]))
    gaps = np.abs((fakes[:, None] <= grid).mean(0) - (reals[:, None] <= grid).mean(0))
    assert row["ks"] == pytest.approx(gaps.max())
    assert row["wasserstein"] == pytest.approx((gaps[:-1] * np.diff(grid)).sum())
    assert found["faces", "ffhq", 0]["ks"] is None


def test_a_shift_is_its_own_distance():
    rng = np.random.default_rng(0)
    values = rng.normal(size=500)
    rows = some_rows("a", "r", 0, 500) + some_rows("a", "f", 1, 500)
    table = make_table(rows).assign(score=np.concatenate([values, values + 3.0]))
    row = by_source(table)["a", "f", 1]
    assert row["wasserstein"] == pytest.approx(3.0)
    assert row["mean"] - by_source(table)["a", "r", 0]["mean"] == pytest.approx(3.0)


def test_reals_of_another_data_set_and_of_the_clean_images_alone():
    table = usual_table()
    both = pd.concat([table, table.assign(perturbation="jpeg_40", score=9.0)])
    own, other = by_source(both), by_source(both, reals_from={"scenes": "faces"})
    assert own["faces", "sd", 1] == by_source(table)["faces", "sd", 1]
    assert own["scenes", "sd", 1]["ks"] != other["scenes", "sd", 1]["ks"]
    assert own["faces", "sd", 1] == other["faces", "sd", 1]


@pytest.mark.filterwarnings("error")
def test_what_is_not_a_number_is_counted_and_what_cannot_be_computed_says_why(tmp_path):
    table = make_table(
        some_rows("a", "r", 0, 20)
        + some_rows("a", "<script>", 1, 5)
        + some_rows("b", "=1+1", 1, 1)
        + some_rows("c", "f", 1, 3)
        + some_rows("c", "r", 0, 3)
    )
    table.loc[table.index[:2], "score"] = [math.nan, math.inf]
    table.loc[table["dataset"] == "c", "score"] = -math.inf
    table.loc[table["generator"] == "<script>", "score"] = [1e308, -1e308, 1e308, -1e308, 0.0]
    found = by_source(table)
    assert (found["a", "r", 0]["n"], found["a", "r", 0]["missing"]) == (18, 2)
    assert found["a", "<script>", 1]["ks"] == pytest.approx(0.6, abs=0.21)
    assert found["b", "=1+1", 1]["reason"] == "there are no real images"
    assert found["c", "r", 0]["reason"] == found["c", "f", 1]["reason"] == "no score is a finite number"
    assert (found["c", "f", 1]["mean"], found["c", "f", 1]["q50"], found["c", "f", 1]["ks"]) == (None, None, None)
    path = write_distributions(tmp_path / "tables" / "distributions.csv", list(found.values()))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert not {"nan", "inf", "-inf"} & {value for row in rows for value in row.values()}
    one = by_source(make_table(some_rows("a", "f", 1, 1) + some_rows("a", "r", 0, 1)))
    assert (one["a", "r", 0]["sd"], one["a", "r", 0]["reason"]) == (None, "one image has no spread")
    assert one["a", "f", 1]["ks"] == 1.0


def test_several_detectors_in_their_order_and_no_rows():
    table = usual_table()
    both = pd.concat([table.assign(detector="z"), table.assign(detector="a", score=-table["score"])])
    found = distributions(both)
    assert [row["detector"] for row in found] == ["z"] * 5 + ["a"] * 5
    assert found[3]["ks"] == pytest.approx(found[8]["ks"])
    assert distributions(table.head(0)) == []
