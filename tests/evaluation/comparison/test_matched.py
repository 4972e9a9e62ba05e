"""The matched-pair audit, against hand-worked cases, scikit-learn, scipy and planted detectors."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from evaluation.comparison.matched import COLUMNS, DROPPED, FALLS, OPEN, UNCHANGED, matched, sentence, spearman, text, write_matched
from evaluation.figures.matched import matched_figure, save_matched
from evaluation.predictions import make_table
from evaluation.report.matched import matched_part

HOSTILE = "<script>alert(1)</script>=$x$"


def pairs(similarities, fakes, reals, dataset="synris/a", generator="a", **more):
    """A table of one pair a similarity, with these scores."""
    shared = {"dataset": dataset, "split": "test", "detector": "probe", **more}
    rows, extra = [], []
    for i, (similarity, fake, real) in enumerate(zip(similarities, fakes, reals, strict=True)):
        for label, score in ((1, fake), (0, real)):
            named = {"label": label, "generator": generator if label else "reverse-image-search", "group": f"prompt-{i}"}
            rows.append(shared | named | {"key": f"{dataset}-{i:05d}-{label}", "score": float(score)})
            extra.append((f"{generator}/{i}", similarity if label else np.nan))
    return make_table(rows).assign(pair=[name for name, _ in extra], pair_similarity=[value for _, value in extra])


def planted(n, kind, seed=0, **more):
    """Pairs whose scores depend on content (as far as the images of a pair differ) or on being generated."""
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(0, 1, n)
    subject = rng.normal(size=n)
    shift = {"content": 3 * (1 - similarity), "traces": 1.0, "style": -0.5 + 3 * similarity}[kind]
    return pairs(similarity, subject + shift + rng.normal(size=n) * 0.5, subject + rng.normal(size=n) * 0.5, **more)


def test_hand_worked():
    # Sorted by similarity the pairs are 3, 1, 0, 2. Best half: pairs 3 and 1; fakes 5, 1 against reals 4, 0: 3 of 4.
    found = matched(pairs([0.5, 0.8, 0.1, 0.9], [3, 1, 9, 5], [2, 0, 9, 4]), resamples=20)
    (one,) = found["generators"]
    curve = {cell["dropped"]: cell for cell in one["auroc"]}
    # All: fakes 3, 1, 9, 5 against 2, 0, 9, 4: 2 + 1 + 3.5 + 3 of 16.
    assert curve[0.0]["value"] == pytest.approx(9.5 / 16)
    assert (curve[0.0]["n_real"], curve[0.0]["n_fake"], curve[0.0]["least_similarity"]) == (4, 4, 0.1)
    assert curve[0.1]["n_fake"] == 4  # a tenth of four pairs is less than one
    # The best three: fakes 3, 1, 5 against 2, 0, 4: 2 + 1 + 3 of 9.
    assert (curve[0.25]["value"], curve[0.25]["least_similarity"]) == (pytest.approx(6 / 9), 0.5)
    assert (curve[0.5]["value"], curve[0.5]["n_real"]) == (0.75, 2)
    assert (curve[0.75]["value"], curve[0.75]["n_fake"]) == (1.0, 1)
    assert one["trend"]["value"] == pytest.approx(9.5 / 16 - 0.75)
    assert one["correlation"]["value"] == pytest.approx(spearmanr([0.5, 0.8, 0.1, 0.9], [1, 1, 0, 1])[0])
    assert one["verdict"] == OPEN
    assert curve[0.0]["low"] is None
    assert "too few groups" in one["trend"]["reason"]
    assert ")/:" not in one["trend"]["reason"]
    assert one["similarity"]["quantiles"]["0.5"] == pytest.approx(0.65)
    assert sum(one["similarity"]["counts"]) == 4


def test_a_detector_of_content_falls_and_one_of_traces_does_not():
    verdicts, trends, correlations = {}, {}, {}
    for kind in ("content", "traces", "style"):
        found = matched(planted(400, kind), resamples=300)
        verdicts[kind], trends[kind] = found["macro"]["verdict"], found["macro"]["trend"]
        correlations[kind] = found["macro"]["correlation"]
    assert verdicts == {"content": FALLS, "traces": UNCHANGED, "style": "rises"}
    assert trends["content"]["low"] > 0.1
    assert correlations["content"]["high"] < -0.5
    assert correlations["traces"]["low"] < 0 < correlations["traces"]["high"]


def test_every_subset_is_scikit_learns_auroc():
    table = planted(101, "content", seed=3)
    (one,) = matched(table, resamples=20)["generators"]
    ranked = table[table["label"] == 1].sort_values("pair_similarity", ascending=False)
    for cell in one["auroc"]:
        kept = set(ranked["pair"].iloc[: 101 - int(101 * cell["dropped"])])
        rows = table[table["pair"].isin(kept)]
        assert cell["value"] == pytest.approx(roc_auc_score(rows["label"], rows["score"]))
        assert cell["n_fake"] == cell["n_real"] == len(kept)


def test_the_difference_is_paired():
    # A detector that adds the same number to each pair's own noise: both subsets vary together over the resamples.
    (one,) = matched(planted(200, "traces", seed=5), resamples=300)["generators"]
    width = one["trend"]["high"] - one["trend"]["low"]
    alone = [cell["high"] - cell["low"] for cell in one["auroc"] if cell["dropped"] in (0.0, 0.5)]
    assert width < 0.95 * np.hypot(*alone)
    assert one["auroc"][0]["low"] < one["auroc"][0]["value"] < one["auroc"][0]["high"]


def test_the_interval_of_the_trend_covers_the_truth():
    hits = 0
    for seed in range(30):
        trend = matched(planted(40, "traces", seed=100 + seed), resamples=100)["macro"]["trend"]
        hits += trend["low"] <= 0 <= trend["high"]  # similarity and scores are independent: the truth is 0
    assert hits >= 25  # of 30; with 95% fewer than 25 have a chance of 0.3%


def test_a_real_stays_while_a_fake_that_is_kept_has_it():
    table = pairs([0.9, 0.2], [1, 2], [0, 5])
    second = table[table["label"] == 1].assign(pair=["a/0", "a/0"], pair_similarity=[0.3, 0.1], key=["x", "y"])
    table = pd.concat([table, second], ignore_index=True)  # pair 0 has three fakes of similarity 0.9, 0.3, 0.1, pair 1 one of 0.2
    (one,) = matched(table, resamples=10)["generators"]
    counts = {cell["dropped"]: (cell["n_real"], cell["n_fake"]) for cell in one["auroc"]}
    assert counts == {0.0: (2, 4), 0.1: (2, 4), 0.25: (2, 3), 0.5: (1, 2), 0.75: (1, 1)}


def test_macro_is_the_mean_of_the_generators_that_have_pairs():
    tables = [planted(40, "content", 1), planted(60, "traces", 2, dataset="synris/b", generator="b")]
    lone = planted(12, "traces", 3, dataset="synris/c", generator="c").assign(pair_similarity=np.nan)
    found = matched(pd.concat([*tables, lone], ignore_index=True), resamples=50)
    first, second, none = found["generators"]
    macro = found["macro"]
    for i in range(len(DROPPED)):
        assert macro["auroc"][i]["value"] == pytest.approx((first["auroc"][i]["value"] + second["auroc"][i]["value"]) / 2)
        assert none["auroc"][i]["value"] is None
    assert macro["n_pairs"] == 100
    assert macro["trend"]["value"] == pytest.approx((first["trend"]["value"] + second["trend"]["value"]) / 2)
    assert macro["correlation"]["value"] == pytest.approx((first["correlation"]["value"] + second["correlation"]["value"]) / 2)
    assert (none["n_pairs"], none["n_left_out"], none["verdict"]) == (0, 12, OPEN)
    assert none["trend"]["reason"]
    # One generator alone gives the same numbers.
    alone = matched(tables[0], resamples=50)["generators"][0]
    assert [cell["value"] for cell in alone["auroc"]] == [cell["value"] for cell in first["auroc"]]


def test_reals_of_another_data_set_and_perturbed_rows():
    table = planted(30, "content")
    moved = table.assign(dataset=table["dataset"].where(table["label"] == 1, "reals"))
    usual = matched(table, resamples=30)
    assert matched(moved, {"synris/a": "reals"}, resamples=30)["generators"][0]["auroc"] == usual["generators"][0]["auroc"]
    assert matched(moved, resamples=30)["macro"] is None
    blurred = table.assign(perturbation="blur_1.0", score=0.0)
    assert matched(pd.concat([blurred, table]), resamples=30) == usual
    only = pd.concat([table.assign(perturbation="jpeg_40"), blurred])
    assert matched(only, resamples=30)["generators"][0]["auroc"] == usual["generators"][0]["auroc"]


def test_nothing_to_measure_is_null_with_the_reason():
    table = planted(20, "content")
    for frame, word in (
        (table.drop(columns=["pair", "pair_similarity"]), "no column pair and pair_similarity"),
        (table.assign(pair_similarity=None), "no fake has a similarity"),
        (table.assign(pair_similarity="<b>"), "no fake has a similarity"),
        (table.assign(pair=None), "no fake has a real image"),
        (table[table["label"] == 1], "no fake has a real image"),
        (table[table["label"] == 0], "no fake has a similarity"),
        (table.head(0), "no fake"),
    ):
        found = matched(frame, resamples=10)
        json.dumps(found, allow_nan=False)
        assert found["macro"] is None
        assert word in found["reason"]
        assert word in text(found)
        assert matched_part({"probe": found}).heading


def test_missing_scores_ties_and_infinite_similarities():
    table = planted(40, "traces")
    gone = table.assign(score=table["score"].where(table.index != 5))
    found = matched(gone, resamples=20)
    json.dumps(found, allow_nan=False)
    assert found["macro"]["auroc"][0]["value"] is None
    assert "missing" in found["macro"]["auroc"][0]["reason"]
    assert "missing" in found["macro"]["correlation"]["reason"]
    assert found["macro"]["verdict"] == OPEN
    tied = table.assign(pair_similarity=0.5, score=0.0)
    found = matched(tied, resamples=20)
    json.dumps(found, allow_nan=False)
    assert found == matched(tied.sample(frac=1, random_state=1), resamples=20)
    assert found["macro"]["auroc"][0]["value"] == 0.5
    assert found["macro"]["correlation"]["value"] is None
    assert found["macro"]["verdict"] == UNCHANGED
    endless = table.assign(pair_similarity=table["pair_similarity"].where(table.index > 9, np.inf))
    assert matched(endless, resamples=20)["macro"]["n_left_out"] == 5


def test_spearman_is_that_of_scipy_on_repeated_observations():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 40).astype(float), rng.normal(size=40).round(1)
    weights = torch.from_numpy(rng.integers(0, 4, (8, 40)))
    ours = spearman(first, second, weights)
    for row, value in zip(weights.numpy(), ours, strict=True):
        assert float(value) == pytest.approx(spearmanr(np.repeat(first, row), np.repeat(second, row))[0], abs=1e-12)
    assert spearman(np.ones(40), second, weights).isnan().all()


def test_text_csv_figure_and_part(tmp_path):
    tables = [planted(40, "content", 1, generator=HOSTILE), planted(60, "traces", 2, dataset="synris/b", generator="b")]
    found = matched(pd.concat(tables, ignore_index=True), resamples=50)
    json.dumps(found, allow_nan=False)
    shown = text(found)
    assert max(map(len, shown.splitlines()[:-1])) <= 120
    assert sentence(found) in shown
    documents = {"probe": found, "=other": found}
    with write_matched(tmp_path / "matched.csv", documents).open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * 3 * (len(DROPPED) + 2 + 7)
    chosen = [row for row in rows if (row["detector"], row["name"], row["quantity"]) == ("probe", "macro", "trend")]
    assert float(chosen[0]["value"]) == found["macro"]["trend"]["value"]
    paths = save_matched(tmp_path / "figures", found)
    assert [path.name for path in paths] == ["matched.png", "matched.svg"]
    with Image.open(paths[0]) as picture:
        assert picture.width > 800
    axes = matched_figure(found).axes
    assert len(axes[0].lines) == 3  # two generators and their mean
    assert [float(y) for y in axes[0].lines[2].get_ydata()] == [cell["value"] for cell in found["macro"]["auroc"]]
    assert sum(axes[1].lines[0].get_ydata()) == pytest.approx(1)
    part = matched_part(documents)
    assert (len(part.grids), len(part.charts), len(part.sentences)) == (2, 2, 3)
    assert part.grids[0].rows["mean of the generators"][2] == found["macro"]["auroc"][0]
    assert len(part.grids[0].heads) == len(part.grids[0].rows["synris/b/b"])
    assert save_matched(tmp_path / "none", matched(tables[0].assign(pair=None))) == []
    assert not Path(tmp_path / "none").exists()
