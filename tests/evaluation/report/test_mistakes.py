"""The worst mistakes: which they are, how many there are, and pictures that cost the page little."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from evaluation.predictions import make_table
from evaluation.report.mistakes import MISTAKES, mistakes_part, thumbnail, worst_mistakes
from tests.evaluation.report.pages import pictures
from tests.evaluation.rows import some_rows, usual_table


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def plain(side):
    return {"image": np.arange(side * side * 3, dtype=np.uint32).reshape(side, side, 3).astype(np.uint8)}


def test_galleries_show_the_worst_first_and_count_what_is_on_the_wrong_side():
    table = usual_table()
    missed, alarms = mistakes_part(table, 0.5, pictures).galleries
    for gallery, rows, wrong in (
        (missed, table[table["label"] == 1].sort_values("score"), table.query("label == 1 and score <= 0.5")),
        (alarms, table[table["label"] == 0].sort_values("score", ascending=False), table.query("label == 0 and score > 0.5")),
    ):
        assert [card.score for card in gallery.cards] == [f"{score:.4g}" for score in rows["score"][:MISTAKES]]
        assert [card.where for card in gallery.cards] == rows["key"][:MISTAKES].tolist()
        assert f": {len(wrong):,} of {len(rows):,} (" in gallery.sentence
    assert {card.verdict for card in missed.cards} == {"missed"}
    assert {card.verdict for card in alarms.cards} == {"false alarm"}


def test_a_score_at_the_threshold_is_called_real():
    table = make_table(some_rows("a", "sd", 1, 2) + some_rows("a", "photos", 0, 2)).assign(score=[0.5, 0.6, 0.5, 0.6])
    assert worst_mistakes(table, 0.5, 1)["verdict"].tolist() == ["missed", "right"]
    assert worst_mistakes(table, 0.5, 0)["verdict"].tolist() == ["false alarm", "right"]
    assert worst_mistakes(table, None, 0)["verdict"].tolist() == [None, None]
    assert [gallery.sentence for gallery in mistakes_part(table, None, None).galleries] == ["", ""]


def test_cards_lead_to_their_image_in_the_browser_and_nowhere_without_one():
    table = usual_table().assign(perturbation="jpeg_40", path="photos/a b.png")
    shown = set(zip(table["dataset"], table["key"], strict=True))
    card = mistakes_part(table, 0.5, pictures, "svm & co", shown).galleries[0].cards[0]
    worst = table[table["label"] == 1].nsmallest(1, "score").iloc[0]
    assert card.href == f"#images?detector=svm+%26+co&image={worst['dataset']}%2F{worst['key']}%40jpeg_40"
    assert card.where == "photos/a b.png"
    assert card.source == f"{worst['dataset']}/{worst['generator']}"
    assert {card.href for gallery in mistakes_part(table, 0.5, pictures).galleries for card in gallery.cards} == {""}


def test_cards_of_images_that_the_browser_does_not_hold_lead_nowhere():
    table = usual_table()
    worst = table[table["label"] == 1].nsmallest(2, "score")
    shown = [(worst["dataset"].iloc[1], worst["key"].iloc[1])]
    cards = mistakes_part(table, 0.5, pictures, "svm", shown).galleries[0].cards
    assert [bool(card.href) for card in cards] == [False, True] + [False] * (MISTAKES - 2)


def test_pictures_are_asked_for_under_the_perturbation_of_the_row_and_not_at_all_without_a_loader():
    asked = []
    part = mistakes_part(usual_table().assign(perturbation="blur_2.0"), 0.5, lambda *told: asked.append(told) or {})
    assert {under for _, under in asked} == {"blur_2.0"}
    assert [key for key, _ in asked] == [card.where for gallery in part.galleries for card in gallery.cards]
    cards = [card for gallery in mistakes_part(usual_table(), 0.5, None).galleries for card in gallery.cards]
    assert len(cards) == 12
    assert not any(card.views or card.problem for card in cards)


def test_views_have_words_and_small_ones_keep_every_pixel():
    def load(key, _):
        return plain(128) | {"noise_map": plain(129)["image"], "residual": plain(9)["image"]}

    image, noise, residual = mistakes_part(usual_table(), 0.5, load).galleries[0].cards[0].views
    assert [each.name for each in (image, noise, residual)] == ["image", "noise map", "residual"]
    assert [each.small for each in (image, noise, residual)] == [True, False, True]
    assert (opened(image.uri).format, opened(noise.uri).format) == ("PNG", "JPEG")
    np.testing.assert_array_equal(np.asarray(opened(image.uri)), plain(128)["image"])
    assert noise.alt.startswith("noise map of fake image ")
    assert residual.alt.endswith(", 4 times as bright")
    assert "bright" not in image.alt


def test_a_picture_that_fails_costs_its_own_card_only():
    lost = usual_table().query("label == 1").nsmallest(1, "score")["key"].iloc[0]

    def load(key, _):
        if key == lost:
            raise OSError("disk on fire")
        return plain(4)

    with pytest.warns(UserWarning, match=f"no pictures of {lost} in the report: OSError: disk on fire"):
        part = mistakes_part(usual_table(), 0.5, load)
    cards = [card for gallery in part.galleries for card in gallery.cards]
    assert [card.problem for card in cards] == ["OSError: disk on fire", *[None] * 11]
    assert [len(card.views) for card in cards] == [0, *[1] * 11]


def test_without_scores_there_are_no_cards():
    part = mistakes_part(usual_table().assign(score=np.nan), 0.5, pictures)
    assert [(gallery.sentence, list(gallery.cards)) for gallery in part.galleries] == [("", []), ("", [])]


@pytest.mark.parametrize(("shape", "size"), [((100, 400, 3), (256, 64)), ((30, 20, 3), (20, 30)), ((1, 1000, 3), (256, 1))])
def test_thumbnails_are_no_larger_than_asked_and_never_enlarged(shape, size):
    assert thumbnail(np.zeros(shape, np.uint8)).size == size


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(ValueError, match=r"a picture is uint8 \[H, W, 3\]; got"):
        thumbnail(pixels)
