"""Confusion matrices as heat maps that can be read in both themes."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_hex
from PIL import Image

from evaluation.figures import confusion as confusion_figures
from evaluation.figures import recoloured, svg
from evaluation.figures.confusion import ON_DARK, ON_LIGHT, STEPS, confusion_figure, save_confusions
from tests.evaluation.classes import matrix

HOSTILE = "<script>alert(1)</script> $\\frac{1}$ \n ä"


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def luminance(colour):
    channels = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("theme", [confusion_figures.LIGHT, ON_LIGHT, ON_DARK])
def test_counts_can_be_read_on_every_colour(theme):
    *ramp, ink, other = theme.palette
    assert len(set(ramp)) == STEPS + 1
    assert not {*ramp, ink, other} & {theme.text, theme.grid}
    for step, colour in enumerate(ramp):
        pair = sorted([luminance(colour), luminance(ink if step < confusion_figures._SWITCH else other)])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) > 4
    assert np.all(np.diff([luminance(colour) for colour in ramp]) * (1 if theme is ON_DARK else -1) > 0)


def test_cells_have_their_count_and_the_colour_of_their_share():
    figure = confusion_figure(matrix(), "true family", "predicted family", ON_LIGHT)
    axes = figure.axes[0]
    assert texts(figure) == ["8", "2", "0", "1", "1", "2", "true family, images"]
    (tiles,) = [each for each in axes.collections if isinstance(each, PatchCollection)]
    assert [to_hex(colour) for colour in tiles.get_facecolors()] == [ON_LIGHT.palette[step] for step in (16, 4, 0, 5, 5, 10)]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["real  10", "gan  0", "flow  4", "never trained on:"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["real", "gan", "unknown"]
    assert len(axes.patches) == 3  # a frame around each right answer
    assert axes.get_xlabel() == "predicted family"


def test_one_of_a_thousand_images_is_not_as_pale_as_none():
    figure = confusion_figure(matrix(counts=((999, 1, 0), (0, 0, 0), (0, 0, 0))), "true family", "predicted family", ON_LIGHT)
    (tiles,) = [each for each in figure.axes[0].collections if isinstance(each, PatchCollection)]
    assert [to_hex(colour) for colour in tiles.get_facecolors()] == [ON_LIGHT.palette[step] for step in (20, 1, 0)]


def test_another_generator_of_a_known_class_has_a_star():
    figure = confusion_figure(matrix(trained_on=[None, False, False]), "true generator", "predicted family")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["real  10", "gan *  0", "flow  4"]
    assert figure.get_supxlabel().startswith("* not trained on this generator")
    assert confusion_figure(matrix(), "true generator", "predicted family").get_supxlabel() == ""


def test_all_known_or_all_unknown_have_no_line_between():
    for known in ([True] * 3, [False] * 3):
        figure = confusion_figure(matrix(known=known), "true family", "predicted family")
        assert len(figure.axes[0].get_yticklabels()) == 3


@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_can_be_drawn_and_recoloured():
    drawn = [
        svg(confusion_figure(matrix(true=[HOSTILE, "_x", "y" * 200]), "true family", "predicted family", theme))
        for theme in (ON_LIGHT, ON_DARK)
    ]
    ET.fromstring(drawn[0])

    def shapes(content):
        return re.sub(rb'(id="|url\(#|href="#)\w+', b"", content)  # matplotlib's names are random

    assert shapes(recoloured(drawn[0], ON_LIGHT, ON_DARK)) == shapes(drawn[1])
    assert shapes(drawn[0]) != shapes(drawn[1])


def test_many_classes_leave_zeros_out_and_nothing_overlaps():
    count = 33
    names = [f"class-{n}" for n in range(count)]
    many = matrix(
        np.eye(count, dtype=int) * 12_345,
        true=names,
        predicted=names,
        right=list(range(count)),
        known=[True] * count,
        trained_on=[True] * count,
    )
    figure = confusion_figure(many, "true family", "predicted family")
    assert texts(figure)[:-1] == ["12k"] * count
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    cell = figure.axes[0].transData.transform([[0, 0], [1, 0]])
    assert max(text.get_window_extent().width for text in figure.axes[0].texts[:-1]) < cell[1, 0] - cell[0, 0]


def test_saved_as_png_and_svg(tmp_path):
    written = save_confusions(tmp_path, {"families": matrix(), "generators": matrix()})
    names = ("confusion_families", "confusion_generators")
    assert {path.name for path in written} == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    with Image.open(tmp_path / "confusion_families.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
