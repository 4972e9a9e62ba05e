"""Whole extraction in this process, from image files to finished shards, as `extract.py` does it; images to try it with."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch import Callback, Trainer
from PIL import Image

from datamodules.datamodule import FeatureDataModule
from datamodules.extraction import ExtractionModule
from datamodules.sources import FolderSource
from modules.extractors.base import Extractor


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


class AtOnce:
    """In place of `Behind`: does the work while its caller waits.

    Args:
        work: What is done with an item.
    """

    def __init__(self, work: Callable[[Any], None]) -> None:
        self.put = work

    def finish(self) -> None:
        """Nothing is left to be done."""


def extract(
    images: Path,
    cache: Path,
    extractor: Extractor,
    batch: int | None = None,
    workers: int | None = None,
    behind: bool = True,
    callbacks: Sequence[Callback] = (),
) -> FeatureDataModule:
    """Extract the features of a folder's images.

    Args:
        images: The folder.
        cache: Of the features.
        extractor: What extracts.
        batch: Images a batch, the default's where None.
        workers: Processes that decode, the default's where None.
        behind: Whether shards are written while the next batch is computed, as they are by default.
        callbacks: Further ones of the trainer.

    Returns:
        The data with its features.
    """
    data = FeatureDataModule(
        FolderSource(str(images)), extractor, cache_dir=str(cache), extract_batch_size=batch, extract_workers=workers, evaluate_only="all"
    )
    missing = data.missing()
    writing: Any = data.shard_writing()
    if not behind:
        writing.behind = AtOnce(writing._write)
    callback: list[pl.Callback] = [*callbacks, writing]
    trainer = Trainer(devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=callback)
    trainer.predict(ExtractionModule(extractor), dataloaders=data.extraction_loader(missing), return_predictions=False)
    return data
