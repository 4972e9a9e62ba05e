"""Figures of robustness: every number is drawn, in both themes, with few and many detectors and perturbations."""

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from evaluation.figures import LIGHT, ON_DARK, svg
from evaluation.figures.robustness import curves_figure, robustness_figure, save_robustness_figures
from tests.evaluation.robust import MANY, measured

HOSTILE = "<b>$\\frac$\n" + "x" * 60


@pytest.fixture(scope="module")
def many():
    return measured(MANY, ("a", "b", "c"))


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
def test_heat_maps_print_every_number(many, theme):
    figure = robustness_figure(many, theme)
    for axes, metric in zip(figure.axes, ("auroc", "tpr", "fpr"), strict=False):
        cells = [record["all"][metric]["value"] for each in many.values() for record in each["robustness"]["perturbations"].values()]
        assert [text.get_text() for text in axes.texts] == [f"{cell['value']:.2f}" for cell in cells]
    assert ET.fromstring(svg(figure)).tag.endswith("svg")


def test_frames_are_where_the_verdict_is(many):
    figure = robustness_figure(many)
    for axes, words in zip(figure.axes, (("ranking lost",), (), ("threshold",)), strict=False):
        expected = {
            (column, row)
            for row, each in enumerate(many.values())
            for column, record in enumerate(each["robustness"]["perturbations"].values())
            if any(word in record["verdict"] for word in words)
        }
        assert {tuple(each.get_xy()) for each in axes.patches if not each.get_fill()} == expected
    assert len([each for each in figure.axes[2].patches if not each.get_fill()]) > 3
    assert "framed" in figure.get_suptitle()
    assert "framed" not in robustness_figure(measured(("none",)))._suptitle.get_text()


def test_false_alarms_have_another_colour_than_hits(many):
    figure = robustness_figure(many)
    hits, alarms = (figure.axes[place].collections[0].to_rgba([1.0])[0] for place in (1, 2))
    assert hits[2] > hits[0]
    assert alarms[0] > alarms[2]


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
def test_curves_have_a_panel_a_family_and_start_at_none(many, theme):
    figure = curves_figure(many, theme)
    shown = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title() for axes in shown if axes.get_title()]
    assert [title.split(",")[0] for title in titles] == ["jpeg", "webp", "resize", "blur", "noise", "crop", "re-uploads"]
    below = [axes for axes in shown if not axes.get_title()]
    assert [label.get_text() for label in below[0].get_xticklabels()] == ["none", "95", "75", "40"]
    rates = [line.get_ydata() for line in below[0].get_lines() if len(line.get_ydata()) == 4]
    names = ("none", "jpeg_95", "jpeg_75", "jpeg_40")
    expected = [
        [each["robustness"]["perturbations"][name]["all"][metric]["value"]["value"] for name in names]
        for each in many.values()
        for metric in ("tpr", "fpr")
    ]
    assert np.allclose(rates, expected)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["a", "b", "c", "TPR", "FPR", "wanted FPR"]
    assert ET.fromstring(svg(figure)).tag.endswith("svg")


def test_labels_do_not_overlap(many):
    for documents in (many, measured(), measured(MANY)):
        figure = curves_figure(documents)
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            labels = [each for each in axes.get_xticklabels() if each.get_text() and axes.axison and not each.get_rotation()]
            boxes = [each.get_window_extent(renderer) for each in labels if each.get_visible()]
            assert not any(first.overlaps(second) for first, second in itertools.pairwise(boxes))
        heights = {round(axes.get_position().height, 3) for axes in figure.axes if axes.axison}
        assert min(heights) > 0.5 * max(heights)


def test_without_images_as_they_are_curves_begin_with_the_mildest():
    figure = curves_figure(measured(("jpeg_40", "jpeg_90", "grayscale")))
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["90", "40"]
    assert curves_figure(measured(("none", "jpeg_90", "blur_1.0"))) is None


def test_what_is_missing_is_not_drawn_and_nothing_is_no_figure(tmp_path):
    documents = measured()
    cells = documents["probe"]["robustness"]["perturbations"]["jpeg_90"]["all"]
    for metric in ("auroc", "tpr", "fpr"):
        cells[metric]["value"] = {"value": None, "low": None, "high": None, "reason": "it failed"}
    other = {name: each for name, each in documents["probe"]["robustness"]["perturbations"].items() if name != "jpeg_40"}
    documents[HOSTILE] = {"robustness": documents["probe"]["robustness"] | {"perturbations": other}}
    texts = [text.get_text() for text in robustness_figure(documents).axes[0].texts]
    assert texts.count("–") == 3
    assert svg(curves_figure(documents))
    names = [path.name for path in save_robustness_figures(tmp_path, documents)]
    assert names == [f"{name}.{kind}" for name in ("robustness", "robustness_curves") for kind in ("png", "svg")]
    assert save_robustness_figures(tmp_path / "none", {"probe": {}}) == []
