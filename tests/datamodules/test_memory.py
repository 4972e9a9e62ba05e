"""What a record costs in memory must stay small: see docs/scaling.md for all of it as measured."""

import tracemalloc

import numpy as np
import pytest

from datamodules import hashing
from datamodules.duplicates import PerceptualHashes, near_duplicates
from datamodules.facts import Facts
from datamodules.hashing import ContentHashes
from datamodules.records import Record
from datamodules.sources import ManifestSource
from datamodules.splits import check_leaks


def records(count):
    splits = ("train", "train", "val", "test")
    return [Record(f"{i:032x}", i % 2, "d", "g", path=f"/{i}.png", split=splits[i % 4], group=f"{i:032x}") for i in range(count)]


def peak(function):
    """Bytes that a call takes at most above what was there before."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_names_are_one_object_for_all_rows(tmp_path):
    (tmp_path / "manifest.csv").write_text(
        "path,label,dataset,generator\n" + "\n".join(f"{i}.png,1,some set,a generator" for i in range(3))
    )
    first, second, _ = ManifestSource(str(tmp_path / "manifest.csv")).entries(tmp_path)
    assert first.generator is second.generator
    assert first.dataset is second.dataset
    assert first.family is second.family


def test_near_duplicates_take_little_memory_an_image():
    """They took 1.5: the bands of all hashes at once, as numbers of 64 bits."""
    found = records(20_000)
    drawn = np.random.default_rng(0).bytes(80 * len(found))
    hashes = {record.key: drawn[80 * i : 80 * i + 80].hex() for i, record in enumerate(found)}
    few = {record.key: hashes[record.key] for record in found[:4000]}
    growth = peak(lambda: near_duplicates(hashes, found)) - peak(lambda: near_duplicates(few, found[:4000]))
    assert growth / 16_000 < 700


def test_leaks_take_little_memory_an_image():
    """They took 277 bytes: a dictionary for every content."""
    found = records(20_000)
    assert peak(lambda: check_leaks(found)) / len(found) < 180


@pytest.mark.parametrize("own", [1, 50])
def test_what_a_memo_remembers_of_other_files_is_not_parsed(tmp_path, monkeypatch, own):
    """A cache remembers all data sets, a run asks for one."""
    files = [tmp_path / f"file-{i}" for i in range(200)]
    for file in files:
        file.write_text(file.name)
        hashing.os.utime(file, (1, 1))
    hashes = ContentHashes(tmp_path / "memo")
    expected = hashes.hash_files(files)
    parsed = []
    known = hashing.json.loads
    monkeypatch.setattr(hashing.json, "loads", lambda text: parsed.append(text) or known(text))
    monkeypatch.setattr(hashing, "_hash_one", lambda name: pytest.fail(f"{name} is hashed again"))
    assert hashes.hash_files(files[:own]) == expected[:own]
    assert len(parsed) == own


def test_facts_of_many_images_share_their_names(tmp_path):
    facts = {"fact_width": 8, "fact_height": 8, "fact_aspect": 1.0, "fact_red": 1.0, "fact_green": 1.0, "fact_blue": 1.0}
    whole = facts | {"fact_format": "PNG", "fact_bytes": 70, "fact_bits_per_pixel": 8.75}
    found = records(2)
    remembered = Facts(tmp_path)
    remembered.remember({(record.key, "none"): whole for record in found})
    first, second = Facts(tmp_path).of(found).values()
    assert first == second == whole
    assert all(mine is theirs for mine, theirs in zip(first, second, strict=True))


def test_looks_of_other_data_sets_are_not_kept(tmp_path, monkeypatch):
    found = records(4)
    looks = PerceptualHashes(tmp_path)
    looks.remember({record.key: "" for record in found})
    loaded = []
    load = looks._memo.load
    monkeypatch.setattr(looks._memo, "load", lambda *wanted: loaded.append(load(*wanted)) or loaded[-1])
    assert looks.of(found[:1]) == {found[0].key: ""}
    assert [len(values) for values in loaded] == [1]
