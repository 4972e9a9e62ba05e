"""Many samples at once: the same as one after the other, read straight to their places in the batch."""

import os

import numpy as np
import pytest

from datamodules.shards import ShardError, ShardReader, ShardWriter, read_batch, tar
from datamodules.shards import reader as reader_module


def sample(i, size=8):
    rng = np.random.default_rng(i)
    picture, latent = rng.integers(0, 255, (3, size, size), np.uint8), rng.standard_normal((4, 2, 2)).astype(np.float16)
    return {"image": picture, "latent": latent, "number": np.array([i], np.int64), "vector": rng.random(5, np.float32)}


def written(folder, samples):
    writer = ShardWriter(folder, max_samples=4)
    for i, arrays in samples.items():
        writer.add(f"{i:032x}", arrays, {"number": i}, caption="c" if i % 2 else "")
    writer.finish()
    return ShardReader(folder)


def located(reader, numbers):
    return [(reader, f"{i:032x}", "c" if i % 2 else "") for i in numbers]


@pytest.fixture
def scattered(monkeypatch):
    """How many samples were read straight to their places."""
    counted = []
    read_into = reader_module.read_into

    def counting(*args):
        counted.append(read_into(*args))
        return counted[-1]

    monkeypatch.setattr(reader_module, "read_into", counting)
    return counted


@pytest.fixture
def reader(tmp_path):
    reader = written(tmp_path, {i: sample(i) for i in range(10)})
    reader.read(f"{0:032x}")  # one that tells the layout
    return reader


def test_a_batch_is_what_its_samples_are(reader, scattered):
    for numbers in ([7, 0, 3], list(range(10)), [2, 2], [9]):
        batch = read_batch(located(reader, numbers))
        assert batch.keys() == sample(0).keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.stack([sample(i)[name] for i in numbers]), strict=True)
            array[:] = 0  # nobody else's
    assert len(scattered) == 16
    assert all(scattered)


@pytest.mark.parametrize("names", [["latent"], ["vector", "image"], ["number"]])
def test_only_what_is_wanted_and_in_that_order(reader, scattered, names):
    batch = read_batch(located(reader, [1, 5]), names)
    assert list(batch) == names
    for name in names:
        np.testing.assert_array_equal(batch[name], np.stack([sample(i)[name] for i in (1, 5)]), strict=True)
    assert scattered == [True, True]


def test_the_first_batch_of_all_is_read_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "_layouts", {})
    reader = written(tmp_path, {i: sample(i) for i in range(3)})
    np.testing.assert_array_equal(read_batch(located(reader, [2, 1]))["image"], np.stack([sample(2)["image"], sample(1)["image"]]))


def test_a_name_or_a_sample_that_is_not_there(reader):
    with pytest.raises(KeyError, match="depth"):
        read_batch(located(reader, [0]), ["depth"])
    with pytest.raises(KeyError):
        read_batch(located(reader, [0, 99]))


def test_pictures_of_several_sizes_are_a_list(tmp_path):
    sizes = [8, 8, 6, 8]
    reader = written(tmp_path, {i: sample(i, size) for i, size in enumerate(sizes)})
    for numbers in ([0, 1, 2, 3], [2, 0]):
        for _ in range(2):
            batch = read_batch(located(reader, numbers))
            assert [array.shape[-1] for array in batch["image"]] == [sizes[i] for i in numbers]
            assert batch["latent"].shape == (len(numbers), 4, 2, 2)
            for i, array in zip(numbers, batch["image"], strict=True):
                np.testing.assert_array_equal(array, sample(i, sizes[i])["image"])


def test_what_was_read_before_the_first_of_another_size_is_not_read_again(tmp_path, scattered, monkeypatch):
    reader = written(tmp_path, {i: sample(i, 6 if i == 2 else 8) for i in range(4)})
    reader.read(f"{0:032x}")
    alone = []
    read = ShardReader.read
    monkeypatch.setattr(ShardReader, "read", lambda *told: alone.append(told[1]) or read(*told))
    batch = read_batch(located(reader, range(4)), ["latent", "image"])
    assert list(batch) == ["latent", "image"]
    for name in batch:
        for i, array in enumerate(batch[name]):
            np.testing.assert_array_equal(array, sample(i, 6 if i == 2 else 8)[name], strict=True)
    assert scattered == [True, True, False]
    assert alone == [f"{2:032x}", f"{3:032x}"]


def test_as_many_bytes_in_another_shape(tmp_path):
    shapes = [(2, 8), (8, 2), (2, 8)]
    reader = written(tmp_path, {i: {"x": np.arange(16).reshape(shape)} for i, shape in enumerate(shapes)})
    for _ in range(2):
        assert [array.shape for array in read_batch(located(reader, range(3)))["x"]] == shapes


def test_several_readers_in_one_batch(tmp_path, scattered):
    """Images under several perturbations come in one batch, each from its own cache."""
    readers = [written(tmp_path / str(n), {i: sample(10 * n + i) for i in range(6)}) for n in range(2)]
    readers[0].read(f"{0:032x}")
    batch = read_batch([*located(readers[0], [1, 2]), *located(readers[1], [2])])
    np.testing.assert_array_equal(batch["image"], np.stack([sample(i)["image"] for i in (1, 2, 12)]), strict=True)
    assert scattered == [True] * 3


@pytest.mark.parametrize("where", ["name", "header", "content"])
def test_row_15_a_damaged_sample_is_an_error_that_names_the_shard(reader, where):
    _, row = reader.place(f"{5:032x}", "c")
    shard = sorted(reader.folder.glob("*.tar"))[1]
    content = bytearray(shard.read_bytes())
    content[{"name": row.offset - 512, "header": row.offset + 12, "content": row.offset + row.size - 1}[where]] ^= 1
    shard.write_bytes(content)
    read_batch(located(reader, [4, 6]))
    for _ in range(2):
        with pytest.raises(ShardError, match=shard.name):
            read_batch(located(reader, [4, 5, 6]))


def test_row_15_a_shard_that_was_cut_since(reader):
    for shard in reader.folder.glob("*.tar"):
        os.truncate(shard, 700)
    with pytest.raises(ShardError, match="shard-"):
        read_batch(located(reader, [1, 2]))


def test_a_disk_that_does_not_answer_is_an_error_of_the_shard(reader, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tar.os, "pread", broken)
    monkeypatch.setattr(tar.os, "preadv", broken)
    with pytest.raises(ShardError, match=r"shard-.*Input/output error"):
        read_batch(located(reader, [1, 2]))
