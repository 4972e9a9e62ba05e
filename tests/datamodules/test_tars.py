"""ShardsSource: shards as webdataset and img2dataset write them, at paths and at addresses; row 12, 15 and 19 on images."""

import gzip
import http.server
import io
import json
import os
import pickle
import socket
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from datamodules.errors import DataError
from datamodules.sources import ShardsSource
from datamodules.sources.tars import archive, fetch, samples
from datamodules.sources.tars import source as module
from datamodules.sources.tars.fetch import Access, FetchError, checked_host, shown
from tests.evil import Evil


def picture(seed, form="PNG", side=24):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def img2dataset(path, seeds, **more):
    """A shard as img2dataset writes it: `.jpg`, `.txt` and an indented `.json`, the table and the statistics beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for seed in seeds:
            told = {"key": f"{seed:09d}", "url": f"http://x.y/{seed}", "caption": f"caption {seed}", "status": "success", "label": seed % 2}
            told |= {"width": 24, "height": 24, "original_width": 640, "original_height": 480, "exif": "{}", "model": f"m{seed % 3}"} | more
            sample = {"__key__": f"{seed:09d}", "jpg": picture(seed, "JPEG"), "txt": f"caption {seed}", "json": json.dumps(told, indent=4)}
            writer.write(sample)
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    path.with_name(f"{path.stem}_stats.json").write_text("{}")
    return path


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def by_hand(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


IMG2DATASET = {"fields": {"label": "json:label", "generator": "json:model"}}


def contents(records):
    return [Path(record.path).read_bytes() for record in records]


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


GOOD = [member("good.png", picture(0)), member("good.cls", b"1")]


def hostile(mark):
    attack = pickle.dumps(Evil(mark))
    return {
        "pickles": ([member(f"x.{suffix}", attack) for suffix in ("pyd", "pickle", "pth", "pkl", "npy")], ""),
        "pickle named png": ([member("x.png", attack), member("x.cls", b"1")], "none of JPEG"),
        "pickle named json": ([member("x.json", attack), member("x.png", picture(1))], "its JSON cannot be read"),
        "parent": ([member("../mark/x.png", picture(1))], "leads out"),
        "absolute": ([member(f"{mark}/x.png", picture(1))], "leads out"),
        "symlink": ([member("x.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "a link"),
        "hard link": ([member("x.png", type=tarfile.LNKTYPE, linkname="good.png")], "a link"),
        "device": ([member("x.png", type=tarfile.CHRTYPE)], "something else"),
        "pipe": ([member("x.png", type=tarfile.FIFOTYPE)], "something else"),
        "sparse": ([member("x.png", picture(1), pax_headers={"GNU.sparse.major": "1"})], "something else"),
        "twice": ([member("good.png", picture(1))], "two members of this name"),
        "long name": ([member("d/" * 600 + "x.png", picture(1))], "its name has"),
        "large class": ([member("x.cls", b"1" * 2000), member("x.png", picture(1))], "the limit is 1000"),
        "deep json": ([member("x.json", b"[" * 100_000), member("x.png", picture(1))], "its JSON cannot be read"),
        "command": ([member(f"pipe:mkdir {mark}.png", picture(1))], "it has no label"),
    }


@pytest.mark.parametrize("kind", hostile(Path("/nowhere")))
def test_row_19_members(tmp_path, kind):
    mark = tmp_path / "mark"
    members, reason = hostile(mark)[kind]
    source = ShardsSource(str(by_hand(tmp_path / "set" / "x.tar", [*GOOD, *members])))
    assert contents(source.records(tmp_path / "cache")) == [picture(0)]
    assert not mark.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"set", "cache"}
    assert any(reason in failure.reason for failure in source.failures) or (reason == "" and not source.failures)


def test_row_19_json_that_cannot_be_read_is_recorded(tmp_path):
    for number, broken in enumerate([b"{", b"[" * 100_000, b"\xff\xfe", b'{"label": {"a": 1}}', b'"text"', b'{"label": "\\ud800"}']):
        by_hand(tmp_path / f"{number}.tar", [member("x.png", picture(number)), member("x.json", broken)])
    by_hand(tmp_path / "z.tar", [member("x.png", picture(9)), member("x.json", b'{"label": 1, "prompt": "a\\ud800b"}')])
    source = ShardsSource(str(tmp_path), fields={"label": "json:label", "caption": "json:prompt"}, labels={"1": 1, "?": None})
    [record] = source.records(tmp_path / "cache")
    assert record.caption == "a?b"
    assert len(source.failures) == 5
    assert all(".tar: x.png" in failure.where for failure in source.failures)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_row_19_compressed_shards_are_not_read(tmp_path, suffix):
    with tarfile.open(tmp_path / "x.tar", f"w:{suffix}") as tar:
        tar.addfile(GOOD[0][0], io.BytesIO(GOOD[0][1]))
    with pytest.raises(DataError, match="it is compressed"):
        ShardsSource(str(tmp_path), all_are="fake").records(tmp_path / "cache")


def test_row_19_a_gzip_bomb_is_not_opened(tmp_path):
    with gzip.open(tmp_path / "x.tar", "wb", compresslevel=9) as file:
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(DataError, match="compressed"):
        ShardsSource(str(tmp_path), all_are="fake").records(tmp_path / "cache")


def test_row_19_a_header_of_gigabytes_reads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_PIECE", 1 << 22)
    shard = by_hand(tmp_path / "x.tar", GOOD)
    info = tarfile.TarInfo("x.png")
    info.size = 2**30
    shard.write_bytes(shard.read_bytes()[:-10240].rstrip(b"\0") + b"")
    by_hand(shard, GOOD)
    content = shard.read_bytes()
    end = next(i for i in range(0, len(content), 512) if not content[i : i + 1024].strip(b"\0"))
    shard.write_bytes(content[:end] + info.tobuf(tarfile.USTAR_FORMAT))
    os.truncate(shard, end + 512 + 2**30 + 1024)  # sparse: it takes no disk
    source = ShardsSource(str(shard))
    assert len(source.records(tmp_path / "cache")) == 1
    assert [failure.reason for failure in source.failures] == [f"it has {2**30} bytes, the limit is 200000000"]


@pytest.mark.parametrize(
    "header",
    [
        member("x" * 200, pax_headers={"path": "y" * 70_000}),
        member("x.png", pax_headers={"size": "-5"}),
        member("x.png", pax_headers={"size": "9" * 30}),
    ],
    ids=["long", "negative", "huge"],
)
def test_row_19_extended_headers(tmp_path, header):
    shard = by_hand(tmp_path / "x.tar", [*GOOD, member("last.png", picture(1)), header])
    source = ShardsSource(str(shard))
    assert len(source.records(tmp_path / "cache")) == 1
    assert "extended header" in source.failures[0].reason


def test_a_sample_is_held_within_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_SAMPLE", 5000)
    by_hand(tmp_path / "x.tar", [member(f"x.{i}.png", picture(i)) for i in range(5)])
    source = ShardsSource(str(tmp_path), all_are="fake")
    assert len(source.records(tmp_path / "cache")) == 2
    assert {failure.reason for failure in source.failures} == {"its sample has more than 5000 bytes"}


@pytest.mark.parametrize("cut", range(0, 15_000, 509))
def test_row_15_a_cut_shard(tmp_path, cut):
    """Wherever it is cut, what is whole before is used, and the damage stands in the failures; never silence."""
    whole = img2dataset(tmp_path / "whole.tar", range(4)).read_bytes()
    starts = [at for at in range(0, len(whole), 512) if whole[at : at + 13] in {b"00000000%d.jpg" % i for i in range(4)}]
    assert len(starts) == 4
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.tar").write_bytes(whole[:cut])
    img2dataset(tmp_path / "set" / "1.tar", [8, 9])
    source = ShardsSource(str(tmp_path / "set"), **IMG2DATASET)
    records = source.records(tmp_path / "cache")
    sound = max(sum(start + 512 <= cut for start in starts) - 1, 0)  # a sample is whole when the next one begins
    assert contents(records) == [picture(seed, "JPEG") for seed in [*range(sound), 8, 9]]
    assert source.failures[0].where.endswith("0.tar")
    assert source.failures[0].reason.endswith(f"{sound} images before it are used")
    again = ShardsSource(str(tmp_path / "set"), **IMG2DATASET)
    again.records(tmp_path / "cache")
    assert again.failures == source.failures, "remembered"
    with pytest.raises(DataError, match=r"0.tar is damaged: .* Fetch or write it again"):
        ShardsSource(str(tmp_path / "set"), **IMG2DATASET, on_damage="error").records(tmp_path / "cache")


def test_row_15_a_flipped_header(tmp_path):
    shard = img2dataset(tmp_path / "0.tar", range(4))
    content = bytearray(shard.read_bytes())
    third = content.index(b"000000002.jpg")
    content[third + 150] ^= 0xFF
    shard.write_bytes(bytes(content))
    source = ShardsSource(str(shard), **IMG2DATASET)
    assert contents(source.records(tmp_path / "cache")) == [picture(0, "JPEG")]
    assert "no whole member at byte" in source.failures[0].reason


def test_what_is_no_shard(tmp_path):
    for name, content in {"html": b"<html>" * 500, "empty": b"", "short": b"x" * 100}.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
    source = ShardsSource(str(tmp_path), all_are="fake")
    with pytest.raises(DataError, match="No image is left"):
        source.records(tmp_path / "cache")
    assert [failure.reason.partition(";")[0] for failure in source.failures] == ["it is empty", "it is no tar file", "it is no tar file"]


def test_broken_images_and_odd_labels(tmp_path):
    members = [member("a.png", picture(0)[:150]), member("a.cls", b"1"), member("b.png", picture(1)), member("b.cls", b"207")]
    by_hand(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match="nothing says whether the label '207'"):
        ShardsSource(str(tmp_path)).records(tmp_path / "cache")
    source = ShardsSource(str(tmp_path), labels={"1": 1, "*": 0})
    assert [record.label for record in source.records(tmp_path / "cache")] == [0]
    assert "damaged, cut short" in source.failures[0].reason


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


class Handler(http.server.BaseHTTPRequestHandler):
    """Shards of a folder, and what servers do that should not."""

    folder = Path()
    asked: list[str] = []  # noqa: RUF012
    broken = 0

    def do_GET(self):
        type(self).asked.append(self.path)
        kind, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", f"/{name}")
            self.end_headers()
        elif kind == "loop":
            self.send_response(302)
            self.send_header("Location", "/loop/")
            self.end_headers()
        elif kind == "inside":
            self.send_response(302)
            self.send_header("Location", "https://metadata.internal/latest")
            self.end_headers()
        elif kind == "down":
            self.send_error(503)
        else:
            self.shard(kind, name)

    def shard(self, kind, name):
        try:
            content = (self.folder / name).read_bytes()
        except OSError:
            return self.send_error(404)
        self.send_response(200)
        if kind != "endless":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if kind == "breaks" and type(self).broken < 2:
            type(self).broken += 1
            self.wfile.write(content[: len(content) // 2])
        elif kind == "drip":
            for position in range(len(content)):
                self.wfile.write(content[position : position + 1])
                self.wfile.flush()
                threading.Event().wait(0.01)
        else:
            self.wfile.write(content)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    served = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Own", (Handler,), {"folder": tmp_path / "served", "asked": [], "broken": 0})
    )
    for number in range(3):
        img2dataset(tmp_path / "served" / f"{number:05d}.tar", range(4 * number, 4 * number + 4))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}", served.RequestHandlerClass
    served.shutdown()
    served.server_close()
    thread.join()


LOCAL = {"allow_http": True, "allow_private": True}


def test_shards_at_addresses(tmp_path, server):
    address, handler = server
    source = ShardsSource(f"{address}/set/{{00000..00002}}.tar?token=secret", **IMG2DATASET, **LOCAL)
    records = source.records(tmp_path / "cache")
    assert contents(records) == [picture(seed, "JPEG") for seed in range(12)]
    assert (records[0].dataset, len(handler.asked)) == ("set", 3)
    assert source.records(tmp_path / "cache") == records
    assert len(handler.asked) == 3, "nothing is fetched again"
    assert "secret" not in (source.folder(tmp_path / "cache") / "journal.txt").read_text()
    assert "secret" not in source.location


def test_an_address_that_redirects_and_a_transfer_that_breaks(tmp_path, server):
    address, handler = server
    assert len(ShardsSource(f"{address}/redirect/set/00000.tar", **IMG2DATASET, **LOCAL).records(tmp_path / "a")) == 4
    records = ShardsSource(f"{address}/breaks/00000.tar", **IMG2DATASET, **LOCAL).records(tmp_path / "b")
    assert contents(records) == [picture(seed, "JPEG") for seed in range(4)]
    assert handler.broken == 2


def test_shards_that_cannot_be_fetched_are_an_error_after_the_others(tmp_path, server):
    address, handler = server
    places = [f"{address}/{name}" for name in ("set/00009.tar?token=secret", "set/00001.tar", "down/x.tar", "set/00002.tar")]
    with pytest.raises(DataError, match=r"2 of 4 shards cannot be fetched; the first: .*00009.tar cannot be fetched: .* 404") as raised:
        ShardsSource(places, **IMG2DATASET, **LOCAL).records(tmp_path / "cache")
    assert "secret" not in str(raised.value)
    assert [path.partition("?")[0] for path in handler.asked] == [
        "/set/00009.tar",
        "/set/00001.tar",
        *["/down/x.tar"] * 3,
        "/set/00002.tar",
    ]
    handler.asked.clear()
    assert len(ShardsSource([places[1], places[3]], **IMG2DATASET, **LOCAL).records(tmp_path / "cache")) == 8
    assert handler.asked == [], "they were complete"


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("loop/", {}, "redirects more than"),
        ("inside/", {}, "is not found|a test tried to look up metadata"),
        ("set/00000.tar", {"max_shard_bytes": 5000}, "bytes, the limit is 5000"),
        ("endless/00000.tar", {"max_shard_bytes": 5000}, "more than 5000 bytes"),
        ("drip/00000.tar", {"shard_timeout": 0.2}, "took longer than 0.2 seconds"),
    ],
)
def test_servers_that_should_not_be_read(tmp_path, server, monkeypatch, path, options, message):
    address, _ = server
    resolve = socket.getaddrinfo

    def resolved(host, *args, **kwargs):
        if host == "metadata.internal":
            raise socket.gaierror("no such name")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with pytest.raises(DataError, match=message):
        ShardsSource(f"{address}/{path}", **IMG2DATASET, **LOCAL, **options).records(tmp_path / "cache")


def test_addresses_need_leave(tmp_path, server):
    address, handler = server
    with pytest.raises(DataError, match="only https is read"):
        ShardsSource(f"{address}/set/00000.tar", all_are="fake", allow_private=True).records(tmp_path / "cache")
    with pytest.raises(DataError, match=r"private address 127.0.0.1: it is read only where allow_private"):
        ShardsSource(f"{address}/set/00000.tar", all_are="fake", allow_http=True).records(tmp_path / "cache")
    assert handler.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "127.0.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
        "2002:0a00:0001::",
    ],
)
def test_private_addresses(monkeypatch, address):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in ("8.8.8.8", address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(FetchError, match="private address"):
        checked_host("https", "shards.example", None, Access())
    assert checked_host("https", "shards.example", None, Access(allow_private=True)) == "8.8.8.8"
    found.pop()
    assert checked_host("https", "shards.example", None, Access()) == "8.8.8.8"


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch, server):
    """A name that resolves to something else the second time (DNS rebinding)."""
    address, handler = server
    port = int(address.rpartition(":")[2])
    asked = []

    def resolved(host, *_, **__):
        asked.append(host)
        assert len(asked) == 1, "the name is looked up once"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(
        fetch.socket, "getaddrinfo", lambda host, *a, **k: resolved(host) if host == "shards.example" else [(2, 1, 6, "", (host, port))]
    )
    with fetch.opened(f"http://shards.example:{port}/set/00000.tar", Access(allow_http=True, allow_private=True)) as stream:
        assert len(stream.read(512)) == 512
    assert asked.count("shards.example") == 1, "the name is looked up once"
    assert handler.asked == ["/set/00000.tar"]


def test_secrets_are_not_shown():
    assert shown("https://user:password@x.y:8/a.tar?sig=1#z") == "https://x.y:8/a.tar"
    assert shown("/a/b.tar") == "/a/b.tar"
