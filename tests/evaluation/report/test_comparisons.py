"""Sections of comparisons: what they say, their tables and their figures."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from evaluation.comparison.paired import compare_detectors
from evaluation.comparison.seeds import seeds
from evaluation.comparison.selection import selection
from evaluation.figures import LIGHT, ON_DARK, svg
from evaluation.figures.comparisons import differences_figure, save_comparison_figures, seed_differences_figure
from evaluation.predictions import make_table
from evaluation.report.comparisons import comparison_part, comparison_parts, seeds_part, selection_part
from tests.evaluation.rows import some_rows

HOSTILE = "=<script>$x$"


@pytest.fixture(scope="module")
def metrics():
    images = make_table(some_rows("a", "r", 0, 120, 40) + some_rows("a", "f", 1, 60, 30) + some_rows("a", "g", 1, 60, 30))
    rng = np.random.default_rng(0)
    shifts = {"base": 0.0, HOSTILE: 1.0, "worse": -1.0} | {f"{b}@seed_{n}": 0.6 * (b == "y") for b in "xy" for n in range(3)}
    parts = [
        images.assign(detector=name, score=images["score"] + rng.normal(size=len(images)) * 0.2 + shift * images["label"])
        for name, shift in shifts.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    return {
        "comparison": compare_detectors(table, resamples=60),
        "seeds": seeds(table, resamples=60),
        "selection": selection(table, resamples=60),
    }


def test_detectors_against_the_baseline(metrics):
    found = metrics["comparison"]
    part = comparison_part(found)
    assert part.sentences[0].startswith(f"Against base, by AUROC on all images that both have scored – better: {HOSTILE}; worse: worse")
    assert [grid.first for grid in part.grids] == ["AUROC", "TPR at FPR 0.1"]
    for grid in part.grids:
        assert list(grid.rows) == [
            f"{each['detector']}: {name}" for each in found["detectors"] for name in ("all", "mean of the generators", "a/f", "a/g")
        ]
        assert {len(row) for row in grid.rows.values()} == {len(grid.heads)}
    shown = part.grids[0].shown()["worse: all"]
    assert shown[2]["text"] == f"{found['detectors'][1]['rows'][0]['auroc']['difference']['value']:.3f}"
    assert (shown[4]["text"], shown[-1]["text"]) == ("–", "worse")  # images share groups: no DeLong
    assert len(part.charts) == 1


def test_several_seeds(metrics):
    found = metrics["seeds"]
    part = seeds_part(found)
    assert "x (3), y (3)" in part.sentences[0]
    assert [grid.first for grid in part.grids] == ["AUROC", "TPR at FPR 0.1", "AUROC, difference", "TPR at FPR 0.1, difference"]
    for grid in part.grids:
        assert {len(row) for row in grid.rows.values()} == {len(grid.heads)}
    row = part.grids[2].shown()["y: all"]
    cell = found["differences"][0]["rows"][0]["auroc"]
    assert row[0]["text"] == f"{cell['difference']['value']:.3f}"
    assert row[1]["small"] == f"{cell['over_seeds']['low']:.3f}–{cell['over_seeds']['high']:.3f}"
    assert (row[3]["text"], row[4]["text"]) == ("3, 0 of 3", "better")


def test_the_best_of_a_sweep(metrics):
    part = selection_part(metrics["selection"])
    assert "The best of 9 detectors by AUROC" in part.sentences[0]
    assert HOSTILE in part.sentences[1]
    row = part.grids[0].shown()["chosen on A, reported on B"]
    assert row[0]["text"] == HOSTILE
    assert row[2]["text"] == f"{metrics['selection']['halves'][0]['value']['value']:.3f}"


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
def test_figures_draw_every_difference(metrics, theme):
    found = metrics["comparison"]
    figure = differences_figure(found, theme=theme)
    axes = figure.axes[0]
    drawn = sorted(x for line in axes.lines for x in line.get_xdata() if line.get_marker() in {"o", "s"})
    cells = [row["auroc"]["difference"] for each in found["detectors"] for row in each["rows"] if row["kind"] != "generator"]
    assert drawn == pytest.approx(sorted(cell["value"] for cell in cells))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["=<script>\\$x\\$", "worse"]
    dots = seed_differences_figure(metrics["seeds"], theme=theme)
    points = np.concatenate([each.get_offsets()[:, 0] for each in dots.axes[0].collections if len(each.get_offsets()) == 3])
    rows = metrics["seeds"]["differences"][0]["rows"][:2]
    assert sorted(points) == pytest.approx(sorted(value for row in rows for value in row["auroc"]["seeds"].values()))
    for each in (figure, dots):
        assert ET.fromstring(svg(each)).tag.endswith("svg")


def test_sections_of_what_there_is(metrics, tmp_path):
    parts = comparison_parts(tmp_path, json.loads(json.dumps(metrics)))
    assert [part.heading for part in parts] == ["Detectors against each other", "Several seeds", "The best of the sweep"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "differences.png",
        "differences.svg",
        "differences_over_seeds.png",
        "differences_over_seeds.svg",
    ]
    assert comparison_parts(tmp_path, {}) == []
    assert save_comparison_figures(tmp_path / "none", {}, {}) == []


def test_nothing_in_common_and_too_few_groups_are_said(metrics):
    images = make_table(some_rows("a", "r", 0, 30, 8) + some_rows("a", "f", 1, 30, 8))
    few = compare_detectors(pd.concat([images.assign(detector="x"), images.assign(detector="y", score=0.0)]), resamples=5)
    part = comparison_part(few)
    assert "not known: y" in part.sentences[0]
    assert any("too few groups" in note for note in part.grids[0].notes)
    apart = compare_detectors(pd.concat([images[:20].assign(detector="x"), images[20:].assign(detector="y")]), resamples=5)
    part = comparison_part(apart)
    assert "nothing could be compared" in part.sentences[0]
    assert "y and x have no scored image in common" in part.sentences
    assert (part.grids, part.charts) == ([], [])
    apart = pd.concat([images[:20].assign(detector="x@seed_0"), images[20:].assign(detector="x@seed_1")])
    part = seeds_part(seeds(apart, resamples=5))
    assert "the seeds of x have no scored image in common" in part.sentences
    assert (part.grids, part.charts) == ([], [])
    part = selection_part(selection(apart, resamples=5))
    assert part.grids[0].notes == ["there is no image that all detectors have scored"]
