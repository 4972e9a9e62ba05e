"""Whole extraction, from JPEG files to finished shards, as `extract.py` does it."""

import io
import statistics
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch import Callback, Trainer
from PIL import Image

from benchmarks.gpu.models import SIZES, RandomInversion
from datamodules.datamodule import FeatureDataModule
from datamodules.extraction import ExtractionModule
from datamodules.sources import FolderSource


class BatchTimes(Callback):
    """When each batch was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Note the time: the features are on the CPU by then."""
        self.times.append(time.perf_counter())


def write_images(folder: Path, count: int, side: int) -> None:
    """JPEG files of clouds with noise, half of them called fakes; each is another image."""
    generator = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse, dtype=np.int16) + generator.integers(-8, 9, (side, side, 3), dtype=np.int16)
        content = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
        place = folder / ("fake" if i % 2 else "real") / f"{i:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.getvalue())


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
    data = FeatureDataModule(
        FolderSource(str(folder / "images")),
        extractor,
        cache_dir=str(folder / "cache"),
        extract_batch_size=batch,
        extract_workers=workers,
        evaluate_only="all",
    )
    times = BatchTimes()
    started = time.perf_counter()
    missing = data.missing()
    trainer = Trainer(
        devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[times, data.shard_writing()]
    )
    trainer.predict(ExtractionModule(extractor), dataloaders=data.extraction_loader(missing), return_predictions=False)
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
