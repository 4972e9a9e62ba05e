"""Cached features as batches: read at random, under one or several perturbations, from the shards or from memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.cache import caption_hash
from datamodules.errors import DataError
from datamodules.families import FamilyMap, class_numbers
from datamodules.perturbations import perturbation
from datamodules.records import Record
from datamodules.shards import Arrays, Features, IndexedReader, read_batch
from modules.extractors.base import Extractor

Batch = dict[str, Any]

MEMORY = 4 * 2**30
"""Bytes of vectors that a data set holds in memory at most, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class View:
    """Images under one perturbation.

    Attributes:
        records: The images, each one so often as it comes in an epoch.
        reader: Their features.
    """

    records: Sequence[Record]
    reader: IndexedReader


def check_views(own: str, views: Sequence[str] | None) -> None:
    """Refuse perturbations that are none, and an empty list of them.

    Args:
        own: The perturbation of validation and test images.
        views: Those of training images; None for `own` alone.

    Raises:
        DataError: With what is wrong.
    """
    for name in [own, *(views or [])]:
        perturbation(name)
    if views is not None and not views:
        msg = "data.views is empty: name perturbations, or leave it out"
        raise DataError(msg)


@dataclass(frozen=True, slots=True)
class Naming:
    """What the numbers in batches stand for.

    Attributes:
        families: Turns families into integers.
        target: What a detector learns: `binary`, `family` or `generator`.
        classes: Names of the classes that it tells apart, `real` first; None for a binary target.
    """

    families: FamilyMap
    target: str = "binary"
    classes: Sequence[str] | None = None

    def targets(self, records: Sequence[Record]) -> list[int]:
        """What a detector learns of each record: its label, or the number of its class, -1 where it has none."""
        if self.classes is None:
            return [record.label for record in records]
        return class_numbers(records, self.classes, self.target, self.families)


class FeatureDataset(Dataset[Batch]):
    """Cached features of images, under one or several perturbations.

    An index stands for one image under one perturbation; a list of indices gives their batch in one go: `key`, `label`, `family`,
    `target`, `generator`, `pair`, `index` and `features`. A feature is one tensor `[B, …]`, or a list of B tensors where shapes differ.

    Args:
        views: The images by perturbation.
        extractor: Whose features they are; tells whether captions matter.
        naming: What the numbers in batches stand for.
        features: Names of the features that batches hold; all of them by default.
        memory: Bytes of vectors that are kept after they have been read once, all or nothing; pictures are never kept.
    """

    def __init__(
        self,
        views: Sequence[View],
        extractor: Extractor,
        naming: Naming,
        features: Sequence[str] | None = None,
        memory: int = 0,
    ) -> None:
        self.records = [record for view in views for record in view.records]
        self.features = features
        self._readers = [view.reader for view in views]
        self._view = [number for number, view in enumerate(views) for _ in view.records]
        captions = {record.key: caption_hash(record, extractor) for record in self.records}
        self._captions = [captions[record.key] for record in self.records]
        # An image counts once in metrics however often it comes, and once for each perturbation.
        first: dict[tuple[int, str], int] = {}
        self._index = torch.tensor([first.setdefault(image, len(first)) for image in self._images()])
        self._label = torch.tensor([record.label for record in self.records])
        self._family = torch.tensor([naming.families.index(record.family) for record in self.records])
        self._target = torch.tensor(naming.targets(self.records))
        pairs: dict[str | None, int] = {None: -1}
        self._pair = torch.tensor([pairs.setdefault(record.pair or None, len(pairs) - 1) for record in self.records])
        self._memory = self._allowed = memory
        self._kept: dict[str, Tensor] | None = None
        self._present = [False] * len(self.records)

    def _images(self) -> Iterator[tuple[int, str]]:
        return zip(self._view, (record.key for record in self.records), strict=True)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int | list[int]) -> Batch:
        return self.__getitems__([index] if isinstance(index, int) else index)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of some samples."""
        return self.batch(indices, self._features_of(indices, torch.tensor(indices)))

    def batch(self, indices: list[int], features: dict[str, Any]) -> Batch:
        """The batch of some samples whose features are there: by name a tensor `[B, …]`, or a list of B tensors."""
        rows = torch.tensor(indices)
        records = [self.records[i] for i in indices]
        return {
            "key": [record.key for record in records],
            "label": self._label[rows],
            "family": self._family[rows],
            "target": self._target[rows],
            "generator": [record.generator for record in records],
            "pair": self._pair[rows],
            "index": self._index[rows],
            "features": features,
        }

    @property
    def pairs(self) -> Tensor:
        """Number of the pair of each sample, `[N]`; -1 for one without."""
        return self._pair

    def check_vectors(self, whole: bool = False) -> None:
        """Refuse features that are no vectors, by the first sample.

        Args:
            whole: Also refuse vectors that do not all fit into the memory that is allowed.

        Raises:
            DataError: With the shape, or the size.
        """
        arrays = self._read(0)
        for name, array in arrays.items():
            if array.ndim > 1 or array.dtype.kind != "f":
                shape = f"{list(array.shape)} ({array.dtype})"
                msg = f"feature {name!r} has shape {shape} an image; this detector reads vectors: choose another model.feature or extractor"
                raise DataError(msg)
        size = sum(array.nbytes for array in arrays.values()) * len(self)
        if whole and size > self._allowed:
            msg = (
                f"{len(self)} training samples of {', '.join(arrays)} take {size / 2**30:.1f} GiB, more than data.memory_limit allows "
                f"({self._allowed / 2**30:.1f} GiB): raise it, or train on fewer images (data.limit)"
            )
            raise DataError(msg)

    def everything(self) -> Batch:
        """All samples as one batch."""
        return self[list(range(len(self)))]

    def _features_of(self, indices: list[int], rows: Tensor) -> dict[str, Any]:
        if self._memory and self._kept is None:
            self._make_room(self._read(indices[0]))
        if self._kept is None or not self._fill(indices):
            return tensors(read_batch([self.source_of(i) for i in indices], self.features))
        if len(indices) == len(self) and indices == list(range(len(self))):
            return dict(self._kept)  # all of them: no second copy
        return {name: tensor[rows] for name, tensor in self._kept.items()}

    def _make_room(self, arrays: Arrays) -> None:
        """Make room for the vectors of all samples, where there are only vectors and they fit into the memory that is allowed."""
        size = sum(array.nbytes for array in arrays.values()) * len(self)
        if size > self._memory or any(array.ndim > 1 for array in arrays.values()):
            self._memory = 0
            return
        self._kept = {name: torch.from_numpy(array).new_empty(len(self), *array.shape) for name, array in arrays.items()}

    def _fill(self, indices: list[int]) -> bool:
        """Read those of the samples that are not in memory yet; False where one has another shape, and nothing is kept any more."""
        kept = self._kept or {}
        for i in sorted((i for i in indices if not self._present[i]), key=self._lies):
            arrays = self._read(i)
            if any(kept[name].shape[1:] != array.shape for name, array in arrays.items()):
                self._kept, self._memory = None, 0
                return False
            for name, array in arrays.items():
                kept[name][i] = torch.from_numpy(array)
            self._present[i] = True
        return True

    @property
    def in_memory(self) -> bool:
        """Whether all vectors are held in memory."""
        return self._kept is not None and all(self._present)

    def _lies(self, index: int) -> tuple[int, int, int]:
        """Where a sample lies: read in this order, nothing is sought."""
        reader, key, caption = self.source_of(index)
        return self._view[index], *reader.order(key, caption)

    def source_of(self, index: int) -> tuple[IndexedReader, str, str]:
        """What a sample's features are read with: the reader, key and caption hash."""
        return self._readers[self._view[index]], self.records[index].key, self._captions[index]

    def _read(self, index: int) -> Arrays:
        reader, key, caption = self.source_of(index)
        arrays = reader.read(key, caption)
        return {name: arrays[name] for name in self.features or arrays}


def tensors(features: Features) -> dict[str, Tensor | list[Tensor]]:
    """Features of a batch as tensors of the same memory."""
    of = torch.from_numpy
    return {name: of(each) if isinstance(each, np.ndarray) else list(map(of, each)) for name, each in features.items()}


def whole_batch(batch: Batch) -> Batch:
    """The batch as the data set made it: there is nothing left to stack."""
    return batch
