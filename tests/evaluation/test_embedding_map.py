"""The map of embeddings: the right components of the right images."""

import numpy as np
import pandas as pd
import pytest

from evaluation.embedding_map import COLUMNS, balanced, embedding_map, write_map
from evaluation.predictions import make_table
from tests.evaluation.rows import some_rows, usual_table, vectors_of


def test_coordinates_are_the_eigenvectors_of_the_covariance():
    frame = usual_table()
    vectors = vectors_of(frame)
    found = embedding_map(frame, vectors, 0.5)
    assert tuple(found.points.columns) == COLUMNS
    assert (len(found.points), found.images, found.dimensions, found.left_out) == (560, 560, 5, 0)
    values = vectors(found.points["key"].tolist()).astype(np.float64)
    values -= values.mean(axis=0)
    variances, directions = np.linalg.eigh(values.T @ values / (len(values) - 1))
    for name, place in (("x", -1), ("y", -2)):
        wanted, got = values @ directions[:, place], found.points[name].to_numpy()
        np.testing.assert_allclose(np.sign(wanted @ got) * got, wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.explained, variances[[-1, -2]] / variances.sum())
    told = frame.set_index("key").loc[found.points["key"]]
    for name in ("dataset", "generator", "label", "score"):
        assert found.points[name].tolist() == told[name].tolist()


def test_the_same_images_and_the_same_map_whatever_the_order_of_rows():
    frame = usual_table()
    vectors = vectors_of(frame)
    one, other = (embedding_map(rows, vectors, 0.5, most=90) for rows in (frame, frame.sample(frac=1, random_state=1)))
    pd.testing.assert_frame_equal(one.points, other.points)
    assert (len(one.points), one.images) == (90, 560)


def test_reals_and_fakes_and_generators_are_balanced_as_far_as_they_go():
    frame = make_table(
        some_rows("a", "r", 0, 300)
        + some_rows("b", "r", 0, 10)
        + some_rows("a", "x", 1, 500)
        + some_rows("a", "y", 1, 500)
        + some_rows("a", "z", 1, 7)
    )
    rows = balanced(frame, 100)
    assert rows.groupby(["label", "dataset", "generator"]).size().to_dict() == {
        (0, "a", "r"): 40,
        (0, "b", "r"): 10,
        (1, "a", "x"): 21,
        (1, "a", "y"): 22,
        (1, "a", "z"): 7,
    }
    assert set(balanced(frame, 60)["key"]) <= set(rows["key"])
    only_fakes = balanced(frame[frame["label"] == 1], 100)
    assert len(only_fakes) == 100
    assert len(balanced(frame, 10_000)) == len(frame)
    assert balanced(frame.head(0), 10).empty


def test_only_clean_images_and_each_once():
    frame = usual_table()
    doubled = pd.concat([frame, frame.assign(perturbation="jpeg_40"), frame.assign(dataset="other")])
    found = embedding_map(doubled, vectors_of(frame), 0.5)
    assert sorted(found.points["key"]) == sorted(frame["key"])


def test_vectors_that_are_not_finite_are_left_out():
    frame = usual_table()
    inner = vectors_of(frame)
    bad = set(frame["key"][:3])

    def vectors(keys):
        values = inner(keys)
        values[[key in bad for key in keys]] = [[np.nan, np.inf, 0, 0, 0]]
        return values

    found = embedding_map(frame, vectors, 0.5)
    assert found.left_out == 3
    assert not bad & set(found.points["key"])
    with pytest.raises(ValueError, match="0 of 560 are"):
        embedding_map(frame, lambda keys: np.full((len(keys), 2), np.nan), 0.5)


def test_one_dimension_and_no_variance_have_a_map():
    frame = usual_table()
    flat = embedding_map(frame, lambda keys: np.arange(len(keys), dtype=float)[:, None], 0.5)
    assert flat.explained == (1.0, 0.0)
    assert not flat.points["y"].any()
    still = embedding_map(frame, lambda keys: np.ones((len(keys), 3)), 0.5)
    assert still.explained == (0.0, 0.0)
    assert not still.points[["x", "y"]].any(axis=None)


@pytest.mark.parametrize("made", [np.zeros((3, 2)), np.zeros(560), np.zeros((560, 0)), np.full((560, 2), "a")])
def test_what_is_no_array_of_vectors_is_refused(made):
    with pytest.raises(ValueError, match=r"the vectors of 560 images are numbers \[560, D\]; got"):
        embedding_map(usual_table(), lambda keys: made, 0.5)


def test_written_with_its_coordinates(tmp_path):
    frame = usual_table()
    found = embedding_map(frame, vectors_of(frame), 0.5)
    path = write_map(tmp_path / "tables", found)
    assert path.name == "embedding_map.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path), found.points, check_dtype=False)
