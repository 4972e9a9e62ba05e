"""Train condition × test condition: which cells, in which order, on paper and in files."""

import pandas as pd
import pytest

from evaluation.comparison.matrices import COLUMNS, PLAIN, condition_of, file_names, flat, heads_of, matrices, text, write_matrices
from evaluation.statistics import KEPT, metrics_document
from evaluation.tables import documents_of
from modules.metrics.functional import Threshold
from tests.evaluation.rows import usual_table

QUALITIES = ("jpeg_40", "jpeg_65", "jpeg_90")


def study(names, perturbations=QUALITIES):
    clean = usual_table().query("dataset == 'faces'")
    parts = [
        clean.assign(detector=name, perturbation=tested, score=clean["score"] + clean["label"] * (i == j))
        for i, name in enumerate(names)
        for j, tested in enumerate(perturbations)
    ]
    thresholds = {name: Threshold(0.0, None, 0) for name in names}
    return documents_of(metrics_document(pd.concat(parts), thresholds, resamples=20), names[0])


@pytest.fixture(scope="module")
def jpeg():
    return study([f"svm@{name}" for name in QUALITIES])


@pytest.mark.parametrize(
    ("name", "head", "condition"),
    [("svm@jpeg_40", "svm", "jpeg_40"), ("svm", "svm", ""), ("svm@!faces/a@b", "svm", "!faces/a@b"), ("@x", "", "x")],
)
def test_a_name_is_a_head_and_what_it_was_trained_under(name, head, condition):
    assert condition_of(name) == (head, condition)


def test_three_by_three_with_every_number_of_its_document(jpeg):
    found = [each for each in matrices(jpeg) if each.axis == "perturbation"]
    assert [each.metric for each in found] == list(KEPT)
    for matrix in found:
        assert (matrix.rows, matrix.columns, matrix.perturbation) == (QUALITIES, QUALITIES, None)
        for row in QUALITIES:
            for column in QUALITIES:
                record = jpeg[f"svm@{row}"]["by_perturbation"][column]
                for step in KEPT[matrix.metric]:
                    record = record[step]
                assert matrix.cells[row][column] == record
    assert found[0].seen == {(name, name) for name in QUALITIES}
    assert found[0].cells["jpeg_40"]["jpeg_40"]["value"] > found[0].cells["jpeg_40"]["jpeg_65"]["value"]


def test_generators_in_columns_with_those_that_were_trained_on_marked():
    documents = study(["svm@faces/sd", "svm@faces/gan", "svm@!faces/sd", "mlp@faces/sd", "plain"], ("none",))
    trained = {"svm@!faces/sd": {"generators": ["faces/gan"]}, "svm@faces/sd": {"generators": None}}
    found = {(each.head, each.metric): each for each in matrices(documents, trained)}
    assert {head for head, _ in found} == {"svm", "mlp"}
    matrix = found["svm", "auroc"]
    assert (matrix.axis, matrix.perturbation) == ("generator", "none")
    assert matrix.rows == ("faces/sd", "faces/gan", "!faces/sd")
    assert matrix.columns == ("faces/sd", "faces/gan")  # the diagonal, though the document's order is another
    assert matrix.seen == {("faces/sd", "faces/sd"), ("faces/gan", "faces/gan"), ("!faces/sd", "faces/gan")}
    assert matrix.cells["faces/sd"]["faces/gan"] == documents["svm@faces/sd"]["by_generator"]["faces/gan"]["auroc"]
    assert found["svm", "accuracy"].cells["faces/sd"]["faces/gan"]["value"] is not None


def test_a_study_without_training_conditions_has_no_matrix(tmp_path):
    documents = study(["rgb", "nine_channels"])
    assert matrices(documents) == []
    assert text(documents) == ""
    assert write_matrices(tmp_path, documents) == []
    assert list(tmp_path.iterdir()) == []


def test_a_head_without_a_condition_beside_others_is_a_row():
    documents = study(["svm", "svm@jpeg_65"])
    assert heads_of(documents) == {"svm": {PLAIN: "svm", "jpeg_65": "svm@jpeg_65"}}
    assert matrices(documents)[0].rows == (PLAIN, "jpeg_65")


def test_perturbations_that_one_detector_was_not_tested_under_are_said_to_be_missing(jpeg):
    part = jpeg["svm@jpeg_40"]
    cut = {name: {"jpeg_40": each["jpeg_40"]} for name, each in part.items() if name.startswith("by_") and "jpeg_40" in each}
    documents = {"svm@jpeg_40": part | cut, "svm@jpeg_65": jpeg["svm@jpeg_65"]}
    matrix = matrices(documents)[0]
    assert matrix.cells["jpeg_40"]["jpeg_90"]["reason"] == "not measured"
    shown = text(documents)
    assert "(1) not measured" in shown
    assert "- (1)" in shown


def test_printed_with_intervals_where_they_fit(jpeg):
    lines = text(jpeg).splitlines()
    assert lines[0] == "svm: AUROC; a column for each perturbation tested. *: trained on it."
    assert lines[1].split() == ["trained", "under", *QUALITIES]
    cell = jpeg["svm@jpeg_40"]["by_perturbation"]["jpeg_40"]["auroc"]
    assert f"{cell['value']:.3f}* [{cell['low']:.3f}, {cell['high']:.3f}]" in lines[2]
    assert any(line.startswith("svm: accuracy at the detector's threshold") for line in lines)
    assert max(map(len, lines)) <= 120
    narrow = text(jpeg, width=50).splitlines()
    assert "[" not in "".join(narrow)
    assert f"{cell['value']:.3f}*" in narrow[2]


def test_written_long_and_wide(jpeg, tmp_path):
    written = write_matrices(tmp_path, jpeg)
    assert {path.name for path in written} == {"matrices.csv"} | {
        f"svm-by_{axis}-{metric}.csv" for axis in ("perturbation", "generator") for metric in KEPT
    }
    wide = pd.read_csv(tmp_path / "matrices" / "svm-by_perturbation-accuracy.csv", index_col="train_condition")
    assert wide.loc["jpeg_65", "jpeg_90"] == jpeg["svm@jpeg_65"]["by_perturbation"]["jpeg_90"]["accuracy"]["value"]
    table = pd.read_csv(written[0])
    assert tuple(table.columns) == COLUMNS
    assert set(table["train_condition"]) == set(QUALITIES)
    # per detector and perturbation: two generators, their data set, and everything
    assert len(table) == 3 * 3 * len(KEPT) * (2 + 1 + 1)
    whole = table[table["dataset"].isna() & (table["detector"] == "svm@jpeg_40") & (table["perturbation"] == "jpeg_40")]
    assert whole.set_index("metric").loc["accuracy", "low"] == jpeg["svm@jpeg_40"]["by_perturbation"]["jpeg_40"]["accuracy"]["low"]


def test_generators_are_those_of_the_first_perturbation_where_no_image_is_as_it_was(jpeg):
    matrix = next(each for each in matrices(jpeg) if each.axis == "generator")
    assert matrix.perturbation == "jpeg_40"
    assert matrix.title == "svm: AUROC, under jpeg_40"
    assert matrix.cells["jpeg_65"]["faces/sd"] == jpeg["svm@jpeg_65"]["by_generator_and_perturbation"]["jpeg_40"]["faces/sd"]["auroc"]


def test_names_of_files_are_plain_and_unlike(tmp_path):
    documents = study(["a/b@x", "a:b@x", "../\n@x"], ("none",))
    found = [each for each in matrices(documents) if each.metric == "auroc"]
    assert list(file_names(found)) == ["a_b-by_generator-auroc", "a_b-by_generator-auroc-2", ".._-by_generator-auroc"]
    assert all(path.is_relative_to(tmp_path) and path.exists() for path in write_matrices(tmp_path, documents))
    assert all("\x1b" not in line for line in text(documents).splitlines())


def test_rows_are_the_published_tables_rows(jpeg):
    rows = {tuple(row[name] for name in ("detector", "dataset", "generator", "perturbation", "metric")): row for row in flat(jpeg)}
    row = rows["svm@jpeg_90", "faces", None, "jpeg_40", "accuracy"]
    assert row["value"] == jpeg["svm@jpeg_90"]["by_dataset_and_perturbation"]["jpeg_40"]["faces"]["accuracy"]["value"]
    assert (row["n_real"], row["n_fake"]) == (240, 240)
