"""Do the intervals hold? A quick version of `benchmarks/coverage.py`, which has a thousand repetitions."""

import json
import math
import sys

import numpy as np
import pytest

from benchmarks import coverage

REPETITIONS = 150


@pytest.fixture(scope="module")
def rows():
    return {(row.case, row.what): row for row in coverage.simulate(REPETITIONS, 150)}


def test_intervals_cover_and_tests_hold_their_level(rows):
    right = {name: row for name, row in rows.items() if "wrong" not in row.what}
    assert len(right) == 9
    for name, row in right.items():
        error = math.sqrt(row.aimed * (1 - row.aimed) / REPETITIONS)
        assert row.low - 3 * error <= row.found <= row.high + 3 * error, name
        assert abs(row.found - row.aimed) <= 4 * error, name


def test_resampling_images_of_groups_does_not_cover(rows):
    (found,) = (row.found for row in rows.values() if "wrong" in row.what and "AUROC" in row.what)
    assert found < 0.9


def test_samples_have_the_correlations_that_are_said():
    rng = np.random.default_rng(0)
    scores = np.stack([coverage.sample(rng, *coverage.GROUPED).scores[:, :8] for _ in range(1500)])
    assert np.corrcoef(scores[:, 0, 0], scores[:, 0, 3])[0, 1] == pytest.approx(coverage.WITHIN, abs=0.08)
    assert np.corrcoef(scores[:, 0, 0], scores[:, 0, 4])[0, 1] == pytest.approx(0, abs=0.08)
    assert np.corrcoef(scores[:, 0, 0], scores[:, 1, 0])[0, 1] == pytest.approx(coverage.BETWEEN, abs=0.08)
    assert scores[:, 0, 0].var() == pytest.approx(1, abs=0.12)


def test_the_table_is_printed_and_written(monkeypatch, tmp_path, capsys):
    out = tmp_path / "coverage.json"
    monkeypatch.setattr(sys, "argv", ["coverage", "--repetitions", "2", "--resamples", "10", "--out", str(out)])
    coverage.main()
    written = json.loads(out.read_text())
    assert (written["repetitions"], len(written["rows"])) == (2, 11)
    assert written["auroc"] == pytest.approx(0.856, abs=0.001)
    assert "clustered DeLong" in capsys.readouterr().out
