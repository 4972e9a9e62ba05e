"""Both panels of the map of embeddings."""

import numpy as np
from PIL import Image

from evaluation.embedding_map import embedding_map
from evaluation.figures import ON_DARK, map_figure, save_map
from evaluation.predictions import make_table
from tests.evaluation.rows import some_rows, usual_table, vectors_of


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


def test_saved_as_png_and_svg(tmp_path):
    frame = usual_table()
    written = save_map(tmp_path / "figures", embedding_map(frame, vectors_of(frame), 0.5))
    assert [path.name for path in written] == ["embedding_map.png", "embedding_map.svg"]
    with Image.open(written[0]) as image:
        assert np.asarray(image.convert("L")).std() > 5
