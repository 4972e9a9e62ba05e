"""No test takes the network, and hubs and W&B are told so before anything imports them."""

import os
import shutil
import socket

import pytest
from filelock import FileLock

from tests import commands

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which would wait for each other's threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_DISABLE_TELEMETRY="1")
os.environ["WANDB__SERVICE_WAIT"] = "300"  # seconds for its service to start, on a machine that does other things too
LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
# Files whose tests start the real commands as processes and wait for them. They begin first, or one core would wait for them at the end.
LONG = ("launchers", "train", "resume", "evaluate", "processes", "zero_shot", "conditions", "shares", "extract", "adapt", "predict")


def pytest_collection_modifyitems(items):
    """Files that take long first, the others in their order."""
    rank = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse every connection that leaves this machine, with a message that says who tried."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(LOCAL):
            pytest.fail(f"a test tried to connect to {address}", pytrace=True)
        return connect(self, address)

    def guarded_resolve(host, *args, **kwargs):
        if host is not None and not str(host).startswith((*LOCAL, socket.gethostname())):
            pytest.fail(f"a test tried to look up {host}", pytrace=True)
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)


@pytest.fixture(scope="session")
def built_in(tmp_path_factory):
    """A cache that holds the images of the small built-in data set and nothing else, made once for all processes."""
    from datamodules.sources import BuiltInSource

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "built-in.lock"):
        BuiltInSource(crops=4, sampling_steps=2).records(shared / "built-in")
    return shared / "built-in"


@pytest.fixture(scope="session")
def place(tmp_path_factory, built_in):
    """A cache and a runs directory for the tests of all commands: the few built-in features are extracted once."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(built_in, place / "cache")
    return place


@pytest.fixture(scope="session")
def first(place):
    """A run of two epochs."""
    import train

    return train.main(commands.options(place, "first", "--trainer.max_epochs=2"))
