"""Extraction of features as a Lightning prediction whose results go to shards."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.cache import FeatureCache, caption_hash
from datamodules.errors import DataError
from datamodules.files import remove_leftovers
from datamodules.perturbations import perturbation
from datamodules.reader import ImageError, read_image
from datamodules.records import Failure, Record
from datamodules.shards import ShardWriter
from modules.extractors.base import Extractor, Features

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One decoded image on its way to the extractor: its record, and uint8 `[3, h, w]` pixels."""

    record: Record
    pixels: Tensor


@dataclass(frozen=True, slots=True)
class ExtractionBatch:
    """Images of one shape, and those that could not be decoded.

    Attributes:
        records: Records of the images, B of them.
        images: uint8 `[B, 3, h, w]`, or None where all images of the batch failed.
        failures: What could not be decoded.
    """

    records: list[Record]
    images: Tensor | None
    failures: list[Failure]


@dataclass(frozen=True, slots=True)
class Extracted:
    """Features of a batch on the CPU, with the prompts and diagnostics that belong to them."""

    batch: ExtractionBatch
    features: Features
    prompts: list[str]
    diagnostics: dict[str, Tensor]


class ImageDataset(Dataset[Prepared | Failure | None]):
    """Decoded, perturbed and prepared images of records.

    Args:
        records: Which images; each has a local path.
        extractor: Whose `prepare` brings them to its form.
        perturbation_name: What they go through before that.
        at_least: Length that is filled up with None: every rank must get a batch to come by the barriers, and Lightning's sampler
            refuses fewer samples than ranks.
    """

    def __init__(self, records: Sequence[Record], extractor: Extractor, perturbation_name: str, at_least: int = 0) -> None:
        self.at_least = at_least
        self.records = records
        self.extractor = extractor
        self.perturb = perturbation_name

    def __len__(self) -> int:
        return max(len(self.records), self.at_least)

    def __getitem__(self, index: int) -> Prepared | Failure | None:
        if index >= len(self.records):
            return None
        record = self.records[index]
        try:
            decoded = read_image(Path(record.path or ""))
        except ImageError as error:
            return Failure(record.path or record.url or "", str(error), record.content_hash)
        pixels = perturbation(self.perturb)(decoded.pixels, seed_of(record))
        return Prepared(record, self.extractor.prepare(torch.from_numpy(pixels.copy()).permute(2, 0, 1)))


def seed_of(record: Record) -> int:
    """Seed of everything random done to an image, from its content: the same in any batch, on any rank, in any order."""
    return int(record.content_hash[:15] or "0", 16)


def collate(items: list[Prepared | Failure | None]) -> ExtractionBatch:
    """Stack what was decoded, keep what was not."""
    prepared = [item for item in items if isinstance(item, Prepared)]
    failures = [item for item in items if isinstance(item, Failure)]
    images = torch.stack([item.pixels for item in prepared]) if prepared else None
    return ExtractionBatch([item.record for item in prepared], images, failures)


class ExtractionModule(pl.LightningModule):
    """Runs an extractor over batches of images, on whatever device and number of processes the Trainer has."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor

    def setup(self, stage: str) -> None:
        """Load the extractor's weights, before Lightning moves them to the device."""
        self.extractor.load()

    def teardown(self, stage: str) -> None:
        """Give the weights' memory back: training comes next."""
        self.extractor.unload()

    def transfer_batch_to_device(self, batch: ExtractionBatch, device: torch.device, dataloader_idx: int) -> ExtractionBatch:
        """Only the pixels travel."""
        images = None if batch.images is None else batch.images.to(device, non_blocking=True)
        return ExtractionBatch(batch.records, images, batch.failures)

    def predict_step(self, batch: ExtractionBatch, batch_idx: int) -> Extracted:
        """Features of one batch."""
        if batch.images is None:
            return Extracted(batch, {}, [], {})
        prompts = self.extractor.prompts_for(batch.images, [record.caption for record in batch.records])
        features = self.extractor(batch.images, prompts, [seed_of(record) for record in batch.records])
        diagnostics = self.extractor.diagnostics(features)
        on_host = {name: tensor.cpu() for name, tensor in features.items()}
        return Extracted(batch, on_host, prompts, {name: tensor.cpu() for name, tensor in diagnostics.items()})


class ShardWriting(pl.Callback):
    """Writes each rank's results to shards of its own, and at the end the manifest.

    Args:
        cache: Where to.
        source: Settings of the records' source, for the manifest.
        source_failures: What the source itself could not read.
        shard_samples: Samples a shard holds at most.
    """

    def __init__(self, cache: FeatureCache, source: dict[str, Any], source_failures: list[Failure], shard_samples: int = 1000) -> None:
        self.cache = cache
        self.source = source
        self.source_failures = source_failures
        self.shard_samples = shard_samples
        self.writer: ShardWriter | None = None
        self.started = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open this rank's writer."""
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.cache.folder)
        self.writer = ShardWriter(self.cache.folder, trainer.global_rank, self.shard_samples)
        self.started = time.monotonic()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Append a batch's samples and failures."""
        if self.writer is None or not isinstance(outputs, Extracted):
            return
        for failure in outputs.batch.failures:
            self.writer.fail(failure)
        for i, record in enumerate(outputs.batch.records):
            self.writer.add(
                record.key,
                {name: tensor[i].numpy() for name, tensor in outputs.features.items()},
                record.to_dict() | {"prompt": outputs.prompts[i]},
                caption_hash(record, self.cache.extractor),
                {name: float(tensor[i]) for name, tensor in outputs.diagnostics.items()},
            )

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the last shard; rank 0 then writes the manifest and says what came of it."""
        if self.writer is None:
            return
        self.writer.finish()
        trainer.strategy.barrier("shards are written")
        if not trainer.is_global_zero:
            return
        manifest = self.cache.write_manifest(self.source, self.source_failures)
        seconds = time.monotonic() - self.started
        log.info(
            "extraction on this rank: %d images in %.0f s (%.1f images/s); %d images and %d failures in %s%s",
            self.writer.written,
            seconds,
            self.writer.written / max(seconds, 1e-9),
            manifest["counts"]["images"],
            manifest["counts"]["failures"],
            self.cache.folder,
            "".join(f"; {name} {figures['median']:.1f} in the median" for name, figures in manifest["diagnostics"].items()),
        )
        for sentence in self.cache.poor_features():
            log.warning("%s", sentence)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep the batches that were complete."""
        if self.writer is not None:
            self.writer.finish()


def check_captions(records: Sequence[Record], extractor: Extractor) -> None:
    """Refuse captions that would give the label away.

    Raises:
        DataError: If only some records have a caption, or real and generated images got theirs from different sources.
    """
    if not extractor.uses_record_captions or not records:
        return
    without = [record for record in records if not record.caption]
    if len(without) == len(records):
        log.warning("no record has a caption: the empty prompt is used for all images")
        return
    if without:
        msg = (
            f"{len(without)} of {len(records)} records have no caption, for example {without[0].path or without[0].url}. Captions for some "
            "images only would give their label away: caption all, or set data.extractor.prompt_source to empty or captioner"
        )
        raise DataError(msg)
    if any(record.caption_source is None for record in records):
        log.warning(
            "some records do not say where their captions come from (column caption_source): make sure that real and generated images "
            "were captioned alike; the prompts that made the generated ones would give their label away"
        )
    sources = {label: {record.caption_source for record in records if record.label == label} for label in (0, 1)}
    if sources[0] and sources[1] and sources[0] != sources[1]:
        told = {label: sorted(str(source) for source in found) for label, found in sources.items()}
        msg = (
            f"captions of real images come from {told[0]}, those of generated ones from {told[1]}. That would give the label away: "
            "use one source for both, or set data.extractor.prompt_source to empty or captioner"
        )
        raise DataError(msg)


def extraction_loader(records: Sequence[Record], cache: FeatureCache, batch_size: int, workers: int, ranks: int = 1) -> DataLoader[Any]:
    """Loader of the images that have no features yet, for so many ranks."""
    dataset = ImageDataset(records, cache.extractor, cache.settings["perturbation"], ranks)
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate)
