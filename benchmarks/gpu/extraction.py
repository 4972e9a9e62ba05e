"""Whole extraction, from JPEG files to finished shards, as `extract.py` does it."""

import statistics
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback

from benchmarks.extracting import extract, write_images
from benchmarks.gpu.models import SIZES, RandomInversion


class BatchTimes(Callback):
    """When each batch was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Note the time: the features are on the CPU by then."""
        self.times.append(time.perf_counter())


def extraction(folder: Path, size: str, images: int, batch: int, workers: int, steps: int, **options: Any) -> dict[str, Any]:
    """Images a second of the whole command, and of its batches once everything is warm.

    Args:
        folder: For images and features; must be empty.
        size: Of the model.
        images: How many.
        batch: Images a batch.
        workers: Processes that decode.
        steps: DDIM steps each way.
        **options: Of the extractor.
    """
    unet = SIZES[size]["unet"]
    side = unet["sample_size"] * 8
    write_images(folder / "images", images, side)
    extractor = RandomInversion(size, size=side, steps=steps, prompt_source="empty", **options)
    times = BatchTimes()
    started = time.perf_counter()
    extract(folder / "images", folder / "cache", extractor, batch, workers, callbacks=[times])
    whole = time.perf_counter() - started
    between = [second - first for first, second in zip(times.times, times.times[1:], strict=False)]
    warm = between[-(len(between) // 2) :] if between else [whole]
    return {
        "images": images,
        "batch": batch,
        "steps": steps,
        "options": options,
        "seconds": whole,
        "images_per_second_with_start": images / whole,
        "images_per_second_warm": batch / statistics.median(warm),
        "batch_seconds": [round(each, 3) for each in between],
    }
