"""What servers and shards do that they should not: tried again where that may help, else an error that names the shard; nothing is lost."""

import json
import os
import pickle
import tarfile
import zlib

import pytest

from datamodules.errors import DataError
from datamodules.shards import ShardError
from datamodules.streaming import ranges
from tests.datamodules.streaming import served
from tests.datamodules.streaming.conftest import COUNT
from tests.evil import Evil

TRAINED = [i for i in range(COUNT) if i % 5 < 3]
SHARD = "shard-0000-000002.tar"


@pytest.mark.parametrize(("fault", "workers"), [("404", 0), ("403", 0), ("503", 0), ("cut", 0), ("another range", 0), ("404", 2)])
def test_a_shard_that_cannot_be_had_is_an_error_that_names_it(remote, tmp_path, fault, workers):
    address, _, handler = remote
    handler.faults[SHARD] = fault
    with pytest.raises(ShardError, match=SHARD):
        list(served.module(COUNT, tmp_path / "local", address, num_workers=workers).train_dataloader())
    tries = [path for path, _ in handler.asked if path.endswith(SHARD)]
    if not workers:
        assert len(tries) == (ranges.TRIES if fault in ("503", "cut") else 1), "what may heal is tried again, no other"


@pytest.mark.parametrize("faults", [["503", "429", "cut", "500"], ["cut"] * 5])
def test_what_heals_loses_nothing(remote, tmp_path, faults):
    address, _, handler = remote
    for name in (SHARD, "shard-0000-000005.tar", "shard-0000-000002.index.json", "shards.txt"):
        handler.faults[name] = list(faults) if name != "shards.txt" else ["503", "500"]
    data = served.module(COUNT, tmp_path / "local", address)
    assert sorted(served.numbers_of(data.train_dataloader())) == TRAINED
    assert handler.faults[SHARD] == []


def test_a_server_that_knows_no_ranges(remote, tmp_path, caplog):
    address, _, handler = remote
    handler.ranges = False
    data = served.module(COUNT, tmp_path / "local", address)
    handler.asked.clear()
    assert sorted(served.numbers_of(data.train_dataloader())) == TRAINED
    assert "whole files only" in caplog.text
    assert len([path for path, _ in handler.asked if path.endswith(".tar")]) <= 13 + 3, "each shard once, besides looks at the first sample"
    assert len(served.numbers_of(data.val_dataloader())) == COUNT // 5


@pytest.mark.parametrize("where", ["content", "header", "cut"])
def test_bytes_that_are_not_those_of_the_index(remote, tmp_path, where):
    address, folder, _ = remote
    with tarfile.open(folder / SHARD) as tar:
        member = next(each for each in tar if each.name == f"{served.key_of(35)}.safetensors")
    content = bytearray((folder / SHARD).read_bytes())
    if where == "cut":
        del content[member.offset_data + 10 :]
    else:
        content[member.offset_data + member.size - 1 if where == "content" else member.offset] ^= 1
    (folder / SHARD).write_bytes(content)
    expected = {
        "content": "checksum of the index",
        "header": "no whole member|not where the index says",
        "cut": "ended too early|server answers 416",
    }
    with pytest.raises(ShardError, match=f"{SHARD} cannot be used: .*({expected[where]})") as raised:
        list(served.module(COUNT, tmp_path / "local", address).train_dataloader())
    assert (where == "cut") or "delete what is remembered" in str(raised.value)


def hostile(mark):
    attack = pickle.dumps(Evil(mark))
    key = served.key_of(35)
    return {
        "pickle": (f"{key}.pickle", attack, {}),
        "pyd": (f"{key}.pyd", attack, {}),
        "pickle named safetensors": (f"{key}.safetensors", attack, {}),
        "parent": ("../mark.safetensors", attack, {}),
        "absolute": (f"/tmp/{key}.safetensors", attack, {}),
        "pipe": (f"pipe:mkdir {mark}.safetensors", attack, {}),
        "symlink": (f"{key}.safetensors", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        "hard link": (f"{key}.safetensors", b"", {"type": tarfile.LNKTYPE, "linkname": "x"}),
        "sparse": (f"{key}.safetensors", attack, {"type": tarfile.GNUTYPE_SPARSE}),
        "gigabytes": (f"{key}.safetensors", attack, {"size": 2**33 - 1}),
    }


@pytest.mark.parametrize("kind", hostile("mark"))
def test_a_hostile_member_runs_nothing_and_writes_nothing(remote, tmp_path, kind):
    """The index says that the member is the sample 35; what stands there is something else."""
    address, folder, _ = remote
    mark = tmp_path / "mark"
    name, content, fields = hostile(mark)[kind]
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    path = (folder / SHARD).with_suffix(".index.json")
    index = json.loads(path.read_text())
    number = index["rows"]["key"].index(served.key_of(35))
    offset = index["rows"]["offset"][number] - 512
    index["rows"]["size"][number], index["rows"]["checksum"][number] = len(content), zlib.crc32(content)
    path.write_text(json.dumps(index))
    shard = bytearray((folder / SHARD).read_bytes())
    block = info.tobuf(tarfile.USTAR_FORMAT) + content
    shard[offset : offset + len(block)] = block
    (folder / SHARD).write_bytes(shard)
    before = set(tmp_path.iterdir())
    with pytest.raises(ShardError, match=SHARD):
        list(served.module(COUNT, tmp_path / "local", address, batch_size=1).train_dataloader())
    assert not mark.exists()
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "local"}
    assert {each.suffix for each in (tmp_path / "local").rglob("*") if each.is_file()} <= {".json", ".txt"}


@pytest.mark.parametrize("content", [b"[", b"{}", b'{"version": 9}', b"\0" * 100, b"[" * 10**5])
def test_an_index_that_is_none(remote, tmp_path, content):
    address, folder, _ = remote
    path = (folder / SHARD).with_suffix(".index.json")
    kept = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ShardError, match=rf"the index of the shard .*{SHARD} cannot be used"):
        served.module(COUNT, tmp_path / "local", address).missing()
    path.write_bytes(kept)
    data = served.module(COUNT, tmp_path / "local", address)
    assert data.missing() == [], "nothing wrong is remembered"
    for remembered in (tmp_path / "local").rglob("*.index.json"):
        remembered.write_bytes(content)
    assert served.module(COUNT, tmp_path / "local", address).missing() == [], "nor believed"


def test_an_index_of_gigabytes(remote, tmp_path):
    _, folder, _ = remote
    os.truncate((folder / SHARD).with_suffix(".index.json"), 2**40)
    with pytest.raises(ShardError, match="longer than"):
        served.module(COUNT, tmp_path / "local", str(folder.parents[1])).missing()


def test_a_shard_without_index_does_not_exist(remote, tmp_path, caplog):
    address, folder, _ = remote
    (folder / SHARD).with_suffix(".index.json").unlink()
    with pytest.raises(DataError, match="16 of 200 images have no features"):
        served.module(COUNT, tmp_path / "local", address).missing()
    assert f"{SHARD} has no index" in caplog.text


def test_a_server_that_dawdles(remote, tmp_path, monkeypatch):
    address, _, _ = remote
    monkeypatch.setattr(ranges, "PATIENCE", -1.0)
    with pytest.raises(ShardError, match="took too long"):
        list(served.module(COUNT, tmp_path / "local", address).train_dataloader())
