"""Where features may lie, and what is refused before anything is read."""

import importlib
import io
import os
import pickle
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from datamodules.errors import DataError
from datamodules.shards import ShardError
from datamodules.sources.tars.fetch import FetchError
from datamodules.streaming import StreamOptions
from datamodules.streaming.find import place_of
from datamodules.streaming.places import LocalPlace
from datamodules.streaming.stores import STORES
from tests.datamodules.streaming import served
from tests.datamodules.streaming.conftest import COUNT

TRAINED = [i for i in range(COUNT) if i % 5 < 3]


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_this_machine(remote, tmp_path, form, workers):
    _, folder, handler = remote
    data = served.module(COUNT, tmp_path / "local", form.format(folder.parents[1]), num_workers=workers)
    assert sorted(served.numbers_of(data.train_dataloader())) == TRAINED
    assert handler.asked == []


@pytest.mark.parametrize("steps", [1, 2])
def test_the_directory_itself_or_its_parent(remote, tmp_path, steps):
    address, folder, _ = remote
    url = "/".join([address, *folder.parts[-2:][:steps]])
    data = served.module(COUNT, tmp_path / "local", url)
    assert data.cache.location == f"{address}/{folder.parent.name}/{folder.name}"
    assert data.missing() == []


def test_the_directory_of_another_manifest_is_found_by_its_own_name(remote, tmp_path):
    address, folder, _ = remote
    renamed = folder.rename(folder.with_name(folder.name.replace("numbered", "elsewhere")))
    with pytest.raises(DataError, match=r"there are no features in .*numbered.*explain"):
        served.module(COUNT, tmp_path / "local", address).missing()
    data = served.module(COUNT, tmp_path / "local", f"{address}/{renamed.parent.name}/{renamed.name}")
    assert sorted(served.numbers_of(data.train_dataloader())) == TRAINED


def test_features_of_other_settings_are_refused(remote, tmp_path):
    address, folder, _ = remote
    url = f"{address}/{folder.parent.name}/{folder.name}"
    with pytest.raises(DataError, match="holds features of other settings"):
        served.module(COUNT, tmp_path / "local", url, perturbation="jpeg_40").missing()
    with pytest.raises(DataError, match="holds features of other settings"):
        served.module(COUNT, tmp_path / "local", f"{address}/other-0123456789ab/{folder.name}").missing()


@pytest.mark.parametrize(
    "url",
    [
        "pipe:touch {mark}",
        "pipe:curl -s x | tee {mark}",
        "PIPE:touch {mark}",
        "ssh://host/cache",
        "sftp://host/cache",
        "ftp://host/cache",
        "simplecache::s3://bucket/cache",
        "zip://x::https://host/x.zip",
        "reference://x",
        "memory://x",
        "github://a:b@c/d",
        "hdfs://x",
    ],
)
def test_no_command_and_no_other_scheme(tmp_path, monkeypatch, url):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("a shell was started"))
    mark = tmp_path / "mark"
    with pytest.raises(DataError, match="no command is ever run"):
        served.module(COUNT, tmp_path / "local", url.format(mark=mark)).missing()
    assert not mark.exists()


@pytest.mark.parametrize("leave", [{"allow_http": False}, {"allow_private": False}])
def test_addresses_need_leave(remote, tmp_path, leave):
    address, _, handler = remote
    with pytest.raises(DataError, match=r"only https is read|private address"):
        served.module(COUNT, tmp_path / "local", address, leave=leave).missing()
    assert handler.asked == []


def test_a_redirect_needs_the_same_leave(remote, tmp_path):
    address, folder, handler = remote
    handler.faults["shards.txt"] = "to ftp://127.0.0.1/x"
    with pytest.raises(FetchError, match="only https is read"):
        served.module(COUNT, tmp_path / "local", address).missing()
    handler.faults["shards.txt"] = f"to /{folder.parent.name}/{folder.name}/list"
    (folder / "list").write_text("".join(f"{path.name}\n" for path in folder.glob("*.tar")) + "../shard-0000-000000.tar\n")
    assert served.module(COUNT, tmp_path / "local", address).missing() == []
    handler.faults["shards.txt"] = "to shards.txt"
    with pytest.raises(FetchError, match="redirects more than"):
        served.module(COUNT, tmp_path / "local", address).missing()


def test_a_server_without_lists_needs_a_file_of_names(remote, tmp_path):
    address, folder, handler = remote
    handler.listing = False
    with pytest.raises(DataError, match="there are no features in"):
        served.module(COUNT, tmp_path / "local", address).missing()
    (folder / "shards.txt").write_text("\r\n".join(path.name for path in folder.glob("*.tar")))
    assert sorted(served.numbers_of(served.module(COUNT, tmp_path / "local", address).train_dataloader())) == TRAINED


def test_secrets_are_asked_with_and_not_shown(remote, tmp_path):
    address, _, handler = remote
    data = served.module(COUNT, tmp_path / "local", f"{address.replace('//', '//user:word@')}?sig=secret")
    assert data.missing() == []
    handler.faults["shard-0000-000003.tar"] = "404"
    with pytest.raises(ShardError) as raised:
        list(data.train_dataloader())
    assert "shard-0000-000003.tar" in str(raised.value)
    assert "secret" not in str(raised.value) + data.cache.location
    assert "word" not in str(raised.value) + data.cache.location
    assert all("sig=secret" in path for path, _ in handler.asked)


@pytest.fixture
def store(remote, monkeypatch):
    """An object store under the scheme s3: what s3fs would be, in memory."""

    class Store(MemoryFileSystem):
        protocol = "s3"
        store = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        def _open(self, path, mode="rb", **kwargs):
            found = super()._open(path, mode, **kwargs)
            return io.BytesIO(found.getvalue()) if mode == "rb" else found  # the library's files of one path share their position

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("s3://").strip("/")

    _, folder, _ = remote
    monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "s3", Store)
    filesystem = fsspec.filesystem("s3")
    for path in folder.iterdir():
        filesystem.pipe(f"bucket/cache/{folder.parent.name}/{folder.name}/{path.name}", path.read_bytes())
    return filesystem


@pytest.mark.parametrize("workers", [0, 2])
def test_an_object_store(store, tmp_path, workers):
    data = served.module(COUNT, tmp_path / "local", "s3://bucket/cache/", num_workers=workers)
    assert sorted(served.numbers_of(data.train_dataloader())) == TRAINED
    assert len(served.numbers_of(data.val_dataloader())) == COUNT // 5
    with pytest.raises(DataError, match="there are no features in s3://bucket/nothing"):
        served.module(COUNT, tmp_path / "local", "s3://bucket/nothing").missing()


def test_a_stores_errors_are_tried_again_and_told(store, tmp_path, monkeypatch):
    data = served.module(COUNT, tmp_path / "local", "s3://bucket/cache/")
    data.missing()
    opened, failures = type(store)._open, []

    def failing(self, path, *args, **kwargs):
        if len(failures) < 3:
            failures.append(path)
            raise RuntimeError("SlowDown")
        return opened(self, path, *args, **kwargs)

    monkeypatch.setattr(type(store), "_open", failing)
    assert sorted(served.numbers_of(data.train_dataloader())) == TRAINED
    assert len(failures) == 3
    monkeypatch.setattr(type(store), "_open", lambda *_, **__: (_ for _ in ()).throw(PermissionError("forbidden")))
    with pytest.raises(ShardError, match=r"s3://bucket/cache/.*forbidden"):
        list(data.train_dataloader())


def test_a_file_that_has_nothing_to_give_yet_has_not_ended(tmp_path):
    """A raw file of the system says None then, which is no end: an index would be cut in silence."""

    class Waiting(io.BytesIO):
        def readinto(self, buffer):
            return super().readinto(buffer[:2]) or None

    class Slow(LocalPlace):
        def open(self, start=0, stop=None):
            return Waiting(self.path.read_bytes())

    (tmp_path / "index").write_bytes(b"four")
    with pytest.raises(FetchError, match="ended too early, at byte 4"):
        Slow(tmp_path / "index").content(100)
    assert LocalPlace(tmp_path / "index").content(4) == b"four"


@pytest.mark.parametrize("answer", [None, "text", b"more than was asked for" * 100_000])
def test_a_store_that_answers_something_else(store, tmp_path, monkeypatch, answer):
    class Strange(io.BytesIO):
        def read(self, size=-1):
            return answer

    data = served.module(COUNT, tmp_path / "local", "s3://bucket/cache/")
    data.missing()
    monkeypatch.setattr(type(store), "_open", lambda *_, **__: Strange())
    with pytest.raises(ShardError, match=r"s3://bucket/cache/.*cannot be read \((Type|Value)Error"):
        list(data.train_dataloader())


@pytest.mark.parametrize(("scheme", "package"), sorted(STORES.items()))
def test_a_store_whose_package_is_not_installed(monkeypatch, scheme, package):
    def absent(url):
        raise ImportError(f"Install {package}")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(DataError, match=f"pip install {package}"):
        place_of(StreamOptions(f"{scheme}://bucket/cache"))


def test_places_go_to_workers(remote):
    address, _, _ = remote
    place = pickle.loads(pickle.dumps(place_of(StreamOptions(address, allow_http=True, allow_private=True))))
    assert b"href" in place.child("").content(10**6)
    with pytest.raises(FetchError, match="longer than 5 bytes"):
        place.child("").content(5)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_local_shards_are_plain_files(remote, tmp_path, kind):
    _, folder, _ = remote
    shard = folder / "shard-0000-000001.tar"
    shard.rename(tmp_path / "kept")
    shard.symlink_to(tmp_path / "kept") if kind == "link" else os.mkfifo(shard)
    with pytest.raises(ShardError, match=shard.name):
        list(served.module(COUNT, tmp_path / "local", str(Path(folder).parents[1])).train_dataloader())
