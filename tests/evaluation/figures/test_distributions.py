"""The figure of distributions: curves that are densities, every name, any scores."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.neighbors import KernelDensity

from evaluation.figures.distributions import MOST_DETECTORS, MOST_GENERATORS, density, distributions_figure, save_distributions
from evaluation.figures.drawing import svg
from evaluation.figures.theme import LIGHT, ON_DARK, ON_LIGHT, recoloured
from evaluation.predictions import make_table
from tests.evaluation.rows import some_rows, usual_table


def several(detectors, generators, n=30):
    rows = some_rows("a", "photos", 0, n) + [row for k in range(generators) for row in some_rows("a", f"g{k}", 1, n, shift=k / 4)]
    table = make_table(rows)
    return pd.concat([table.assign(detector=f"d{k}", score=10.0**k * table["score"]) for k in range(detectors)])


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def test_density_is_that_of_scikit_learn_with_silvermans_bandwidth():
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(size=300), rng.normal(4, 0.3, 100)])
    at = np.linspace(-4, 6, 50)
    spread = min(scores.std(ddof=1), (np.percentile(scores, 75) - np.percentile(scores, 25)) / 1.349)
    wanted = np.exp(KernelDensity(bandwidth=0.9 * spread * 400**-0.2).fit(scores[:, None]).score_samples(at[:, None]))
    assert density(scores, at) == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_density_of_many_scores_is_near_the_true_one_and_of_ties_is_finite():
    at = np.linspace(-4, 4, 81)
    found = density(np.random.default_rng(0).normal(size=50_000), at)
    assert np.abs(found - norm.pdf(at)).max() < 0.02
    tied = np.r_[np.zeros(60), 1.0, 2.0]
    assert np.isfinite(density(tied, at)).all()


@pytest.mark.parametrize(("detectors", "generators"), [(1, 1), (2, 3), (4, 2), (6, 8)])
def test_a_panel_a_detector_and_a_row_a_source(detectors, generators):
    figure = distributions_figure(several(detectors, generators))
    shown = panels(figure)
    assert [axes.get_title() for axes in shown] == [f"d{k}" for k in range(detectors)]
    names = [label.get_text() for label in shown[0].get_yticklabels()]
    assert names == ["photos", *(f"g{k}" for k in range(generators))]
    for axes in shown:
        assert len(axes.lines) == 3 * generators + 2  # a curve and a median each, and behind fakes their reals


def test_medians_and_curves_lie_where_the_scores_do():
    table = several(1, 2, 200)
    [axes] = panels(distributions_figure(table))
    medians = sorted(line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2)
    assert medians == pytest.approx(sorted(table.groupby("generator")["score"].median()))
    low, high = axes.get_xlim()
    assert low < table["score"].quantile(0.005) < table["score"].quantile(0.995) < high
    for line in axes.lines:
        height = line.get_ydata() - math.floor(line.get_ydata().min())
        assert 0 <= height.min() <= height.max() < 1  # no row reaches into the one above


def test_too_many_of_either_are_left_out():
    figure = distributions_figure(several(MOST_DETECTORS + 1, MOST_GENERATORS + 2, 5))
    assert len(panels(figure)) == MOST_DETECTORS
    assert len(panels(figure)[0].get_yticklabels()) == 1 + MOST_GENERATORS


def test_recoloured_is_drawn_again():
    light, dark = (svg(distributions_figure(usual_table(), theme)) for theme in (ON_LIGHT, ON_DARK))

    def shapes(drawn):
        return re.sub(rb'(id="|url\(#|href="#)\w+', b"", drawn)

    assert shapes(recoloured(light, ON_LIGHT, ON_DARK)) == shapes(dark)
    assert shapes(light) != shapes(dark)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_any_scores_and_names_are_drawn(tmp_path):
    table = several(1, 3)
    table.loc[table["generator"] == "g0", "score"] = 2.0
    table.loc[table["generator"] == "g1", "score"] = [math.nan, math.inf, -math.inf, *range(27)]
    table.loc[table["generator"] == "g2", "score"] = [1e308, -1e308, *[0.5] * 28]
    table = table.replace({"generator": {"g0": "<script>$\\frac{1}$ \n漢", "g1": "_x" * 100}})
    figure = distributions_figure(table)
    assert panels(figure)[0].get_title() == "d0\n3 scores not finite"
    ET.fromstring(svg(figure))
    for odd in (table.assign(score=1.0), table.assign(score=0.0), table[table["label"] == 1], table[table["label"] == 0], table.tail(1)):
        ET.fromstring(svg(distributions_figure(odd, LIGHT)))
    missing = pd.concat([several(1, 1), several(1, 1).assign(detector="none", score=math.nan)])
    assert [axes.get_title() for axes in panels(distributions_figure(missing))] == ["d0"]
    for empty in (table.head(0), table.assign(score=math.nan)):
        assert distributions_figure(empty) is None
        assert save_distributions(tmp_path, empty) == []
    assert not list(tmp_path.iterdir())


def test_many_data_sets_each_have_their_own_reals_behind_their_fakes(tmp_path):
    table = make_table([row for k in range(5) for row in some_rows(f"s/{k}", "web", 0, 30, shift=k) + some_rows(f"s/{k}", "g", 1, 30)])
    [axes] = panels(distributions_figure(table))
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"s/{k}/g" for k in range(5)]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    peaks = [line.get_xdata()[np.argmax(line.get_ydata())] for line in dashed]
    assert peaks == sorted(peaks)
    assert peaks[-1] - peaks[0] == pytest.approx(4, abs=1)
    assert {path.name for path in save_distributions(tmp_path, table, {"s/1": "s/0"})} == {"distributions.png", "distributions.svg"}
