"""The cache's manifest where several jobs write it, none of them aware of the others."""

import json

import numpy as np

from datamodules.cache import FeatureCache, features
from datamodules.hashing import ContentHashes
from datamodules.records import Failure
from datamodules.shards import ShardWriter
from modules.extractors import ColourExtractor


def a_cache(tmp_path):
    return FeatureCache(tmp_path, ColourExtractor(), "none", "photos", ContentHashes(None))


def add(cache, number, rank=0):
    writer = ShardWriter(cache.folder, rank)
    writer.add(f"{number:032x}", {"x": np.zeros(1, np.float32)}, {}, diagnostics={"short_side": 10.0 + number})
    writer.finish()


def counts(cache):
    return json.loads((cache.folder / "manifest.json").read_text())["counts"]


def test_a_shard_that_came_while_the_manifest_was_written_is_counted(tmp_path, monkeypatch):
    """Job A reads the indexes; job B adds its last shard and writes the manifest; then A writes what it has read."""
    mine, other = a_cache(tmp_path), a_cache(tmp_path)
    add(mine, 0)
    written = features.write_atomically

    def slow(path, content):
        monkeypatch.setattr(features, "write_atomically", written)
        add(other, 1, rank=1)
        assert other.write_manifest({}, [])["counts"]["images"] == 2
        written(path, content)

    monkeypatch.setattr(features, "write_atomically", slow)
    assert mine.write_manifest({}, [])["counts"] == {"images": 2, "failures": 0}
    assert counts(mine) == {"images": 2, "failures": 0}


def test_a_manifest_is_written_although_others_never_stop_adding(tmp_path, monkeypatch):
    cache, added = a_cache(tmp_path), iter(range(1, 1000))
    add(cache, 0)
    written = features.write_atomically

    def busy(path, content):
        written(path, content)
        if path.name == "manifest.json":
            add(cache, next(added))

    monkeypatch.setattr(features, "write_atomically", busy)
    cache.write_manifest({}, [])
    assert counts(cache)["images"] >= features.TRIES


def test_a_manifest_is_corrected_where_it_miscounts_only(tmp_path):
    cache = a_cache(tmp_path)
    add(cache, 0)
    cache.write_manifest({"first": True}, [Failure("a.png", "damaged")])
    cache.correct_manifest(cache.reader(), {"first": False}, [])
    assert json.loads((cache.folder / "manifest.json").read_text())["source"] == {"first": True}
    add(cache, 1)
    cache.correct_manifest(cache.reader(), {"first": False}, [])
    assert counts(cache) == {"images": 2, "failures": 0}
    (cache.folder / "manifest.json").write_text("[" * 10**5)
    cache.correct_manifest(cache.reader(), {}, [])
    assert counts(cache) == {"images": 2, "failures": 0}


def test_features_in_another_directory_need_no_manifest_here(tmp_path):
    there = a_cache(tmp_path)
    add(there, 0)
    here = FeatureCache(tmp_path, ColourExtractor(), "none", "others", ContentHashes(None))
    assert len(here.reader()) == 1
    here.correct_manifest(here.reader(), {}, [])
    assert not here.folder.exists()
