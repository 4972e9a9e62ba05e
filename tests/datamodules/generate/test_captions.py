"""Photographs and captions from annotation files and manifests, hostile ones too."""

import json
import os
import re

import pytest

from datamodules.captions import clean_caption
from datamodules.errors import DataError
from datamodules.generate.__main__ import main
from datamodules.generate.captions import read_captions
from datamodules.sources.manifest import ManifestSource
from datamodules.splits import check_leaks
from tests.datamodules.generate.studies import COUNT, options, photograph, rows


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../secret.jpg", "leads out of the folder of images"),
        ("/etc/passwd", "leads out of the folder of images"),
        ("link.jpg", "leads out of the folder of images"),
        ("", "leads out of the folder of images"),
        ("a\0b.jpg", "is none that a file can have"),
        ("\ud800.jpg", "is none that a file can have"),
    ],
)
def test_a_file_name_cannot_lead_out_of_the_folder(place, rewrite, name, told):
    photograph(place / "secret.jpg", 99)
    os.symlink(place / "secret.jpg", place / "photos" / "link.jpg")
    rewrite(lambda content: content["images"][3].update(file_name=name))
    skipped = {}
    found = read_captions(place / "captions.json", place / "photos", skipped.__setitem__)
    assert told in skipped["000000000003"]
    assert len(found) == COUNT - 1


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("a \x00 b", "control character '\\x00'"),
        ("a \x1b[31m b", "control character '\\x1b'"),
        ("\ud800", "control character"),
        ("x" * 1001, "1001 characters, more than 1000"),
        (" \n ", "says nothing"),
        ("nan", "says nothing"),
        ("None", "says nothing"),
    ],
)
def test_a_caption_that_is_no_prompt_is_refused_with_a_reason(place, rewrite, caption, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        clean_caption(caption)
    rewrite(lambda content: content["annotations"][COUNT + 3].update(caption=caption))
    skipped = {}
    read_captions(place / "captions.json", place / "photos", skipped.__setitem__)
    assert told in skipped["000000000003"]


@pytest.mark.parametrize("caption", ['he said "no", twice', "=1+1", "naïve café 東京 🙂", "a 'b', c; d"])
def test_any_other_caption_comes_through_the_manifest_as_it_is(place, rewrite, caption):
    def edit(content):
        for annotation in content["annotations"]:
            annotation["caption"] = caption

    rewrite(edit)
    main(options(place, test=1, calibration=0, batch_size=1))
    assert {record.caption for record in ManifestSource(str(place / "out" / "manifest.csv")).records(place / "cache")} == {caption}


def test_an_image_without_caption_and_a_caption_without_image_are_recorded(place, rewrite):
    def edit(content):
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 4]
        content["annotations"].append({"id": 1, "image_id": 77, "caption": "x"})

    rewrite(edit)
    skipped = {}
    read_captions(place / "captions.json", place / "photos", skipped.__setitem__)
    assert skipped == {
        "000000000004": "it has no caption",
        "000000000077": "it has a caption, but is not among the images of the annotation file",
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", "has no lists `images` and `annotations`"),
        ('{"images": {}, "annotations": []}', "has no lists `images` and `annotations`"),
        ('{"images": [], "annotations": []}', "names no photograph"),
        ('{"images": [7], "annotations": []}', r"images\[0\] is 7, whose id is missing"),
        ('{"images": [{"id": true, "file_name": "a"}], "annotations": []}', "whose id is missing or of another type"),
        ('{"images": [{"id": 1, "file_name": ["a"]}], "annotations": []}', "whose file_name is missing"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
            r"images\[1\] has the id 1 of another",
        ),
        ('{"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": null}]}', "whose caption is missing"),
    ],
)
def test_a_damaged_annotation_file_is_an_error_that_says_where(place, content, told):
    (place / "captions.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=told):
        main(options(place))
    assert not (place / "out").exists()


def test_the_lowest_annotation_id_gives_the_caption_wherever_it_stands(place):
    found = read_captions(place / "captions.json", place / "photos", dict().__setitem__)
    assert [each.caption for each in found] == [f"A photo of {i} coins" for i in range(COUNT)]


def test_a_manifest_gives_photographs_too(place):
    table = place / "mine.csv"
    lines = [f"photos/{i}.jpg,real,a photo number {i},blip,laion,g{i // 2}" for i in range(10)]
    lines += ["photos/10.jpg,fake,a fake,blip,sd,g10", "photos/11.jpg,real,,blip,laion,g11"]
    table.write_text("\n".join(["path,label,caption,caption_source,generator,group", *lines]))
    assert main(options(place, captions=table, images=None, test=3, calibration=2)) == 0
    found = rows(place / "out")
    groups = [row["group"] for row in found[::2]]
    assert len(set(groups)) == 5  # one photograph of each group
    assert set(groups) <= {f"g{i}" for i in range(5)}
    assert {row["caption_source"] for row in found} == {"blip"}
    assert {row["generator"] for row in found} == {"laion", "tiny-diffusion"}
    skipped = json.loads((place / "out" / "skipped.json").read_text())["skipped"]
    assert "says nothing" in skipped["photos/11.jpg"]
    records = ManifestSource(str(place / "out" / "manifest.csv")).records(place / "cache")
    assert check_leaks(records) == records


def test_a_manifest_whose_paths_lead_elsewhere_is_refused(place):
    (place / "photos" / "mine.csv").write_text("path,label,caption\n../captions.json,real,x\n")
    with pytest.raises(DataError, match="leads out of"):
        main(options(place, captions=place / "photos" / "mine.csv", images=None))
