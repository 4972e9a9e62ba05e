"""Figures: files that open, names that break nothing, no state left behind."""

import ast
import math
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluation
from evaluation.figures import (
    ON_DARK,
    ON_LIGHT,
    bin_edges,
    histogram_figure,
    recoloured,
    roc_figure,
    save_figure_of_detectors,
    save_figures,
    save_figures_by_perturbation,
    svg,
)
from evaluation.figures.curves import BINS
from evaluation.predictions import make_table
from evaluation.statistics import against_reals
from tests.evaluation.rows import some_rows, usual_table

HOSTILE = "<script>alert(1)</script> $\\frac{1}$ \n ä 漢"


def test_saved_as_png_and_svg(tmp_path):
    written = save_figures(tmp_path / "figures", against_reals(usual_table()), 0.5)
    assert {path.name for path in written} == {f"{name}.{suffix}" for name in ("roc", "roc_log", "scores") for suffix in ("png", "svg")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {path.name for path in written}
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert np.asarray(image.convert("L")).std() > 5
        else:
            assert ET.parse(path).getroot().tag.endswith("svg")


def test_figures_by_perturbation_and_of_detectors_are_saved(tmp_path):
    tables = {"none": usual_table(), "jpeg_40": usual_table().assign(score=1.0)}
    written = save_figures_by_perturbation(tmp_path / "probe", tables, 0.5) + save_figure_of_detectors(tmp_path, tables)
    names = ("probe/roc_by_perturbation", "probe/scores_by_perturbation", "roc_of_detectors", "roc_of_detectors_log")
    assert {str(path.relative_to(tmp_path)) for path in written} == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert np.asarray(image.convert("L")).std() > 5


def test_panels_have_the_same_axis_and_say_so_once():
    tables = {f"p{n}": usual_table().assign(score=usual_table()["score"] + n) for n in range(5)}
    panels = [axes for axes in histogram_figure(tables, 0.5).axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == list(tables)
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert [bool(axes.get_xlabel()) for axes in panels] == [False, False, True, True, True]  # none is below the third
    assert [bool(axes.get_ylabel()) for axes in panels] == [True, False, False, True, False]


@pytest.mark.parametrize("make", [roc_figure, histogram_figure])
def test_recoloured_is_drawn_again(make):
    tables = {str(n): usual_table() for n in range(2)}
    light, dark = (svg(make(tables, theme=theme)) for theme in (ON_LIGHT, ON_DARK))

    def shapes(drawn):
        return re.sub(rb'(id="|url\(#|href="#)\w+', b"", drawn)  # matplotlib's names are random

    assert shapes(recoloured(light, ON_LIGHT, ON_DARK)) == shapes(dark)
    assert shapes(light) != shapes(dark)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", [HOSTILE, "_hidden", "$", "x" * 300, ""])
def test_any_name_can_be_drawn(name):
    tables = {name: usual_table(), "other": usual_table()}
    ET.fromstring(svg(roc_figure(tables, log=True, theme=ON_DARK)))
    ET.fromstring(svg(histogram_figure(tables, 0.5, ON_DARK)))
    legend = roc_figure(tables).legends[0]
    assert len(legend.get_texts()) == 2


def test_what_has_no_curve_is_left_out_and_nothing_fails():
    lonely = make_table(some_rows("b", "f", 1, 20))
    broken = usual_table()
    broken.loc[0, "score"] = math.nan
    endless = usual_table()
    endless.loc[0, "score"] = math.inf
    tables = {"no reals": lonely, "nan": broken, "infinite": endless}
    assert len(roc_figure(tables).legends[0].get_texts()) == 1
    svg(histogram_figure(tables, 0.5))
    svg(histogram_figure(tables, math.pi * 100))
    for empty in ({}, {"no reals": lonely}, {"none": usual_table().head(0)}):
        svg(roc_figure(empty))
        svg(roc_figure(empty, log=True))
        svg(histogram_figure(empty))


def test_bins_cover_all_but_the_outermost_scores():
    table = make_table(some_rows("a", "f", 1, 5000))
    table.loc[0, "score"] = 1e9
    edges = bin_edges({"a": table})
    assert edges.shape == (BINS + 1,)
    assert edges[-1] < 10
    same = make_table(some_rows("a", "f", 1, 5)).assign(score=2.0)
    assert bin_edges({"a": same})[0] < 2 < bin_edges({"a": same})[-1]


def test_curves_of_many_points_are_thinned_to_real_points():
    tables = {"a": make_table(some_rows("a", "r", 0, 5000) + some_rows("a", "f", 1, 5000))}
    lines = roc_figure(tables).axes[0].lines
    assert 100 < len(lines[1].get_xdata()) <= 700
    counts = np.asarray(lines[1].get_xdata()) * 5000
    assert np.allclose(counts, counts.round(), atol=1e-6)


def test_matplotlib_is_imported_only_where_something_is_drawn():
    for module in Path(evaluation.__file__).parent.rglob("*.py"):
        for node in ast.parse(module.read_text()).body:
            assert "matplotlib" not in ast.unparse(node) or not isinstance(node, ast.Import | ast.ImportFrom), module
    before = "matplotlib.pyplot" in sys.modules
    svg(roc_figure({"a": usual_table()}))
    assert ("matplotlib.pyplot" in sys.modules) == before
