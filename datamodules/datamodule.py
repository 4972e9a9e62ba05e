"""The LightningDataModule that all detectors share: records, splits, cached features, batches."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import check_wanted, stacked
from datamodules.cache import FeatureCache, caption_hash, library_versions
from datamodules.duplicates import check_near_duplicates
from datamodules.errors import DataError
from datamodules.extraction import ShardWriting, check_captions, extraction_loader, seed_of
from datamodules.families import FamilyMap
from datamodules.hashing import ContentHashes
from datamodules.loading import ResumableSampler, TrainingLoader
from datamodules.perturbations import perturbation as find_perturbation
from datamodules.records import SPLITS, Record
from datamodules.shards import Arrays, ShardReader
from datamodules.sources.base import MEMO, Source
from datamodules.splits import assign_splits, check_classes, check_leaks, limit_records
from modules.extractors.base import Extractor
from modules.seeds import run_seed
from modules.settings import settings_of

log = logging.getLogger(__name__)

Batch = dict[str, Any]


class FeatureDataset(Dataset[dict[str, Any]]):
    """Cached features of records, read at random.

    Args:
        records: Which images.
        reader: The cached features.
        extractor: Whose features they are; tells whether captions matter.
        families: Turns families into integers.
        features: Names of the features that batches hold; all of them by default.
    """

    def __init__(
        self,
        records: Sequence[Record],
        reader: ShardReader,
        extractor: Extractor,
        families: FamilyMap,
        features: Sequence[str] | None = None,
    ) -> None:
        self.records = records
        self.captions = [caption_hash(record, extractor) for record in records]
        self.reader = reader
        self.families = families
        self.features = features
        self._position = {record.key: index for index, record in enumerate(records)}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        arrays = self.reader.read(record.key, self.captions[index])
        names = self.features or list(arrays)
        return {"record": record, "index": self._position[record.key], "arrays": {name: arrays[name] for name in names}}

    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        """Stack samples to a batch: `key`, `label`, `family`, `generator`, `index` and `features`.

        A feature is one tensor `[B, …]`, or a list of B tensors where their shapes differ.
        """
        records = [sample["record"] for sample in samples]
        return {
            "key": [record.key for record in records],
            "label": torch.tensor([record.label for record in records]),
            "family": torch.tensor([self.families.index(record.family) for record in records]),
            "generator": [record.generator for record in records],
            "index": torch.tensor([sample["index"] for sample in samples]),
            "features": {name: stacked([torch.from_numpy(sample["arrays"][name]) for sample in samples]) for name in samples[0]["arrays"]},
        }


class FeatureDataModule(pl.LightningDataModule):
    """Images of a source, through a perturbation and a frozen extractor, as batches of cached features.

    `missing` says which images have no features yet; whoever holds a Trainer extracts them before training, with
    `extraction_loader` and `shard_writing`.

    Args:
        source: Where the records come from.
        extractor: What turns an image into features.
        perturbation: What every image goes through first, for example `jpeg_75` (`evaluate.py --help` lists all); part of the cache's
            fingerprint.
        cache_dir: Root of the feature cache, shared by all runs.
        batch_size: Samples a training or evaluation batch, on each process.
        num_workers: Processes that read cached features; reading is quick, so none are needed for small features.
        extract_batch_size: Images an extraction batch.
        extract_workers: Processes that decode images during extraction.
        val_fraction: Share of the groups for validation, where the source gives no splits.
        test_fraction: Share of the groups for the test.
        split_seed: Seed of the split and of `limit`.
        train_on: `dataset` or `dataset/generator` patterns that may be trained on; everything else is tested on whole. All by default.
        limit: At most so many images of each split and generator.
        on_leak: What to do where content, group, pair or a near-duplicate stands in two splits: `error`, or `drop` it from training and
            validation.
        families: YAML file of generators and families that extends the built-in one.
        shard_samples: Images a shard of the cache holds at most.
        evaluate_only: `test` measures the test split, or all images where the source gives no splits; `all` measures all. Not for training.
    """

    def __init__(
        self,
        source: Source,
        extractor: Extractor,
        perturbation: str = "none",
        cache_dir: str = "cache",
        batch_size: int = 64,
        num_workers: int = 0,
        extract_batch_size: int = 16,
        extract_workers: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.25,
        split_seed: int = 0,
        train_on: list[str] | None = None,
        limit: int | None = None,
        on_leak: str = "error",
        families: str | None = None,
        shard_samples: int = 1000,
        evaluate_only: Literal["test", "all"] | None = None,
    ) -> None:
        super().__init__()
        find_perturbation(perturbation)
        self.source = source
        self.extractor = extractor
        self.perturbation = perturbation
        self.cache_dir = cache_dir
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.extract_batch_size = extract_batch_size
        self.extract_workers = extract_workers
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.train_on = train_on
        self.limit = limit
        self.on_leak = on_leak
        self.families = families
        self.shard_samples = shard_samples
        self.evaluate_only = evaluate_only
        self.features: Sequence[str] | None = None
        self._records: list[Record] | None = None
        self._cache: FeatureCache | None = None
        self._families: FamilyMap | None = None
        self._reader: ShardReader | None = None
        self._described: dict[str, Any] | None = None

    @property
    def family_map(self) -> FamilyMap:
        """Generators, families and their integers; families that only the data names come after the known ones."""
        if self._families is None:
            self._families = FamilyMap.load(self.families).including(self.records())
        return self._families

    @property
    def cache(self) -> FeatureCache:
        """The feature cache of these settings."""
        if self._cache is None:
            hashes = ContentHashes(Path(self.cache_dir) / MEMO)
            self._cache = FeatureCache(Path(self.cache_dir), self.extractor, self.perturbation, self.source.name, hashes)
        return self._cache

    def records(self) -> list[Record]:
        """All records with family and split, checked for leaks and empty classes; scanned once.

        Raises:
            DataError: If the data cannot be trained or tested on as it is.
        """
        if self._records is None:
            found = self._split(FamilyMap.load(self.families).resolve(self.source.records(Path(self.cache_dir))))
            check_captions(found, self.extractor)
            self._records = found
        return self._records

    def _split(self, records: list[Record]) -> list[Record]:
        """Records with their splits, without leaks, within the limit."""
        if self.evaluate_only:
            if self.evaluate_only == "test" and any(record.split == "test" for record in records):
                kept = [record for record in records if record.split == "test"]
                log.info("%d of %d images are of the test split and are measured", len(kept), len(records))
                records = kept
            tested = limit_records([replace(record, split="test") for record in records], self.limit, self.split_seed)
            check_classes(tested, ("test",))
            return tested
        fractions = (1 - self.val_fraction - self.test_fraction, self.val_fraction, self.test_fraction)
        assigned = check_leaks(assign_splits(records, fractions, self.split_seed, self.train_on), self.on_leak)
        found = limit_records(assigned, self.limit, self.split_seed)
        check_classes(found, SPLITS)
        return found

    def check_looks(self) -> None:
        """Refuse or drop near-duplicates across splits, by `on_leak`; after extraction, which has seen every pixel.

        Raises:
            DataError: There are some, and `on_leak` is `error`.
        """
        self._records = check_near_duplicates(self.records(), Path(self.cache_dir), self.on_leak)
        self._described = None
        check_classes(self._records, ("test",) if self.evaluate_only else SPLITS)

    def usable(self, split: str) -> list[Record]:
        """Records of a split that have features."""
        return [
            record
            for record in self.records()
            if record.split == split and (record.key, caption_hash(record, self.extractor)) in self.reader
        ]

    def missing(self) -> list[Record]:
        """Records that have no features yet and did not fail before."""
        return self.cache.missing(self.records())

    def extraction_loader(self, missing: list[Record], ranks: int = 1) -> DataLoader[Any]:
        """Loader of the images that have no features yet, for so many ranks."""
        self._reader = self._described = None
        return extraction_loader(missing, self.cache, self.extract_batch_size, self.extract_workers, ranks)

    def shard_writing(self) -> ShardWriting:
        """The callback that writes extracted features to the cache."""
        return ShardWriting(self.cache, settings_of(self.source), self.source.failures, self.shard_samples, self.features)

    @property
    def reader(self) -> ShardReader:
        """The cached features; indexes are read once after each extraction."""
        if self._reader is None:
            self._reader = self.cache.reader()
        return self._reader

    def load_features(self, record: Record) -> Arrays:
        """Cached features of one image as arrays, for reports."""
        return self.reader.read(record.key, caption_hash(record, self.extractor))

    def describe(self) -> dict[str, Any]:
        """What a checkpoint needs to make the same features of a new image, in plain types; made once, for every checkpoint asks."""
        if self._described is None:
            self._described = self._describe()
        return self._described

    def _describe(self) -> dict[str, Any]:
        return {
            "extractor": self.extractor.settings(),
            "extractor_fingerprint": self.cache.extractor_fingerprint,
            "perturbation": self.perturbation,
            "families": self.family_map.to_dict(),
            "caption_sources": sorted({str(record.caption_source) for record in self.records() if record.caption}),
            "calibrated_on": self.calibrated_on(),
            "trained_on": torch.tensor(sorted(seed_of(record) for record in self.records() if record.split != "test")),
            "versions": library_versions(),
        }

    def calibrated_on(self) -> dict[str, list[float]]:
        """Lower and upper bound of each figure of the images that are trained and validated on (0.5% and 99.5% quantiles), by name.

        The figures are those of the cache: the extractor's diagnostics, such as `round_trip_psnr` in dB, and `short_side` in pixels.
        """
        samples = [(record.key, caption_hash(record, self.extractor)) for split in ("train", "val") for record in self.usable(split)]
        figures = self.reader.diagnostics(samples)
        return {name: np.quantile(values, (0.005, 0.995)).tolist() for name, values in figures.items()}

    def trained_on(self, described: dict[str, Any]) -> int:
        """How many of these images the detector of a checkpoint was trained or validated on, by `describe` of that run."""
        known = set(described["trained_on"].tolist())
        return sum(seed_of(record) in known for record in self.records())

    def warnings(self) -> list[str]:
        """What a reader of the results should know of the data."""
        found = []
        if failures := [*self.source.failures, *self.reader.failures]:
            first = f"first {failures[0].where}: {failures[0].reason}"
            found.append(f"{len(failures)} images could not be read and are left out ({first}).")
        if self.extractor.uses_record_captions and not any(record.caption for record in self.records()):
            found.append("No image has a caption: the empty prompt was used for all.")
        return found + self.cache.poor_features()

    def summary(self) -> str:
        """Table of images by data set, generator and split."""
        counts = Counter((record.dataset, record.generator, record.split or "") for record in self.records())
        kinds = sorted({(dataset, generator) for dataset, generator, _ in counts})
        rows: list[tuple[str, ...]] = [("data set / generator", *SPLITS)]
        rows += [(f"{dataset}/{generator}", *(str(counts[dataset, generator, split]) for split in SPLITS)) for dataset, generator in kinds]
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>8}" for cell in row[1:]) for row in rows)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training batches, as many on every rank; the order depends on the seed and the epoch only."""
        return self.loader("train", shuffled=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches."""
        return self.loader("test")

    def loader(self, split: str, shuffled: bool = False) -> DataLoader[Any]:
        """Batches of a split, in the order of the records or shuffled anew each epoch.

        Raises:
            DataError: No image of the split has features, or not those that the detector reads.
        """
        records = self.usable(split)
        if not records:
            msg = f"no image of the {split} split has features in {self.cache.folder}" + (
                f"; of {failures[0].where}: {failures[0].reason}" if (failures := self.reader.failures) else "; run the extraction first"
            )
            raise DataError(msg)
        check_wanted(self.features, list(self.load_features(records[0])), self.extractor)
        # Every rank needs a batch: a split smaller than the ranks repeats images, which metrics and tables count once.
        ranks = self.trainer.world_size if self.trainer else 1
        repeated = (records * -(-ranks // len(records)))[: max(len(records), ranks)]
        dataset = FeatureDataset(repeated, self.reader, self.extractor, self.family_map, self.features)
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "collate_fn": dataset.collate,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": self.num_workers > 0,
        }
        overfits = getattr(self.trainer, "overfit_batches", 0)  # Lightning makes such a loader anew, in order
        if not shuffled or overfits:
            return DataLoader(dataset, **options)
        sampler = ResumableSampler(dataset, ranks, self.trainer.global_rank if self.trainer else 0, run_seed())
        return TrainingLoader(dataset, sampler, **options)
