"""HubSource, by the real library in streaming mode on local data sets: conftest's guard refuses the network."""

import re
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.sources import HubSource
from datamodules.sources.hub import fetching, stream
from datamodules.sources.hub.choice import Choice
from datamodules.sources.hub.fetching import is_wanted
from tests.datamodules.hub import GENERATORS, contents, datasets, kept, png, source, table


def test_records_of_parquet_files(hub, tmp_path):
    found = source(hub)
    records = found.records(tmp_path / "cache")
    assert [record.split for record in records] == ["train"] * 12 + ["test"] * 6
    assert contents(records) == [png(seed) for seed in range(18)], "the very bytes, in the order of the rows"
    assert [record.label for record in records] == [0, 1, 1] * 6
    assert [record.generator for record in records[:3]] == ["real", "sdxl", "flux"]
    assert [record.family for record in records[:2]] == ["real", "unknown"]
    assert (records[4].caption, records[4].caption_source, records[4].group) == ("prompt 1", "prompt", "openfake/prompt 1")
    assert {record.dataset for record in records} == {"openfake"}
    assert len(kept(found.folder(tmp_path / "cache"))) == 18
    assert not found.failures


def test_a_second_call_streams_nothing(hub, tmp_path, monkeypatch):
    first = source(hub).records(tmp_path / "cache")
    monkeypatch.setattr(fetching, "HubStream", lambda *_: pytest.fail("the data set was opened again"))
    assert source(hub).records(tmp_path / "cache") == first
    renamed = source(hub, dataset="other", family="latent-diffusion").records(tmp_path / "cache")
    assert {(r.dataset, r.family) for r in renamed} == {("other", "real"), ("other", "latent-diffusion")}


def test_another_choice_or_content_is_another_folder(hub, tmp_path):
    choices = ({}, {"max_images": 3}, {"max_images": 3, "choice_seed": 1})
    assert len({source(hub, **options).folder(tmp_path) for options in choices}) == 3
    assert source("owner/name").folder(tmp_path) != source("owner/name", revision="a" * 40).folder(tmp_path)
    before = source(hub).folder(tmp_path)
    table(range(20, 23)).to_parquet(str(hub / "data" / "train-1.parquet"))
    assert source(hub).folder(tmp_path) != before


@pytest.mark.parametrize("stop", range(1, 18))
def test_a_stopped_run_goes_on_without_losing_or_doubling(hub, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(fetching, "CHUNK", 2)
    whole = source(hub).records(tmp_path / "whole")
    told, seen = stream.HubStream.content, []

    def stopped(self, value):
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(value)
        return told(self, value)

    with monkeypatch.context() as patch:
        patch.setattr(stream.HubStream, "content", stopped)
        with pytest.raises(KeyboardInterrupt):
            source(hub).records(tmp_path / "cache")
    again = []
    monkeypatch.setattr(stream.HubStream, "content", lambda self, value: again.append(value) or told(self, value))
    records = source(hub).records(tmp_path / "cache")
    assert [(r.key, r.split, r.generator) for r in records] == [(r.key, r.split, r.generator) for r in whole]
    assert len(again) == 18 - stop // 2 * 2, "only what was not noted is looked at again"
    assert len(kept(source(hub).folder(tmp_path / "cache"))) == 18


def test_a_torn_journal_costs_one_part(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "CHUNK", 3)
    whole = source(hub).records(tmp_path / "cache")
    journal = source(hub).folder(tmp_path / "cache") / "journal.txt"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join(lines[:6])[:-20])
    assert source(hub).records(tmp_path / "cache") == whole


def test_images_of_a_killed_run_that_nothing_names_are_deleted(hub, tmp_path):
    folder = source(hub).folder(tmp_path / "cache")
    stray = folder / "images" / "ab" / f"{'ab' * 16}.png"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"left over")
    source(hub).records(tmp_path / "cache")
    assert not stray.exists()


def test_at_most_so_many_of_a_generator_by_hash_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "CHUNK", 7)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3):
        table(range(40 * number, 40 * number + 40)).to_parquet(str(folder / f"train-{number}.parquet"))
    found = source(folder, per_generator=4)
    records = found.records(tmp_path / "cache")
    assert sorted(record.generator for record in records) == sorted(GENERATORS * 4)
    assert len(kept(found.folder(tmp_path / "cache"))) == 12, "the others are not on disk"
    rows = [int(record.caption.split()[1]) for record in records]
    assert max(rows) > 20, "not the first ones"
    other = source(folder, per_generator=4, choice_seed=1).records(tmp_path / "cache")
    assert {record.key for record in other} != {record.key for record in records}
    bounded = source(folder, per_generator=4, scan_rows=30).records(tmp_path / "cache")
    assert len(bounded) == 12
    few = source(folder, per_generator=2, max_images=5).records(tmp_path / "cache")
    assert len(few) == 5
    assert {record.key for record in few} < {record.key for record in records}, "fewer of the same"
    assert len(source(folder, max_images=5).records(tmp_path / "cache")) == 5


def test_the_choice_does_not_depend_on_order_or_interruption(tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    table(range(60)).to_parquet(str(folder / "train-0.parquet"))
    whole = {record.key for record in source(folder, per_generator=5, max_images=12).records(tmp_path / "a")}
    assert len(whole) == 12
    monkeypatch.setattr(fetching, "CHUNK", 8)
    told, seen = stream.HubStream.content, []

    def stopped(self, value):
        seen.append(value)
        if len(seen) in (20, 50):
            raise KeyboardInterrupt
        return told(self, value)

    monkeypatch.setattr(stream.HubStream, "content", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            source(folder, per_generator=5, max_images=12).records(tmp_path / "b")
    found = source(folder, per_generator=5, max_images=12)
    assert {record.key for record in found.records(tmp_path / "b")} == whole
    assert len(kept(found.folder(tmp_path / "b"))) == 12


def test_a_split_limit_makes_room_for_other_generators():
    def entry(rank, generator):
        return {"rank": rank, "place": rank, "hub_split": "train", "label": 1, "generator": generator}

    offered = [entry("3", "a"), entry("2", "a"), entry("1", "a"), entry("4", "b")]
    choice = Choice(per_generator=1, at_most=2)
    kept = []
    for each in offered:
        if choice.wants(each):
            choice.offer(each)
            kept = choice.chosen([*kept, each])
    assert {each["rank"] for each in kept} == {"1", "4"} == {each["rank"] for each in choice.chosen(offered)}


def test_scan_rows_spreads_over_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_LEAST_SHARE", 2)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(5):
        table(range(20 * number, 20 * number + 20)).to_parquet(str(folder / f"train-{number}.parquet"))
    records = source(folder, scan_rows=10).records(tmp_path / "cache")
    seeds = {png(seed): seed for seed in range(100)}
    assert sorted(seeds[content] for content in contents(records)) == [0, 1, 20, 21, 40, 41, 60, 61, 80, 81]
    assert len(source(folder, scan_rows=3).records(tmp_path / "cache")) == 3


def test_generators_are_chosen_and_reals_stay(hub, tmp_path):
    assert {r.generator for r in source(hub, generators=["s*"]).records(tmp_path)} == {"real", "sdxl"}
    assert {r.generator for r in source(hub, generators=["!sdxl"]).records(tmp_path)} == {"real", "flux"}
    assert is_wanted("sdxl", None)
    assert not is_wanted("sdxl", ["s*", "!sdxl"])


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ({"label": "model"}, {"real": 0, "*": 1}),
        ({"label": "label"}, {"real": 0, "fake": 1}),
        ({"label": "model"}, {"real": 0, "sdxl": 1, "flux": 1}),
        ({"label": "number"}, {"7": 0, "9": 1}),
        ({"label": "number"}, {"7": 0, "*": 1}),
        ({"label": "flag"}, None),
    ],
)
def test_label_mappings(tmp_path, columns, labels):
    more = {"number": [9.0 if seed % 3 else 7.0 for seed in range(6)], "flag": ["FAKE" if seed % 3 else "Real" for seed in range(6)]}
    table(range(6), **more).to_parquet(str(tmp_path / "x.parquet"))
    records = HubSource(str(tmp_path / "x.parquet"), columns=columns, labels=labels).records(tmp_path / "cache")
    assert [record.label for record in records] == [0, 1, 1, 0, 1, 1]
    assert records[0].dataset == "x"


def test_labels_that_leave_out_and_labels_that_are_missing(tmp_path):
    table(range(6), kind=["real", "fake", "tampered", None, "fake", ""]).to_parquet(str(tmp_path / "x.parquet"))
    columns = {"label": "kind"}
    with pytest.raises(DataError, match=r"'tampered' is real .0. or fake .1.; labels knows '0', 'real', '1', 'fake'"):
        HubSource(str(tmp_path / "x.parquet"), columns=columns).records(tmp_path / "cache")
    found = HubSource(str(tmp_path / "x.parquet"), columns=columns, labels={"real": 0, "fake": 1, "tampered": None})
    assert [record.label for record in found.records(tmp_path / "cache")] == [0, 1, 1]
    assert [(failure.reason, "row" in failure.where) for failure in found.failures] == [("it has no label", True)] * 2


def test_all_of_one_kind_and_several_images_a_row(tmp_path):
    rows = table(range(4)).remove_columns("label").rename_column("image", "image_gen0")
    second = [{"bytes": png(100 + i), "path": None} for i in range(4)]
    rows = rows.add_column("image_gen1", second).cast_column("image_gen1", datasets.Image())
    rows.to_parquet(str(tmp_path / "elsa.parquet"))
    with pytest.raises(DataError, match="2 columns of images"):
        HubSource(str(tmp_path / "elsa.parquet"), all_are="fake").records(tmp_path / "cache")
    names = {"image_gen0": "deepfloyd-if", "image_gen1": "sdxl"}
    found = HubSource(str(tmp_path / "elsa.parquet"), image_columns=names, all_are="fake", columns={"group": "prompt"})
    records = found.records(tmp_path / "cache")
    assert [record.generator for record in records] == ["deepfloyd-if", "sdxl"] * 4
    assert contents(records[:2]) == [png(0), png(100)]
    assert {record.label for record in records} == {1}
    assert records[0].group == records[1].group == "elsa/prompt 0"


def test_names_of_generators(tmp_path, monkeypatch):
    """One generator has one name in all data sets; another name needs no other images."""
    table(range(6)).to_parquet(str(tmp_path / "x.parquet"))
    columns = {"generator": "model"}
    own = HubSource(str(tmp_path / "x.parquet"), columns=columns, generators=["sd*"]).records(tmp_path / "cache")
    assert [record.generator for record in own] == ["real", "sdxl"] * 2
    names = {"Real": "coco", "SD*": "stable-diffusion-xl"}
    monkeypatch.setattr(fetching, "HubStream", lambda *_: pytest.fail("it was streamed again"))
    named = HubSource(str(tmp_path / "x.parquet"), columns=columns, generators=["sd*"], names=names).records(tmp_path / "cache")
    assert [record.generator for record in named] == ["coco", "stable-diffusion-xl"] * 2
    assert contents(named) == contents(own)


@pytest.mark.parametrize("labels", [None, {"1": 0, "0": 1}])
def test_truth_values_are_labels(tmp_path, labels):
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(4)], "label": [False, True, True, None]}
    types = datasets.Features({"image": datasets.Image(), "label": datasets.Value("bool")})
    datasets.Dataset.from_dict(rows, features=types).to_parquet(str(tmp_path / "x.parquet"))
    found = HubSource(str(tmp_path / "x.parquet"), labels=labels)
    assert [record.label for record in found.records(tmp_path / "cache")] == ([1, 0, 0] if labels else [0, 1, 1])
    assert [failure.reason for failure in found.failures] == ["it has no label"]


def test_bytes_in_a_plain_column(tmp_path):
    """As Community Forensics has them: `image_data` is binary."""
    rows = {"image_data": [png(i) for i in range(4)], "label": [0, 1, 0, 1], "model_name": ["laion", "a/b", "coco", "c/d"]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "x.parquet"))
    records = HubSource(str(tmp_path / "x.parquet"), columns={"generator": "model_name"}).records(tmp_path / "cache")
    assert contents(records) == rows["image_data"]
    assert [(record.label, record.generator) for record in records] == [(0, "laion"), (1, "a/b"), (0, "coco"), (1, "c/d")]


@pytest.mark.parametrize("several", [False, True])
def test_saved_to_disk(tmp_path, several):
    saved = table(range(9))
    if several:
        saved = datasets.DatasetDict(train=saved.select(range(6)), validation=saved.select(range(6, 9)))
    saved.save_to_disk(str(tmp_path / "arrow"))
    records = source(tmp_path / "arrow").records(tmp_path / "cache")
    assert contents(records) == [png(seed) for seed in range(9)]
    assert [record.split for record in records] == (["train"] * 6 + ["val"] * 3 if several else ["train"] * 9)


def test_a_folder_of_images(tmp_path):
    for seed in range(4):
        path = tmp_path / "folder" / "train" / ("fake" if seed % 2 else "real") / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
    records = HubSource(str(tmp_path / "folder")).records(tmp_path / "cache")
    assert sorted((record.label, Path(record.path).read_bytes()) for record in records) == sorted((i % 2, png(i)) for i in range(4))
    assert all(str(tmp_path / "cache") in record.path for record in records)


def test_splits_by_option_and_by_column(hub, tmp_path):
    records = source(hub, hub_splits={"train": None}).records(tmp_path / "a")
    assert [record.split for record in records] == [None] * 12
    records = source(hub, hub_splits={"test": "val"}).records(tmp_path / "a")
    assert [record.split for record in records] == ["val"] * 6
    with pytest.raises(DataError, match=r"hub_splits names dev; .* has the splits train, test"):
        source(hub, hub_splits={"dev": "val"}).records(tmp_path / "a")
    table(range(3), part=["train", "VALID", None]).to_parquet(str(tmp_path / "x.parquet"))
    records = source(tmp_path / "x.parquet", columns={"split": "part"}).records(tmp_path / "a")
    assert [record.split for record in records] == ["train", "val", "train"]
    table(range(3), part=["train", "dev", None]).to_parquet(str(tmp_path / "y.parquet"))
    with pytest.raises(DataError, match="'dev' is no split"):
        source(tmp_path / "y.parquet", columns={"split": "part"}).records(tmp_path / "a")


def test_a_wrong_column_names_those_that_there_are(hub, tmp_path):
    with pytest.raises(DataError, match=r"no column 'generator'. Its columns are image .images., label, model, prompt, unused"):
        source(hub, columns={"generator": "generator"}).records(tmp_path)
    with pytest.raises(DataError, match="'prompt', which holds no images"):
        source(hub, columns={"image": "prompt"}).records(tmp_path)
    table(range(3)).remove_columns("label").to_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(DataError, match=r"says not which images are real: name a column in columns.label, or set all_are"):
        source(tmp_path / "x.parquet").records(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"imgae": "image"}}, "columns names imgae"),
        ({"labels": {"real": 2}}, "means 0"),
        ({"all_are": "maybe"}, "all_are is 'maybe'"),
        ({"hub_splits": {"train": "dev"}}, "hub_splits maps to dev"),
        ({"per_generator": 0}, "per_generator is 0"),
        ({"image_columns": {"a": "x"}, "columns": {"image": "b"}}, "columns.image does nothing beside image_columns"),
        ({"image_columns": {"a": "x"}, "columns": {"generator": "b"}}, "columns.generator does nothing beside image_columns"),
        ({"names": {"a": "b"}}, "names does nothing without columns.generator"),
        ({"all_are": "fake", "labels": {"a": 1}}, "labels does nothing beside all_are: leave it out"),
        ({"all_are": "fake", "columns": {"label": "a"}}, "columns.label does nothing beside all_are"),
        ({"all_are": "real", "generators": ["a"]}, "generators does nothing"),
        ({"choice_seed": 1}, "choice_seed does nothing without per_generator"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(DataError, match=re.escape(message)):
        HubSource("owner/name", **options)


def test_options_that_do_nothing_with_a_path(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").touch()
    (tmp_path / "x.parquet").touch()
    for place in ("saved", "x.parquet"):
        with pytest.raises(DataError, match=f"revision does nothing, because repository is the path .*{place}"):
            HubSource(str(tmp_path / place), revision="main")
        with pytest.raises(DataError, match="config does nothing, because repository is the path"):
            HubSource(str(tmp_path / place), config="core")
    HubSource(str(tmp_path), config="core")  # a folder of Parquet files may have configurations in its card
