"""Shards: whole or not at all, one process or several, read at random."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc

import numpy as np
import pytest
import webdataset

from datamodules.files import remove_leftovers
from datamodules.records import Failure
from datamodules.shards import ShardError, ShardReader, ShardWriter, index_path
from datamodules.shards import index as index_module
from datamodules.shards import reader as reader_module
from datamodules.shards.lock import BusyError, alone, is_written

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
    assert f"python -m datamodules.cache repair {tmp_path}" in str(error.value)


def test_row_15_a_row_that_tells_of_another_sample(tmp_path):
    write(tmp_path, range(2))
    [index] = tmp_path.glob("*.index.json")
    document = json.loads(index.read_text())
    document["rows"]["key"] = document["rows"]["key"][::-1]  # size and checksum are right, the name in the tar file is another
    index.write_text(json.dumps(document))
    with pytest.raises(ShardError, match="is not where the index says"):
        ShardReader(tmp_path).read(f"{1:032x}")


def test_shards_that_go_away_while_they_are_read(tmp_path, monkeypatch, caplog):
    """As where another process repairs the directory: no traceback, and nothing that looks like a part of it."""
    write(tmp_path / "own", range(1))
    write(tmp_path / "mended", range(2))
    known = reader_module.read_index

    def taking_away(shard):
        found = known(shard)
        if shard.parent.name == "mended":
            shard.unlink()
        return found

    monkeypatch.setattr(reader_module, "read_index", taking_away)
    with pytest.raises(ShardError, match="mended went away while they were read: another process repairs or removes it"):
        ShardReader(tmp_path / "mended")
    write(tmp_path / "mended", range(2))
    assert len(ShardReader(tmp_path / "own", others=[tmp_path / "mended"])) == 1
    assert "not read: " in caplog.text


FULL_DISK = """
import resource, sys, numpy as np
from pathlib import Path
from datamodules.shards import ShardError, ShardWriter
folder, side = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
writer = ShardWriter(folder, max_samples=3)
try:
    for i in range(5):
        writer.add(f"{i:032x}", {"x": np.full((side if i == 4 else 8, side), i, np.uint8)}, {"number": i})
    writer.finish()
except ShardError as error:
    print(error)
    writer.finish()  # as ShardWriting.on_exception does
    sys.exit(3)
"""


@pytest.mark.parametrize(("side", "limit"), [(500, 30_000), (64, 10_000)], ids=["in a sample", "in the end of a shard"])
def test_row_16_disk_full(tmp_path, side, limit):
    if limit == 10_000:  # the end of a tar file is padded to 10,240 bytes, so that no shard can be finished
        write(tmp_path, range(3), rank=7)
    command = [sys.executable, "-c", FULL_DISK, tmp_path, str(side), str(limit)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    assert not ended.stderr
    for word in (str(tmp_path), "GB are free", "Free some space", "data.cache_dir", "run again"):
        assert word in ended.stdout
    assert not list(tmp_path.glob(".writing-*"))
    assert len(list(tmp_path.glob("*.tar"))) == len(list(tmp_path.glob("*.index.json"))) == 1
    assert {key for key, _ in ShardReader(tmp_path).keys()} == {  # noqa: SIM118 - not a dictionary
        f"{i:032x}" for i in range(3)
    }
    write(tmp_path, range(3, 5))  # the next run goes on
    reader = ShardReader(tmp_path)
    assert len(reader) == 5
    assert all(reader.read(*sample) for sample in reader.keys())  # noqa: SIM118 - not a dictionary


def test_row_16_ctrl_c_in_the_middle_of_a_sample_publishes_nothing_half(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path)
    writer.add("0" * 32, sample(0), {})

    def interrupted(tar, member, content):
        tar.fileobj.write(b"half a header")
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "addfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.add("1" * 32, sample(1), {})
    writer.finish()
    assert not [path for path in tmp_path.iterdir() if path.name != ".lock"]


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


def test_row_21_a_lost_index_does_not_hide_damage(tmp_path):
    write(tmp_path, range(3))
    [shard] = tmp_path.glob("*.tar")
    [offset, *_] = json.loads(index_path(shard).read_text())["rows"]["offset"]
    content = bytearray(shard.read_bytes())
    content[offset + 200] ^= 1  # a pixel
    shard.write_bytes(content)
    index_path(shard).unlink()
    assert len(ShardReader(tmp_path)) == 0
    assert not index_path(shard).exists()


def test_row_21_one_key_under_several_captions(tmp_path):
    """A row of another caption goes to another shard: names within a tar file, and keys within an index, are unique."""
    writer = ShardWriter(tmp_path)
    for caption in ("", "a", "b"):
        writer.add("0" * 32, sample(0), {}, caption)
    writer.finish()
    for path in tmp_path.glob("*.index.json"):
        path.unlink()
    assert sorted(ShardReader(tmp_path).keys()) == [("0" * 32, caption) for caption in ("", "a", "b")]


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
shards.reader.MAX_OPEN = 8
reader = shards.ShardReader(Path(sys.argv[1]))
assert sum(len(reader.read(*sample)) for sample in reader.keys()) == 80
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], env={**os.environ, "PYTHONPATH": os.getcwd()}, check=True)


def test_old_shards_are_finished_by_age(tmp_path):
    writer = ShardWriter(tmp_path, max_seconds=0)
    for i in range(3):
        writer.add(f"{i:032x}", sample(i), {})
    assert len(ShardReader(tmp_path)) >= 2


def test_figures_that_are_not_finite_are_left_out(tmp_path):
    writer = ShardWriter(tmp_path)
    writer.add("0" * 32, sample(0), {}, diagnostics={"psnr": float("inf"), "side": 64})
    writer.finish()
    assert ShardReader(tmp_path).diagnostics() == {"side": [64.0]}


def test_row_20_one_shard_and_four_workers(tmp_path):
    import torch

    write(tmp_path, range(9))

    class Samples(torch.utils.data.Dataset):
        reader = ShardReader(tmp_path)

        def __len__(self):
            return 9

        def __getitem__(self, i):
            return i, self.reader.read(f"{i:032x}", "c" if i % 2 else "")["image"]

    loaded = {int(i): image for i, image in torch.utils.data.DataLoader(Samples(), batch_size=None, num_workers=4)}
    assert sorted(loaded) == list(range(9))
    assert all((loaded[i] == torch.from_numpy(sample(i)["image"])).all() for i in range(9))


def test_a_writer_waits_for_a_repair_and_a_repair_refuses_a_writer(tmp_path):
    writer = ShardWriter(tmp_path)
    with alone(tmp_path):
        waiting = threading.Thread(target=writer.add, args=("0" * 32, sample(0), {}))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join()
    with pytest.raises(BusyError, match="another process"), alone(tmp_path):
        pass
    assert is_written(tmp_path)
    writer.finish()
    with alone(tmp_path):
        pass
    assert not is_written(tmp_path)


def test_a_writer_does_not_count_up_from_the_first_name(tmp_path, monkeypatch):
    """A shard costs one attempt at a name, however many there are already."""
    (tmp_path / "shard-0000-000041.tar").touch()
    (tmp_path / "shard-0001-000007.tar").touch()
    attempts = []
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *more: attempts.append(path) or opened(path, flags, *more))
    writer = ShardWriter(tmp_path, max_samples=1)
    for number in range(20):
        writer.add(f"{number:032x}", {"x": np.zeros(1, np.float32)}, {})
    names = [str(path) for path in attempts if str(path).endswith(".tar") and ".writing" not in str(path)]
    assert names == [str(tmp_path / f"shard-0000-{number:06d}.tar") for number in range(42, 62)]


def test_two_writers_of_one_number_share_no_name(tmp_path):
    """Two jobs that think of themselves as the same process, each unaware of the other's shards."""
    first, second = ShardWriter(tmp_path, max_samples=1), ShardWriter(tmp_path, max_samples=1)
    for number in range(4):
        (first if number % 2 else second).add(f"{number:032x}", {"x": np.full(1, number, np.float32)}, {})
    found = ShardReader(tmp_path)
    assert [float(found.read(f"{number:032x}")["x"][0]) for number in range(4)] == [0, 1, 2, 3]


def test_a_reader_takes_little_memory_a_sample(tmp_path):
    """A million samples must fit into a process; see docs/scaling.md for what is measured."""
    writer = ShardWriter(tmp_path, max_samples=20_000)
    content = {"x": np.zeros(1, np.float32)}
    for number in range(20_000):
        writer.add(f"{number:032x}", content, {}, diagnostics={"short_side": 64.0, "psnr": 30.0})
    tracemalloc.start()
    found = ShardReader(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 20_000
    assert held / 20_000 < 350


def test_figures_that_only_some_samples_have(tmp_path):
    writer = ShardWriter(tmp_path)
    for number, figures in enumerate([{"a": 1.0}, {}, {"b": 2.0}, {"a": 3.0, "b": float("inf")}]):
        writer.add(f"{number:032x}", {"x": np.zeros(1, np.float32)}, {}, diagnostics=figures)
    writer.finish()
    found = ShardReader(tmp_path)
    assert found.diagnostics() == {"a": [1.0, 3.0], "b": [2.0]}
    assert found.diagnostics([(f"{3:032x}", ""), (f"{1:032x}", "")]) == {"a": [3.0]}
    assert found.diagnostics([]) == {}


@pytest.mark.parametrize("links", [True, False])
def test_a_rebuilt_index_never_replaces_its_writer_s(tmp_path, monkeypatch, links):
    """Another job looks between a shard's rename and its index: the index that tells of failures is the one that stays."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError("no hard links here")))
    writer = ShardWriter(tmp_path)
    writer.add("a", {"x": np.zeros(3, np.float32)}, {"key": "a"})
    writer.fail(Failure("b.png", "it is broken", "b"))
    read = reader_module.read_contents

    def read_slowly(descriptor, size):
        contents = read(descriptor, size)
        original(shard, index)  # the writer is quicker
        return contents

    original, written = index_module.write_index, []
    monkeypatch.setattr("datamodules.shards.writer.write_index", lambda *told: written.append(told))
    writer.finish()
    ((shard, index),) = written
    monkeypatch.setattr(reader_module, "read_contents", read_slowly)
    reader = ShardReader(tmp_path)
    assert reader.keys() == [("a", "")]
    assert [failure.key for failure in reader.failures] == ["b"]
    assert not list(tmp_path.glob(".writing-*"))


def test_a_sample_whose_header_is_known_is_read_without_taking_it_apart_again(tmp_path, monkeypatch):
    """Samples of a cache differ in their numbers only; what is read is the same, and may be written to."""
    from datamodules.shards import tar

    monkeypatch.setattr(tar, "_layouts", {})
    write(tmp_path, range(4))
    taken = []
    load = tar.load_tensors
    monkeypatch.setattr(tar, "load_tensors", lambda content: (taken.append(len(content)), load(content))[1])
    reader = ShardReader(tmp_path)
    for _ in range(2):
        for i in range(4):
            arrays = reader.read(f"{i:032x}", "c" if i % 2 else "")
            assert arrays.keys() == sample(i).keys()
            assert all((arrays[name] == expected).all() and arrays[name].dtype == expected.dtype for name, expected in sample(i).items())
            arrays["image"][:] = 0  # no other sample's, and not the next reading's
    assert len(taken) == 1
    whole = next(iter(tar._layouts.values())).total
    with pytest.raises(ValueError, match="not readable safetensors"):
        tar.decode(_content(0)[: whole - 1])


def test_another_shape_has_another_layout(tmp_path):
    from safetensors.numpy import save

    from datamodules.shards.tar import decode

    for shape in ((2, 3), (3, 2), (2, 3), (6,), (0, 3), (2, 3)):
        for dtype in (np.uint8, np.float16):
            array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
            found = decode(bytearray(save({"a": array})))["a"]
            assert (found.shape, found.dtype) == (array.shape, array.dtype)
            assert (found == array).all()


def test_layouts_that_are_remembered_are_few(monkeypatch):
    from safetensors.numpy import save

    from datamodules.shards import tar

    monkeypatch.setattr(tar, "_layouts", {})
    for i in range(1, 200):
        tar.decode(save({"a": np.zeros(i)}))
    tar.decode(save({f"name-{i}": np.zeros(1) for i in range(500)}))
    assert len(tar._layouts) == tar._MOST_LAYOUTS


def _content(number):
    from safetensors.numpy import save

    return save(sample(number))
