"""extract.py as the real command, on an extractor that is quick to load: what tests of it share."""

import os
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from datamodules.shards import ShardReader
from datamodules.shards.index import index_path, read_index, shards_of

# Slow enough to be stopped in the middle, cheap enough to start: no diffusion model.
SLOW_EXTRACTOR = """
import os, time
from modules.extractors.base import Extractor

class SlowExtractor(Extractor):
    name = "slow"

    def __init__(self, level: int = 1) -> None:
        super().__init__()
        self.level = level

    def load(self) -> None:
        pass

    def prepare(self, image):
        return image[:, :16, :16]

    def forward(self, images, prompts, seeds):
        os.write(2, f"pid {os.getpid()}\\n".encode())  # in one piece: two ranks write
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        return {"mean": images.float().mean((1, 2, 3))}
"""


def make_folder(path, images=40):
    """Images, their manifest, and an extractor that can be imported from there."""
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    for i in range(images):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2}")
    (path / "manifest.csv").write_text("\n".join(lines))
    (path / "slow_extractor.py").write_text(SLOW_EXTRACTOR)
    return path


def options(folder, *more):
    # The configuration's own model section stays: it must not matter.
    return [
        "--config=configs/quickstart.yaml",
        "--data.source=datamodules.sources.ManifestSource",
        f"--data.source.path={folder / 'manifest.csv'}",
        "--data.extractor=slow_extractor.SlowExtractor",
        f"--data.cache_dir={folder / 'cache'}",
        f"--runs_dir={folder / 'runs'}",
        "--data.extract_batch_size=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        *more,
    ]


TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")


def environment(folder, seconds=0.0, **more):
    """Variables of a process that can import the extractor and is nobody's rank."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "UNDERTOW_"))}
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        kept.pop(name, None)
    return kept | {"PYTHONPATH": path, "SLOW_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"} | more


def start(folder, *more, seconds=0.0, name="std", launcher=(sys.executable,), **variables):
    """The real command in a process of its own, as its own group; its stderr goes to a file, `<name>err`."""
    return subprocess.Popen(
        [*launcher, "extract.py", *options(folder, *more)],
        stdout=(folder / f"{name}out").open("w"),
        stderr=(folder / f"{name}err").open("w"),
        env=environment(folder, seconds, **variables),
        start_new_session=True,
    )


def workers(folder, process, batches, count=1):
    """Wait until so many batches have been begun, by so many processes; gives the ids of the processes that did."""
    deadline = time.monotonic() + 240  # a loaded machine takes more than a minute to import torch twice
    while time.monotonic() < deadline and process.poll() is None:
        begun = [int(found) for found in re.findall(r"pid (\d+)\n", (folder / "stderr").read_text())]
        if len(begun) >= batches and len(set(begun)) >= count:
            return set(begun)
        time.sleep(0.05)
    pytest.fail(f"no extraction: {(folder / 'stderr').read_text()[-2000:]}")


def reader(folder):
    [found] = folder.glob("cache/slow-*/*")
    return ShardReader(found)


def samples(folder):
    """How often each key stands in the indexes of the cache."""
    shards = shards_of(reader(folder).folder)  # the reader has written indexes that a killed writer did not come to
    return Counter(row.key for shard in shards if index_path(shard).exists() for row in read_index(shard).rows)  # a living one is about to


def shards_by_rank(folder):
    """How many finished shards each process has written."""
    return Counter(path.name[:10] for path in folder.glob("cache/slow-*/*/shard-*.index.json"))
