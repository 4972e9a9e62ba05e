"""Rows 15 and 19 on shards of images: a shard from a stranger, or a damaged one."""

import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.sources import ShardsSource
from datamodules.sources.tars import archive, samples
from tests.datamodules.tars import IMG2DATASET, by_hand, contents, img2dataset, member, picture
from tests.evil import Evil

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
