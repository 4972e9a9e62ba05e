"""Extraction by `extract.py` on two processes against one, a thread each.

python -m benchmarks.two_processes --images 384 --steps 10

The rate is that of the extraction itself, as its log says it: starting processes is left out.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.extracting import write_images
from benchmarks.measuring import Row, compared, finish, machine, parser
from datamodules.shards import Arrays, ShardReader

RATE = re.compile(r"\(([\d.]+) images/s on (\d+) processes\)")


def extraction(place: Path, cache: Path, processes: int, steps: int) -> float:
    """Images a second of a run of extract.py.

    Args:
        place: Where the images lie.
        cache: Of the features; a new one.
        processes: How many.
        steps: DDIM steps each way.

    Raises:
        RuntimeError: It failed, or did not say its rate.
    """
    command = [
        *(sys.executable, "extract.py", "--config=configs/quickstart.yaml", "--data.source=FolderSource", f"--data.source.root={place}"),
        *(f"--data.cache_dir={cache}", "--data.extractor.init_args.prompt_source=empty", f"--data.extractor.init_args.steps={steps}"),
        *("--data.extract_batch_size=16", "--data.extract_workers=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
        f"--trainer.devices={processes}",
    ]
    surroundings = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    told = RATE.search(ran.stderr)
    if ran.returncode or told is None or int(told[2]) != processes:
        msg = f"extract.py on {processes} processes failed: {ran.stderr[-1000:]}"
        raise RuntimeError(msg)
    return float(told[1])


def features(cache: Path) -> dict[str, Arrays]:
    """All features of a cache, by key."""
    reader = ShardReader(next(cache.rglob("*.tar")).parent)
    return {key: dict(reader.read(key, caption)) for key, caption in list(reader.keys())}


def levels(first: Path, second: Path) -> int:
    """Largest difference of the features of two caches, in levels of 255."""
    ours, theirs = features(first), features(second)
    if ours.keys() != theirs.keys():
        msg = f"{len(ours.keys() ^ theirs.keys())} images are in one cache only"
        raise RuntimeError(msg)
    return max(int(np.abs(ours[key][name].astype(int) - theirs[key][name].astype(int)).max()) for key in ours for name in ours[key])


def measure(images: int, steps: int, rounds: int, warm: int = 1) -> list[Row]:
    """Two processes against one.

    Args:
        images: How many.
        steps: DDIM steps each way.
        rounds: That count.
        warm: Rounds before them.
    """
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_images(place / "images", images, 64)
        for number in range(warm + rounds):
            for processes, found in rates.items():
                rate = extraction(place / "images", place / f"cache-{processes}-{number}", processes, steps)
                if number >= warm:
                    found.append(rate)
        difference = levels(place / "cache-1-0", place / "cache-2-0")
    seconds = {processes: [images / rate for rate in found] for processes, found in rates.items()}
    what = f"`extract.py`, {images} images, {steps} + {steps} steps, on two processes of a thread each"
    told = f"features {difference} levels of 255"
    return [compared(what, "images", images, seconds[2], ("on one", seconds[1]), "≥ 1.8 with two idle cores", told, levels=difference)]


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    options = parser(__doc__, "two_processes")
    options.add_argument("--images", type=int, default=384)
    options.add_argument("--steps", type=int, default=10, help="DDIM steps each way")
    chosen = options.parse_args(args)
    before = machine()
    return finish("two_processes", chosen, measure(chosen.images, chosen.steps, chosen.rounds), before)


if __name__ == "__main__":
    main()
