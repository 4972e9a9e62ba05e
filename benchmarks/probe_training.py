"""Time and memory of training a linear head on cached embeddings, and what of it is reading.

python -m benchmarks.probe_training --images 100000 --dimension 1024 --folder /tmp/probe
"""

import argparse
import hashlib
import logging
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.datamodule import FeatureDataModule
from datamodules.records import Record
from datamodules.shards import ShardWriter
from datamodules.sources.base import Source
from modules.detectors import LinearProbe
from modules.extractors.base import Extractor, Features


class Synthetic(Source):
    """Records without images: their embeddings are in the cache already.

    Args:
        count: How many, every second one a fake.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    @property
    def name(self) -> str:
        """Part of the cache directory's name."""
        return "synthetic"

    @property
    def location(self) -> str:
        """For messages."""
        return "synthetic"

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """The records, keyed by their number; every twentieth is for validation, another for the test."""
        for i in range(self.count):
            split = {0: "val", 1: "val", 2: "test", 3: "test"}.get(i % 40, "train")
            yield Record(hashlib.sha256(str(i).encode()).hexdigest()[:32], i % 2, "synthetic", f"g{i % 2}", url=f"none:{i}", split=split)


class Embeddings(Extractor):
    """Stands for an encoder; it never runs.

    Args:
        dimension: Numbers in an embedding.
    """

    name: ClassVar[str] = "synthetic"

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def load(self) -> None:
        """Nothing."""

    def prepare(self, image: Tensor) -> Tensor:
        """Nothing."""
        return image

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Not called: all embeddings are cached.

        Raises:
            RuntimeError: Always.
        """
        msg = "an embedding is missing in the cache"
        raise RuntimeError(msg)


class Epochs(Callback):
    """Seconds of each epoch, from its first batch to its last."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._started)


def fill(data: FeatureDataModule, dimension: int) -> None:
    """Write the embeddings that are not there yet; fakes lie a little to one side."""
    writer = ShardWriter(data.cache.folder, max_samples=10_000, max_seconds=3600)
    missing = data.missing()
    drawn = np.random.default_rng(0).standard_normal((len(missing), dimension), np.float32)
    for record, vector in zip(missing, drawn, strict=True):
        vector[:8] += 0.5 * record.label
        writer.add(record.key, {"embedding": vector}, record.to_dict())
    writer.finish()


def peak() -> float:
    """Most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Fill the cache, train, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=Path("cache/benchmark"))
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = FeatureDataModule(
        Synthetic(options.images), Embeddings(options.dimension), cache_dir=str(options.folder), batch_size=options.batch_size
    )
    data.features = ["embedding"]
    fill(data, options.dimension)
    data = FeatureDataModule(
        Synthetic(options.images), Embeddings(options.dimension), cache_dir=str(options.folder), batch_size=options.batch_size
    )
    data.features = ["embedding"]
    before = peak()
    started = time.perf_counter()
    data.records()
    scanned = time.perf_counter() - started
    data.learn("binary")
    started = time.perf_counter()
    samples = data.samples()
    read = time.perf_counter() - started
    loader = data.train_dataloader()
    times = []
    for _ in range(options.epochs):
        started = time.perf_counter()
        count = sum(len(batch["key"]) for batch in loader)
        times.append(time.perf_counter() - started)
    detector = LinearProbe(standardise=True)
    started = time.perf_counter()
    detector.begin(samples)
    begun = time.perf_counter() - started
    epochs = Epochs()
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[epochs],
    )
    started = time.perf_counter()
    trainer.fit(detector, datamodule=data)
    whole = time.perf_counter() - started
    training = statistics.median(epochs.seconds[1:])
    loading = statistics.median(times[1:])
    threads = torch.get_num_threads()
    print(f"{options.images:,} embeddings of {options.dimension:,} numbers, batches of {options.batch_size}, {threads} threads")
    print(f"records and splits {scanned:.1f} s; {count:,} training samples read from shards in {read:.1f} s ({count / read:,.0f}/s)")
    print(f"an epoch of the loader alone {loading:.2f} s (median of {len(times) - 1}; {min(times[1:]):.2f} to {max(times[1:]):.2f})")
    print(f"an epoch of training with validation {training:.2f} s (median of {len(epochs.seconds) - 1}); standardisation {begun:.1f} s")
    print(f"fit of {options.epochs} epochs {whole:.1f} s; validation AUROC {float(trainer.callback_metrics['val/auroc']):.3f}")
    taken = count * options.dimension * 4 / 2**30
    print(f"peak memory {peak():.2f} GiB, {before:.2f} before the data was read; the training vectors take {taken:.2f}")


if __name__ == "__main__":
    main()
