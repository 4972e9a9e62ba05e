"""ShardsSource: shards as webdataset and img2dataset write them, their names, fields and resuming; row 12 on images."""

import io
import json
import logging
import tarfile
from pathlib import Path

import pytest
import tqdm
import webdataset

from datamodules.errors import DataError
from datamodules.sources import ShardsSource
from datamodules.sources.tars import reading as module
from tests.datamodules.tars import IMG2DATASET, by_hand, contents, img2dataset, member, picture


def kept(source, cache):
    return sorted(path.name for path in source.folder(cache).glob("images/*/*"))


def test_shards_of_img2dataset(tmp_path):
    for number in range(3):
        img2dataset(tmp_path / "laion" / f"{number:05d}.tar", range(4 * number, 4 * number + 4))
    source = ShardsSource(str(tmp_path / "laion"), **IMG2DATASET, caption_source="human")
    records = source.records(tmp_path / "cache")
    assert contents(records) == [picture(seed, "JPEG") for seed in range(12)], "the very bytes, in the order of the shards"
    assert [record.label for record in records] == [0, 1] * 6
    assert [record.generator for record in records[:4]] == ["m0", "m1", "m2", "m0"]
    first = records[1]
    assert (first.caption, first.caption_source, first.dataset, first.split) == ("caption 1", "human", "laion", None)
    assert (first.source_width, first.source_height, first.source_bytes) == (640, 480, None)
    assert not source.failures


def test_shards_with_classes_written_by_webdataset(tmp_path):
    pattern = str(tmp_path / "train-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
        for seed in range(7):
            writer.write({"__key__": f"a/b{seed}", "png": picture(seed), "cls": seed % 2, "json": {"deep": {"name": "g"}}})
    source = ShardsSource(str(tmp_path / "train-{000..002}.tar"), fields={"generator": "json:deep.name", "group": "key"}, split="train")
    records = source.records(tmp_path / "cache")
    assert [(r.label, r.generator, r.split) for r in records] == [(seed % 2, "g", "train") for seed in range(7)]
    assert contents(records) == [picture(seed) for seed in range(7)]
    assert records[2].group == f"{tmp_path.name}/a/b2"


@pytest.mark.parametrize("named", ["{0..1}.tar", "*.tar", "", ["0.tar", "1.tar"], ["0.tar", "*.tar"], "**/[01].tar"])
def test_how_shards_are_named(tmp_path, named):
    for number in range(2):
        img2dataset(tmp_path / "set" / f"{number}.tar", [number])
    each = [str(tmp_path / "set" / name) for name in ([named] if isinstance(named, str) else named)]
    source = ShardsSource(each[0] if isinstance(named, str) else each, **IMG2DATASET)
    assert len(source.records(tmp_path / "cache")) == 2


def test_a_pattern_of_the_name_and_constants(tmp_path):
    for name in ("real/train-0.tar", "sdxl/train-0.tar", "sdxl/test-0.tar"):
        by_hand(tmp_path / name, [member(f"{i}.png", picture(hash(name) % 1000 + i)) for i in range(2)])
    pattern = r"(?P<label>[^/]+)/(?P<split>train|test)-"
    source = ShardsSource(str(tmp_path / "*" / "*.tar"), shard_pattern=pattern, labels={"real": 0, "*": 1}, dataset="own")
    assert [(r.label, r.split, r.generator) for r in source.records(tmp_path / "cache")] == [
        *[(0, "train", "real")] * 2,
        *[(1, "test", "unknown")] * 2,
        *[(1, "train", "unknown")] * 2,
    ]
    source = ShardsSource(str(tmp_path / "sdxl" / "*.tar"), all_are="fake", generator="sdxl", family="latent-diffusion")
    assert {(r.label, r.generator, r.family, r.dataset) for r in source.records(tmp_path / "cache")} == {
        (1, "sdxl", "latent-diffusion", "sdxl")
    }
    with pytest.raises(DataError, match="does not match"):
        ShardsSource(str(tmp_path / "sdxl"), all_are="fake", shard_pattern="(?P<split>dev)").records(tmp_path / "cache")


def test_done_shards_are_not_read_again(tmp_path, monkeypatch):
    for number in range(2):
        img2dataset(tmp_path / "set" / f"{number}.tar", [2 * number, 2 * number + 1])
    first = ShardsSource(str(tmp_path / "set"), **IMG2DATASET).records(tmp_path / "cache")
    read, opened = [], module.opened
    monkeypatch.setattr(module, "opened", lambda place, access: read.append(Path(place).name) or opened(place, access))
    assert ShardsSource(str(tmp_path / "set"), **IMG2DATASET, dataset="set").records(tmp_path / "cache") == first
    assert read == []
    img2dataset(tmp_path / "set" / "2.tar", [4, 5])
    img2dataset(tmp_path / "set" / "1.tar", [7])
    records = ShardsSource(str(tmp_path / "set"), **IMG2DATASET).records(tmp_path / "cache")
    assert read == ["1.tar", "2.tar"], "the changed one and the new one"
    assert contents(records) == [picture(seed, "JPEG") for seed in (0, 1, 7, 4, 5)]


def test_how_far_it_is_and_where_the_images_are(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    bars = {}

    class Bar(tqdm.tqdm):
        def close(self):
            bars.setdefault(self.desc, (self.unit, self.n, self.total))
            super().close()

    # The bars count only where they are drawn, on a terminal.
    monkeypatch.setattr(tqdm, "tqdm", lambda *args, **kwargs: Bar(*args, **kwargs | {"disable": False, "file": io.StringIO()}))
    shard = img2dataset(tmp_path / "set" / "0.tar", range(4))
    source = ShardsSource(str(shard), **IMG2DATASET)
    source.records(tmp_path / "cache")
    assert bars["Reading shards"] == ("shard", 1, 1)
    [(unit, read, size)] = [bar for name, bar in bars.items() if name.endswith("set/0.tar")]
    assert (unit, size) == ("B", shard.stat().st_size)
    assert size - tarfile.RECORDSIZE < read <= size, "what fills the last record is not read"
    assert f"4 images of 1 shards (1 read now) are kept in {source.folder(tmp_path / 'cache')}" in caplog.text


def test_truth_values_are_labels(tmp_path):
    told = [json.dumps({"label": value}).encode() for value in (False, True, [True])]
    members = [each for i, side in enumerate(told) for each in (member(f"{i}.png", picture(i)), member(f"{i}.json", side))]
    source = ShardsSource(str(by_hand(tmp_path / "x.tar", members)), fields={"label": "json:label", "caption": "json:label"})
    with pytest.raises(DataError, match="No image is left"):
        source.records(tmp_path / "cache")  # a truth value is no caption
    source = ShardsSource(str(tmp_path / "x.tar"), fields={"label": "json:label"})
    assert [record.label for record in source.records(tmp_path / "cache")] == [0, 1]
    assert [failure.reason for failure in source.failures] == ["its label is a list, not a text"]


@pytest.mark.parametrize("stop", range(8))
def test_a_stopped_run_goes_on_with_its_shard(tmp_path, monkeypatch, stop):
    for number in range(2):
        img2dataset(tmp_path / "set" / f"{number}.tar", range(4 * number, 4 * number + 4))
    keep, count = module.Keeper.keep, [0]

    def stopped(self, content):
        count[0] += 1
        if count[0] == stop + 1:
            raise KeyboardInterrupt
        return keep(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(module.Keeper, "keep", stopped)
        with pytest.raises(KeyboardInterrupt):
            ShardsSource(str(tmp_path / "set"), **IMG2DATASET).records(tmp_path / "cache")
    read, opened = [], module.opened
    monkeypatch.setattr(module, "opened", lambda place, access: read.append(Path(place).name) or opened(place, access))
    source = ShardsSource(str(tmp_path / "set"), **IMG2DATASET)
    assert contents(source.records(tmp_path / "cache")) == [picture(seed, "JPEG") for seed in range(8)]
    assert read == (["0.tar", "1.tar"] if stop < 4 else ["1.tar"])
    assert len(kept(source, tmp_path / "cache")) == 8


def test_row_12_dots_in_names(tmp_path):
    """webdataset merges `img.v2` and `img.v3` into one sample."""
    members = []
    for name, label in (("img.v2", 0), ("img.v3", 1), ("a.b/img", 1)):
        members += [member(f"{name}.png", picture(len(members))), member(f"{name}.cls", str(label).encode())]
    members += [member("one.input.png", picture(20)), member("one.target.png", picture(21)), member("one.cls", b"1")]
    source = ShardsSource(str(by_hand(tmp_path / "x.tar", members)))
    records = source.records(tmp_path / "cache")
    assert [(record.label, content) for record, content in zip(records, contents(records), strict=True)] == [
        (0, picture(0)),
        (1, picture(2)),
        (1, picture(4)),
    ]
    assert [failure.reason for failure in source.failures] == ["it has no label (in cls)"] * 2, "of two images, whose class is it?"
    source = ShardsSource(str(tmp_path / "x.tar"), image_member="input.png")
    assert contents(source.records(tmp_path / "cache")) == [picture(20)]


def test_the_same_names_in_several_shards(tmp_path):
    for number in range(2):
        by_hand(tmp_path / f"{number}.tar", [member("0.png", picture(number)), member("0.cls", b"1")])
    assert contents(ShardsSource(str(tmp_path)).records(tmp_path / "cache")) == [picture(0), picture(1)]


def test_doubled_content_is_one_file_and_two_records(tmp_path):
    by_hand(tmp_path / "0.tar", [member("0.png", picture(0)), member("1.png", picture(0))])
    first, second = ShardsSource(str(tmp_path), all_are="fake").records(tmp_path / "cache")
    assert first.path == second.path
    assert second.key == f"{first.key}-1"


def test_long_and_strange_names(tmp_path):
    names = ["ü" * 60 + ".png", "d/" * 90 + "x.png", "a b\n.png"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        by_hand(tmp_path / f"{form}.tar", [member(name, picture(i)) for i, name in enumerate(names)], form)
    assert contents(ShardsSource(str(tmp_path), all_are="fake").records(tmp_path / "cache")) == [picture(i) for i in range(3)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": "pipe:touch {mark}"}, "pipe: is not read"),
        ({"shards": "file:///etc/passwd"}, "file: is not read"),
        ({"shards": "s3://bucket/0.tar"}, "s3: is not read"),
        ({"shards": ["https://x.y/0.tar", "PIPE:curl x | sh"]}, "PIPE: is not read"),
        ({"shards": []}, "names no shard"),
        ({"shards": "none/{0..3}.tar"}, "There is no shard at"),
        ({"shards": "x", "fields": {"lable": "cls"}}, "name lable"),
        ({"shards": "x", "fields": {"label": "pyd"}}, "fields names pyd"),
        ({"shards": "x", "fields": {"label": "json"}}, "fields names json: a field stands in json:NAME"),
        ({"shards": "x", "fields": {"label": "json:a..b"}}, "fields names json:a..b"),
        ({"shards": "x", "fields": {"label": "cls:a"}}, "fields names cls:a"),
        ({"shards": "x", "labels": {"a": 1}, "all_are": "fake"}, "labels does nothing beside all_are"),
        ({"shards": "x", "shard_pattern": "("}, "no regular expression"),
        ({"shards": "x", "split": "dev"}, "split is 'dev'"),
    ],
)
def test_options_that_cannot_be(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    with pytest.raises(DataError, match=message):
        ShardsSource(**json.loads(json.dumps(options).replace("{mark}", str(mark)))).records(tmp_path / "cache")
    assert not mark.exists()


def test_a_brace_bomb_is_refused(tmp_path):
    with pytest.raises(DataError, match="more than 100000 files"):
        ShardsSource("https://x.y/{0..99999999}.tar").records(tmp_path)
