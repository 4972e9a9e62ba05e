"""Features that lie elsewhere, at random through their indexes; what follows each other in a shard comes by one request."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datamodules.cache import FeatureCache
from datamodules.errors import DataError
from datamodules.hashing import ContentHashes
from datamodules.records import Record
from datamodules.shards import Arrays, IndexedReader, Row, ShardError
from datamodules.shards.index import BLOCK
from datamodules.shards.tar import checked_features, decode
from datamodules.sources.tars.fetch import FetchError
from datamodules.streaming.find import place_of
from datamodules.streaming.folder import find_folder, list_shards, load_indexes, log, remembered
from datamodules.streaming.options import StreamOptions
from datamodules.streaming.places import Place
from datamodules.streaming.ranges import RangeReader, tried
from modules.extractors.base import Extractor

_OPEN = 8  # shards that reading at random keeps open


class StreamReader(IndexedReader):
    """All samples of a directory of features that lies elsewhere.

    Opening reads the indexes only. Every sample is compared with its index row whenever it is read.

    Args:
        folder: The directory.
        cache_dir: Root of this machine's cache, which remembers the indexes.

    Attributes:
        seeks: Whether a shard can be read from any byte on; else what comes before is transferred as well.

    Raises:
        DataError: There is no such directory.
        ShardError: An index cannot be had.
    """

    def __init__(self, folder: Place, cache_dir: Path) -> None:
        super().__init__()
        self.folder = folder
        self.shards: list[Place] = []
        self._memory = remembered(folder, cache_dir)
        self._forget()
        shards = list_shards(folder)
        for shard, index in zip(shards, load_indexes(folder, shards, cache_dir), strict=True):
            if index is not None:
                self.shards.append(shard)
                self.failures.extend(index.failures)
                self._add_index(index)
        self._samples.close()
        self.own = len(self)
        self.seeks = not self.shards or tried(self.shards[0].seeks)
        if not self.seeks:
            log.warning("the server of %s sends whole files only: each shard is read from its beginning", folder.shown)

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open: dict[int, RangeReader] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Connections belong to one process; a worker opens its own."""
        return self.__dict__ | {"_open": {}}

    def read(self, key: str, caption: str = "") -> Arrays:
        """Features of one sample; see the class above this one."""
        number, row = self.place(key, caption)
        if self._process != os.getpid():
            self._forget()
        if number not in self._open:
            if len(self._open) >= _OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[number] = self.ranges(number, self._sizes[number])
        return self.decode(number, row, self.content(self._open[number], number, row))

    def ranges(self, number: int, stop: int) -> RangeReader:
        """The shard of a number, to be read up to byte `stop`."""
        return RangeReader(self.shards[number], stop, self.seeks)

    def content(self, ranges: RangeReader, number: int, row: Row) -> bytearray:
        """The safetensors member of a row, compared with it.

        Raises:
            ShardError: It cannot be had after several tries, or is another one than the index says.
        """
        try:
            header, content = ranges.read(row.offset - BLOCK, BLOCK), ranges.read(row.offset, row.size)
            return checked_features(header, content, row, self._sizes[number])
        except (FetchError, ValueError) as error:
            raise self._unusable(number, error) from error

    def decode(self, number: int, row: Row, content: bytearray) -> Arrays:
        """The features of such a member.

        Raises:
            ShardError: It is no safetensors.
        """
        try:
            return decode(content)
        except ValueError as error:
            raise self._unusable(number, error) from error

    def _unusable(self, number: int, error: Exception) -> ShardError:
        fetched = isinstance(error, FetchError)
        advice = "" if fetched else f". If the shards were made anew, delete what is remembered of them: {self._memory}"
        return ShardError(f"the shard {self.shards[number].shown} cannot be used: {error}{advice}")


class StreamedCache(FeatureCache):
    """The features of a cache that lies elsewhere; nothing is extracted.

    Args:
        options: Where it lies.
        root: Root of this machine's cache, which gives the directory its name and remembers indexes.
        extractor: Whose features.
        perturbation: Name of the perturbation that images went through first.
        source: Name of the records' source.
        hashes: Remembers content hashes of weight files.
    """

    def __init__(
        self, options: StreamOptions, root: Path, extractor: Extractor, perturbation: str, source: str, hashes: ContentHashes
    ) -> None:
        super().__init__(root, extractor, perturbation, source, hashes)
        self.options = options
        self.root = root
        self._reader: StreamReader | None = None

    @property
    def location(self) -> str:
        """Where the features lie, for messages."""
        return find_folder(place_of(self.options), self.folder).shown

    def reader(self) -> StreamReader:
        """The features that are there; indexes are read once."""
        if self._reader is None:
            self._reader = StreamReader(find_folder(place_of(self.options), self.folder), self.root)
        return self._reader

    def correct_manifest(self, *told: Any) -> None:
        """Nothing is written there."""

    def missing(self, records: Iterable[Record], reader: IndexedReader | None = None) -> list[Record]:
        """None: what has no features there is an error, or left out and told.

        Raises:
            DataError: Some have none, and `on_missing` is `error`.
        """
        wanted = list(records)
        absent = super().missing(wanted, reader)
        if not absent:
            return []
        example = absent[0].path or absent[0].url or absent[0].key
        message = f"{len(absent)} of {len(wanted)} images have no features in {self.location}, for example {example}"
        if self.options.on_missing == "error":
            message += ": extract them where the images are (extract.py), or set data.stream.on_missing to skip, which leaves them out"
            raise DataError(message)
        log.warning("%s: they are left out", message)
        return []
