"""The parts of one detector: rows lead to their images where the page has a browser, and numbers are those of the table."""

from urllib.parse import parse_qs

import numpy as np
import pytest

from evaluation.predictions import make_table
from evaluation.report.detector import detector_parts
from evaluation.report.verdict import percent
from evaluation.statistics import metrics_document
from modules.metrics.functional import Threshold
from tests.evaluation.report.pages import without_drawings
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table


@pytest.fixture(autouse=True)
def undrawn():
    with without_drawings():
        yield


def parts_of(table=None, threshold=THRESHOLD, **options):
    table = usual_table() if table is None else table
    document = metrics_document(table, threshold, resamples=10)
    return {part.heading: part for part in detector_parts("svm & co", table, document, **options)}


def asked(href):
    page, _, query = href.partition("?")
    assert page == "#images"
    return {name: value for name, (value,) in parse_qs(query, strict_parsing=True).items()}


def test_generators_lead_to_their_images():
    grid = parts_of(with_browser=True)["By generator"].grids[0]
    assert {name: asked(href) for name, href in grid.links.items()} == {
        name: {"detector": "svm & co", "source": name} for name in ("faces/sd", "faces/gan", "scenes/sd")
    }
    assert set(grid.links) < set(grid.rows)
    assert parts_of()["By generator"].grids[0].links == {}


def test_counts_of_answers_are_those_of_the_table_and_lead_to_their_images():
    table = usual_table()
    part = parts_of(table, with_browser=True)["Confusion matrix"]
    rows = part.grids[0].shown()
    assert list(rows) == ["faces/ffhq", "scenes/photos", "faces/gan", "faces/sd", "scenes/sd"]
    for name, cells in rows.items():
        own = table[table["dataset"] + "/" + table["generator"] == name]
        fakes = int((own["score"] > 0.5).sum())
        assert [cell["sort"] for cell in cells] == [len(own) - fakes, fakes, fakes / len(own)]
        assert [cell["text"] for cell in cells] == [f"{len(own) - fakes:,}", f"{fakes:,}", percent(fakes / len(own))]
        is_fake = bool(own["label"].iloc[0])
        for called, cell in enumerate(cells[:2]):
            answer = "right" if called == is_fake else "wrong"
            assert asked(cell["href"]) == {"detector": "svm & co", "source": name, "answer": answer}
        assert cells[2]["href"] == ""
    assert {cell["href"] for cells in parts_of()["Confusion matrix"].grids[0].shown().values() for cell in cells} == {""}


def test_a_source_that_is_called_as_the_reals_of_another_leads_to_its_own_images():
    rows = some_rows("a", "x", 0, 10) + some_rows("a", "x", 1, 20) + some_rows("a", "x (real)", 1, 5, shift=9)
    rows = parts_of(make_table(rows), with_browser=True)["Confusion matrix"].grids[0].shown()
    assert list(rows) == ["a/x (real) (real)", "a/x", "a/x (real)"]
    assert asked(rows["a/x (real)"][1]["href"]) == {"detector": "svm & co", "source": "a/x (real)", "answer": "right"}
    told = next(asked(cell["href"]) for cell in rows["a/x (real) (real)"][:2] if cell["href"])
    assert (told["source"], told["label"]) == ("a/x", "0")


def test_no_link_leads_to_no_images():
    rows = parts_of(usual_table().assign(score=1.0), with_browser=True)["Confusion matrix"].grids[0].shown()
    assert {cells[0]["href"] for cells in rows.values()} == {""}
    assert all(cells[1]["href"] for cells in rows.values())


def test_there_are_no_answers_without_threshold_or_scores():
    assert "Confusion matrix" not in parts_of(threshold=Threshold(None, 0.05, 3, "too few"))
    assert "Confusion matrix" not in parts_of(usual_table().assign(score=np.nan))
