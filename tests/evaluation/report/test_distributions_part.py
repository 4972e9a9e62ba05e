"""The report's part on distributions: its sentences follow the intervals, its table the scores."""

import math

import pandas as pd
import pytest

from evaluation.predictions import make_table
from evaluation.report.distributions import distributions_part
from evaluation.statistics import metrics_document
from modules.detectors import ScoreDetector
from tests.evaluation.report.pages import alt_of
from tests.evaluation.rows import THRESHOLD, some_rows


def study(*detectors, resamples=200):
    """Each detector: `up` scores higher than the reals, `down` lower, `same` as high; `few` has too few groups."""
    rows = some_rows("a", "photos", 0, 60) + some_rows("a", "same", 1, 60, shift=0.0)
    rows += some_rows("a", "up", 1, 60, shift=2.0) + some_rows("a", "down", 1, 60, shift=-2.0) + some_rows("a", "few", 1, 6, 3)
    table = make_table(rows)
    frame = pd.concat([table.assign(detector=name) for name in detectors])
    metrics = metrics_document(frame, dict.fromkeys(detectors, THRESHOLD), resamples=resamples)
    return frame, metrics.get("detectors") or {detectors[0]: metrics}


def setting(statistic, orientation):
    return {"detector": ScoreDetector(statistic, orientation).settings()}


@pytest.fixture(scope="module")
def one():
    return study("sd15")


def test_the_sentence_follows_the_intervals(one):
    frame, documents = one
    part = distributions_part(frame, documents)
    by_generator = documents["sd15"]["by_generator"]
    shown = {name: f"a/{name} ({by_generator[f'a/{name}']['auroc']['value']:.2f})" for name in ("up", "down", "same", "few")}
    assert part.sentences[0] == (
        f"sd15: fakes of {shown['up']} score above the reals; fakes of {shown['down']} score below the reals; "
        f"fakes of {shown['same']} are not told apart from them; fakes of {shown['few']} have no interval."
    )


@pytest.mark.parametrize(
    ("statistic", "orientation", "up", "down"),
    [
        ("sd15.log_likelihood", "smaller_is_fake", "are less likely than", "are more likely than"),
        ("sd15.log_prior", "larger_is_fake", "are more likely than", "are less likely than"),
        ("sd15.reconstruction", "larger_is_fake", "score above", "score below"),
    ],
)
def test_a_likelihood_is_told_as_one(one, statistic, orientation, up, down):
    frame, documents = one
    said = distributions_part(frame, documents, settings={"sd15": setting(statistic, orientation)}).sentences[0]
    first, second, *_ = said.split(";")
    assert "a/up" in first
    assert first.endswith(f"{up} the reals")
    assert "a/down" in second
    assert second.endswith(f"{down} the reals")


def test_the_table_has_every_source_and_the_chart_both_themes(one):
    frame, documents = one
    part = distributions_part(frame, documents)
    [grid], [chart] = part.grids, part.charts
    assert list(grid.rows) == ["a/photos (real)", "a/down", "a/few", "a/same", "a/up"]
    assert all(len(row) == len(grid.heads) for row in grid.rows.values())
    assert grid.rows["a/up"][0] == 60
    assert float(grid.rows["a/up"][1]) == pytest.approx(frame.query("generator == 'up'")["score"].mean(), rel=1e-3)
    assert grid.rows["a/photos (real)"][-2:] == [None, None]
    assert "light-dark(" in chart.svg
    assert "sd15" in alt_of(chart)


def test_many_detectors_are_cut_and_said_so():
    frame, documents = study(*(f"d{n}" for n in range(8)), resamples=5)
    part = distributions_part(frame, documents)
    assert [grid.first for grid in part.grids] == [f"d{n}" for n in range(6)]
    assert "the first 6 of 8 detectors; all are in tables/distributions.csv" in part.sentences[-1]


def test_no_scores_no_part_and_one_class_no_ranking(one):
    frame, documents = one
    assert distributions_part(frame.assign(score=math.nan), documents) is None
    assert distributions_part(frame.head(0), documents) is None
    reals = frame[frame["label"] == 0]
    part = distributions_part(reals, {"sd15": metrics_document(reals, THRESHOLD, resamples=5)})
    assert part.sentences[0] == "sd15: there are no fakes to rank."
    missing = frame.copy()
    missing.iloc[0, missing.columns.get_loc("score")] = math.inf
    assert distributions_part(missing, documents).grids[0].rows["a/photos (real)"][0] == "59 (1 not finite)"
