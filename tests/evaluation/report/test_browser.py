"""The data of the image browser: every score and answer is that of the table, and pictures keep to their room."""

import base64
import io
import json
import sys
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.predictions import make_table
from evaluation.report import browser
from evaluation.report.browser import ranked
from evaluation.statistics import CLEAN
from tests.evaluation.report.pages import HOSTILE
from tests.evaluation.rows import some_rows, usual_table

MODULE = sys.modules[ranked.__module__]  # the package calls its function by the same name


def tiny(key, perturbation):
    return {"image": np.full((6, 9, 3), 7, np.uint8)}


def noisy(key, perturbation):
    rng = np.random.default_rng(zlib.crc32(f"{key} {perturbation}".encode()))
    return {name: rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for name in ("image", "noise_map")}


def some_images(n=12, **options):
    return make_table(
        some_rows("a", "photos", 0, n, **options) + some_rows("a", "sd", 1, n, **options) + some_rows("b", "gan", 1, n, **options)
    )


def read(found):
    """What the page's script reads."""
    chunks = [json.loads(each) for each in found.pictures]
    thumbnails = [each for chunk in found.thumbnails for each in json.loads(chunk)]
    return json.loads(found.data), thumbnails, chunks


def index_of(data):
    """Number of an image by data set and key."""
    names = [data["names"]["dataset"][code] for code in data["images"]["dataset"]]
    return {image: number for number, image in enumerate(zip(names, data["images"]["key"], strict=True))}


def opened(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def encoded_bytes(chunks):
    return sum(len(base64.b64decode(text)) for chunk in chunks for views in chunk.values() for text in views.values())


def test_every_score_probability_and_answer_is_that_of_the_table():
    rng, clean = np.random.default_rng(0), some_images()
    parts = [
        clean.assign(detector=name, perturbation=under, score=rng.normal(size=len(clean)) * 1e3, probability=likely)
        for name, likely in (("x", rng.random(len(clean))), ("y", np.nan))
        for under in ("webp_50", CLEAN, "jpeg_40")
    ]
    table = pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0)
    data, _, _ = read(browser(table, {"x": 12.5, "y": None}, tiny))
    assert data["perturbations"] == [CLEAN, "jpeg_40", "webp_50"]
    thresholds = {each["name"]: each["threshold"] for each in data["detectors"]}
    assert thresholds == {"x": 12.5, "y": None}
    where, names = index_of(data), list(thresholds)
    assert len(where) == len(clean)
    for row in table.itertuples():
        detector, under, image = names.index(row.detector), data["perturbations"].index(row.perturbation), where[row.dataset, row.key]
        assert data["scores"][detector][under][image] == pytest.approx(row.score, rel=1e-6)
        assert data["answers"][detector][under][image] == ("-" if row.detector == "y" else "1" if row.score > 12.5 else "0")
        told = {name: data["names"][name][data["images"][name][image]] for name in data["names"]}
        wanted = {
            "dataset": row.dataset,
            "source": f"{row.dataset}/{row.generator}",
            "split": "test",
            "group": row.group,
            "family": row.family,
        }
        assert told == {name: value if isinstance(value, str) else "" for name, value in wanted.items()}
        assert data["images"]["label"][image] == row.label
        if row.detector == "x":
            assert data["probabilities"][detector][under][image] == pytest.approx(row.probability, rel=1e-6)
    assert data["probabilities"][names.index("y")] is None


def test_answers_are_worked_out_before_scores_are_rounded():
    threshold = 0.123456789012
    scores = [
        threshold,
        np.nextafter(threshold, 1),
        np.nextafter(threshold, 0),
        threshold + 1e-9,
        threshold - 1e-9,
        np.nan,
        np.inf,
        -np.inf,
    ]
    table = make_table(some_rows("a", "sd", 1, len(scores))).sort_values("key", ignore_index=True)
    data, _, _ = read(browser(table.assign(score=scores), {"probe": threshold}, tiny))
    assert data["answers"] == [["01010-10"]]
    assert data["scores"] == [[[0.1234568] * 5 + [None] * 3]]


@pytest.mark.parametrize(
    ("score", "shown"), [(1.23456789, 1.234568), (-98765432.1, -98765430.0), (1.00000004e-9, 1e-9), (0.0, 0.0), (2, 2.0)]
)
def test_scores_have_seven_digits(score, shown):
    data, _, _ = read(browser(make_table(some_rows("a", "sd", 1, 1)).assign(score=float(score)), {"probe": None}, tiny))
    assert data["scores"] == [[[shown]]]


def test_images_that_a_detector_has_not_scored_are_null():
    table = some_images(3)
    part = table[table["dataset"] == "a"].assign(detector="other", perturbation="jpeg_40")
    data, thumbnails, _ = read(browser(pd.concat([table, part], ignore_index=True), {"probe": 0.0, "other": 0.0}, tiny))
    where, missing = index_of(data), set(table[table["dataset"] == "b"]["key"])
    other = [each["name"] for each in data["detectors"]].index("other")
    assert data["scores"][other][0] == [None] * 9
    assert data["answers"][other][0] == "-" * 9
    for (_, key), image in where.items():
        assert (data["scores"][other][1][image] is None) == (key in missing) == (data["answers"][other][1][image] == "-")
    assert None not in thumbnails


def test_the_same_key_in_two_data_sets_is_two_images():
    rows = some_rows("a", "sd", 1, 3)
    table = make_table(rows + [row | {"dataset": "b", "score": row["score"] + 100} for row in rows])
    data, thumbnails, _ = read(browser(table, {"probe": 50.0}, tiny))
    where = index_of(data)
    assert len(where) == len(thumbnails) == 6
    for row in table.itertuples():
        assert data["scores"][0][0][where[row.dataset, row.key]] == pytest.approx(row.score, rel=1e-6)
        assert data["answers"][0][0][where[row.dataset, row.key]] == ("1" if row.dataset == "b" else "0")


def test_all_splits_are_there_and_the_measured_one_is_named():
    table = pd.concat(
        [some_images(4), make_table(some_rows("a", "val", 0, 3, split="val")), make_table(some_rows("a", "x", 0, 2, split=None))]
    )
    data, _, _ = read(browser(table, {"probe": 0.0}, tiny, split="test"))
    assert data["split"] == "test"
    assert data["names"]["split"] == ["", "test", "val"]
    counts = np.bincount(data["images"]["split"])
    assert counts.tolist() == [2, 12, 3]
    assert read(browser(table, {"probe": 0.0}, tiny))[0]["split"] is None


class TestRanked:
    def test_all_images_once_in_the_same_order_for_the_same_seed(self):
        table = usual_table()
        images = set(zip(table["dataset"], table["key"], strict=True))
        orders = [ranked(table.sample(frac=1, random_state=n), seed) for n, seed in ((0, 0), (1, 0), (0, 1))]
        for order in orders:
            assert len(order) == len(images)
            assert set(order) == images
        assert orders[0] == orders[1] != orders[2]

    def test_the_worst_of_every_detector_and_source_come_first(self):
        rng, clean = np.random.default_rng(3), usual_table()
        table = pd.concat([clean.assign(detector=name, score=rng.normal(size=len(clean))) for name in "xyz"], ignore_index=True)
        first = ranked(table, 0)[: 2 * 3 * 5]
        for _, rows in table.groupby(["detector", "dataset", "generator"]):
            worst = rows.loc[rows["score"].idxmin() if rows["label"].iloc[0] else rows["score"].idxmax()]
            assert (worst["dataset"], worst["key"]) in first

    def test_half_are_by_chance(self):
        table = some_images(200)
        mistakes = table["score"].where(table["label"] == 1, -table["score"]).groupby([table["dataset"], table["generator"]]).rank()
        rank = dict(zip(zip(table["dataset"], table["key"], strict=True), mistakes, strict=True))
        order = ranked(table, 0)[:60]
        assert sum(rank[image] <= 10 for image in order) in range(30, 36)
        assert max(rank[image] for image in order) > 150

    def test_the_clean_image_decides_and_images_without_scores_are_there_too(self):
        clean = make_table(some_rows("a", "sd", 1, 6)).sort_values("key", ignore_index=True).assign(score=[0.0, 1, 2, 3, 4, np.nan])
        perturbed = clean.assign(perturbation="jpeg_40", score=[9.0, 8, 7, -9, 5, np.nan])
        order = ranked(pd.concat([perturbed, clean], ignore_index=True), 0)
        assert order[0] == ("a", clean["key"][0])
        assert set(order) == set(zip(clean["dataset"], clean["key"], strict=True))
        none = ranked(clean.assign(score=np.nan), 0)
        assert sorted(none) == sorted(order)


def test_more_images_than_wanted_are_cut_and_said_so():
    table = some_images(20)
    found = browser(table, {"probe": 0.0}, tiny, images=11)
    data, thumbnails, chunks = read(found)
    kept = set(index_of(data))
    assert len(kept) == len(thumbnails) == len(data["scores"][0][0]) == len(data["answers"][0][0]) == 11
    assert kept == set(ranked(table, 0)[:11])
    assert len(chunks[0]) == 11
    assert len(found.notes) == 1
    assert found.notes[0].startswith("The browser holds 11 of 60 images: those that the detectors get most wrong, and as many by chance.")
    assert browser(table, {"probe": 0.0}, tiny, images=60).notes == []


@pytest.mark.parametrize("megabytes", [0, 0.01, 0.03])
def test_pictures_keep_to_their_room_and_stand_in_the_order_of_the_choice(megabytes):
    table = pd.concat([some_images(5), some_images(5).assign(perturbation="jpeg_40")], ignore_index=True)
    found = browser(table, {"probe": 0.0}, noisy, megabytes=megabytes)
    data, thumbnails, chunks = read(found)
    names = [name for chunk in chunks for name in chunk]
    where = index_of(data)
    wanted = [f"{where[image]}@{place}" for place in range(2) for image in ranked(table, 0)]
    assert encoded_bytes(chunks) <= megabytes * 1e6
    assert names == wanted[: len(names)]
    assert len(names) < 30
    assert (len(names) > 0) == (megabytes > 0)
    assert encoded_bytes(chunks) >= 0.7 * megabytes * 1e6
    assert found.notes == [
        f"A click shows what the detectors saw of {len(names)} of 30 images and perturbations, of the others the thumbnail: "
        f"--report.megabytes allows {megabytes:g} MB of such pictures."
    ]
    assert None not in thumbnails
    everything = read(browser(table, {"probe": 0.0}, noisy))
    assert sorted(name for chunk in everything[2] for name in chunk) == sorted(wanted)


def test_pictures_are_found_by_their_chunk(monkeypatch):
    monkeypatch.setattr(MODULE, "CHUNK", 4)
    found = browser(some_images(3), {"probe": 0.0}, noisy)
    data, thumbnails, chunks = read(found)
    assert data["chunk"] == 4
    assert [len(json.loads(each)) for each in found.thumbnails] == [4, 4, 1]
    assert [len(chunk) for chunk in chunks] == [4, 4, 1]
    for name, chunk in data["pictures"].items():
        assert list(chunks[chunk][name]) == ["image", "noise_map"]
        pixels = np.asarray(opened(chunks[chunk][name]["image"])).astype(float)
        key = data["images"]["key"][int(name.partition("@")[0])]
        assert np.corrcoef(pixels.ravel(), noisy(key, CLEAN)["image"].ravel())[0, 1] > 0.5
        assert opened(thumbnails[int(name.partition("@")[0])]).size == (50, 40)


def test_thumbnails_are_small_and_smaller_where_there_are_many(monkeypatch):
    monkeypatch.setattr(MODULE, "FEW", 6)

    def large(key, perturbation):
        return {"noise": np.zeros((8, 8, 3), np.uint8), "image": np.full((300, 500, 3), 9, np.uint8)}

    for n, side in ((2, 128), (3, 72)):
        _, thumbnails, chunks = read(browser(some_images(n), {"probe": 0.0}, large))
        assert {opened(text).size[0] for text in thumbnails} == {side}
        assert {opened(views["image"]).size for chunk in chunks for views in chunk.values()} == {(192, 115)}
        assert {opened(text).format for text in thumbnails} == {"WEBP"}


def test_a_thumbnail_is_of_the_first_perturbation_that_there_is():
    clean = some_images(2)
    table = pd.concat([clean.assign(perturbation="jpeg_40"), clean[clean["dataset"] == "a"]], ignore_index=True)
    levels = {CLEAN: 250, "jpeg_40": 20}
    data, thumbnails, _ = read(browser(table, {"probe": 0.0}, lambda _, under: {"x": np.full((8, 8, 3), levels[under], np.uint8)}))
    for (dataset, _), image in index_of(data).items():
        assert np.asarray(opened(thumbnails[image])).mean() == pytest.approx(levels[CLEAN if dataset == "a" else "jpeg_40"], abs=4)


def test_pictures_that_fail_are_null_and_said_with_their_most_frequent_reason():
    table = some_images(4)
    lost = sorted(table["key"])[:5]

    def load(key, perturbation):
        if key in lost[:3]:
            raise OSError("disk on fire")
        return {} if key == lost[3] else {"image": np.zeros((4, 4), np.uint8)} if key == lost[4] else tiny(key, perturbation)

    found = browser(table, {"probe": 0.0}, load)
    data, thumbnails, chunks = read(found)
    gone = {number for (_, key), number in index_of(data).items() if key in lost}
    assert {number for number, text in enumerate(thumbnails) if text is None} == gone
    assert not {int(name.partition("@")[0]) for name in data["pictures"] if chunks[0][name]} & gone
    assert found.notes == ["There is no picture of 5 images; of 3 because: OSError: disk on fire."]


def test_a_full_room_is_said_also_where_pictures_fail_and_never_where_it_is_not():
    table = pd.concat([some_images(4), some_images(4).assign(perturbation="jpeg_40")], ignore_index=True)
    lost = table["key"][0]

    def clean_only(key, perturbation):
        if perturbation != CLEAN:
            raise OSError(perturbation)
        return tiny(key, perturbation)

    def not_all(key, perturbation):
        if key == lost:
            raise OSError("gone")
        return noisy(key, perturbation)

    assert browser(table, {"probe": 0.0}, clean_only).notes == []
    notes = browser(table, {"probe": 0.0}, not_all, megabytes=0.01).notes
    assert [note.partition(" ")[0] for note in notes] == ["There", "A"]


def test_data_is_json_that_cannot_end_its_element():
    path = b"/data/\xff\xfe<\xe9.png".decode("utf-8", "surrogateescape")
    table = some_images(3).assign(
        group=HOSTILE, path=pd.Series([path] * 9, dtype=object), detector=HOSTILE, dataset="</script><!--", generator=" &"
    )
    found = browser(table, {HOSTILE: 0.0}, lambda *_: {HOSTILE: np.zeros((3, 3, 3), np.uint8)})
    for text in (found.data, *found.thumbnails, *found.pictures):
        assert text.isascii()
        assert not set("<>&") & set(text)
    data, _, chunks = read(found)
    assert data["images"]["path"] == [path] * 9
    assert data["names"]["group"] == [HOSTILE]
    assert data["names"]["source"] == ["</script><!--/ &"]
    assert list(chunks[0]["0@0"]) == [HOSTILE]


def test_links_lead_to_the_worst_of_each_detector():
    table = some_images(2)
    assert browser(table, {"probe": 0.0}, tiny).links == {"Look at the worst mistakes": "#images?detector=probe"}
    both = pd.concat([table, table.assign(detector="a&b c")])
    assert browser(both, {"probe": 0.0, "a&b c": None}, tiny).links == {
        "Worst mistakes of probe": "#images?detector=probe",
        "Worst mistakes of a&b c": "#images?detector=a%26b+c",
        "Where the detectors disagree most": "#images?sort=apart",
    }
