"""SynRIS: pairs from lists and folders, every kind of hostile line, and the table of what is left."""

import csv
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.families import FamilyMap
from datamodules.sources import JoinedSource, ManifestSource, SynRISSource
from datamodules.sources.synris import survival_text
from datamodules.sources.synris.__main__ import main
from datamodules.sources.synris.groups import connected
from datamodules.sources.synris.lists import prompt_index
from datamodules.splits import check_leaks


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)


def listed(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")


def row(index, url):
    return {"prompt_index": index, "url": url}


@pytest.fixture
def tree(tmp_path):
    """Two generators. Of `dalle3` the pairs 1, 3 and 8 are left, of `sdxl` 1 and 2."""
    listed(
        tmp_path / "lists" / "dalle3.jsonl",
        [
            row(1, "https://a.example/1.jpg"),
            row(3, "https://a.example/3.jpg"),
            row(3, "NULL"),  # doubled
            row(4, "NULL"),
            row(5, ""),
            row(6, None),
            row(7, "https://dead.example/7.jpg"),  # was not fetched
            row("0008", "http://A.example/3.jpg#top"),  # the photograph of prompt 3
            row(9, "https://a.example/9.jpg"),  # its file is empty
            row(10, "https://a.example/10.jpg"),  # its fake is not there
            row(11, "n/a"),
            row(-1, "https://a.example/x.jpg"),
        ],
    )
    listed(tmp_path / "lists" / "sdxl.jsonl", [row(1, "https://b.example/1.jpg"), row(2, "https://a.example/9.jpg")])
    for index in (1, 3, 4, 5, 6, 7, 8, 9, 11):
        picture(tmp_path / "fakes" / "dalle3" / f"{index:05d}.png", index)
    picture(tmp_path / "fakes" / "dalle3" / "00020.png", 20)  # no line names it
    for index, name in ((1, "1.jpg"), (3, "part/003.webp"), (8, "8.png"), (10, "10.png"), (4, "4.png"), (30, "30.png")):
        picture(tmp_path / "reals" / "dalle3" / name, 100 + index)
    (tmp_path / "reals" / "dalle3" / "9.jpg").write_bytes(b"")
    (tmp_path / "reals" / "dalle3" / "notes.txt").write_text("no image")
    for index in (1, 2):
        picture(tmp_path / "fakes" / "sdxl" / f"{index}.png", 200 + index)
        picture(tmp_path / "reals" / "sdxl" / f"{index}.jpeg", 300 + index)
    return tmp_path


def source(tree, lists="lists", **options):
    return SynRISSource(str(tree / lists), str(tree / "reals"), str(tree / "fakes"), **options)


def read(given, tree):
    return given.records(tree / "cache")


def reasons(given):
    return {os.path.basename(failure.where): failure.reason for failure in given.failures}


def test_records(tree):
    records = read(source(tree), tree)
    found = {(record.dataset, record.label, record.pair) for record in records}
    pairs = ["dalle3/1", "dalle3/3", "dalle3/8", "sdxl/1", "sdxl/2"]
    assert found == {(f"synris/{pair.partition('/')[0]}", label, pair) for pair in pairs for label in (0, 1)}
    assert len(records) == 10
    for record in records:
        assert record.split == "test"
        assert record.generator == (record.pair.partition("/")[0] if record.label else "reverse-image-search")
        assert record.family == ("unknown" if record.label else "real")
        assert f"{os.sep}{'fakes' if record.label else 'reals'}{os.sep}" in record.path
        assert len(record.key) == 32
        assert int(os.path.splitext(os.path.basename(record.path))[0]) == int(record.pair.partition("/")[2])
    assert {record.family for record in FamilyMap.load(None).resolve(records)} == {"real", "commercial-unknown", "latent-diffusion"}
    assert check_leaks(records) == records


def test_prompts_and_photographs_are_groups(tree):
    groups = {record.pair: record.group for record in read(source(tree), tree)}
    assert groups["dalle3/1"] == groups["sdxl/1"]  # one prompt
    assert groups["dalle3/3"] == groups["dalle3/8"]  # one address, spelt in two ways
    assert len(set(groups.values())) == 3
    own = {record.pair: record.group for record in read(source(tree, shared_prompts=False), tree)}
    assert own["dalle3/1"] != own["sdxl/1"]
    assert own["dalle3/3"] == own["dalle3/8"]
    for record in read(source(tree), tree):  # both images of a pair are one group
        assert record.group == groups[record.pair]


def test_one_photograph_under_two_addresses_is_one_group(tree):
    os.replace(tree / "reals" / "sdxl" / "2.jpeg", tree / "spare.jpeg")
    (tree / "reals" / "sdxl" / "2.jpeg").write_bytes((tree / "reals" / "dalle3" / "1.jpg").read_bytes())
    records = read(source(tree), tree)
    groups = {record.pair: record.group for record in records}
    assert groups["sdxl/2"] == groups["dalle3/1"] == groups["sdxl/1"]
    assert sum("-" in record.key for record in records) == 1


def test_every_image_that_is_not_used_is_recorded(tree):
    given = source(tree)
    read(given, tree)
    found = reasons(given)
    assert "real image is not in" in found["00007.png"]
    assert "has no address" in found["00004.png"]
    assert "has no address" in found["00011.png"]
    assert "does not name its prompt" in found["00020.png"]
    assert found["9.jpg"] == "the file is empty"
    assert "cannot be read" in found["00009.png"]
    assert "generated image is not there" in found["10.png"]
    assert "does not name" in found["30.png"]
    assert "no address" in found["4.png"]
    assert "not a whole number" in found["dalle3.jsonl, line 12"]
    names = [os.path.basename(failure.where) for failure in given.failures]
    assert len(names) == len(set(names)) == 12


def test_survival_counts(tree):
    given = source(tree)
    first, second = given.survival(tree / "cache")
    assert (first.generator, first.lines, first.unusable, first.doubled, first.prompts) == ("dalle3", 12, 1, 1, 10)
    assert (first.with_url, first.without_url) == (6, 4)
    # Real images of 1, 3, 8 and 10 are there; 9 is empty, 7 was not fetched, 4 has no address. Of the fakes only that of 10 is missing.
    assert (first.reals, first.fakes, first.unreadable, first.pairs) == (4, 9, 1, 3)
    assert first.share == pytest.approx(0.3)
    assert (second.lines, second.prompts, second.pairs, second.share) == (2, 2, 2, 1.0)
    lines = survival_text([first, second]).splitlines()
    assert lines[-1].split() == ["all", "14", "1", "1", "12", "8", "4", "6", "11", "1", "5", "41.7%"]
    assert read(given, tree)
    assert given.survival() == [first, second]


def test_unmatched_fakes_where_they_are_asked_for(tree):
    given = source(tree, only_pairs=False)
    records = read(given, tree)
    alone = [record for record in records if record.pair is None]
    assert sorted(int(os.path.splitext(os.path.basename(record.path))[0]) for record in alone) == [4, 5, 6, 7, 9, 11, 20]
    assert {record.label for record in alone} == {1}
    assert len({record.group for record in alone}) == 7
    assert len(records) == 17
    assert "00020.png" not in reasons(given)


def test_a_single_list_and_the_log(tree, caplog):
    caplog.set_level("INFO")
    given = SynRISSource(str(tree / "lists" / "sdxl.jsonl"), str(tree / "reals"), str(tree / "fakes"), dataset="mine")
    assert {record.dataset for record in read(given, tree)} == {"mine/sdxl"}
    assert given.name == "mine-sdxl"
    assert "100.0%" in caplog.text


def test_within_a_joined_source(tree):
    (tree / "more").mkdir()
    picture(tree / "more" / "x.png", 7777)
    (tree / "more" / "manifest.csv").write_text("path,label\nx.png,0\n")
    joined = JoinedSource({"a": source(tree), "b": ManifestSource(str(tree / "more" / "manifest.csv"))})
    records = joined.records(tree / "cache")
    assert len(records) == 11
    counts = {}
    for record in records:
        counts[record.pair] = counts.get(record.pair, 0) + 1
    assert set(counts.values()) == {1, 2}


def test_an_unreadable_real_takes_its_fake_with_it(tree):
    (tree / "reals" / "sdxl" / "2.jpeg").unlink()
    (tree / "reals" / "sdxl" / "2.jpeg").symlink_to(tree / "nowhere")
    given = source(tree)
    assert not any(record.pair == "sdxl/2" for record in read(given, tree))
    assert (given.survival()[1].unreadable, given.survival()[1].pairs) == (1, 1)


def test_names_of_files(tree):
    (tree / "fakes" / "sdxl" / "1.png").rename(tree / "fakes" / "sdxl" / "image_1_v2.png")
    (tree / "fakes" / "sdxl" / "2.png").rename(tree / "fakes" / "sdxl" / "٢.png")  # digits, but not ours
    given = source(tree)
    assert not any(record.dataset == "synris/sdxl" for record in read(given, tree))
    assert "no prompt index" in reasons(given)["image_1_v2.png"]
    assert "no prompt index" in reasons(given)["٢.png"]
    named = SynRISSource(str(tree / "lists" / "sdxl.jsonl"), str(tree / "reals"), str(tree / "fakes"), stem=r"(?:image_)?(\d+)(?:_v2)?")
    assert {record.pair for record in read(named, tree)} == {"sdxl/1"}
    picture(tree / "fakes" / "sdxl" / "0001.jpg", 5)
    records = read(named, tree)
    assert [os.path.basename(record.path) for record in records if record.label] == ["0001.jpg"]
    assert "same prompt" in reasons(named)["image_1_v2.png"]
    for stem in ("(", r"\d+"):
        with pytest.raises(DataError, match="stem"):
            source(tree, stem=stem)


@pytest.mark.parametrize(
    "value",
    [
        "../x",
        "1/2",
        "",
        "x",
        "1.5",
        "-1",
        "²",
        "9" * 16,
        1.5,
        -1,
        float("nan"),
        float("inf"),
        10**15,
        10**400,
        True,
        None,
        [1],
        {"a": 1},
        "1e3",
    ],
)
def test_hostile_prompt_indices(tree, value):
    assert prompt_index(value) is None
    listed(tree / "lists" / "sdxl.jsonl", [row(1, "https://b.example/1.jpg"), json.dumps(row(value, "https://x.example/"))])
    given = source(tree)
    assert {record.pair for record in read(given, tree) if record.dataset == "synris/sdxl"} == {"sdxl/1"}
    assert given.survival()[1].unusable == 1
    assert "sdxl.jsonl, line 2" in reasons(given)


@pytest.mark.parametrize(("value", "index"), [(12, 12), (12.0, 12), ("0012", 12), (" 7 ", 7), (0, 0), ("0" * 15, 0)])
def test_prompt_indices(value, index):
    assert prompt_index(value) == index


@pytest.mark.parametrize("url", [5, ["https://x.example/1"], {"a": 1}, True, 1.5])
def test_an_address_that_is_no_text_is_recorded(tree, url):
    listed(tree / "lists" / "sdxl.jsonl", [row(1, url), row(2, "https://b.example/2.jpg")])
    given = source(tree)
    assert {record.pair for record in read(given, tree) if record.dataset == "synris/sdxl"} == {"sdxl/2"}
    assert "not text" in reasons(given)["sdxl.jsonl, line 1"]


@pytest.mark.parametrize("url", ["NaN", " null ", "None", "http://[broken", "file:///etc/passwd", "//", "\ud800", "javascript:alert(1)"])
def test_what_is_no_address_counts_as_none(tree, url):
    listed(tree / "lists" / "sdxl.jsonl", [row(1, url), row(2, "https://b.example/2.jpg")])
    given = source(tree)
    read(given, tree)
    assert (given.survival()[1].without_url, given.survival()[1].unusable, given.survival()[1].pairs) == (1, 0, 1)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'{"prompt_index": 1, "url": \n', "line 1"),
        (b'{"prompt_index": 1, "url": "https://b.example/1"}\n[1, 2]\n', "line 2"),
        (b'{"prompt_index": 1, "url": "https://b.example/1"}\n"text"\n', "line 2"),
        (b'{"prompt_index": 1, "url": "' + b"a" * 1_100_000 + b'"}\n', "line 1"),
        (b"[" * 100_000 + b"\n", "line 1"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "binary"),
        (gzip.compress(b'{"prompt_index": 1}\n', mtime=0), "binary"),
        (b'{"prompt_index": 1, "url": "\xff\xfe"}\n', "UTF-8"),
    ],
)
def test_hostile_files_are_errors_that_name_file_and_line(tree, content, word):
    (tree / "lists" / "sdxl.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=word) as caught:
        read(source(tree), tree)
    assert "sdxl.jsonl" in str(caught.value)


def test_places_that_are_not_what_they_should_be(tree):
    lists = tree / "lists"
    with pytest.raises(DataError, match="fakes is"):
        read(SynRISSource(str(lists), str(tree / "reals"), str(tree / "absent")), tree)
    with pytest.raises(DataError, match="no list of SynRIS"):
        read(source(tree, lists="fakes/sdxl/1.png"), tree)
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        read(source(tree, lists="absent.jsonl"), tree)
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match="No list lies in"):
        read(source(tree, lists="empty"), tree)
    listed(lists / "sdxl.ndjson", [row(1, "https://b.example/1")])
    with pytest.raises(DataError, match="two lists of sdxl"):
        read(source(tree), tree)
    (lists / "sdxl.ndjson").unlink()
    listed(lists / "...jsonl", [row(1, "https://b.example/1")])
    assert read(source(tree), tree)  # hidden: not read
    with pytest.raises(DataError, match="no generator"):
        read(source(tree, lists="lists/...jsonl"), tree)
    listed(lists / "kandinsky3.jsonl", [row(1, "https://b.example/1")])
    given = source(tree)
    assert read(given, tree)
    assert "no such folder" in reasons(given)["kandinsky3"]
    listed(tree / "one" / "kandinsky3.jsonl", [])
    with pytest.raises(DataError, match="No image is left"):
        read(source(tree, lists="one"), tree)


def test_connected():
    told = [("a", ["1"]), ("b", ["2"]), ("c", ["2", "3"]), ("d", []), ("e", ["3", "1"]), ("b", ["9"]), ("f", ["9"])]
    assert connected(told) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "a", "f": "a"}
    assert connected([]) == {}


def test_connected_is_that_of_scipy():
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(0)
    names, marks = rng.integers(0, 60, 70), rng.integers(0, 50, 70)
    found = connected((str(name), [str(mark)]) for name, mark in zip(names, marks, strict=True))
    _, labels = connected_components(coo_array((np.ones(70), (names, 60 + marks)), shape=(110, 110)), directed=False)
    for left in set(names):
        for right in set(names):
            assert (found[str(left)] == found[str(right)]) == (labels[left] == labels[right])


def test_command(tree, capsys):
    arguments = [str(tree / "lists"), "--reals", str(tree / "reals"), "--fakes", str(tree / "fakes"), "--cache_dir", str(tree / "cache")]
    assert main([*arguments, "--out", str(tree / "out")]) == 0
    shown = capsys.readouterr().out
    assert "41.7%" in shown
    assert "12 files, folders or lines are left out" in shown
    with (tree / "out" / "survival.csv").open() as file:
        rows = {line["generator"]: line for line in csv.DictReader(file)}
    assert rows["all"]["pairs"] == "5"
    assert float(rows["dalle3"]["share"]) == 0.3


def test_command_as_a_process_gives_a_sentence_for_an_error(tree):
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "datamodules.sources.synris",
        str(tree / "nothing.jsonl"),
        "--reals",
        "a",
        "--fakes",
        "b",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
