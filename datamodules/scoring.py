"""Scores of images that belong to no data set, by the modules that training's own test goes through."""

import logging
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.cache import FeatureCache
from datamodules.errors import DataError
from datamodules.extraction import ExtractionBatch, ExtractionModule, ImageDataset, collate
from datamodules.hashing import ContentHashes
from datamodules.paths import ImageList, NamedImage
from datamodules.perturbations import perturbation as find_perturbation
from datamodules.records import REAL, Record
from datamodules.sources.base import MEMO
from modules.detectors.answers import answers
from modules.detectors.base import Detector
from modules.detectors.checkpoint import build_extractor, load_detector
from modules.errors import CheckpointError

log = logging.getLogger(__name__)

QUALITIES = (95, 90, 85, 80, 75)
"""JPEG qualities of the slight re-encodings, in the order in which they are taken."""

_CHUNK = 1024  # images that are hashed at a time
_SAME = 1e-3  # what a score may differ by when it is computed again elsewhere


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of one image.

    Attributes:
        path: The image.
        key: First 32 hex digits of the SHA-256 of its content, as in the predictions table; files of the same content share it.
        scores: Of the image as it is, then of its re-encodings; empty where it could not be scored.
        diagnostics: The extractor's figures of the image as it is.
        reason: Why it could not be scored.
        probability: That it is generated, by the detector's calibration, of the image as it is; None where there is no calibration.
        answers: Of a detector of families, its columns of the image as it is (see `modules.detectors.answers`).
    """

    path: str
    key: str = ""
    scores: list[float] = field(default_factory=list)
    diagnostics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    probability: float | None = None
    answers: dict[str, Any] = field(default_factory=dict)


class Views(Dataset[list[Any]]):
    """The same images under several perturbations: a list of prepared images an item."""

    def __init__(self, datasets: Sequence[ImageDataset]) -> None:
        self.datasets = datasets

    def __len__(self) -> int:
        return len(self.datasets[0])

    def __getitem__(self, index: int) -> list[Any]:
        return [dataset[index] for dataset in self.datasets]


def collate_views(items: list[list[Any]]) -> list[ExtractionBatch]:
    """A batch for each perturbation."""
    return [collate(list(view)) for view in zip(*items, strict=True)]


class Scorer:
    """A trained detector behind its extractor, on one device.

    Args:
        detector: Of `load_detector`.
        described: What its checkpoint says of the data.
        accelerator: `auto` (the first accelerator that there is), `cpu`, `cuda` or `mps`.
        batch_size: Images that go through the networks at a time.
        workers: Processes that decode; by default none on a CPU, up to eight beside an accelerator.
        reencodings: How many of `QUALITIES` each image is scored at besides.

    Raises:
        UserError: If there is no such device, the checkpoint does not fit this version, or re-encodings cannot be had.
    """

    def __init__(
        self,
        detector: Detector,
        described: dict[str, Any],
        accelerator: str = "auto",
        batch_size: int = 16,
        workers: int | None = None,
        reencodings: int = 0,
    ) -> None:
        self.detector = detector
        self.described = described
        self.extractor = build_extractor(described)
        self.perturbation: str = described["perturbation"]
        try:
            find_perturbation(self.perturbation)
        except DataError as error:
            raise CheckpointError(str(error)) from error
        if reencodings and self.perturbation != "none":
            msg = f"--reencodings needs a detector of images as they are; this one's images go through {self.perturbation} first"
            raise DataError(msg)
        self.views = [self.perturbation, *(f"jpeg_{quality}" for quality in QUALITIES[:reencodings])]
        self.device = find_device(accelerator)
        self.batch_size = batch_size
        self.workers = workers if workers is not None else 0 if self.device.type == "cpu" else min(8, os.cpu_count() or 1)
        self.module = ExtractionModule(self.extractor)

    @classmethod
    def from_checkpoint(cls, checkpoint: str, **options: Any) -> "Scorer":
        """The scorer of a checkpoint.

        Args:
            checkpoint: File that train.py wrote.
            options: Of the constructor.

        Raises:
            UserError: If it cannot be used; says why.
        """
        return cls(*load_detector(checkpoint), **options)

    def load(self) -> None:
        """Load the extractor's weights and bring all to the device."""
        self.module.setup("predict")
        self.module.to(self.device).eval()
        self.detector.to(self.device).eval()

    def warnings(self, images: ImageList, cache_dir: Path) -> list[str]:
        """What the user must know before trusting any score.

        Args:
            images: What will be scored, with captions.
            cache_dir: Where content hashes of weights may be remembered from training; nothing is created.
        """
        hashes = ContentHashes(cache_dir / MEMO if cache_dir.is_dir() else None)
        cache = FeatureCache(cache_dir, self.extractor, self.perturbation, "predict", hashes)
        found = []
        if cache.extractor_fingerprint != self.described.get("extractor_fingerprint"):
            found.append(
                "The extractor's weights or settings are not those that the detector was trained with: its scores may mean nothing."
            )
        if self.perturbation != "none":
            found.append(
                f"The detector was trained on images that went through {self.perturbation}, so every image here goes through it too."
            )
        return found + self._caption_warnings(images)

    def _caption_warnings(self, images: ImageList) -> list[str]:
        sources = self.described.get("caption_sources") or []
        if not self.extractor.uses_record_captions:
            return ["The captions are not used: this extractor makes its own prompts."] if images.captioned else []
        without = images.readable - images.captioned
        if sources and without > 0:
            return [
                f"The detector was trained with captions ({', '.join(sources)}), but {without} of {images.readable} images have none: the "
                "empty prompt is used for these, and a caption may change the score. --captions FILE names captions."
            ]
        if images.captioned and not sources:
            return ["The detector was trained without captions: with these its scores may mean less."]
        return []

    def score(self, images: Iterable[list[NamedImage]]) -> Iterator[list[Scored]]:
        """Score images, a list of results a batch, in the order of the images.

        Args:
            images: Chunks of images, of `chunk_size` best.
        """
        for chunk in images:
            yield from self._score_chunk(chunk)

    @property
    def chunk_size(self) -> int:
        """Images a chunk: whole batches."""
        return self.batch_size * max(1, _CHUNK // self.batch_size)

    def check_same(self, image: NamedImage, score: float) -> None:
        """Make sure that rows of an earlier run came from this detector.

        Args:
            image: An image of these rows.
            score: What they say of it.

        Raises:
            DataError: If the score is another now.
        """
        for [scored] in self.score([[image]]):
            if scored.scores and abs(scored.scores[0] - score) > _SAME * (1 + abs(score)):
                msg = (
                    f"the rows that --resume goes on with are of another detector, caption or image: {image.path} has the score "
                    f"{score} there and {scored.scores[0]} now; name another --output"
                )
                raise DataError(msg)

    def _score_chunk(self, chunk: list[NamedImage]) -> Iterator[list[Scored]]:
        done, records = {image.path: Scored(image.path, reason=image.reason) for image in chunk if image.reason}, []
        readable = [image for image in chunk if not image.reason]
        for image, hashed in zip(readable, ContentHashes(None).hash_files([image.path for image in readable]), strict=True):
            if hashed.reason:
                done[image.path] = Scored(image.path, reason=f"The file cannot be read: {hashed.reason}.")
            else:
                records.append(Record(hashed.digest[:32], REAL, "images", "unknown", path=image.path, caption=image.caption))
        waiting = deque(image.path for image in chunk)
        for batch in chain([{}], self._batches(records)):
            done |= batch
            ready = []
            while waiting and waiting[0] in done:
                ready.append(done.pop(waiting.popleft()))
            if ready:
                yield ready

    def _batches(self, records: list[Record]) -> Iterator[dict[str, Scored]]:
        """Results by path, a batch at a time."""
        if not records:
            return
        datasets = [ImageDataset(records, self.extractor, name, noted=False) for name in self.views]
        workers = min(self.workers, -(-len(records) // self.batch_size))
        loader = DataLoader(
            Views(datasets), batch_size=self.batch_size, num_workers=workers, collate_fn=collate_views, worker_init_fn=_leave_signals
        )
        for views in loader:
            results: dict[str, Scored] = {}
            for view in views:
                for scored in self._through(view):
                    results[scored.path] = _merged(results.get(scored.path), scored)
            yield results

    @torch.inference_mode()
    def _through(self, batch: ExtractionBatch) -> list[Scored]:
        """Results of one batch, in no particular order."""
        extracted = self.module.predict_step(self.module.transfer_batch_to_device(batch, self.device, 0), 0)
        results = [Scored(failure.where, failure.key, reason=failure.reason) for failure in extracted.batch.failures]
        if extracted.features:
            features = move_data_to_device({name: extracted.features[name] for name in self.detector.features}, self.device)
            outputs = self.detector(features)
            scores: Tensor = self.detector.score(outputs).cpu().double()
            told = {name: values.cpu() for name, values in self.detector.told(outputs, features).items()}
            said = answers(self.detector, told, self.described.get("generator_families") or {})
            probabilities = self.detector.probability(scores)
            for i, record in enumerate(extracted.batch.records):
                figures = {name: float(values[i]) for name, values in extracted.diagnostics.items()}
                probability = None if probabilities is None else float(probabilities[i])
                own = said[i] if said else {}
                results.append(Scored(record.path or "", record.key, [float(scores[i])], figures, probability=probability, answers=own))
        return results


def _merged(before: Scored | None, scored: Scored) -> Scored:
    """One result of what an image as it is and its re-encodings came to; one that failed means that all did."""
    if before is None or before.reason:
        return before or scored
    return scored if scored.reason else replace(before, scores=before.scores + scored.scores)


def _leave_signals(worker: int) -> None:
    """Workers end when the main process tells them to, and leave what a user presses to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def find_device(accelerator: str) -> torch.device:
    """The device of a name.

    Args:
        accelerator: `auto` for the first accelerator that there is, else the CPU; or `cpu`, `cuda`, `mps`.

    Raises:
        DataError: If this machine, or this build of torch, has no such device.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    present = found.type if found is not None else "cpu"
    if accelerator not in ("auto", "cpu", present):
        msg = f"--accelerator {accelerator}: torch finds none here; there {'is cpu' if present == 'cpu' else f'are cpu and {present}'}"
        raise DataError(msg)
    return torch.device(present if accelerator == "auto" else accelerator)
