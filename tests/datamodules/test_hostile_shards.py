"""Row 19: a cache from a stranger runs nothing, writes nothing outside, and fills no memory."""

import gzip
import io
import json
import os
import pickle
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from datamodules.cache.health import repair, verify
from datamodules.shards import ShardError, ShardReader, ShardWriter, index_path
from datamodules.shards.index import MAX_DIAGNOSTICS, MAX_FEATURE_BYTES, MAX_INDEX_BYTES, MAX_ROWS
from tests.evil import Evil

KEY = "0" * 32
GOOD = save({"x": np.arange(12, dtype=np.uint8)})


@pytest.fixture
def mark(tmp_path):
    """A path that must not exist when the test ends; the cache lies beside it."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists(), "something of the cache was executed"
    assert {found.name for found in tmp_path.iterdir()} <= {"cache"}, "something was written outside"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "cache"
    path.mkdir()
    return path


def member(name: str, content: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write_tar(folder: Path, members, form: int = tarfile.USTAR_FORMAT) -> Path:
    shard = folder / "shard-0000-000000.tar"
    with tarfile.open(shard, "w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return shard


def record() -> bytes:
    return json.dumps({"caption_hash": "", "diagnostics": {}}).encode()


def write_index(shard: Path, **changed) -> None:
    """An index of one good row, but for what is changed; lists are columns."""
    with tarfile.open(shard) as tar:
        offset = next((info.offset_data for info in tar if info.name == f"{KEY}.safetensors"), 512)
    columns = {"key": [KEY], "caption": [""], "offset": [offset], "size": [len(GOOD)], "checksum": [zlib.crc32(GOOD)], "diagnostics": [{}]}
    document = {"version": 1, "bytes": shard.stat().st_size, "rows": columns, "failures": []}
    for name, value in changed.items():
        (columns if name in columns else document)[name] = value
    index_path(shard).write_text(json.dumps(document))


def hostile_members(mark: Path) -> dict[str, list[tuple[tarfile.TarInfo, bytes]]]:
    attack = pickle.dumps(Evil(mark))
    return {
        "pyd": [member(f"{KEY}.pyd", attack)],
        "pickle": [member(f"{KEY}.pickle", attack)],
        "pth": [member(f"{KEY}.pth", attack)],
        "pickle named safetensors": [member("1.safetensors", attack), member("1.json", record())],
        "parent": [member("../mark.safetensors", GOOD), member("../mark.json", record())],
        "absolute": [member(f"{mark}.safetensors", GOOD)],
        "pipe": [member(f"pipe:mkdir {mark}.safetensors", GOOD)],
        "symlink": [member("1.safetensors", type=tarfile.SYMTYPE, linkname="/etc/passwd"), member("1.json", record())],
        "hard link": [member("1.safetensors", type=tarfile.LNKTYPE, linkname=f"{KEY}.safetensors"), member("1.json", record())],
        "device": [member("1.safetensors", type=tarfile.CHRTYPE), member("1.json", record())],
        "dots": [member("a.b.safetensors", GOOD)],
    }


@pytest.mark.parametrize("kind", hostile_members(Path("/nowhere")))
def test_row_19_members(folder, mark, kind):
    good = [member(f"{KEY}.safetensors", GOOD), member(f"{KEY}.json", record())]
    shard = write_tar(folder, [*good, *hostile_members(mark)[kind]])
    assert len(ShardReader(folder)) == 0, "without an index, nothing of it is believed"
    write_index(shard)
    reader = ShardReader(folder)
    assert reader.keys() == [(KEY, "")]
    assert reader.read(KEY)["x"].tolist() == list(range(12))
    [line] = verify(folder)
    assert shard.name in line
    if kind in ("symlink", "hard link", "device"):
        assert "is a link or something else" in line
    repair(folder)
    assert verify(folder) == []
    [new] = folder.glob("*.tar")
    with tarfile.open(new) as tar:
        assert tar.getnames() == [f"{KEY}.safetensors", f"{KEY}.json"]
    assert ShardReader(folder).read(KEY)["x"].tolist() == list(range(12))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_row_19_extended_headers_are_no_names(folder, mark, form):
    long = "a" * 300 + ".safetensors"
    write_tar(folder, [member(long, GOOD)], form)
    assert len(ShardReader(folder)) == 0
    assert verify(folder)


def test_row_19_a_gzip_bomb_is_no_shard(folder, mark):
    shard = folder / "shard-0000-000000.tar"
    with gzip.open(shard, "wb", compresslevel=9) as file:
        for _ in range(64):
            file.write(bytes(2**20))
    assert len(ShardReader(folder)) == 0
    assert verify(folder)
    repair(folder)
    assert not shard.exists()


def test_row_19_a_header_of_gigabytes_reads_nothing(folder, mark):
    info = tarfile.TarInfo(f"{KEY}.safetensors")
    info.size = 2**33 - 1
    shard = folder / "shard-0000-000000.tar"
    shard.write_bytes(info.tobuf(tarfile.USTAR_FORMAT))
    os.truncate(shard, 2**34)  # sparse: it takes no disk
    assert len(ShardReader(folder)) == 0
    [line] = verify(folder)
    assert f"more than {MAX_FEATURE_BYTES}" in line


def safetensors(header: dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


HOSTILE_TENSORS = {
    "header longer than the file": safetensors({}, length=2**40),
    "header of 2^64": safetensors({}, length=2**64 - 1),
    "tensor of terabytes": safetensors({"x": {"dtype": "F64", "shape": [10**6, 10**6], "data_offsets": [0, 8 * 10**12]}}),
    "offsets outside": safetensors({"x": {"dtype": "U8", "shape": [4], "data_offsets": [10**6, 10**6 + 4]}}, bytes(4)),
    "overflowing shape": safetensors({"x": {"dtype": "U8", "shape": [2**63, 4], "data_offsets": [0, 4]}}, bytes(4)),
    "shape of nothing": safetensors({"x": {"dtype": "U8", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}),
    "unknown type": safetensors({"x": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    "type that numpy lacks": safetensors({"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)),
    "deep header": (10**5).to_bytes(8, "little") + b"[" * 10**5,
}


@pytest.mark.parametrize("kind", HOSTILE_TENSORS)
def test_row_19_safetensors(folder, mark, kind):
    content = HOSTILE_TENSORS[kind]
    shard = write_tar(folder, [member(f"{KEY}.safetensors", content), member(f"{KEY}.json", record())])
    write_index(shard, size=[len(content)], checksum=[zlib.crc32(content)])
    with pytest.raises(ShardError, match="safetensors"):
        ShardReader(folder).read(KEY)
    assert "1 images damaged" in verify(folder)[0]


HOSTILE_INDEXES = {
    "offset outside": {"offset": [10**9]},
    "negative offset": {"offset": [-512]},
    "no room for a header": {"offset": [0]},
    "gigantic offset": {"offset": [10**30]},
    "gigantic size": {"size": [2**62]},
    "negative size": {"size": [-1]},
    "size beyond the end": {"size": [11_000]},
    "offset as text": {"offset": ["512"]},
    "offset as a fraction": {"offset": [512.5]},
    "offset as true": {"offset": [True]},
    "checksum outside": {"checksum": [2**32]},
    "columns of unequal length": {"size": []},
    "a text as a column": {"key": "0"},
    "no rows": {"rows": []},
    "duplicate keys": {"key": [KEY] * 2, "caption": ["", ""]}
    | {name: [1000] * 2 for name in ("offset", "size", "checksum")}
    | {"diagnostics": [{}] * 2},
    "slash in a key": {"key": ["../../mark"]},
    "key as a number": {"key": [7]},
    "caption with a slash": {"caption": ["/etc"]},
    "diagnostics that are infinite": {"diagnostics": [{"psnr": float("inf")}]},
    "diagnostics that are no number": {"diagnostics": [{"psnr": float("nan")}]},
    "diagnostics that are text": {"diagnostics": [{"psnr": "high"}]},
    "diagnostics beyond float": {"diagnostics": [{"psnr": 10**400}]},
    "diagnostics as a list": {"diagnostics": [[1.0]]},
    "too many diagnostics": {"diagnostics": [{str(i): 0.0 for i in range(MAX_DIAGNOSTICS + 1)}]},
    "too many rows": {"key": [KEY] * (MAX_ROWS + 1)},
    "failures as text": {"failures": "none"},
    "failures that are numbers": {"failures": [{"key": 1, "where": 2, "reason": 3}]},
    "another version": {"version": 99},
    "negative bytes": {"bytes": -1},
}


@pytest.mark.parametrize("kind", HOSTILE_INDEXES)
def test_row_19_indexes(folder, mark, kind):
    shard = write_tar(folder, [member(f"{KEY}.safetensors", GOOD), member(f"{KEY}.json", record())])
    write_index(shard, **HOSTILE_INDEXES[kind])
    with pytest.raises(ShardError, match="its index") as error:
        ShardReader(folder)
    assert len(str(error.value)) < 1000
    assert (
        "its index" in verify(folder)[0]
        or "cannot be read" in verify(folder)[0]
        or "no whole number" in verify(folder)[0]
        or verify(folder)
    )
    repair(folder)
    assert ShardReader(folder).read(KEY)["x"].tolist() == list(range(12)), "the shard itself was good"


@pytest.mark.parametrize("text", [b"[" * 10**6, b'{"version": ' * 10**5, b"", b"\0" * 100, b"1" * 10**5])
def test_row_19_index_that_is_no_index(folder, mark, text):
    shard = write_tar(folder, [])
    index_path(shard).write_bytes(text)
    with pytest.raises(ShardError, match="its index cannot be read"):
        ShardReader(folder)


def test_row_19_index_of_gigabytes(folder, mark):
    shard = write_tar(folder, [])
    index_path(shard).touch()
    os.truncate(index_path(shard), 2**40)
    with pytest.raises(ShardError, match=f"longer than {MAX_INDEX_BYTES}"):
        ShardReader(folder)


@pytest.mark.parametrize("which", ["shard", "index"])
@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_row_19_files_that_are_none(folder, mark, which, kind):
    shard = write_tar(folder, [member(f"{KEY}.safetensors", GOOD), member(f"{KEY}.json", record())])
    write_index(shard)
    path = shard if which == "shard" else index_path(shard)
    target = path.rename(folder / "elsewhere")
    {"link": lambda: path.symlink_to(target), "pipe": lambda: os.mkfifo(path), "directory": path.mkdir}[kind]()
    with pytest.raises(ShardError, match=shard.name):
        ShardReader(folder).read(KEY)
    assert verify(folder)


def test_row_19_a_pipe_is_a_name_like_any_other(folder, mark, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(ShardReader(Path(f"pipe:mkdir {mark}"))) == 0
    (folder / f"shard-0000-000000.tar | mkdir {mark.name}").write_bytes(b"")
    (folder / "pipe:mkdir ..").mkdir()
    assert len(ShardReader(folder)) == 0


def test_row_19_what_is_written_keeps_the_same_limits(folder):
    writer = ShardWriter(folder)
    for key in ("../a", "a/b", "a.b", "", "x" * 65):
        with pytest.raises(ShardError, match="cannot be stored"):
            writer.add(key, {"x": np.zeros(1)}, {})
    with pytest.raises(ShardError, match="cannot be stored"):
        writer.add(KEY, {"x": np.zeros(1)}, {"caption": "x" * 2**25})
    writer.finish()
    assert not list(folder.iterdir())
    with pytest.raises(ShardError, match="shard_samples"):
        ShardWriter(folder, max_samples=MAX_ROWS + 1)
