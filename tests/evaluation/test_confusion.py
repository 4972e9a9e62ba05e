"""Confusion matrices: counts, and tables of them."""

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from evaluation.confusion import answers_at, confusion, long_rows, write_confusions
from evaluation.predictions import make_table
from tests.evaluation.classes import matrix
from tests.evaluation.rows import some_rows, usual_table


def test_counts_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    names = ["real", "gan", "flow"]
    true, predicted = rng.choice(names, 200).tolist(), rng.choice(names, 200).tolist()
    found = confusion(true, predicted, dict(zip(names, names, strict=True)), names)
    assert np.array_equal(found["counts"], confusion_matrix(true, predicted, labels=names))
    assert found["right"] == [0, 1, 2]


def test_an_answer_that_is_no_class_has_a_column_and_none_has_not():
    rows = {"a/real": "real", "a/sd": "sd", "a/flow": "flow"}
    found = confusion(["a/real", "a/sd", "a/flow", "a/sd"], ["real", "odd", "unknown", None], rows, ["real", "sd"])
    assert found["predicted"] == ["real", "sd", "odd", "unknown"]
    assert found["counts"] == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert found["right"] == [0, 1, 3]
    assert found["known"] == [True, True, False]
    assert confusion([], [], rows, ["real", "sd"])["counts"] == [[0, 0], [0, 0], [0, 0]]


def test_tables_have_a_line_a_cell_with_its_share(tmp_path):
    (path,) = write_confusions(tmp_path, {"families": matrix(true=["real", "=gan\n", "flow"])})
    assert path == tmp_path / "confusion_families.csv"
    table = pd.read_csv(path)
    assert len(table) == 9
    assert table["count"].tolist() == [8, 2, 0, 0, 0, 0, 1, 1, 2]
    np.testing.assert_allclose(table["share"], [0.8, 0.2, 0, np.nan, np.nan, np.nan, 0.25, 0.25, 0.5])
    assert table["known"].tolist() == [True] * 6 + [False] * 3
    assert long_rows(matrix())[3]["share"] is None


def test_answers_at_a_threshold_are_those_of_scikit_learn():
    table = usual_table()
    table.loc[[0, 300], "score"] = [0.5, np.nan]
    found = answers_at(table, 0.5)
    scored = table[table["score"].notna()]
    names = scored["dataset"] + "/" + scored["generator"]
    assert found["true"] == ["faces/ffhq", "scenes/photos", "faces/gan", "faces/sd", "scenes/sd"]
    assert found["predicted"] == ["real", "fake"]
    for name, counts in zip(found["true"], found["counts"], strict=True):
        own = scored[names == name]
        expected = confusion_matrix(own["label"], (own["score"] > 0.5).astype(int), labels=[0, 1])
        assert counts == expected[int(own["label"].iloc[0])].tolist()
    whole = confusion_matrix(scored["label"], scored["score"] > 0.5)
    assert np.array_equal(np.array([np.sum(found["counts"][:2], axis=0), np.sum(found["counts"][2:], axis=0)]), whole)
    assert found["right"] == [0, 0, 1, 1, 1]
    assert found["known"] == [True] * 5
    assert found["trained_on"] == [None] * 5


def test_reals_and_fakes_of_one_name_have_a_row_each():
    rows = some_rows("a", "x", 0, 10, shift=-9) + some_rows("a", "x", 1, 20, shift=9) + some_rows("b", "x", 1, 5, shift=-9)
    found = answers_at(make_table(rows), 0.0)
    assert found["true"] == ["a/x (real)", "a/x", "b/x"]
    assert found["counts"] == [[10, 0], [0, 20], [5, 0]]
    assert found["right"] == [0, 1, 1]


def test_a_source_that_is_called_as_the_reals_of_another_keeps_its_own_row():
    rows = some_rows("a", "x", 0, 10, shift=-9) + some_rows("a", "x", 1, 20, shift=9) + some_rows("a", "x (real)", 1, 5, shift=-9)
    rows += some_rows("a", "x (real)", 0, 3, shift=-9)
    found = answers_at(make_table(rows), 0.0)
    assert found["true"] == ["a/x (real) (real)", "a/x (real) (real) (real)", "a/x", "a/x (real)"]
    assert found["sources"] == ["a/x", "a/x (real)", "a/x", "a/x (real)"]
    assert found["counts"] == [[10, 0], [3, 0], [0, 20], [5, 0]]
    assert found["right"] == [0, 0, 1, 1]


def test_without_scores_there_is_no_row():
    assert answers_at(usual_table().assign(score=np.nan), 0.5)["true"] == []
