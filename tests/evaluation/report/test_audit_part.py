"""The shortcut audit in a report and as a figure: what is flagged is said first, marked, and readable; hostile names stay text."""

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from evaluation.audit import audit, audit_data
from evaluation.figures import LIGHT, ON_DARK, svg
from evaluation.figures.audit import audit_figure, save_audit
from evaluation.figures.heatmaps import luminance
from evaluation.report.audit import audit_part
from evaluation.report.report import write_report
from evaluation.statistics import metrics_document
from tests.evaluation.report.pages import checked
from tests.evaluation.rows import THRESHOLD
from tests.evaluation.test_audit import HOSTILE, images, noise, planted

FACTS = {"fact_width": planted, "fact_red": noise, "fact_blue": noise}


def wide(facts=15, generators=12):
    """A document of as many facts and generators as a large study has; the first fact gives the label away."""
    made = {f"fact_x{i}": planted if i == 0 else noise for i in range(facts)}
    return audit(images(40, generators=[f"generator-{i:02d}" for i in range(generators)], **made))


def texts(figure):
    return [each.get_text() for each in figure.axes[0].texts]


def test_what_was_flagged_is_said_first_and_marked_in_the_table():
    document = audit(images(**FACTS))
    part = audit_part(document)
    assert part.heading == "Shortcuts that probe may have taken"
    assert part.sentences[0] == document["sentences"][0]
    assert part.sentences[0].startswith("On set/sd `width`")
    assert any("does not say that the detector uses the fact" in each for each in part.sentences)
    (grid,) = part.grids
    assert list(grid.rows) == ["width", "mean red", "mean blue", "detector: probe"]
    assert list(grid.heads) == ["set/sd"]
    assert grid.rows["width"][0]["reason"] == "flagged"
    assert "reason" not in grid.rows["mean red"][0]
    assert grid.rows["width"][0]["value"] == document["generators"]["set/sd"]["facts"]["width"]["auroc"]["value"]
    assert len(part.charts) == 1


def test_nothing_flagged_is_said_too_and_data_has_no_row_of_a_detector():
    part = audit_part(audit(images(shift=3, fact_red=noise)))
    assert part.sentences[0].startswith("No trivial fact comes near the detector")
    assert not any("does not say" in each for each in part.sentences)
    part = audit_part(audit_data(images(**FACTS).assign(perturbation="equalise_192")))
    assert part.heading == "Shortcuts in the data, under equalise_192"
    assert "detector: probe" not in part.grids[0].rows


@pytest.mark.parametrize("label", [0, 1])
def test_a_document_without_anything_measured_has_sentences_alone(label):
    table = images(20, fact_red=noise)
    for document in (audit(table.drop(columns="fact_red")), audit(table.assign(fact_red=5.0)), audit_data(table[table["label"] == label])):
        part = audit_part(document)
        assert part.sentences
        assert audit_figure(document) is None or part.charts
    assert "The same on all images: mean red (5)." in audit_part(audit(table.assign(fact_red=5.0))).sentences


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_are_escaped_in_a_report(tmp_path):
    table = images(30, generators=(HOSTILE,), fact_format=lambda labels, _: np.where(labels == 1, HOSTILE, "JPEG"))
    table = table.assign(probability=np.nan, predicted_family=None, family="unknown", path="x")
    part = audit_part(audit(table.assign(detector=HOSTILE)))
    metrics = metrics_document(table, THRESHOLD, resamples=5)
    page = write_report(tmp_path, table, metrics, lambda *_: {}, parts=[part]).read_text()
    checked(page)
    assert page.count("<script>") == 1
    assert "&lt;script&gt;" in page
    drawn = ET.fromstring(part.charts[0].svg)
    assert drawn.tag == "svg"
    assert any("<script>" in (each.text or "") for each in drawn.iter("text"))


@pytest.mark.parametrize("theme", [LIGHT, ON_DARK])
def test_every_number_stands_in_its_cell_and_can_be_read(theme):
    document = wide()
    figure = audit_figure(document, theme)
    records = [*document["generators"].values(), document["all"]]
    values = [record["facts"][fact]["auroc"]["value"] for fact in document["facts"] for record in records]
    values += [record["detector"]["value"] for record in records]
    assert texts(figure) == [f"{value:.2f}" for value in values]
    mesh = figure.axes[0].collections[0]
    colours = mesh.to_rgba(mesh.get_array()).reshape(-1, 4)
    for colour, text in zip(colours, figure.axes[0].texts, strict=True):
        ink = [int(text.get_color()[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        light, dark = sorted((luminance(colour), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.2
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_flagged_cells_are_framed_and_the_scale_diverges_from_one_half():
    document = wide(3, 2)
    figure = audit_figure(document)
    frames = [each.get_xy() for each in figure.axes[0].patches if not each.get_fill()]
    assert frames == [(0, 0), (1, 0), (2, 0)]
    assert "framed: flagged" in figure.get_suptitle()
    low, middle, high = figure.axes[0].collections[0].to_rgba([0.0, 0.5, 1.0])[:, :3]
    assert middle.min() > 0.9
    assert low[0] > low[2]
    assert high[2] > high[0]
    assert "framed" not in audit_figure(audit(images(shift=3, fact_red=noise))).get_suptitle()


def test_what_has_no_value_is_a_dash_and_saved_are_png_and_svg(tmp_path):
    def of_fakes(labels, rng):
        return np.where(labels == 1, rng.normal(size=labels.size), np.nan)

    document = audit(images(fact_source_width=of_fakes))
    assert texts(audit_figure(document)).count("–") == 1
    assert b"<svg" in svg(audit_figure(document))
    written = save_audit(tmp_path, document)
    assert [path.name for path in written] == ["shortcuts.png", "shortcuts.svg"]
    with Image.open(written[0]) as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert save_audit(tmp_path, audit(images(20))) == []
