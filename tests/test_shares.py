"""Extraction split over independent jobs that share a directory, as the real command."""

import json

import pytest

import extract
from datamodules.datamodule import FeatureDataModule
from datamodules.shards.index import shards_of
from tests.extracting import make_folder, options, reader, samples, start

NO_LOCKS = """
import errno, fcntl, os

def refuse(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = refuse
"""


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


def manifest(folder):
    return json.loads((reader(folder).folder / "manifest.json").read_text())


@pytest.mark.parametrize("locks", [True, False])
def test_concurrent_jobs_fill_one_cache(folder, monkeypatch, locks):
    """Each image is extracted once, and the manifest counts all, on a file system without locks, too."""
    (folder / "17.png").write_bytes((folder / "17.png").read_bytes()[:300])
    (folder / "sitecustomize.py").write_text("" if locks else NO_LOCKS)
    jobs = [start(folder, f"--share={k}/3", "--data.shard_samples=4", seconds=0.1, name=f"job{k}") for k in (1, 2, 3)]
    assert [job.wait(200) for job in jobs] == [0, 0, 0], (folder / "job1err").read_text()[-2000:]
    assert set(samples(folder).values()) == {1}
    assert manifest(folder)["counts"] == {"images": 39, "failures": 1}
    assert {path.name[:10] for path in shards_of(reader(folder).folder)} == {"shard-0000", "shard-0001", "shard-0002"}
    said = [(folder / f"job{k}out").read_text() for k in (1, 2, 3)]
    asked = [int(words.partition(" were missing")[0].split()[-1]) for words in said]
    assert sum(asked) == 40
    assert all(f"share {k}/3: {count} of 40 images" in words for k, (count, words) in enumerate(zip(asked, said, strict=True), start=1))
    assert any("no share has anything left to do" in words for words in said)
    monkeypatch.syspath_prepend(folder)
    from slow_extractor import SlowExtractor

    from datamodules.sources import ManifestSource

    data = FeatureDataModule(ManifestSource(str(folder / "manifest.csv")), SlowExtractor(), cache_dir=str(folder / "cache"))
    assert data.missing() == []


def test_the_last_words_say_what_the_others_have_to_do(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    words = extract.main(options(folder, "--share=2/4"))
    mine = int(words.partition(" images have features")[0])
    assert 0 < mine < 40
    assert f"share 2/4: {mine} of 40 images" in words
    assert f"{40 - mine} images have no features yet; they are of the shares 1/4 (" in words
    assert "2/4 (" not in words
    assert "nothing was missing" in extract.main(options(folder, "--share=2/4"))
    assert f"{40 - mine} were missing" in extract.main(options(folder))
    assert set(samples(folder).values()) == {1}


def test_a_share_that_is_none_is_one_sentence(folder, monkeypatch):
    from datamodules.errors import DataError

    monkeypatch.syspath_prepend(folder)
    with pytest.raises(DataError, match="--share 5/4"):
        extract.main(options(folder, "--share=5/4"))


def test_a_manifest_that_a_killed_job_left_behind_is_corrected(folder, monkeypatch):
    """Killed between its last shard and the manifest: nothing is missing, and what the manifest counts is not what is there."""
    monkeypatch.syspath_prepend(folder)
    extract.main(options(folder))
    path = reader(folder).folder / "manifest.json"
    path.write_text(json.dumps(manifest(folder) | {"counts": {"images": 3, "failures": 0}}))
    assert "nothing was missing" in extract.main(options(folder))
    assert manifest(folder)["counts"] == {"images": 40, "failures": 0}
