"""What is made of a list: whole groups or single images, captions, SynRIS, LAION, ELSA_D3; and that the numbers add up."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from benchmarks.lying_server import ARRIVES, LIES, picture
from datamodules.download.__main__ import main
from datamodules.download.lists import Form, ImageColumn, UrlList
from datamodules.download.outcomes import FAILURES
from datamodules.records import MISSING
from datamodules.sources import ManifestSource
from datamodules.sources.synris import SynRISSource
from tests.datamodules.download.conftest import LOCAL, rows_of


def cohort(folder, **wanted):
    (row,) = [row for row in rows_of(folder / "survival.csv") if all(row[name] == value for name, value in wanted.items())]
    return {name: int(value) if value.isdigit() else value for name, value in row.items()}


@pytest.fixture
def grouped(server):
    """Three groups over the whole list: whole; one image dead; one without an address. And two images by themselves."""
    rows = []
    for name, kinds in {"a": ("good", "moved"), "b": ("good", "missing"), "c": ("good", "")}.items():
        for number, kind in enumerate(kinds):
            url = f"{server.root}/{kind}/{ord(name)}{number}" if kind else "NULL"
            rows.append(
                {"url": url, "label": "fake", "generator": f"g{number}", "group": name, "caption": f'a "{name}",\nline', "split": "valid"}
            )
    alone = {"label": "real", "generator": "laion", "group": "", "caption": "", "split": ""}
    rows += [{"url": f"{server.root}/good/1"} | alone, {"url": f"{server.root}/page/1"} | alone]
    return sorted(rows, key=lambda row: (row["generator"], row["url"]))  # a group's images do not stand together


@pytest.mark.parametrize(("keep", "groups", "kept"), [("images", ["a", "a", "b", "c", ""], 5), ("groups", ["a", "a", ""], 3)])
def test_groups_or_images(grouped, fetch, tmp_path, keep, groups, kept):
    assert fetch(grouped, "--keep", keep) == 3
    manifest = rows_of(tmp_path / "out/manifest.csv")
    assert sorted(row["group"] for row in manifest) == sorted(groups)
    assert len(rows_of(tmp_path / "out/skipped.csv")) == 8 - kept
    assert sum(int(row["kept"]) for row in rows_of(tmp_path / "out/survival.csv")) == kept
    first = cohort(tmp_path / "out", generator="g0")
    assert (first["listed"], first["arrived"], first["groups"], first["groups_whole"]) == (3, 3, 3, 1)
    laion = cohort(tmp_path / "out", generator="laion")
    assert (laion["label"], laion["not_image"], laion["groups"], laion["groups_whole"]) == (0, 1, 2, 1)
    records = ManifestSource(str(tmp_path / "out/manifest.csv")).records(tmp_path / "cache")
    assert len(records) == kept
    one = next(record for record in records if record.group == "a")
    assert (one.label, one.caption, one.split, one.dataset) == (1, 'a "a",\nline', "val", "list")


def test_why_a_group_is_left_out(grouped, fetch, tmp_path):
    fetch(grouped, "--keep", "groups")
    reasons = {row["reason"] for row in rows_of(tmp_path / "out/skipped.csv") if row["status"] == "arrived"}
    assert reasons == {"its group is not whole: 1 of its images did not arrive"}


def test_the_numbers_add_up(server, fetch, tmp_path):
    rows = [
        {"url": f"{server.root}/{kind}/{i}", "label": 1, "generator": f"g{i}", "split": ""} for kind in (*ARRIVES, *LIES) for i in range(3)
    ]
    rows += [{"url": "", "label": 1, "generator": "g1", "split": ""}, {"url": "file:///a", "label": 1, "generator": "g1", "split": ""}]
    rows += [{"url": f"{server.root}/good/77", "label": 1, "generator": "g1", "split": "lunch"}]
    fetch(rows, "--deadline", "10", "--per_host", "64", "--max_megabytes", "1")
    table = rows_of(tmp_path / "out/survival.csv")
    for row in table:
        parts = ("unusable", "without_url", *FAILURES, "pending", "arrived")
        assert int(row["listed"]) == sum(int(row[part]) for part in parts)
    assert sum(int(row["listed"]) for row in table) == len(rows)
    truth = {status: 3 * sum(told == status for told, _ in LIES.values()) for status in FAILURES}
    truth["refused"] += 1
    assert {status: sum(int(row[status]) for row in table) for status in FAILURES} == truth
    assert sum(int(row["arrived"]) for row in table) == 3 * len(ARRIVES) == len(rows_of(tmp_path / "out/manifest.csv"))
    assert len(rows_of(tmp_path / "out/skipped.csv")) == len(rows) - 3 * len(ARRIVES)
    assert "/good/77" not in server.asked  # what the list says of it cannot be used


def test_laion(server, tmp_path):
    pd.DataFrame(
        {"URL": [f"{server.root}/good/{i}" for i in range(3)] + [None], "TEXT": ["a", "b", None, "d"], "WIDTH": [1, 2, 3, 4]}
    ).to_parquet(tmp_path / "part.parquet")
    options = ["--set", "label=real", "generator=laion", "dataset=laion"]
    assert main([str(tmp_path / "part.parquet"), "--output", str(tmp_path / "out"), *LOCAL, *options]) == 3
    records = ManifestSource(str(tmp_path / "out/manifest.csv")).records(tmp_path / "cache")
    assert [(record.label, record.generator, record.dataset, record.caption) for record in records] == [
        (0, "laion", "laion", text) for text in ("a", "b", None)
    ]


def test_a_folder_of_lists(server, tmp_path):
    (tmp_path / "lists").mkdir()
    for i in range(2):
        (tmp_path / f"lists/{i}.jsonl").write_text(json.dumps({"address": f"{server.root}/good/{i}", "label": 1, "says": "x"}) + "\n")
    options = ["--url", "address", "--columns", "caption=says"]
    assert main([str(tmp_path / "lists"), "--output", str(tmp_path / "out"), *LOCAL, *options]) == 0
    assert [(row["dataset"], row["caption"]) for row in rows_of(tmp_path / "out/manifest.csv")] == [("0", "x"), ("1", "x")]


@pytest.mark.parametrize(("keep", "kept"), [("images", 5), ("groups", 3)])
def test_elsa(server, tmp_path, keep, kept):
    """Rows of a real image and two fakes: one row arrives as a whole, of another one fake is dead."""
    rows = [
        {"id": str(i), "url": f"{server.root}/good/{i}0", "image_gen0": f"{server.root}/good/{i}1", "model_gen0": "sd-1.4"}
        | {"image_gen1": f"{server.root}/{'missing' if i else 'good'}/{i}2", "model_gen1": "df-if"}
        for i in range(2)
    ]
    (tmp_path / "elsa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = ["--image", "url:real:laion", "image_gen0:fake:@model_gen0", "image_gen1:fake:@model_gen1", "--columns", "group=id"]
    assert main([str(tmp_path / "elsa.jsonl"), "--output", str(tmp_path / "out"), *LOCAL, *images, "--keep", keep]) == 3
    records = ManifestSource(str(tmp_path / "out/manifest.csv")).records(tmp_path / "cache")
    assert len(records) == kept
    assert [(r.label, r.generator, r.group, r.pair) for r in records[:3]] == [
        (0, "laion", "0", "0"),
        (1, "sd-1.4", "0", "0"),
        (1, "df-if", "0", "0"),
    ]
    assert (cohort(tmp_path / "out", generator="df-if")["groups"], cohort(tmp_path / "out", generator="df-if")["groups_whole"]) == (2, 1)


def test_rows_without_a_group_are_one(tmp_path):
    (tmp_path / "a.csv").write_text("real,fake\nhttp://a.com/1,http://a.com/2\nhttp://a.com/3,NULL\n")
    form = Form(images=(ImageColumn("real", "real"), ImageColumn("fake", "fake", "sd")))
    first, second, third, fourth = UrlList(tmp_path / "a.csv", form).listings()
    assert first.cells["group"] == second.cells["group"] != third.cells["group"] == fourth.cells["group"]
    assert [listing.cells["generator"] for listing in (first, second)] == ["real", "sd"]
    assert fourth.url == ""
    assert first.cells["pair"] == first.cells["group"]
    assert third.cells["pair"] is None, "there is no fake beside it"


def test_words_that_stand_for_nothing(tmp_path):
    """In every column they are the same ones: a caption that says NULL is none, and LAION's text is taken."""
    (tmp_path / "a.csv").write_text("url,label,caption,text,dataset\n" + "".join(f"<NA>,1,{word},a cat,NaN\n" for word in MISSING))
    for listing in UrlList(tmp_path / "a.csv", Form()).listings():
        assert (listing.url, listing.cells["caption"], listing.cells["dataset"]) == ("", "a cat", "a")


def test_synris(server, tmp_path):
    """What arrives lies where SynRISSource finds it; prompts that share a photograph share its bytes; a second address helps."""
    lists, fakes = tmp_path / "lists", tmp_path / "fakes"
    (lists).mkdir()
    urls = {"dalle3": ["/good/1", "NULL", "/missing/2", "/double/3"], "sdxl": ["/double/4", "/good/5"]}
    for generator, paths in urls.items():
        (fakes / generator).mkdir(parents=True)
        rows = [{"prompt_index": i, "url": path if path == "NULL" else server.root + path} for i, path in enumerate(paths)]
        rows += (
            [{"prompt_index": 2, "url": f"{server.root}/good/22"}]
            if generator == "dalle3"
            else [{"prompt_index": "x", "url": "http://a/b"}]
        )
        (lists / f"{generator}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for i in range(len(paths)):
            (fakes / generator / f"{i:05}.png").write_bytes(picture(1000 * len(generator) + i, "PNG"))
    output = tmp_path / "out"
    assert main([str(lists), "--output", str(output), *LOCAL]) == 3
    reals = output / "reals"
    assert sorted(path.name for path in (reals / "dalle3").iterdir()) == ["00000.jpg", "00002.jpg", "00003.jpg"]
    assert (reals / "dalle3/00002.jpg").read_bytes() == picture(22)
    assert (reals / "dalle3/00003.jpg").samefile(reals / "sdxl/00000.jpg")
    source = SynRISSource(str(lists), reals=str(reals), fakes=str(fakes))
    records = source.records(tmp_path / "cache")
    assert sorted(record.pair for record in records if record.label == 0) == ["dalle3/0", "dalle3/2", "dalle3/3", "sdxl/0", "sdxl/1"]
    assert len(records) == 10
    manifest = ManifestSource(str(output / "manifest.csv")).records(tmp_path / "cache")
    assert {record.pair for record in manifest} == {record.pair for record in records}
    table = cohort(output, dataset="synris/dalle3", label="0")
    assert (table["listed"], table["without_url"], table["dead"], table["arrived"], table["groups"], table["groups_whole"]) == (
        5,
        1,
        1,
        3,
        4,
        3,
    )
    asked = sum(server.asked.values())
    assert main([str(lists), "--output", str(output), *LOCAL]) == 3
    assert sum(server.asked.values()) == asked


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("url,generator\nhttp://a.com/1,x\n", [], "label"),
        ("address,label\nhttp://a.com/1,1\n", [], "url"),
        ("url,label\nhttp://a.com/1,1\n", ["--columns", "caption=nothing"], "nothing"),
        ("url,label\n", [], "no image is left"),
        ("url,label\nhttp://10.0.0.1/1.jpg,1\n", [], "no image is left"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, options, told):
    (tmp_path / "list.csv").write_text(text)
    command = [sys.executable, "-m", "datamodules.download", str(tmp_path / "list.csv"), "--output", str(tmp_path / "out"), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert told in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--set", "colour=red"],
        ["--set", "label"],
        ["--image", "url:maybe"],
        ["--ports", "http"],
        ["--ports", "0"],
        ["--concurrency", "0"],
        ["--deadline", "nan"],
        ["--tries", "1.5"],
        ["--keep", "some"],
    ],
)
def test_wrong_usage(tmp_path, options):
    (tmp_path / "list.csv").write_text("url,label\nhttp://a.com/1,1\n")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "list.csv"), "--output", str(tmp_path / "out"), *options])
    assert ended.value.code == 2


def test_names_from_a_list_stay_in_the_folder(server, fetch, tmp_path):
    rows = [{"url": f"{server.root}/good/1", "label": 1, "generator": "../../evil", "dataset": "/etc", "group": "..\\x"}]
    assert fetch(rows) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"list.csv", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"images", "manifest.csv", "skipped.csv", "survival.csv", "journal.txt"}


def test_memory_does_not_grow_with_the_list(tmp_path):
    """A list of 15,000 addresses that are decided without the network costs little more than one of 2,000."""
    peaks = []
    for number in (2_000, 15_000):
        table = tmp_path / f"{number}.csv"
        table.write_text("url,label,group\n" + "".join(f"ftp://host{i}.example/{i},1,g{i // 2}\n" for i in range(number)))
        code = (
            "from benchmarks.scale import Memory; from datamodules.download.__main__ import main; memory = Memory(); "
            f"main([{str(table)!r}, '--output', {str(tmp_path / str(number))!r}]); "
            "print(memory.peak())"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
        peaks.append(int(run.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 8e6, peaks  # bytes
    assert len(rows_of(tmp_path / "15000/skipped.csv")) == 15_000
