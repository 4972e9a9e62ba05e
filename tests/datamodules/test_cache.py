"""The cache's commands: what they tell, what they mend, and what they never touch."""

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.cache.__main__ import main
from datamodules.errors import DataError
from datamodules.files import temporary_name
from datamodules.records import Failure
from datamodules.shards import ShardError, ShardReader, ShardWriter, index_path
from datamodules.shards.lock import BusyError
from tests.datamodules.filled import LEAF, fill, sample

FORK = multiprocessing.get_context("fork")


def good_keys(folder: Path) -> set[int]:
    """Numbers of the images whose features are there, and right."""
    reader = ShardReader(folder, rebuild=False)
    for key, caption in reader.keys():  # noqa: SIM118 - not a dictionary
        np.testing.assert_array_equal(reader.read(key, caption)["image"], sample(int(key, 16)))
    return {int(key, 16) for key, _ in reader.keys()}  # noqa: SIM118


def flip(shard: Path, position: int) -> None:
    content = bytearray(shard.read_bytes())
    content[position] ^= 1
    shard.write_bytes(content)


def offsets(shard: Path) -> list[int]:
    return json.loads(index_path(shard).read_text())["rows"]["offset"]


def only_shard(folder: Path) -> Path:
    [shard] = folder.glob("*.tar")
    return shard


def test_commands_that_look_at_folders_start_without_torch(cache):
    code = """
import sys
from datamodules.cache.__main__ import main
for arguments in (["list"], ["verify"], ["repair"], ["delete", "inversion-0123456789ab"]):
    main(arguments)
heavy = {"torch", "lightning", "pandas", "diffusers"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)


def test_list(cache, capsys):
    other = cache.parent / "stopped-none-0123456789ab"
    writer = ShardWriter(other)
    writer.fail(Failure("a.png", "it is cut short", "f" * 32))
    writer.finish()
    (other / ".writing-elsewhere-1-0000.tar").write_bytes(b"half")
    (other / "shard-0000-000007.tar").write_bytes(b"lost")
    (cache.parents[1] / "builtin-0123456789ab" / "photographs").mkdir(parents=True)  # images, not features
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    first, second = told.split(str(Path("cache") / "inversion-0123456789ab" / "stopped"))
    assert "10 images, 0 failures" in first
    assert "X, model w, steps 20, perturbation none" in first
    assert "!" not in first
    assert "0 images, 1 failures" in second
    for note in ("extraction has not ended", "1 shards without index", "1 unfinished files"):
        assert note in second
    assert "2 directories, 10 images" in second
    assert "builtin-" not in told


def test_list_shows_no_control_characters(cache, capsys):
    hostile = {"settings": {"extractor": {"class_path": "\x1b[2Jx.Y", "init_args": {"\x1b]0;": "\x1b[31m"}}, "perturbation": "\x07"}}
    (cache / "manifest.json").write_text(json.dumps(hostile))
    main(["list"])
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_verify_of_a_sound_cache(cache, capsys):
    assert main(["verify"]) == 0
    assert "no damage" in capsys.readouterr().out


def damage_sample(shard):
    flip(shard, offsets(shard)[3] + 150)


def damage_header(shard):
    flip(shard, offsets(shard)[3] - 512 + 2)


def damage_record(shard):
    content = bytearray(shard.read_bytes())
    at = content.index(b'"caption_hash"', offsets(shard)[3])
    content[at : at + 1] = b"'"
    shard.write_bytes(content)


def cut(shard):
    os.truncate(shard, offsets(shard)[3] + 10)


def lose_index(shard):
    index_path(shard).unlink()


def break_index(shard):
    index_path(shard).write_text("{")


def lose_index_and_damage(shard):
    damage_sample(shard)
    lose_index(shard)


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (damage_sample, {3}),
        (damage_header, {3}),
        (damage_record, {3}),
        (cut, set(range(3, 10))),
        (lose_index, set()),
        (break_index, set()),
        (lose_index_and_damage, {3}),
    ],
)
def test_verify_names_damage_and_repair_keeps_what_is_good(cache, capsys, damage, lost):
    shard = only_shard(cache)
    damage(shard)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert main(["verify", str(cache)]) == 1
    told = capsys.readouterr().out
    assert f"{shard}: {len(lost)} images damaged, {10 - len(lost)} good" in told
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before, "verify changes nothing"
    assert main(["repair", str(cache)]) == 0
    told = capsys.readouterr().out
    assert ("index rebuilt, 10 images" if not lost else f"{len(lost)} damaged images are extracted anew") in told
    assert good_keys(cache) == set(range(10)) - lost
    assert main(["verify"]) == 0
    fill(cache, len(lost), min(lost, default=0))  # the next run extracts what is missing
    assert good_keys(cache) == set(range(10))


def test_failures_outlive_a_repair(cache):
    writer = ShardWriter(cache, rank=3)
    writer.add(f"{20:032x}", {"image": sample(20)}, {})
    writer.add(f"{21:032x}", {"image": sample(21)}, {})
    writer.fail(Failure("a.png", "it is cut short", "f" * 32))
    writer.finish()
    damage = next(cache.glob("shard-0003-*.tar"))
    flip(damage, offsets(damage)[0] + 150)
    main(["repair"])
    assert [failure.where for failure in ShardReader(cache).failures] == ["a.png"]
    assert good_keys(cache) == {*range(10), 21}


def test_repair_removes_what_belongs_to_nothing(cache, capsys):
    process = subprocess.Popen(["true"])
    process.wait()
    mine = cache / temporary_name("0000.tar")
    dead = cache / mine.name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    for path in (mine, dead, cache / "shard-0009-000000.tar", cache / "shard-0008-000000.index.json"):
        path.write_bytes(b"")
    assert main(["verify"]) == 1
    told = capsys.readouterr().out
    assert all(name in told for name in (dead.name, "shard-0009-000000.tar", "shard-0008-000000.index.json"))
    main(["repair"])
    assert mine.exists()
    assert {path.name for path in cache.iterdir()} == {
        mine.name,
        ".lock",
        "manifest.json",
        "shard-0000-000000.tar",
        "shard-0000-000000.index.json",
    }


def die_at(step: int, folder: Path) -> None:
    """Repair, and die as by kill -9 right before the given change of the directory."""
    changes = iter(range(1, 1000))

    def dying(function):
        def call(*arguments, **options):
            if next(changes) == step:
                os._exit(9)
            return function(*arguments, **options)

        return call

    Path.unlink, Path.replace, os.fsync = dying(Path.unlink), dying(Path.replace), dying(os.fsync)
    main(["repair", str(folder)])
    os._exit(0)


def believed(folder: Path) -> set[int]:
    """Numbers of the images that can be read; those that can are right."""
    reader = ShardReader(folder)
    found = set()
    for key, _ in reader.keys():  # noqa: SIM118 - not a dictionary
        with contextlib.suppress(ShardError):
            np.testing.assert_array_equal(reader.read(key)["image"], sample(int(key, 16)))
            found.add(int(key, 16))
    return found


def test_a_repair_that_is_killed_loses_nothing(tmp_path):
    for step in range(1, 50):
        folder = fill(tmp_path / str(step) / LEAF)
        content = only_shard(folder).read_bytes().replace(b'"checksum"', b'"checkful"')  # as shards of before there was one
        only_shard(folder).write_bytes(content)
        damage_sample(only_shard(folder))
        index = json.loads(index_path(only_shard(folder)).read_text())
        index["failures"] = [{"key": "f" * 32, "where": "a.png", "reason": "cut"}]
        index_path(only_shard(folder)).write_text(json.dumps(index))
        process = FORK.Process(target=die_at, args=(step, folder))
        process.start()
        process.join()
        wanted = set(range(10)) - {3}
        assert believed(folder) == wanted, f"killed before change {step}"
        main(["repair", str(folder)])
        assert good_keys(folder) == wanted
        assert {failure.where for failure in ShardReader(folder).failures} == {"a.png"}
        assert main(["verify", str(folder)]) == 0
        if process.exitcode == 0:
            break
    assert 8 < step < 49, "the repair was killed at every change that it makes"


def test_repair_and_delete_refuse_while_a_process_writes(cache):
    damage_sample(only_shard(cache))
    writer = ShardWriter(cache)
    writer.add("a" * 32, {"image": sample(0)}, {})
    for arguments in (["repair"], ["delete", "--yes", str(cache)]):
        with pytest.raises(BusyError, match=r"another process.*wait"):
            main(arguments)
    writer.finish()
    assert len(ShardReader(cache)) == 11
    main(["repair"])
    assert len(ShardReader(cache)) == 10


def test_verify_does_not_call_unfinished_what_is_being_written(cache, capsys):
    writer = ShardWriter(cache)
    writer.add("a" * 32, {"image": sample(0)}, {})
    assert main(["verify"]) == 0
    writer.finish()


def test_named_folders_must_be_there(cache):
    with pytest.raises(DataError, match="no directory 'nowhere'"):
        main(["verify", "nowhere"])
    with pytest.raises(DataError, match="no cache directory"):
        main(["repair", str(cache.parents[2])])
