"""The LightningDataModule that all detectors share: records, splits, cached features, batches."""

import copy
import logging
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from datamodules.batches import check_wanted
from datamodules.cache import FeatureCache, caption_hash
from datamodules.dataset import MEMORY, FeatureDataset, Naming, View, check_views, whole_batch
from datamodules.description import description
from datamodules.duplicates import check_near_duplicates
from datamodules.errors import DataError
from datamodules.extraction import ShardWriting, check_captions, extraction_loader
from datamodules.families import FamilyMap, classes_of
from datamodules.generators import check_repeats, check_times, hold_out_generators, repeats, training_generators
from datamodules.hashing import ContentHashes
from datamodules.loading import training_loader
from datamodules.records import SPLITS, Record, seed_of
from datamodules.shards import Arrays, IndexedReader
from datamodules.shares import WHOLE, Share
from datamodules.sources.base import MEMO, Source
from datamodules.splits import assign_splits, check_classes, check_leaks, limit_records, tokens
from datamodules.streaming import StreamOptions
from datamodules.streaming.reader import StreamedCache
from modules.detectors.samples import Samples
from modules.extractors.base import Extractor
from modules.seeds import run_seed
from modules.settings import settings_of

log = logging.getLogger(__name__)


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
        extract_batch_size: Images an extraction batch; by default 64 on a GPU, else 16. Where memory is too small it is halved.
        extract_workers: Processes that decode images during extraction, on each rank; by default up to 8 beside a GPU, two on a
            processor with a core to spare, none for a handful of images. On a processor they give way to the network, and to whatever
            else runs there.
        val_fraction: Share of the groups for validation, where the source gives no splits.
        test_fraction: Share of the groups for the test.
        split_seed: Seed of the split and of `limit`.
        train_on: `dataset` or `dataset/generator` patterns that may be trained on; everything else is tested on whole. All by default.
        train_generators: Patterns of the generators that may be trained on (`stylegan*`, `faces/stylegan2`; `!faces/stylegan2` for all
            but that one); the others are tested on whole, and real images are split as ever. All by default.
        max_generators: Train on at most so many of these, chosen by a hash of `generator_seed` and their names.
        generator_seed: Another seed, other generators.
        views: What training images go through: each comes once under each of these perturbations an epoch. By default `perturbation`
            alone, which validation and test images go through in any case. Each view is cached on its own.
        repeat: How often a training image comes an epoch, by pattern of its generator; for example `{faces/stylegan2: 4}`.
        keep_pairs: Bring the images of one `pair` (a photograph and the fakes made from it) in one batch.
        unknown_families: What a detector of families does with training images of a generator without one: `error`, or `unknown`, a
            class of its own.
        limit: At most so many images of each split and generator.
        on_leak: What to do where content, group, pair or a near-duplicate stands in two splits: `error`, or `drop` it from training and
            validation.
        families: YAML file of generators and families that extends the built-in one.
        shard_samples: Images a shard of the cache holds at most.
        memory_limit: Bytes of vectors that each split holds in memory, on each process, after they were read once; where they do not fit,
            and for pictures, every epoch reads again.
        audit: Measure how well trivial facts of the files (format, size, JPEG quality, mean colour) tell real from generated images, and
            warn where one does.
        stream: Features that lie elsewhere, at an address or in an object store, to be trained on without a copy.
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
        extract_batch_size: int | None = None,
        extract_workers: int | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.25,
        split_seed: int = 0,
        train_on: list[str] | None = None,
        train_generators: list[str] | None = None,
        max_generators: int | None = None,
        generator_seed: int = 0,
        views: str | list[str] | None = None,
        repeat: dict[str, int] | None = None,
        keep_pairs: bool = False,
        unknown_families: Literal["error", "unknown"] = "error",
        limit: int | None = None,
        on_leak: str = "error",
        families: str | None = None,
        shard_samples: int = 1000,
        memory_limit: int = MEMORY,
        audit: bool = True,
        stream: StreamOptions = StreamOptions(),  # noqa: B008 - it is frozen
        evaluate_only: Literal["test", "all"] | None = None,
    ) -> None:
        super().__init__()
        views = [views] if isinstance(views, str) else views
        check_views(perturbation, views)
        check_times(repeat or {})
        stream.check_order(keep_pairs)
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
        self.train_generators = train_generators
        self.max_generators = max_generators
        self.generator_seed = generator_seed
        self.views = views
        self.repeat = repeat
        self.keep_pairs = keep_pairs
        self.unknown_families = unknown_families
        self.limit = limit
        self.on_leak = on_leak
        self.families = families
        self.shard_samples = shard_samples
        self.memory_limit = memory_limit
        self.audit = audit
        self.stream = stream
        self.evaluate_only = evaluate_only
        self.features: Sequence[str] | None = None
        self.target = "binary"
        self.classes: list[str] | None = None
        self._records: list[Record] | None = None
        self._cache: FeatureCache | None = None
        self._families: FamilyMap | None = None
        self._given_families: FamilyMap | None = None
        self.inherited: set[int] = set()  # seeds of images that a head which training starts from was trained on
        self._reader: IndexedReader | None = None
        self._described: dict[str, Any] | None = None
        self._views: dict[str, FeatureDataModule] = {}
        self._training: FeatureDataset | None = None

    @property
    def family_map(self) -> FamilyMap:
        """Generators, families and their integers; families that only the data names come after the known ones."""
        if self._families is None:
            self._families = self._map().including(self.records())
        return self._families

    def _map(self) -> FamilyMap:
        return self._given_families or FamilyMap.load(self.families)

    @property
    def cache(self) -> FeatureCache:
        """The feature cache of these settings."""
        if self._cache is None:
            hashes = ContentHashes(Path(self.cache_dir) / MEMO)
            made_of = (Path(self.cache_dir), self.extractor, self.perturbation, self.source.name, hashes)
            self._cache = StreamedCache(self.stream, *made_of) if self.stream.url else FeatureCache(*made_of)
        return self._cache

    def records(self) -> list[Record]:
        """All records with family and split, checked for leaks and empty classes; scanned once.

        Raises:
            DataError: If the data cannot be trained or tested on as it is.
        """
        if self._records is None:
            found = self._split(self._map().resolve(self.source.records(Path(self.cache_dir))))
            check_captions(found, self.extractor)
            self._records = found
        return self._records

    def _split(self, records: list[Record]) -> list[Record]:
        """Records with their splits, without leaks, within the limit."""
        if self.evaluate_only:
            if self.evaluate_only == "test" and {record.split for record in records} in ({"train"}, {"val"}, {"train", "val"}):
                msg = f"all images of {self.source.location} are of the train or val split; --split all measures them all the same"
                raise DataError(msg)
            if self.evaluate_only == "test" and any(record.split == "test" for record in records):
                kept = [record for record in records if record.split == "test"]
                log.info("%d of %d images are of the test split and are measured", len(kept), len(records))
                records = kept
            tested = limit_records([replace(record, split="test") for record in records], self.limit, self.split_seed)
            check_classes(tested, ("test",))
            return tested
        fractions = (1 - self.val_fraction - self.test_fraction, self.val_fraction, self.test_fraction)
        assigned = assign_splits(records, fractions, self.split_seed, self.train_on)
        trained = training_generators(assigned, self.train_generators, self.max_generators, self.generator_seed)
        check_repeats(assigned, self.repeat or {})
        assigned = hold_out_generators(assigned, trained)
        found = limit_records(check_leaks(assigned, self.on_leak), self.limit, self.split_seed)
        check_classes(found, SPLITS)
        return found

    def check_looks(self) -> None:
        """Refuse or drop near-duplicates across splits, by `on_leak`; after extraction, which has seen every pixel.

        Raises:
            DataError: There are some, and `on_leak` is `error`.
        """
        self._records = check_near_duplicates(self.records(), Path(self.cache_dir), self.on_leak)
        self._described, self._views, self._training = None, {}, None
        check_classes(self._records, ("test",) if self.evaluate_only else SPLITS)

    def use_families(self, families: FamilyMap) -> None:
        """Sort generators by this map, that of a checkpoint, in place of `families`."""
        self._given_families, self._families, self._records = families, None, None

    def restrict(self, keys: Container[str]) -> None:
        """From now on have only the records of these keys."""
        self._records = [record for record in self.records() if record.key in keys]
        self._described, self._views, self._training = None, {}, None

    def usable(self, split: str) -> list[Record]:
        """Records of a split that have features."""
        return [
            record
            for record in self.records()
            if record.split == split and (record.key, caption_hash(record, self.extractor)) in self.reader
        ]

    def at(self, view: str) -> "FeatureDataModule":
        """This data with another perturbation; its training images only, which views are made of."""
        if view == self.perturbation:
            return self
        if view not in self._views:
            other = copy.copy(self)
            other.perturbation, other.views = view, None
            other._records = [record for record in self.records() if record.split == "train"]
            other._cache = other._reader = other._described = other._training = None
            self._views[view] = other
        return self._views[view]

    @property
    def training_views(self) -> list[str]:
        """The perturbations that training images come under, each once."""
        return list(dict.fromkeys(self.views or [self.perturbation]))

    def missing(self) -> list[Record]:
        """Records that have no features yet and did not fail before; the cache is looked at anew."""
        self.look_again()
        return self.cache.missing(self.records(), self.reader)

    def look_again(self) -> None:
        """Forget what was read of the cache: another process may have added to it."""
        self._reader = self._described = self._training = None

    def extraction_loader(self, missing: list[Record], ranks: int = 1, nodes: int = 1) -> DataLoader[Any]:
        """Loader of the images that have no features yet, for so many ranks on so many machines."""
        self.look_again()
        return extraction_loader(missing, self.cache, self.extract_batch_size, self.extract_workers, ranks, nodes)

    def shard_writing(self, share: Share = WHOLE) -> ShardWriting:
        """The callback that writes extracted features to the cache, as one of several independent jobs."""
        return ShardWriting(self.cache, settings_of(self.source), self.source.failures, self.shard_samples, self.features, share)

    def correct_manifest(self) -> None:
        """Let the cache's manifest count what is there, where it does not."""
        self.cache.correct_manifest(self.reader, settings_of(self.source), self.source.failures)

    @property
    def reader(self) -> IndexedReader:
        """The cached features; indexes are read once after each extraction."""
        if self._reader is None:
            self._reader = self.cache.reader()
        return self._reader

    def load_features(self, record: Record) -> Arrays:
        """Cached features of one image as arrays, for reports."""
        return self.reader.read(record.key, caption_hash(record, self.extractor))

    def learn(self, target: str) -> list[str] | None:
        """Say from now on in batches what a detector of such a target learns.

        Args:
            target: `binary`, `family` or `generator`.

        Returns:
            The classes of the training images, `real` first; None for a binary target.

        Raises:
            DataError: A generator has no family, and `unknown_families` is `error`.
        """
        trained = [record for record in self.records() if record.split == "train"]
        self.target, self._training = target, None
        self.classes = None if target == "binary" else classes_of(trained, target, self.family_map, self.unknown_families == "unknown")
        return self.classes

    def has_pairs(self) -> bool:
        """Whether any training images share a pair."""
        pairs = [record.pair for record in self.records() if record.split == "train" and record.pair]
        return len(set(pairs)) < len(pairs)

    def samples(self) -> Samples:
        """All training samples at once, for detectors that are fitted so.

        Raises:
            DataError: A feature that is read is no vector, or they do not fit into `memory_limit`.
        """
        dataset = self._training_dataset()
        dataset.check_vectors(whole=not self.num_workers)
        batch = dataset.everything()
        groups = [record.group for record in dataset.records]
        return Samples(batch["features"], batch["label"], batch["target"], groups)

    def describe(self) -> dict[str, Any]:
        """What a checkpoint needs to make the same features of a new image, in plain types; made once, for every checkpoint asks."""
        if self._described is None:
            self._described = description(self)
        return self._described

    def hold_out(self, seeds: Container[int]) -> None:
        """From now on have only images that share no content, group or pair with those of these seeds (`trained_on` of checkpoints).

        Raises:
            DataError: None is left.
        """
        records = self.records()
        used = {token for record in records if seed_of(record) in seeds for token in tokens(record)}
        self.restrict({record.key for record in records if used.isdisjoint(tokens(record))})
        log.info("%d of %d images are held out of all training and are measured", len(self.records()), len(records))
        check_classes(self.records(), ("test",))

    def trained_on(self, described: dict[str, Any]) -> int:
        """How many of these images the detector of a checkpoint was trained or validated on, by `describe` of that run."""
        known = set(described["trained_on"].tolist())
        return sum(seed_of(record) in known for record in self.records())

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
        if shuffled and not getattr(self.trainer, "overfit_batches", 0):  # for that Lightning makes a loader anew, in order
            place = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
            dataset = self._training_dataset()
            return training_loader(dataset, self.batch_size, self.keep_pairs, *place, run_seed(), self.stream, **self._loading)
        if shuffled:
            return DataLoader(self._training_dataset(), batch_size=self.batch_size, **self._loading)
        records = self._readable(split)
        if self.stream.url:  # what follows each other there comes at once
            records = sorted(records, key=lambda record: self.reader.order(record.key, caption_hash(record, self.extractor)))
        # Every rank needs a batch: a split smaller than the ranks repeats images, which metrics and tables count once.
        ranks = self.trainer.world_size if self.trainer else 1
        repeated = (records * -(-ranks // len(records)))[: max(len(records), ranks)]
        return DataLoader(self._dataset([View(repeated, self.reader)]), batch_size=self.batch_size, **self._loading)

    def _readable(self, split: str) -> list[Record]:
        """Records of a split that have the features that are read; not none.

        Raises:
            DataError: There are none.
        """
        records = self.usable(split)
        if not records:
            msg = f"no image of the {split} split has features in {self.cache.location}" + (
                f"; of {failures[0].where}: {failures[0].reason}" if (failures := self.reader.failures) else "; run the extraction first"
            )
            raise DataError(msg)
        check_wanted(self.features, list(self.load_features(records[0])), self.extractor)
        return records

    def _dataset(self, views: list[View]) -> FeatureDataset:
        naming = Naming(self.family_map, self.target, self.classes)
        return FeatureDataset(views, self.extractor, naming, self.features, self.memory_limit if not self.num_workers else 0)

    def _training_dataset(self) -> FeatureDataset:
        """The training images under all views, made once: what is in memory stays there."""
        if self._training is None:
            views = []
            for name in self.training_views:
                view = self.at(name)
                records = [record for record in view._readable("train") for _ in range(repeats(record, self.repeat or {}))]
                views.append(View(records, view.reader))
            self._training = self._dataset(views)
        return self._training

    @property
    def _loading(self) -> dict[str, Any]:
        """Arguments of all loaders."""
        return {
            "num_workers": self.num_workers,
            "collate_fn": whole_batch,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": self.num_workers > 0,
        }
