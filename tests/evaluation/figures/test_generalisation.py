"""Figures of generalisation: every detector's point, every generator's line."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from evaluation.figures import LIGHT, ON_DARK, left_out_figure, number_figure, save_generalisation_figures, svg
from tests.evaluation.studies import ALL, study_of_left_out, study_of_numbers


@pytest.fixture(scope="module")
def numbers():
    return study_of_numbers()[1]


@pytest.fixture(scope="module")
def left_out():
    return study_of_left_out()[1]


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
def test_drawn(numbers, left_out, theme, tmp_path):
    number = number_figure(numbers, theme)
    points = np.concatenate([each.get_offsets() for each in number.axes[0].collections if len(each.get_offsets()) > 1])
    values = [value["value"] for row in numbers["number"] for value in row["detectors"].values()]
    assert sorted(points[:, 1]) == pytest.approx(sorted(values))
    missing = left_out["left_out"][0] | {"with": {"value": None, "low": None, "high": None}}
    one = left_out_figure({"left_out": [missing, *left_out["left_out"][1:]]}, theme)
    assert [label.get_text() for label in one.axes[0].get_yticklabels()] == ALL
    for figure in (number, one):
        assert ET.fromstring(svg(figure)).tag.endswith("svg")
    names = [path.name for path in save_generalisation_figures(tmp_path, left_out)]
    assert names == ["left_out.png", "left_out.svg"]


def test_nothing_found_is_not_drawn(tmp_path):
    assert save_generalisation_figures(tmp_path, {"seen": [], "number": [], "left_out": []}) == []
    assert not list(tmp_path.iterdir())
