"""Heat maps: every number printed, readable on its colour, in both themes and all sizes."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from evaluation.comparison.matrices import Matrix
from evaluation.figures import LIGHT, ON_DARK, svg
from evaluation.figures.heatmaps import heatmap_figure, luminance, save_heatmaps, scale_of

HOSTILE = "<b>$\\frac$\n漢" + "x" * 100


def matrix(rows=3, columns=3, metric="auroc", values=None, seen=(), head="svm", axis="perturbation"):
    given = np.linspace(0.05, 1, rows * columns).reshape(rows, columns) if values is None else np.array(values, dtype=object)
    names = [tuple(f"{kind}_{n}" for n in range(count)) for kind, count in (("row", rows), ("column", columns))]
    cells = {
        row: {
            column: {
                "value": given[i][j],
                "low": None if given[i][j] is None else max(0, given[i][j] - 0.02),
                "high": None if given[i][j] is None else min(1, given[i][j] + 0.02),
            }
            for j, column in enumerate(names[1])
        }
        for i, row in enumerate(names[0])
    }
    return Matrix(head, metric, axis, None, *names, cells, frozenset(seen))


def texts(figure):
    return [each.get_text() for each in figure.axes[0].texts]


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (1, 1), (20, 34)])
def test_every_value_is_printed_and_its_interval_where_there_is_room(rows, columns, theme):
    made = matrix(rows, columns)
    shown = texts(heatmap_figure(made, theme))
    form = "{:.2f}" if columns > 8 else "{:.3f}"
    values = [form.format(cell["value"]) for row in made.cells.values() for cell in row.values()]
    assert [each for each in shown if "–" not in each] == values
    assert sum("–" in each for each in shown) == (0 if columns > 8 else rows * columns)


def test_numbers_stand_out_from_their_cells():
    for theme in (LIGHT, ON_DARK):
        for metric in ("auroc", "accuracy"):
            made = matrix(5, 8, metric)
            figure = heatmap_figure(made, theme)
            axes = figure.axes[0]
            mesh = axes.collections[0]
            colours = mesh.to_rgba(mesh.get_array()).reshape(-1, 4)
            inks = [each.get_color() for each in axes.texts if "–" not in each.get_text()]
            for colour, ink in zip(colours, inks, strict=True):
                light, dark = sorted((luminance(colour), luminance([int(ink[n : n + 2], 16) / 255 for n in (1, 3, 5)])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) > 4.2  # WCAG asks for 3 of large text and 4.5 of small


def test_auroc_diverges_from_one_half_and_accuracy_does_not():
    figure = heatmap_figure(matrix(1, 3, values=[[0.0, 0.5, 1.0]]))
    mesh = figure.axes[0].collections[0]
    low, middle, high = mesh.to_rgba([0.0, 0.5, 1.0])[:, :3]
    assert middle.min() > 0.9
    assert low[0] > low[2]  # orange
    assert high[2] > high[0]  # blue
    assert scale_of(matrix()) == (0, 1)
    assert scale_of(matrix(metric="accuracy", values=[[0.77] * 3] * 3)) == (0.5, 1)
    assert scale_of(matrix(metric="accuracy", values=[[0.9, 0.37, None]] * 3)) == (pytest.approx(0.3), 1)
    assert scale_of(matrix(metric="balanced_accuracy", values=[[None] * 3] * 3)) == (0.5, 1)


def test_what_is_missing_is_a_dash_and_what_was_trained_on_has_a_frame():
    made = matrix(2, 2, values=[[0.5, None], [None, 0.75]], seen=[("row_0", "column_0"), ("row_1", "column_1")])
    figure = heatmap_figure(made)
    assert texts(figure).count("–") == 2
    frames = [each for each in figure.axes[0].patches if not each.get_fill()]
    assert [each.get_xy() for each in frames] == [(0, 0), (1, 1)]
    assert "framed: the row was trained on it" in figure.get_suptitle()
    assert "framed" not in heatmap_figure(matrix()).get_suptitle()
    assert texts(heatmap_figure(matrix(1, 1, values=[[None]]))) == ["–"]


def test_the_scale_is_stated():
    for metric, label in (("auroc", "AUROC (0.5: chance)"), ("accuracy", "accuracy"), ("tpr_at_fpr_0.1", "TPR at FPR 0.1")):
        assert heatmap_figure(matrix(metric=metric)).axes[1].get_ylabel() == label


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_are_drawn(tmp_path):
    made = matrix(head=HOSTILE)
    renamed = Matrix(
        HOSTILE, "auroc", "generator", "none", (HOSTILE,), ("_x",), {HOSTILE: {"_x": made.cells["row_0"]["column_0"]}}, frozenset()
    )
    drawn = svg(heatmap_figure(renamed))
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert b"<b>" not in re.sub(rb"<!--.*?-->", b"", drawn, flags=re.DOTALL)


def test_saved_as_png_and_svg(tmp_path):
    written = save_heatmaps(tmp_path, [matrix(2, 2), matrix(2, 2, "accuracy", head="mlp", axis="generator")])
    names = ("matrix-svm-by_perturbation-auroc", "matrix-mlp-by_generator-accuracy")
    assert [path.name for path in written] == [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    for path in written[::2]:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5
