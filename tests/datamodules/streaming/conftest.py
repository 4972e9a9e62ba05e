"""A cache of 200 numbers behind a web server."""

import pytest

from datamodules.streaming import ranges
from tests.datamodules.streaming import served
from tests.threads import one_thread

__all__ = ["one_thread"]

COUNT = 200


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """The address of a cache's root, its folder with shards, and the handler that is asked."""
    monkeypatch.setattr(ranges, "_PAUSE", 0.001)
    root = tmp_path / "remote"
    folder = served.module(COUNT, root).cache.folder
    served.fill(folder, range(COUNT))
    server, address, handler = served.start(tmp_path / "remote")
    yield address, folder, handler
    server.shutdown()
    server.server_close()
