"""A cache of 200 numbers behind a web server."""

import shutil

import pytest

from datamodules.streaming import ranges
from tests.datamodules.streaming import served
from tests.threads import one_thread

__all__ = ["one_thread"]

COUNT = 200


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A cache's root, to be copied: shards are flushed to disk when they are written, which takes its time."""
    root = tmp_path_factory.mktemp("filled")
    served.fill(served.module(COUNT, root).cache.folder, range(COUNT))
    return root


@pytest.fixture
def remote(filled, tmp_path, monkeypatch):
    """The address of a cache's root, its folder with shards, and the handler that is asked."""
    monkeypatch.setattr(ranges, "_PAUSE", 0.001)
    root = shutil.copytree(filled, tmp_path / "remote")
    folder = served.module(COUNT, root).cache.folder
    server, address, handler = served.start(tmp_path / "remote")
    yield address, folder, handler
    server.shutdown()
    server.server_close()
