"""Time and memory of each step of a run as the data grows: what of it is linear, and what a record costs.

python -m benchmarks.scale --records 1000 10000 100000 --folder /tmp/scale

Images are tiny (16 × 16 pixels of noise, each another file) and the extractor is cheap, so that what grows with the number of records is
seen and not the images. Times are those of the processor, which other work on the machine lengthens less than those of the clock, which
follow in brackets; the exponent is that between the two largest numbers of records. Each step runs in a process of its own; its memory
is the highest that the process has had above what it held when everything was imported, the steps before it that it needs included.
"""

import argparse
import json
import logging
import math
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 16  # pixels
PER_FOLDER = 1000  # files
HARDWARE: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1, "enable_progress_bar": False}


def make_images(folder: Path, count: int) -> Path:
    """Write so many images and their manifest, where they are not there yet.

    Args:
        folder: Where to.
        count: How many, half of them fakes of one of four generators.

    Returns:
        The manifest.
    """
    manifest = folder / f"{count}.csv"
    lines = ["path,label,dataset,generator"]
    for number in range(count):
        path = folder / "images" / f"{number // PER_FOLDER:04d}" / f"image-{number:08d}.png"
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(png(np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)))
        lines.append(f"{path.relative_to(folder)},{number % 2},noise,{f'generator-{number % 8}' if number % 2 else 'photographs'}")
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A PNG file of uint8 `[H, W, 3]`, uncompressed: many times as quick as an encoder."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


class Memory:
    """The highest resident memory of this process since a moment."""

    def __init__(self) -> None:
        self._before = self._read("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the kernel counts the peak anew

    def peak(self) -> int:
        """Bytes above what there was at that moment."""
        return self._read("VmHWM") - self._before

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


class Stages:
    """The steps of a run, each a method that gives what is timed; what it needs of the steps before is done first, outside of the time.

    Args:
        manifest: Of the images.
        cache: The feature cache.
    """

    def __init__(self, manifest: Path, cache: Path) -> None:
        from datamodules.datamodule import FeatureDataModule
        from datamodules.sources import ManifestSource
        from modules.detectors import LinearProbe
        from modules.extractors import ColourExtractor

        self.cache = cache
        self.detector = LinearProbe(feature="colour", standardise=True)
        self.data = FeatureDataModule(ManifestSource(str(manifest)), ColourExtractor(), cache_dir=str(cache), batch_size=1024)
        self.data.features = self.detector.features

    def scan(self) -> Callable[[], object]:
        """Read the manifest and hash all files; a second time, the hashes are remembered."""
        return lambda: self.data.source.records(self.cache)

    def split(self) -> Callable[[], object]:
        """Families, splits, leaks."""
        found = self.data.source.records(self.cache)
        return lambda: self.data._split(self.data._map().resolve(found))

    def extract(self) -> Callable[[], object]:
        """Decode all images, hash what they look like, measure their facts and colours, write shards and the manifest."""
        from workflow import pipeline

        self.data.records()
        return lambda: pipeline.extract_missing(self.data, HARDWARE)

    def manifest(self) -> Callable[[], object]:
        """Read all indexes and write the manifest, as at the end of extraction."""
        cache = self.data.cache
        return lambda: cache.write_manifest({}, [])

    def index(self) -> Callable[[], object]:
        """Read all indexes; which images of each split have features."""
        self.data.records()
        return lambda: [len(self.data.usable(split)) for split in ("train", "val", "test")]

    def duplicates(self) -> Callable[[], object]:
        """Look for near-duplicates across splits."""
        self.data.records()
        return self.data.check_looks

    def audit(self) -> Callable[[], object]:
        """Measure how well trivial facts of the training files tell its fakes from its reals."""
        from workflow import pipeline

        self.data.records()
        return lambda: pipeline.look_for_shortcuts(self.data)

    def start(self) -> Callable[[], object]:
        """All that train.py does between its start and the first training batch, on a warm cache."""
        return self._start

    def _start(self) -> None:
        from datamodules.description import summary
        from workflow import pipeline

        summary(self.data)
        pipeline.prepare(self.detector, self.data)
        pipeline.extract_views(self.data, HARDWARE)
        self.data.check_looks()
        pipeline.look_for_shortcuts(self.data)

    def epoch(self) -> Callable[[], object]:
        """One epoch of a linear head with its validation, the features read from the shards."""
        self._start()
        self.detector.begin(self.data.samples()) if self.detector.reads_all else None
        trainer = self._trainer(max_epochs=1)
        return lambda: trainer.fit(self.detector, datamodule=self.data)

    def results(self) -> Callable[[], object]:
        """Score validation and test, write predictions, metrics with intervals, figures and a report without images."""
        from evaluation.options import ReportOptions
        from workflow import pipeline

        self._start()
        self.detector.begin(self.data.samples()) if self.detector.reads_all else None
        trainer = self._trainer(max_epochs=1)
        trainer.fit(self.detector, datamodule=self.data)

        def write() -> None:
            scores = pipeline.score(trainer, self.detector, [self.data.val_dataloader(), self.data.test_dataloader()])
            folder = self.cache / "run"
            pipeline.write_run(self.detector, self.data, trainer, scores, folder, report=ReportOptions(images=0))

        return write

    def _trainer(self, **options: Any) -> Any:
        from lightning.pytorch import Trainer

        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
        return Trainer(**HARDWARE, **quiet, **options)


STAGES = ("scan", "scan again", "split", "extract", "manifest", "index", "duplicates", "audit", "start", "epoch", "results")


def run_stage(stage: str, manifest: Path, cache: Path) -> dict[str, float]:
    """One step in this process: seconds, and bytes of memory."""
    import workflow.audit
    import workflow.pipeline  # noqa: F401 - what is imported is not counted

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    stages = Stages(manifest, cache)
    memory = Memory()
    step = getattr(stages, stage.partition(" ")[0])()
    started, worked = time.perf_counter(), time.process_time()
    kept = step()
    worked, seconds = time.process_time() - worked, time.perf_counter() - started
    del kept
    return {"seconds": seconds, "cpu": worked, "peak": memory.peak()}


def measure(folder: Path, count: int, only: tuple[str, ...]) -> Iterator[tuple[str, dict[str, float]]]:
    """All steps with so many records, each in a process of its own."""
    manifest, cache = make_images(folder, count), folder / f"cache-{count}"
    for stage in only:
        command = [sys.executable, "-m", "benchmarks.scale", "--stage", stage, "--manifest", str(manifest), "--cache", str(cache)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            sys.exit(f"{stage} with {count} records: {said.stderr[-3000:]}")
        yield stage, json.loads(said.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, default=Path("cache/scale"))
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, help="these steps; those before must have been run")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(run_stage(options.stage, options.manifest, options.cache)))
        return
    counts = sorted(options.records)
    found: dict[str, list[dict[str, float]]] = {stage: [] for stage in options.only}
    for count in counts:
        for stage, figures in measure(options.folder.absolute(), count, tuple(options.only)):
            found[stage].append(figures)
            print(
                f"{count:>8,} {stage:<12} {figures['seconds']:8.2f} s ({figures['cpu']:.2f} of CPU), {figures['peak'] / 2**20:7.1f} MiB",
                file=sys.stderr,
            )
    print("\n".join(table(counts, found)))


def table(counts: list[int], found: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Rows of a table: seconds of CPU time (and by the clock) and memory of each step, and how they grow with the number of records."""
    yield f"| step | {' | '.join(f'{count:,} records' for count in counts)} | exponent of time | bytes a record |"
    yield "|---" * (len(counts) + 3) + "|"
    for stage, figures in found.items():
        cells = [f"{each['cpu']:.2f} s ({each['seconds']:.2f}), {each['peak'] / 2**20:.0f} MiB" for each in figures]
        growth = ["", ""]
        if len(counts) > 1:
            (few, many), (before, after) = counts[-2:], figures[-2:]
            exponent = math.log(after["cpu"] / before["cpu"]) / math.log(many / few)
            growth = [f"{exponent:.2f}", f"{(after['peak'] - before['peak']) / (many - few):,.0f}"]
        yield f"| {stage} | {' | '.join([*cells, *growth])} |"


if __name__ == "__main__":
    main()
