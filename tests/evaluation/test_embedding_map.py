"""The map of embeddings: the right components of the right images, and both panels of its figure."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.embedding_map import COLUMNS, balanced, embedding_map, map_figure, save_map
from evaluation.figures import ON_DARK
from evaluation.predictions import make_table
from tests.evaluation.rows import some_rows, usual_table


def vectors_of(frame, dimensions=5, seed=0):
    """Vectors by key, whatever the order, with different spreads along random directions."""
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    made = (rng.normal(size=(len(frame), dimensions)) * np.arange(dimensions, 0, -1) ** 2) @ turned
    known = dict(zip(frame["key"], made, strict=True))
    return lambda keys: np.stack([known[key] for key in keys]).astype(np.float32)


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


def test_the_figure_counts_right_and_wrong():
    frame = usual_table()
    found = embedding_map(frame, vectors_of(frame), 0.5)
    left, right = map_figure(found, ON_DARK).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["real", "faces/gan", "faces/sd", "scenes/sd"]
    assert [len(each.get_offsets()) for each in left.collections] == [280, 120, 120, 40]
    called = frame["score"] > 0.5
    missed, alarms = int((~called & (frame["label"] == 1)).sum()), int((called & (frame["label"] == 0)).sum())
    assert [len(each.get_offsets()) for each in right.collections] == [560 - missed - alarms, missed, alarms]
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        *(f"right ({560 - missed - alarms})", f"missed fake ({missed})", f"false alarm ({alarms})")
    ]
    assert "of the variance" in left.get_xlabel()


def test_without_a_threshold_there_is_one_panel():
    frame = usual_table()
    assert len(map_figure(embedding_map(frame, vectors_of(frame), None)).axes) == 1


def test_thirty_generators_have_looks_of_their_own():
    frame = make_table([row for n in range(32) for row in some_rows("a", f"g{n}", 1, 3)])
    left = map_figure(embedding_map(frame, vectors_of(frame), None)).axes[0]
    looks = {(tuple(each.get_facecolor()[0]), each.get_paths()[0].vertices.tobytes()) for each in left.collections}
    assert len(looks) == 32


def test_saved_with_its_coordinates(tmp_path):
    frame = usual_table()
    found = embedding_map(frame, vectors_of(frame), 0.5)
    written = save_map(tmp_path / "figures", tmp_path / "tables", found)
    assert [path.name for path in written] == ["embedding_map.png", "embedding_map.svg", "embedding_map.csv"]
    with Image.open(written[0]) as image:
        assert np.asarray(image.convert("L")).std() > 5
    pd.testing.assert_frame_equal(pd.read_csv(written[2]), found.points, check_dtype=False)
