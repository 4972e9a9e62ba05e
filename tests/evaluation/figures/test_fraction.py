"""The figure of score against generated fraction: every point with its interval."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from evaluation.figures import LIGHT, ON_DARK, svg
from evaluation.figures.fraction import MOST_GENERATORS, fraction_figure, save_fractions
from evaluation.fractions import by_fraction
from modules.metrics.functional import Threshold
from tests.evaluation.fractions import partly_generated
from tests.evaluation.rows import THRESHOLD


@pytest.fixture(scope="module")
def found():
    return by_fraction(partly_generated(), THRESHOLD, resamples=50)


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
def test_points_are_drawn_with_their_intervals(found, theme):
    figure = fraction_figure(found, theme)
    (record,) = found.values()
    for axes, name, at_zero in zip(figure.axes, ("mean_score", "tpr_at_threshold"), ("mean_score", "fpr_at_threshold"), strict=True):
        curve = next(line for line in axes.lines if len(line.get_xdata()) == 3)
        expected = [[100 * point["fraction"], point[name]["value"]] for point in record["points"]]
        assert np.allclose(curve.get_xydata(), expected)
        (diamond,) = [line for line in axes.lines if line.get_marker() == "D"]
        assert diamond.get_ydata()[0] == record["reals"][at_zero]["value"]
        ends = [segment[:, 1].tolist() for bars in axes.collections for segment in bars.get_segments()]
        cells = [*(point[name] for point in record["points"]), record["reals"][at_zero]]
        assert sorted(ends) == sorted([cell["low"], cell["high"]] for cell in cells if cell["low"] is not None)
    assert ET.fromstring(svg(figure)).tag.endswith("svg")


def test_without_threshold_or_anything_it_is_drawn_or_not(tmp_path):
    assert save_fractions(tmp_path, {}) == []
    bare = by_fraction(partly_generated(4), Threshold(None, 0.05, 3, "too few reals"), resamples=10)
    assert [path.name for path in save_fractions(tmp_path, bare)] == ["score_by_fraction.png", "score_by_fraction.svg"]


def test_of_many_generators_the_first_are_drawn(found):
    many = {f"_$faces/{i}": next(iter(found.values())) for i in range(12)}
    assert len(fraction_figure(many).legends[0].get_texts()) == MOST_GENERATORS
