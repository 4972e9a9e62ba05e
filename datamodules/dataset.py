"""Cached features as batches: read at random, under one or several perturbations, from the shards or from memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batches import stacked
from datamodules.cache import caption_hash
from datamodules.families import FamilyMap, class_numbers
from datamodules.records import Record
from datamodules.shards import Arrays, ShardReader
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
    reader: ShardReader


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
        memory: Bytes of features that are kept after they have been read once, all or nothing. Features of one shape only.
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
        self._memory = memory
        self._kept: dict[str, Tensor] | None = None
        self._present = torch.zeros(len(self.records), dtype=torch.bool)

    def _images(self) -> Iterator[tuple[int, str]]:
        return zip(self._view, (record.key for record in self.records), strict=True)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int | list[int]) -> Batch:
        return self.__getitems__([index] if isinstance(index, int) else index)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of some samples."""
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
            "features": self._features_of(indices, rows),
        }

    @property
    def pairs(self) -> Tensor:
        """Number of the pair of each sample, `[N]`; -1 for one without."""
        return self._pair

    def everything(self) -> Batch:
        """All samples as one batch; read in the order in which they lie on the disk."""
        return self.__getitems__(list(range(len(self))))

    def _features_of(self, indices: list[int], rows: Tensor) -> dict[str, Any]:
        if self._kept is None:
            arrays = [self._read(i) for i in indices]
            found = {name: stacked([torch.from_numpy(array[name]) for array in arrays]) for name in arrays[0]}
            self._keep(found)
            if self._kept is None:
                return found
        for i in rows[~self._present[rows]].tolist():
            for name, array in self._read(i).items():
                self._kept[name][i] = torch.from_numpy(array)
            self._present[i] = True
        return {name: tensor[rows] for name, tensor in self._kept.items()}

    def _keep(self, found: dict[str, Any]) -> None:
        """Make room for all samples, where they fit into the memory that is allowed; these tell their size."""
        if not self._memory or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            return
        size = sum(tensor[0].numel() * tensor.element_size() for tensor in found.values()) * len(self)
        if size <= self._memory:
            self._kept = {name: tensor.new_empty(len(self), *tensor.shape[1:]) for name, tensor in found.items()}
        else:
            self._memory = 0

    def _read(self, index: int) -> Arrays:
        arrays = self._readers[self._view[index]].read(self.records[index].key, self._captions[index])
        return {name: arrays[name] for name in self.features or arrays}


def whole_batch(batch: Batch) -> Batch:
    """The batch as the data set made it: there is nothing left to stack."""
    return batch
