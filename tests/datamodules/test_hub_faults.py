"""HubSource where something is wrong: images, paths, texts, the disk, the library, the hub."""

import io
import json
import logging
import os
import resource
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.errors import DataError
from datamodules.records import MAX_CAPTION
from datamodules.sources import HubSource
from datamodules.sources.hub import fetching, stream
from tests.datamodules.hub import contents, datasets, kept, png, source, table


def test_broken_images_are_recorded(tmp_path):
    images = [{"bytes": png(0), "path": None}, {"bytes": png(1)[:200], "path": None}, {"bytes": b"text", "path": None}, None]
    table(range(4), image=images).to_parquet(str(tmp_path / "x.parquet"))
    found = source(tmp_path / "x.parquet", per_generator=3)
    assert len(found.records(tmp_path / "cache")) == 1
    reasons = [failure.reason for failure in found.failures]
    assert "damaged" in reasons[0]
    assert "none of JPEG" in reasons[1]
    assert "it holds no image" in reasons[2]
    assert "train, file 0, row 1, image" in found.failures[0].where
    assert len(kept(found.folder(tmp_path / "cache"))) == 1
    source(tmp_path / "x.parquet", per_generator=3).records(tmp_path / "cache")
    assert len(found.failures) == 3, "remembered"


def test_a_path_that_leads_out_of_the_data_set_is_not_read(tmp_path):
    secret, inside = tmp_path / "secret.png", tmp_path / "set"
    secret.write_bytes(png(5))
    inside.mkdir()
    (inside / "link.bin").symlink_to(secret)
    (inside / "own.bin").write_bytes(png(6))
    strange = [secret, "../secret.png", inside / "link.bin", "http://127.0.0.1/x.png", f"zip://a::{secret}", "hf://datasets/a/b@c/x"]
    images = [{"bytes": None, "path": str(path)} for path in [*strange, inside / "own.bin", inside / "none.bin"]]
    types = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    pq.write_table(pa.table({"image": images, "label": [1] * 8}, schema=types.arrow_schema), inside / "train.parquet")
    found = HubSource(str(inside))
    assert contents(found.records(tmp_path / "cache")) == [png(6)]
    assert ["outside of the data set" in failure.reason for failure in found.failures] == [True] * 6 + [False]
    assert "no such file" in found.failures[-1].reason


def test_a_path_on_the_hub_is_read_only_below_its_repository(monkeypatch):
    opened = object.__new__(stream.HubStream)
    opened.repository, opened._folder = "owner/name", None
    read = []
    monkeypatch.setattr("datasets.utils.file_utils.xopen", lambda path, _: read.append(path) or io.BytesIO(b"x"))
    assert opened.content({"bytes": None, "path": "hf://datasets/owner/name@abc/x.png"}) == b"x"
    assert opened.content({"bytes": None, "path": "zip://x.png::hf://datasets/owner/name@abc/x.zip"}) == b"x"
    chained = [f"{first}::hf://datasets/owner/name@abc/x.png" for first in ("/etc/hostname", "http://127.0.0.1/x", "zip://a::/etc/hosts")]
    for path in (*chained, "/etc/passwd", "hf://datasets/owner/name2@abc/x.png", "https://x.y/z.png", "hf://datasets/owner/name@abc/../x"):
        with pytest.raises(ValueError, match="outside of the data set"):
            opened.content({"bytes": None, "path": path})
    assert len(read) == 2


def test_texts_of_strangers(tmp_path):
    model = ["a\x00\x1b[31mb", "x" * 501, "nan"]
    rows = table([1, 2, 4], model=model, prompt=["y" * 20_000, "a\nb", "\u202e"])
    rows.to_parquet(str(tmp_path / "x.parquet"))
    found = source(tmp_path / "x.parquet", columns={"generator": "model", "caption": "prompt"})
    first, last = found.records(tmp_path / "cache")
    assert (first.generator, len(first.caption)) == ("a [31mb", MAX_CAPTION)
    assert (last.generator, last.caption) == ("unknown", None)
    assert [failure.reason for failure in found.failures] == ["its generator has 501 characters"]


def test_row_16_disk_full(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "CHUNK", 3)
    os.makedirs(tmp_path / "cache")
    big = [{"bytes": png(seed, 64 if seed == 5 else 24), "path": None} for seed in range(6)]
    table(range(6), image=big).to_parquet(str(tmp_path / "x.parquet"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be written \(file too large\). 3 images are complete and stay: make room"):
            source(tmp_path / "x.parquet").records(tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder = source(tmp_path / "x.parquet").folder(tmp_path / "cache")
    assert not [path for path in folder.rglob("*") if path.name.startswith(".writing")]
    assert len(source(tmp_path / "x.parquet").records(tmp_path / "cache")) == 6


def test_the_library_is_missing_or_old(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "datasets", None)
        with pytest.raises(DataError, match=r"library datasets, which is not installed. .* -m pip install .* 'datasets>=4.0'"):
            source(hub).records(tmp_path)
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(DataError, match="may run a data set's own code"):
        source(hub).records(tmp_path)


def test_a_data_set_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match=r"'owner/none' cannot be read .* Check its name"):
        HubSource("owner/none").records(tmp_path)
    with pytest.raises(DataError, match="There is nothing at"):
        HubSource("data/not/there").records(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        HubSource(str(tmp_path / "empty")).records(tmp_path)


def test_code_of_a_data_set_is_never_run(tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\n")
    with pytest.raises(DataError):
        HubSource(str(folder)).records(tmp_path / "cache")
    assert not (tmp_path / "mark").exists()


def test_the_newest_commit_is_recorded_and_kept(hub, tmp_path, monkeypatch, caplog):
    asked, opened = [], []
    monkeypatch.setattr(stream, "commit_of", lambda repository, revision: asked.append(revision) or revision or "c" * 40)
    load = datasets.load_dataset

    def loaded(path, config=None, revision=None, **options):
        opened.append((path, config, revision))
        return load(str(hub), **options)

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    told = stream.HubStream.content
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(stream.HubStream, "content", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            source("owner/openfake").records(tmp_path)
    assert f"is read at commit {'c' * 40}: pin it" in caplog.text
    assert stream.HubStream.content is told
    monkeypatch.setattr(stream, "commit_of", lambda repository, revision: revision or "d" * 40)
    records = source("owner/openfake").records(tmp_path)
    assert len(records) == 18
    assert opened == [("owner/openfake", None, "c" * 40)] * 2, "the second start reads the commit of the first"
    journal = (source("owner/openfake").folder(tmp_path) / "journal.txt").read_text()
    assert json.dumps({"revision": "c" * 40}) in journal
    source("owner/openfake", revision="e" * 40).records(tmp_path)
    assert opened[-1][2] == "e" * 40


def test_a_broken_stream_says_so_and_can_go_on(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "CHUNK", 2)
    rows = datasets.IterableDataset.__iter__

    def broken(self):
        for number, row in enumerate(rows(self)):
            if number == 3:
                raise ConnectionResetError("peer went away")
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(datasets.IterableDataset, "__iter__", broken)
        with pytest.raises(DataError, match=r"ConnectionResetError: peer went away.* What was fetched stays"):
            source(hub).records(tmp_path)
    assert len(source(hub).records(tmp_path)) == 18


def test_importing_the_sources_imports_no_library():
    import subprocess

    code = "import sys, datamodules.sources; assert not {'datasets', 'httpx', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
