"""What the tests of the cache share."""

import json

import pytest

from tests.datamodules.filled import LEAF, fill, settings_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of one directory with ten images, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "cache" / LEAF)
    (folder / "manifest.json").write_text(json.dumps({"settings": settings_of(20)}))
    return folder


@pytest.fixture
def hub(tmp_path):
    """A data set of Parquet files: 12 training images in two files, 6 test images; every third image is real."""
    made = pytest.importorskip("tests.datamodules.hub", reason="needs the library datasets")
    folder = tmp_path / "openfake" / "data"
    folder.mkdir(parents=True)
    for name, seeds in {"train-0": range(6), "train-1": range(6, 12), "test-0": range(12, 18)}.items():
        made.table(seeds).to_parquet(str(folder / f"{name}.parquet"))
    return tmp_path / "openfake"
