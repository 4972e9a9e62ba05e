"""Confusion matrices: counts, and tables of them."""

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from evaluation.confusion import confusion, long_rows, write_confusions
from tests.evaluation.classes import matrix


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
