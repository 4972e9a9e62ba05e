"""What the report says of spectra: peaks by their generator, never more than was found, and what was left out."""

import numpy as np
import pytest

from evaluation.report.report import write_report
from evaluation.report.spectra import HEADING, spectra_part
from evaluation.spectra import Spectra, Spectrum
from evaluation.spectral_peaks import Peak
from evaluation.statistics import metrics_document
from tests.evaluation.report.pages import alt_of, checked
from tests.evaluation.rows import THRESHOLD, usual_table


def spectrum(name, label=1, peaks=(), images=200, side=64, **options):
    power = np.random.default_rng(len(name)).exponential(size=(side, side))
    return Spectrum("a", name, label, images, side=side, power=power / power.mean(), peaks=peaks, **options)


def peak(fx, fy, height, reals=0.5, own=True, out=True):
    return Peak(fx, fy, height, height - 1, 3.0, reals, out, own and out)


REALS = spectrum("photos", 0, [peak(0.125, 0.0, 7.0, None, own=False)])
NONE = [peak(0.2, 0.1, 1.0, own=False, out=False)]


def said(*groups, most=200, reals_from=None):
    part = spectra_part(Spectra(groups, most, reals_from or {}))
    return part, " ".join(part.sentences)


def texts(grid, name):
    return [getattr(cell, "text", cell) for cell in grid.rows[name]]


@pytest.fixture
def undrawn(monkeypatch):
    """Without charts, which take longer than all else."""
    monkeypatch.setattr("evaluation.report.spectra._charts", lambda found: [])


@pytest.mark.usefixtures("undrawn")
def test_a_generators_peaks_are_said_and_the_others_have_none():
    gan = spectrum("gan", peaks=[peak(0.25, -0.3125, 9.04, -0.5), peak(0.1, 0.2, 5.0)])
    part, text = said(REALS, gan, spectrum("sd", peaks=NONE))
    assert (
        "a/gan has 2 peaks, the highest at (0.25, −0.3125) cycles/pixel (across, down), 9.0 dB above the frequencies around it and 8.0 dB "
        "in the typical image; the reals have −0.5 dB there." in text
    )
    assert "No peak that the reals do not have: a/sd." in text
    assert "up to 200 images" in text
    assert "64 × 64 pixels, never resized" in text
    assert "1/8 in both directions" not in text
    [grid] = part.grids
    assert list(grid.rows) == ["a/photos (real)", "a/gan", "a/sd"]
    assert texts(grid, "a/gan") == [200, 64, "2", "(0.25, −0.3125)", "9.0", "8.0", "−0.5"]
    assert [cell.sort for cell in grid.rows["a/gan"][4:]] == [9.04, 8.04, -0.5]
    assert texts(grid, "a/photos (real)") == [200, 64, None, "(0.125, 0)*", "7.0", "6.0", None]
    assert grid.rows["a/sd"] == [200, 64, "0", None, None, None, None]
    assert all(len(row) == len(grid.heads) for row in grid.rows.values())


def test_peaks_that_the_reals_share_are_not_the_generators():
    part, text = said(REALS, spectrum("sd", peaks=[peak(0.125, 0.0, 8.0, 7.0, own=False)]))
    assert "a/sd has" not in text
    assert "No peak that the reals do not have: a/sd." in text
    assert part.grids[0].rows["a/sd"][2:4] == ["0", "(0.125, 0)*"]
    assert "No peak is marked" in alt_of(part.charts[0])


@pytest.mark.usefixtures("undrawn")
def test_what_jpeg_explains_too_is_said():
    _, text = said(REALS, spectrum("gan", peaks=[peak(0.5, 0.0, 9.0), peak(0.3, 0.0, 5.0)]))
    assert "1 of these peaks is at multiples of 1/8 in both directions (* in the table). JPEG's 8 × 8 blocks leave peaks there" in text


def test_the_alternative_texts_say_the_content():
    part, _ = said(REALS, spectrum("gan", peaks=[peak(0.25, 0.1, 9.0)]))
    maps, profiles = part.charts
    assert alt_of(maps).endswith("of a/photos (real), a/gan. Rings mark peaks of a/gan at (0.25, 0.1).")
    assert "a line each: a/photos (real), a/gan" in alt_of(profiles)
    for chart in part.charts:
        assert "light-dark(" in chart.svg


@pytest.mark.usefixtures("undrawn")
def test_without_reals_or_with_few_images_nothing_is_called_the_generators():
    alone = spectrum("gan", peaks=[peak(0.25, 0.1, 9.0, None, own=False)])
    few = spectrum("new", peaks=[peak(0.25, 0.1, 9.0, 0.1, out=False)], images=9)
    part, text = said(alone)
    assert "Fewer than 10 reals to compare with, so no peak is called the generator's: a/gan." in text
    assert "No peak that" not in text
    assert texts(part.grids[0], "a/gan") == [200, 64, None, "(0.25, 0.1)", "9.0", "8.0", None]
    _, text = said(REALS, few)
    assert "Fewer than 10 images, so no peak is looked for: a/new." in text
    assert "No peak that" not in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("peaks", [6, 2])
def test_many_generators_are_cut_and_said_so(peaks):
    many = [spectrum(f"gan {n:02d}", peaks=[peak(0.25, 0.01 * k, 9.0 + n) for k in range(peaks)]) for n in range(20)]
    part, text = said(REALS, *many)
    assert text.count("the highest at") == 6
    assert f"a/gan 19 has {'6 or more' if peaks == 6 else 2} peaks" in text
    assert "found in 14 more generators: see the table" in text
    assert "The figures show 12 of 21 spectra" in text
    assert len(part.grids[0].rows) == 21


@pytest.mark.usefixtures("undrawn")
def test_what_was_left_out_is_counted_with_its_reason():
    gone = Spectrum("a", "gone", 1, failures={"OSError: disk on fire.": 3, "other": 1}, reason="no image could be loaded")
    part, text = said(REALS, spectrum("gan", peaks=NONE, too_small=1, failures={"OSError: disk on fire.": 2}), gone)
    assert "smaller than the side that most images fit: 1." in text
    assert "could not be loaded: 6 (OSError: disk on fire; and another reason)." in text
    assert "No spectrum of a/gone: no image could be loaded." in text
    assert "a/gone" not in part.grids[0].rows
    only, text = said(gone)
    assert text.startswith("There are no spectra.")
    assert not only.charts
    assert spectra_part(Spectra([], 200, {})) is None


@pytest.mark.usefixtures("undrawn")
def test_sides_and_pooling_are_said():
    _, text = said(REALS, spectrum("gan", peaks=NONE, side=256), reals_from={"b": "a"})
    assert "64 × 64 or 256 × 256 pixels" in text
    assert "each pixel the highest of those it stands for" in text
    assert "or of the data set named for them" in text


def test_the_report_shows_it(tmp_path):
    part, _ = said(REALS, spectrum("<i>gan", peaks=[peak(0.25, 0.1, 9.0)]))
    frame = usual_table()
    metrics = metrics_document(frame, THRESHOLD, resamples=5)
    page = write_report(tmp_path, frame, metrics, lambda *_: {"image": np.zeros((8, 8, 3), np.uint8)}, parts=[part]).read_text()
    assert HEADING in page
    assert "a/&lt;i&gt;gan has a peak" in page
    assert "<i>gan" not in page
    assert checked(page).tags.count("image") == 2 + 1  # a map of each, and the colour bar
