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
