"""Maps and profiles of spectra: everything in its place, whatever the names and however many."""

import numpy as np
import pytest
from PIL import Image

from evaluation.figures import LIGHT, ON_DARK, svg
from evaluation.figures.spectra import MOST, chosen, pooled, save_spectra, spectra_figure, spectrum_profile_figure
from evaluation.spectra import Spectra, Spectrum
from evaluation.spectral_peaks import Peak

HOSTILE = "<b>$\\frac$\n漢" + "x" * 100


def spectrum(name="gan", label=1, dataset="a", side=32, peaks=(), reason=None):
    if reason:
        return Spectrum(dataset, name, label, reason=reason)
    power = np.random.default_rng(len(name)).exponential(size=(side, side))
    made = [Peak(fx, fy, height, height - 1, 3.0, 0.5, True, True) for fx, fy, height in peaks]
    return Spectrum(dataset, name, label, 1200, 0, {}, side, power / power.mean(), made)


def some(fakes, reals=1, **options):
    groups = [spectrum(f"real {n}", 0) for n in range(reals)]
    return Spectra([*groups, *(spectrum(f"gan {n}", peaks=[(0.25, -0.125, 4.0 + n)], **options) for n in range(fakes))], 200, {})


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
@pytest.mark.parametrize(("fakes", "reals"), [(1, 0), (1, 1), (4, 1), (8, 1), (30, 2), (0, 1)])
def test_a_panel_a_spectrum_on_one_scale(fakes, reals, theme):
    found = some(fakes, reals)
    shown = panels(spectra_figure(found, theme))
    assert len(shown) == min(fakes + reals, MOST)
    assert len({axes.images[0].get_clim() for axes in shown}) == 1
    assert [axes.get_title() for axes in shown[:reals]] == [f"a/real {n} (real, 1,200)" for n in range(reals)]
    lines = spectrum_profile_figure(found, theme).axes[0].lines
    assert len(lines) == len(shown)
    assert [line.get_color() == theme.text for line in lines] == [not group.label for group in chosen(found)]
    assert all(line.is_dashed() for line in lines[:reals])
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}) == len(lines)


def test_maps_have_their_frequencies_in_place_and_rings_round_peaks():
    power = np.full((32, 32), 1e-3)
    power[16 + 4, 16 + 8] = power[16 - 4, 16 - 8] = 1
    found = Spectra([Spectrum("a", "gan", 1, 20, 0, {}, 32, power, [Peak(0.25, 0.125, 30.0, 29.0, 3.0, 0.0, True, True)])], 200, {})
    [axes] = panels(spectra_figure(found))
    left, right, bottom, top = axes.images[0].get_extent()
    values = np.asarray(axes.images[0].get_array())
    row, column = np.argwhere(values == values.max())[-1]
    assert left + (column + 0.5) / 32 * (right - left) == pytest.approx(0.25)
    assert top + (row + 0.5) / 32 * (bottom - top) == pytest.approx(0.125)
    assert {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines} == {(0.25, 0.125), (-0.25, -0.125)}
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # down is down


def test_peaks_at_the_edge_are_ringed_within_the_map():
    found = Spectra([spectrum(peaks=[(0.5, 0.0, 9.0), (0.0, 0.5, 5.0)])], 200, {})
    [axes] = panels(spectra_figure(found))
    assert {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines} == {(-0.5, 0.0), (0.0, -0.5)}


def test_single_peaks_stay_in_maps_that_are_drawn_smaller():
    values = np.zeros((512, 512))
    values[259, 130] = 7
    small = pooled(values)
    assert small.shape == (128, 128)
    assert np.argwhere(small == 7).tolist() == [[64, 32]]
    same = np.random.default_rng(0).normal(size=(64, 64))
    np.testing.assert_array_equal(pooled(same), same)


def test_the_highest_peaks_and_their_reals_are_shown_where_there_are_many():
    found = some(30, 2)
    names = [group.generator for group in chosen(found)]
    assert names == ["real 0", "real 1", *(f"gan {n}" for n in range(20, 30))]
    reals = [spectrum("photos", 0, f"set {n}") for n in range(20)]
    fakes = [spectrum("gan", 1, f"set {n}", peaks=[(0.25, 0, 4 + n)]) for n in range(20)]
    names = [group.name for group in chosen(Spectra(sorted([*reals, *fakes], key=lambda each: (each.dataset, each.label)), 200, {}))]
    assert names == [f"set {n}/{kind}" for n in range(14, 20) for kind in ("photos", "gan")]
    assert len(chosen(Spectra(reals, 200, {}))) == MOST // 2 + MOST // 2
    assert chosen(Spectra([spectrum(reason="gone"), fakes[0]], 200, {})) == [fakes[0]]


def test_hostile_and_long_names_stay_text():
    found = Spectra(
        [spectrum(HOSTILE, dataset=HOSTILE), spectrum("x" * 60 + "-v1"), spectrum("x" * 60 + "-v2"), spectrum("_y", 0)], 200, {}
    )
    figure, profiles = spectra_figure(found), spectrum_profile_figure(found)
    titles = [axes.get_title() for axes in panels(figure)]
    assert len(set(titles)) == 4
    assert max(len(line) for title in titles for line in title.split("\n")) <= 30
    for each in (figure, profiles):
        assert b"<svg" in svg(each)
    legend = [text.get_text() for text in profiles.legends[0].get_texts()]
    assert legend[1].endswith("-v1")
    assert legend[2].endswith("-v2")


def test_a_spectrum_without_contrast_is_drawn():
    flat = Spectrum("a", "gan", 1, 20, 0, {}, 32, np.ones((32, 32)))
    empty = Spectrum("a", "zero", 1, 20, 0, {}, 32, np.where(np.arange(32) % 2, 0.0, np.ones((32, 32))))
    for groups in ([flat], [flat, empty]):
        assert svg(spectra_figure(Spectra(groups, 200, {})))
        assert svg(spectrum_profile_figure(Spectra(groups, 200, {})))


def test_saved_as_png_and_svg(tmp_path):
    written = save_spectra(tmp_path / "figures", some(2, side=256))
    assert [path.name for path in written] == ["spectra.png", "spectra.svg", "spectrum_profiles.png", "spectrum_profiles.svg"]
    with Image.open(written[0]) as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert save_spectra(tmp_path / "none", Spectra([spectrum(reason="gone")], 200, {})) == []
    assert not (tmp_path / "none").exists()
