"""The real commands on processes that torchrun and SLURM start, and extraction that goes on with another number of them."""

import json
import os
import secrets
import signal
import subprocess
import sys

import numpy as np
import pytest

from datamodules.shards.index import shards_of
from tests.commands import options as training_options
from tests.extracting import TWO, environment, make_folder, reader, samples, start, workers
from tests.watching import wait_until

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
THREE = ("--trainer.devices=3", "--trainer.strategy=ddp")

# Rank 1 has read a cache directory as it was before another job filled it, as with the cached listings of a network file system.
OLD_LISTING = """
import os

if os.environ.get("RANK") == "1":
    from datamodules.shards import reader
    seen, now = [], reader.shards_of
    reader.shards_of = lambda folder, *more: seen.append(folder) or ([] if len(seen) < 3 else now(folder, *more))
"""


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


def features(folder):
    found = reader(folder)
    return {key: found.read(key)["mean"] for key, _ in found.keys()}  # noqa: SIM118 - not a dictionary


def torchrun(folder, *more, **variables):
    return start(folder, *TWO, *more, launcher=TORCHRUN, **variables)


def slurm(rank, job):
    """Variables of a task that srun starts, one of two on one node."""
    told = {"JOB_ID": job, "JOB_NAME": "extract", "NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0, "NODELIST": "127.0.0.1"}
    return {f"SLURM_{name}": str(value) for name, value in (told | {"PROCID": rank, "LOCALID": rank}).items()}


@pytest.mark.timeout(900)
def test_torchrun_extracts(folder):
    process = torchrun(folder, "--data.shard_samples=4")
    assert process.wait(300) == 0, (folder / "stderr").read_text()[-3000:]
    assert set(samples(folder).values()) == {1}
    assert len(samples(folder)) == 40
    assert {path.name[:10] for path in shards_of(reader(folder).folder)} == {"shard-0000", "shard-0001"}
    said = (folder / "stdout").read_text()
    assert said.count("40 images have features in") == 1  # rank 0 alone speaks
    assert "40 were missing" in said
    # A rank that still sees an old listing of the directory must not go its own way, and wait there for ranks that have nothing to do.
    (folder / "slow_extractor.py").write_text((folder / "slow_extractor.py").read_text() + OLD_LISTING)
    process = torchrun(folder)
    assert process.wait(300) == 0, (folder / "stderr").read_text()[-3000:]
    assert "nothing was missing" in (folder / "stdout").read_text()
    assert set(samples(folder).values()) == {1}


@pytest.mark.timeout(900)
def test_slurm_extracts_a_share(folder):
    """Two tasks of one job of an array: they meet at SLURM's address and extract their share together."""
    job = str(secrets.randbelow(9000) + 100_000)
    tasks = [start(folder, *TWO, "--share=1/2", name=f"task{rank}", **slurm(rank, job)) for rank in (0, 1)]
    assert [task.wait(300) for task in tasks] == [0, 0], (folder / "task0err").read_text()[-3000:]
    mine = len(samples(folder))
    assert 5 < mine < 35
    assert set(samples(folder).values()) == {1}
    assert {path.name[:10] for path in shards_of(reader(folder).folder)} == {"shard-0000", "shard-0001"}
    assert f"share 1/2: {mine} of 40 images" in (folder / "task0out").read_text()
    assert (folder / "task1out").read_text() == ""


@pytest.mark.timeout(900)
def test_torchrun_trains(place, first):
    """All of train.py on two processes of torchrun: the report is written once, as many steps are made on both."""
    command = training_options(place, "torchrun", *TWO, "--trainer.max_epochs=1", "--report.images=0")
    done = subprocess.run([*TORCHRUN, "train.py", *command], capture_output=True, text=True, timeout=500, env=environment(place))
    assert done.returncode == 0, done.stderr[-3000:]
    run = place / "runs" / "torchrun"
    assert json.loads((run / "metrics.json").read_text())["overall"]["auroc"]["value"] is not None
    assert (run / "report.html").exists()
    assert done.stdout.count(str(run / "report.html")) == 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_extraction_killed_on_two_ranks_goes_on_with_one_and_three(folder, tmp_path_factory, number):
    """The keys and features of an undisturbed run, each once: nothing lost, nothing repeated."""
    whole = make_folder(tmp_path_factory.mktemp("whole"))
    assert start(whole).wait(200) == 0
    process = start(folder, *TWO, "--data.shard_samples=2", seconds=0.5)
    workers(folder, process, 8, count=2)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(200) in (-number, 128 + number)
    first = samples(folder)
    assert 0 < len(first) < 40
    second = start(folder, "--data.shard_samples=2", seconds=1, name="one")
    wait_until(lambda: second.poll() is not None or len(samples(folder)) >= len(first) + 4)
    os.killpg(second.pid, number)
    second.wait(200)
    before = samples(folder)
    assert len(first) < len(before) < 40
    third = start(folder, *THREE, name="three")
    assert third.wait(200) == 0, (folder / "threeerr").read_text()[-3000:]
    assert f"{40 - len(before)} were missing" in (folder / "threeout").read_text()
    assert set(samples(folder).values()) == {1}
    expected, found = features(whole), features(folder)
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[key], expected[key], rtol=0, atol=1e-4) for key in expected)
    assert json.loads((reader(folder).folder / "manifest.json").read_text())["counts"] == {"images": 40, "failures": 0}
