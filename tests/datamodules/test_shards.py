"""Shards: whole or not at all, one process or several, read at random."""

import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import webdataset

from datamodules.files import remove_leftovers
from datamodules.records import Failure
from datamodules.shards import ShardError, ShardReader, ShardWriter, index_path

WRITER = """
import sys, numpy as np
from pathlib import Path
from datamodules.files import remove_leftovers
from datamodules.shards import ShardReader, ShardWriter
assert "torch" not in sys.modules
folder, wanted = Path(sys.argv[1]), int(sys.argv[2])
remove_leftovers(folder)
there = {key for key, _ in ShardReader(folder).keys()}
writer = ShardWriter(folder, rank=int(sys.argv[3]), max_samples=7)
print("ready", flush=True)
for i in range(wanted):
    if f"{i:032x}" not in there:
        writer.add(f"{i:032x}", {"x": np.full((64, 64), i % 251, np.uint8)}, {"number": i})
writer.finish()
"""


def sample(i: int) -> dict:
    rng = np.random.default_rng(i)
    return {"image": rng.integers(0, 255, (3, 8, 8), np.uint8), "latent": rng.standard_normal((4, 2, 2)).astype(np.float16)}


def write(folder, numbers, **options) -> None:
    writer = ShardWriter(folder, **options)
    for i in numbers:
        writer.add(f"{i:032x}", sample(i), {"number": i}, caption="c" if i % 2 else "", diagnostics={"psnr": float(i)})
    writer.finish()


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, range(10), max_samples=4)
    reader = ShardReader(tmp_path)
    assert len(reader) == 10
    assert len(list(tmp_path.glob("*.tar"))) == 3
    for i in range(10):
        read = reader.read(f"{i:032x}", "c" if i % 2 else "")
        assert read.keys() == {"image", "latent"}
        for name, array in sample(i).items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)
    assert (f"{1:032x}", "") not in reader  # the caption is part of what a row is valid for
    assert sorted(reader.diagnostics()["psnr"]) == list(range(10))


def test_shards_are_webdataset(tmp_path):
    write(tmp_path, range(3))
    [shard] = tmp_path.glob("*.tar")
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [json.loads(sample["json"])["number"] for sample in samples] == [0, 1, 2]
    assert all("safetensors" in sample for sample in samples)


@pytest.mark.timeout(300)
def test_row_13_killed_writers_lose_and_double_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    rng = random.Random(0)
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, "400", "0"], env=environment, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        ShardReader(tmp_path)  # what is there can be read at any moment
    subprocess.run([sys.executable, "-c", WRITER, tmp_path, "400", "0"], env=environment, check=True)
    rows = [key for path in tmp_path.glob("*.index.json") for key in json.loads(path.read_text())["rows"]["key"]]
    assert sorted(rows) == sorted(f"{i:032x}" for i in range(400))
    reader = ShardReader(tmp_path)
    assert all((reader.read(f"{i:032x}")["x"] == i % 251).all() for i in range(400))
    assert not list(tmp_path.glob(".writing-*"))


def test_row_14_exception_in_the_middle_of_a_shard(tmp_path):
    writer = ShardWriter(tmp_path)
    writer.add("0" * 32, sample(0), {})
    with pytest.raises(TypeError):
        writer.add("1" * 32, sample(1), {"not": object()})
    assert len(ShardReader(tmp_path)) == 0
    writer.finish()  # the samples before it are whole
    assert [key for key, _ in ShardReader(tmp_path).keys()] == ["0" * 32]  # noqa: SIM118 - not a dictionary
    with tarfile.open(next(tmp_path.glob("*.tar"))) as tar:
        assert len(tar.getnames()) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "index"])
def test_row_15_damage_is_an_error_that_names_the_shard(tmp_path, damage):
    write(tmp_path, range(4))
    [shard] = tmp_path.glob("*.tar")
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        with tarfile.open(shard) as tar:
            boundary = tar.getmembers()[2].offset
        shard.write_bytes(content[:boundary])
    elif damage == "flip":
        content[700] ^= 255
        shard.write_bytes(content)
    else:
        index_path(shard).write_text('{"rows": 3')
    with pytest.raises(ShardError, match=shard.name) as error:
        ShardReader(tmp_path).read(f"{0:032x}")
    assert "Delete it and run again" in str(error.value)


def test_row_17_two_processes_of_one_rank(tmp_path):
    context = multiprocessing.get_context("fork")
    halves = [context.Process(target=write, args=(tmp_path, range(start, 60, 2)), kwargs={"max_samples": 5}) for start in (0, 1)]
    for process in halves:
        process.start()
    for process in halves:
        process.join()
        assert process.exitcode == 0
    rows = [key for path in tmp_path.glob("*.index.json") for key in json.loads(path.read_text())["rows"]["key"]]
    assert sorted(rows) == sorted(f"{i:032x}" for i in range(60))


def test_row_21_a_lost_index_is_rebuilt(tmp_path):
    write(tmp_path, range(6), max_samples=3)
    indexes = {path: json.loads(path.read_text()) for path in tmp_path.glob("*.index.json")}
    for path in indexes:
        path.unlink()
    assert len(ShardReader(tmp_path)) == 6
    assert {path: json.loads(path.read_text()) for path in tmp_path.glob("*.index.json")} == indexes


def test_a_cut_shard_without_index_does_not_exist(tmp_path):
    write(tmp_path, range(6))
    [shard] = tmp_path.glob("*.tar")
    index_path(shard).unlink()
    shard.write_bytes(shard.read_bytes()[:1500])
    assert len(ShardReader(tmp_path)) == 0


def test_failures_are_kept_without_any_sample(tmp_path):
    writer = ShardWriter(tmp_path)
    writer.fail(Failure("a.jpg", "it is cut short", "f" * 32))
    writer.finish()
    assert [failure.reason for failure in ShardReader(tmp_path).failures] == ["it is cut short"]


def test_leftovers_of_dead_processes_only(tmp_path):
    writer = ShardWriter(tmp_path)
    writer.add("0" * 32, sample(0), {})
    process = subprocess.Popen(["true"])
    process.wait()
    [mine] = tmp_path.glob(".writing-*")
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))
    dead.write_bytes(b"half a shard")
    remove_leftovers(tmp_path)
    assert mine.exists()
    assert not dead.exists()
    writer.finish()
    assert len(ShardReader(tmp_path)) == 1


def test_many_shards_need_few_open_files(tmp_path):
    write(tmp_path, range(40), max_samples=1)
    code = """
import resource, sys
from pathlib import Path
from datamodules import shards
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
shards.MAX_OPEN = 8
reader = shards.ShardReader(Path(sys.argv[1]))
assert sum(len(reader.read(*sample)) for sample in reader.keys()) == 80
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], env={**os.environ, "PYTHONPATH": os.getcwd()}, check=True)


def test_old_shards_are_finished_by_age(tmp_path):
    writer = ShardWriter(tmp_path, max_seconds=0)
    for i in range(3):
        writer.add(f"{i:032x}", sample(i), {})
    assert len(ShardReader(tmp_path)) >= 2


def test_foreign_tar_without_index_gives_nothing(tmp_path):
    with tarfile.open(tmp_path / "shard-0000-000000.tar", "w") as tar:
        for name, content in [("../evil.safetensors", b"x"), ("a.pickle", b"cos\nsystem\n(S'true'\ntR.")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert len(ShardReader(tmp_path)) == 0
