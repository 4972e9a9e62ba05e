"""Reliability diagrams: every bin with its interval, and every image in the histogram."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from evaluation.figures import LIGHT, ON_DARK, svg
from evaluation.figures.reliability import reliability_figure, save_reliability
from tests.evaluation.robust import measured


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
@pytest.mark.parametrize("names", [("probe",), ("a", "$b", "_c")])
def test_every_bin_is_drawn_with_its_interval(names, theme):
    documents = measured(("none",), names)
    figure = reliability_figure(documents, theme)
    diagram, histogram = figure.axes
    drawn = [each for each in diagram.containers if each.has_yerr]
    assert len(drawn) == len(names)
    for container, document in zip(drawn, documents.values(), strict=True):
        bins = document["overall"]["reliability"]
        assert np.allclose(container.lines[0].get_xydata(), [[each["probability"], each["share"]] for each in bins])
        segments = container.lines[2][0].get_segments()
        assert np.allclose([segment[:, 1] for segment in segments], [[each["low"], each["high"]] for each in bins])
    shares = sum(float(np.nansum(patch.get_data().values)) for patch in histogram.patches)
    assert shares == pytest.approx(len(names))
    text = figure.legends[0].get_texts()[0].get_text()
    assert f"temperature {documents[names[0]]['overall']['temperature']['value']:.2f}" in text
    assert ET.fromstring(svg(figure)).tag.endswith("svg")


def test_detectors_without_probabilities_are_left_out(tmp_path):
    documents = measured(("none",), ("a", "b"))
    nothing = {"reliability": None, "histogram": None}
    half = documents | {"b": {"overall": documents["b"]["overall"] | nothing}}
    assert len([each for each in reliability_figure(half).axes[0].containers if each.has_yerr]) == 1
    none = {"b": half["b"]}
    assert reliability_figure(none) is None
    assert save_reliability(tmp_path, none) == []
    assert [path.name for path in save_reliability(tmp_path, half)] == ["reliability.png", "reliability.svg"]
