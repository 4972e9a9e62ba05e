"""Images on their way through an extractor: decoded, stacked to batches, turned into features."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.duplicates import perceptual_hash
from datamodules.errors import DataError
from datamodules.facts import FactsOfImage, facts_of
from datamodules.perturbations import Pixels, perturbation
from datamodules.reader import ImageError, read_image
from datamodules.records import Failure, Record, seed_of
from modules.errors import UnusableImageError
from modules.extractors.base import Extractor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One decoded image on its way to the extractor.

    Attributes:
        record: Its record.
        pixels: uint8 `[3, h, w]`.
        short_side: Pixels of its shorter side as stored.
        look: Its perceptual hash, before any perturbation.
        facts: Facts of it, after the perturbation.
    """

    record: Record
    pixels: Tensor
    short_side: float = 0.0
    look: str = ""
    facts: FactsOfImage = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExtractionBatch:
    """Images of a batch by their shapes, and those that could not be decoded.

    Attributes:
        records: Records of the images, B of them.
        images: Stacks of images of one shape, uint8 `[b, 3, h, w]` each, B images in all in the order of the records.
        failures: What could not be decoded, or overflowed.
        short_sides: Pixels of each image's shorter side, B of them.
        looks: Perceptual hashes by content hash.
        facts: Facts of the images by content hash.
    """

    records: list[Record]
    images: list[Tensor]
    failures: list[Failure]
    short_sides: list[float] = field(default_factory=list)
    looks: dict[str, str] = field(default_factory=dict)
    facts: dict[str, FactsOfImage] = field(default_factory=dict)

    def pin_memory(self) -> "ExtractionBatch":
        """The same with its images in page-locked memory, from which a GPU copies while it computes; `DataLoader` asks for it."""
        return replace(self, images=[stack.pin_memory() for stack in self.images])


@dataclass(frozen=True, slots=True)
class Extracted:
    """Features of a batch on the CPU, with the prompts and diagnostics (`short_side` among them) that belong to them.

    Features of several shapes are lists of one tensor an image.
    """

    batch: ExtractionBatch
    features: dict[str, Any]
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
        noted: Whether a perceptual hash and the facts of each image are made as well, for the checks of a data set.
    """

    def __init__(
        self, records: Sequence[Record], extractor: Extractor, perturbation_name: str, at_least: int = 0, noted: bool = True
    ) -> None:
        self.at_least = at_least
        self.noted = noted
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
            pixels = perturbed(decoded.pixels, record, self.perturb)
            prepared = self.extractor.prepare(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        except (ImageError, UnusableImageError) as error:
            return Failure(record.path or record.url or "", str(error), record.content_hash)
        return Prepared(
            record=record,
            pixels=prepared,
            short_side=float(min(decoded.width, decoded.height)),
            look=perceptual_hash(decoded.pixels) if self.noted else "",
            facts=facts_of(decoded, pixels, self.perturb) if self.noted else {},
        )


def perturbed(pixels: Pixels, record: Record, name: str) -> Pixels:
    """An image after a perturbation, uint8 `[H, W, 3]`; what is random in it depends on the image's content only."""
    return perturbation(name)(pixels, seed_of(record))


def seen_image(record: Record, name: str) -> Pixels:
    """The image of a record after a perturbation, uint8 `[H, W, 3]`.

    Raises:
        ImageError: If it cannot be read safely, or the perturbation cannot be applied to it.
    """
    return perturbed(read_image(Path(record.path or "")).pixels, record, name)


def check_wanted(wanted: Sequence[str] | None, given: Sequence[str], extractor: Extractor) -> None:
    """Refuse a detector that reads what the extractor does not give.

    Raises:
        DataError: With both.
    """
    if absent := [name for name in wanted or () if name not in given]:
        kind = type(extractor).__name__
        msg = (
            f"the detector reads {', '.join(absent)}, but the features of {kind} are {', '.join(sorted(given))}: choose among these in the "
            "model section, or another data.extractor"
        )
        raise DataError(msg)


def collate(items: list[Prepared | Failure | None]) -> ExtractionBatch:
    """Stack what was decoded, shape by shape, keep what was not."""
    by_shape: dict[torch.Size, list[Prepared]] = {}
    for item in items:
        if isinstance(item, Prepared):
            by_shape.setdefault(item.pixels.shape, []).append(item)
    prepared = [item for alike in by_shape.values() for item in alike]
    return ExtractionBatch(
        records=[item.record for item in prepared],
        images=[torch.stack([item.pixels for item in alike]) for alike in by_shape.values()],
        failures=[item for item in items if isinstance(item, Failure)],
        short_sides=[item.short_side for item in prepared],
        looks={item.record.content_hash: item.look for item in prepared},
        facts={item.record.content_hash: item.facts for item in prepared},
    )


class BatchExtraction:
    """Runs an extractor over batches, whatever happens to single images or to the memory.

    An image that overflows even in float32 becomes a failure of its own. Where memory runs out, the batch is taken in parts of half the
    size, and so are all later ones.

    Args:
        extractor: With its weights loaded.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.at_most: int | None = None  # images that fit into memory, once that is known
        self._told = True

    def __call__(self, batch: ExtractionBatch) -> Extracted:
        """Features of one batch, without the images that failed.

        Raises:
            DataError: If memory runs out with one image alone.
        """
        parts: list[Extracted] = []
        start = 0
        for stack in batch.images:
            parts += self._stack(batch, stack, start)
            start += len(stack)
        return _joined(batch, parts)

    def _stack(self, batch: ExtractionBatch, stack: Tensor, first: int) -> list[Extracted]:
        """Features of images of one shape, in as many parts as memory asks for; `first` is the position of the first one's record."""
        parts: list[Extracted] = []
        start = 0
        while start < len(stack):
            stop = min(len(stack), start + (self.at_most or len(stack)))
            try:
                parts.append(self._part(batch, stack[start:stop], slice(first + start, first + stop)))
            except RuntimeError as error:
                if not (isinstance(error, torch.OutOfMemoryError) or is_oom_error(error)):
                    raise
                reason = str(error).partition("\n")[0]
            else:
                start = stop
                self._tell()
                continue
            self._halve(stop - start, reason)  # out here the exception is gone, and with it what the failed pass held
        return parts

    def _part(self, batch: ExtractionBatch, images: Tensor, part: slice) -> Extracted:
        records = batch.records[part]
        prompts = self.extractor.prompts_for(images, [record.caption for record in records])
        features, failed = self.extractor.extract(images, prompts, [seed_of(record) for record in records])
        figures = self.extractor.diagnostics(features) | {"short_side": torch.tensor(batch.short_sides[part])}
        failures = [Failure(records[i].path or records[i].url or "", failed[i], records[i].content_hash) for i in failed]
        good = [i for i in range(len(records)) if i not in failed]
        features, figures = ({name: _rows(tensor.cpu(), good) for name, tensor in found.items()} for found in (features, figures))
        return Extracted(ExtractionBatch([records[i] for i in good], [], failures), features, [prompts[i] for i in good], figures)

    def _halve(self, size: int, reason: str) -> None:
        garbage_collection_cuda()
        if size == 1:
            msg = (
                f"out of memory with one image at a time ({reason}). Set a smaller data.extractor.size or, where the extractor has them, a "
                "smaller data.extractor.rows_at_once or a model_dtype of bfloat16, or see what else uses this device; "
                "data.extract_batch_size does not help any more"
            )
            raise DataError(msg)
        self.at_most, self._told = size // 2, False

    def _tell(self) -> None:
        if not self._told:
            log.warning(
                "out of memory: going on with %d images at once; --data.extract_batch_size %d avoids the failed attempts",
                self.at_most,
                self.at_most,
            )
            self._told = True


def _rows(tensor: Tensor, rows: list[int]) -> Tensor:
    return tensor if len(rows) == len(tensor) else tensor[rows]


def _joined(batch: ExtractionBatch, parts: list[Extracted]) -> Extracted:
    """The parts of a batch as one."""
    kept = [record for part in parts for record in part.batch.records]
    good = {record.key for record in kept}
    rows = [i for i, record in enumerate(batch.records) if record.key in good]
    whole = replace(
        batch,
        records=kept,
        images=[],
        failures=[*batch.failures, *(failure for part in parts for failure in part.batch.failures)],
        short_sides=[batch.short_sides[i] for i in rows],
    )
    if not kept:
        return Extracted(whole, {}, [], {})
    features = {name: _concatenated([part.features[name] for part in parts]) for name in parts[0].features}
    figures = {name: torch.cat([part.diagnostics[name] for part in parts]) for name in parts[0].diagnostics}
    return Extracted(whole, features, [prompt for part in parts for prompt in part.prompts], figures)


def _concatenated(parts: list[Tensor]) -> Tensor | list[Tensor]:
    alike = len({part.shape[1:] for part in parts}) == 1
    return torch.cat(parts) if alike else [row for part in parts for row in part]
