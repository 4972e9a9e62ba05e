"""Extraction of features as a Lightning prediction whose results go to shards."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from datamodules.batches import BatchExtraction, Extracted, ExtractionBatch, ImageDataset, check_wanted, collate
from datamodules.behind import Behind
from datamodules.cache import FeatureCache, caption_hash
from datamodules.duplicates import PerceptualHashes
from datamodules.errors import DataError
from datamodules.facts import Facts
from datamodules.files import remove_leftovers
from datamodules.processes import GracefulStop, wait_for_children
from datamodules.records import Failure, Record
from datamodules.shards import ShardWriter
from datamodules.shards.index import MAX_WRITERS
from datamodules.shares import WHOLE, Share
from modules.extractors.base import Extractor

__all__ = [
    "BatchExtraction",
    "Extracted",
    "ExtractionBatch",
    "ExtractionModule",
    "ImageDataset",
    "ShardWriting",
    "check_captions",
    "collate",
    "extraction_loader",
]

log = logging.getLogger(__name__)

BATCH, BATCH_ON_GPU = 16, 64  # images an extraction batch, unless it is told otherwise; where memory is too small it is halved
FEW = 256  # images for which no process is worth starting
MOST_DECODERS = 8  # decode some thousand images a second
DECODERS_BESIDE_A_NETWORK = 2  # decode some 300 images a second, and what they hold fits into a container's shared memory
NICENESS = 10  # of these: a tenth of the processor where the network wants all of it


class ExtractionModule(pl.LightningModule):
    """Runs an extractor over batches of images, on whatever device and number of processes the Trainer has."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.extract_batch = BatchExtraction(extractor)

    def setup(self, stage: str) -> None:
        """Load the extractor's weights, before Lightning moves them to the device."""
        self.extractor.load()

    def teardown(self, stage: str) -> None:
        """Give the weights' memory back: training comes next."""
        self.extractor.unload()

    def transfer_batch_to_device(self, batch: ExtractionBatch, device: torch.device, dataloader_idx: int) -> ExtractionBatch:
        """Only the pixels travel."""
        return replace(batch, images=[stack.to(device, non_blocking=True) for stack in batch.images])

    def predict_step(self, batch: ExtractionBatch, batch_idx: int) -> Extracted:
        """Features of one batch, without the images that failed."""
        return self.extract_batch(batch)


class ShardWriting(pl.Callback):
    """Writes each rank's results to shards of its own while the next batches are computed, and at the end the manifest.

    On SIGTERM or Ctrl-C each rank finishes its shard, so that only the running batch is lost.

    Args:
        cache: Where to.
        source: Settings of the records' source, for the manifest.
        source_failures: What the source itself could not read.
        shard_samples: Samples a shard holds at most.
        wanted: Names of features that will be read; what the first batch does not have is an error then, not hours later.
        share: Which of several independent jobs this is: each writes shards under names of its own.
    """

    def __init__(
        self,
        cache: FeatureCache,
        source: dict[str, Any],
        source_failures: list[Failure],
        shard_samples: int = 1000,
        wanted: Sequence[str] | None = None,
        share: Share = WHOLE,
    ) -> None:
        self.wanted = wanted
        self.share = share
        self.cache = cache
        self.source = source
        self.source_failures = source_failures
        self.shard_samples = shard_samples
        self.looks = PerceptualHashes(cache.folder.parent.parent)
        self.facts = Facts(cache.folder.parent.parent)
        self.stop = GracefulStop()
        self.writer: ShardWriter | None = None
        self.behind = Behind(self._write)
        self.started = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open this rank's writer."""
        self.stop.install(getattr(trainer.strategy.launcher, "procs", []))
        if trainer.received_sigterm:  # a moment ago, when Lightning's own handler took it
            signal.raise_signal(signal.SIGTERM)
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.cache.folder)
        writer = (self.share.number - 1) * trainer.world_size + trainer.global_rank
        self.writer = ShardWriter(self.cache.folder, writer % MAX_WRITERS, self.shard_samples)
        self.started = time.monotonic()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hand a batch's samples and failures over to be written."""
        if self.writer is None or not isinstance(outputs, Extracted):
            return
        if outputs.features:
            check_wanted(self.wanted, list(outputs.features), self.cache.extractor)
        with self.stop.held():
            self.behind.put(outputs)

    def _write(self, outputs: Extracted) -> None:
        """Append a batch's samples and failures."""
        assert self.writer is not None
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
        self.looks.remember(outputs.batch.looks)
        perturbation = self.cache.settings["perturbation"]
        self.facts.remember({(content, perturbation): facts for content, facts in outputs.batch.facts.items()})

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the last shard; when all ranks have, rank 0 writes the manifest and says what came of it."""
        if self.writer is None:
            return
        with self.stop.held():
            self.behind.finish()
            self.writer.finish()
        try:
            written = int(trainer.strategy.reduce(torch.tensor(self.writer.written, device=pl_module.device), reduce_op="sum"))
        except RuntimeError:
            self.stop.check()  # another rank was stopped, and so was this one while it waited
            raise
        if not trainer.is_global_zero:
            return
        manifest = self.cache.write_manifest(self.source, self.source_failures)
        seconds = time.monotonic() - self.started
        figures = {name: told for name, told in manifest["diagnostics"].items() if name != "short_side"}
        log.info(
            "extraction: %d images in %.0f s (%.1f images/s on %d processes); %d images and %d failures in %s%s",
            written,
            seconds,
            written / max(seconds, 1e-9),
            trainer.world_size,
            manifest["counts"]["images"],
            manifest["counts"]["failures"],
            self.cache.folder,
            "".join(f"; {name} {told['median']:.1f} in the median" for name, told in figures.items()),
        )
        for sentence in self.cache.poor_features({name: [told["median"]] for name, told in manifest["diagnostics"].items()}):
            log.warning("%s", sentence)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep the batches that were complete. No rank waits for another here, but the main process for those that it started."""
        if self.writer is not None:
            with contextlib.suppress(SIGTERMException), self.stop.held():  # what has come, or comes now, is told below
                with contextlib.suppress(Exception):  # it is the exception that ends this, or would hide that one
                    self.behind.finish()
                self.writer.finish()
        if self.stop.received is None:
            return
        wait_for_children()
        if trainer.is_global_zero:
            log.warning(
                "stopped by %s: what was complete is in %s, and the same command goes on from there",
                self.stop.received.name,
                self.cache.folder,
            )


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


def extraction_loader(
    records: Sequence[Record], cache: FeatureCache, batch_size: int | None, workers: int | None, ranks: int = 1, nodes: int = 1
) -> DataLoader[Any]:
    """Loader of the images that have no features yet.

    Args:
        records: Which.
        cache: Where their features belong.
        batch_size: Images a batch; as many as usually pay on this hardware where None.
        workers: Processes that decode; as many as this machine has room for where None.
        ranks: Processes that share the images.
        nodes: Machines that they run on, as many on each.
    """
    dataset = ImageDataset(records, cache.extractor, cache.settings["perturbation"], ranks)
    on_gpu = torch.cuda.is_available()
    size = batch_size or (BATCH_ON_GPU if on_gpu else BATCH)
    workers = decoders(len(dataset) // ranks, max(1, ranks // nodes)) if workers is None else workers
    first = None if on_gpu else _give_way
    return DataLoader(dataset, batch_size=size, num_workers=workers, collate_fn=collate, pin_memory=on_gpu, worker_init_fn=first)


def _give_way(_: int) -> None:
    """Of a process that decodes: let the network have the processor first, which loses little to decoding then."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)


def decoders(images: int, ranks: int = 1) -> int:
    """How many processes decode for one rank: none for a handful of images, and none where each core has a network of its own.

    Args:
        images: That the rank decodes.
        ranks: Processes that extract, on this machine.
    """
    if images < FEW:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        return max(1, min(MOST_DECODERS, cores // max(1, torch.cuda.device_count()) - 1))
    # Without a GPU the network has every core, and decoders what it leaves, mostly while it waits for them.
    return min(DECODERS_BESIDE_A_NETWORK, cores // ranks) if cores > ranks else 0
