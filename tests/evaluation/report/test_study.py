"""What the outputs of a study of training conditions hold besides those of its detectors."""

import csv
import json

import pytest

from evaluation.options import ReportOptions
from evaluation.report.study import study_parts
from evaluation.results import write_results
from evaluation.statistics import metrics_document
from evaluation.tables import documents_of
from tests.evaluation.report.pages import pictures, without_drawings
from tests.evaluation.rows import THRESHOLD
from tests.evaluation.studies import ALL, study


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    trained = {"svm@all": ALL} | {f"svm@!{name}": [each for each in ALL if each != name] for name in ALL[:2]}
    table, told = study(trained)
    with without_drawings("save_figures", "save_figure_of_detectors"):  # of single detectors, which have tests of their own
        options = ReportOptions(images=5)
        metrics = write_results(folder, table, dict.fromkeys(trained, THRESHOLD), pictures, trained=told, resamples=20, options=options)
    return folder, metrics, table, told


def test_a_study_of_conditions_has_matrices_as_tables_and_heat_maps(written):
    folder, metrics, _, _ = written
    tables = sorted(path.name for path in (folder / "tables" / "matrices").iterdir())
    assert any("auroc" in name for name in tables)
    assert list((folder / "figures").rglob("*auroc*.png"))
    page = (folder / "report.html").read_text()
    assert "Training condition against test condition" in page
    assert "Generators that training never saw" in page
    assert json.loads((folder / "metrics.json").read_text())["generalisation"] == metrics["generalisation"]


def test_what_was_left_out_stands_beside_what_was_trained_on(written):
    _, metrics, _, _ = written
    left_out = {each["left_out"]: each for each in metrics["generalisation"]["left_out"]}
    assert set(left_out) == set(ALL[:2])
    for each in left_out.values():
        assert each["with"]["value"] > each["without"]["value"] + 0.2


def test_the_tables_hold_the_numbers_of_metrics(written):
    folder, metrics, _, _ = written
    with (folder / "tables" / "matrices" / "svm-by_generator-auroc.csv").open() as file:
        rows = {row.pop("train_condition"): row for row in csv.DictReader(file)}
    assert list(rows) == ["all", "!set/a", "!set/b"]
    for condition, row in rows.items():
        known = metrics["detectors"][f"svm@{condition}"]["by_generator"]
        assert {name: float(value) for name, value in row.items()} == pytest.approx(
            {name: known[name]["auroc"]["value"] for name in row}, abs=0.01
        )


def test_a_study_without_conditions_has_no_such_part(tmp_path, written):
    _, _, table, _ = written
    one = table[table["detector"] == "svm@all"].assign(detector="plain")
    metrics = metrics_document(one, THRESHOLD, resamples=10)
    assert study_parts(tmp_path, metrics, documents_of(metrics, "plain")) == []
    assert not list(tmp_path.iterdir())
