"""Reading shards at random through their indexes."""

import logging
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.records import Failure
from datamodules.shards.index import Index, Row, ShardError, damaged, index_path, open_plain, read_index, shards_of, write_index
from datamodules.shards.samples import Samples, named
from datamodules.shards.tar import Arrays, Layout, decode, known_layout, read_bytes, read_contents, read_features, read_into

log = logging.getLogger(__name__)

MAX_OPEN = 128  # shards that a reader keeps open; systems allow a process 1,024 files or fewer


def rebuild_index(shard: Path) -> bool:
    """Write the lost index of a complete shard anew.

    Caption hashes, checksums and diagnostics come from the samples' JSON members. A shard is renamed only when it is complete, so one
    without an index is either complete or a name that some process has just reserved (empty). Failures that the index told of are lost:
    their images are tried once more.

    Returns:
        Whether the shard was complete and now has an index.
    """
    try:
        descriptor = open_plain(shard)
    except OSError as error:
        log.warning("%s has no index and is left out: %s.", shard, error)
        return False
    try:
        size = os.fstat(descriptor).st_size
        contents = read_contents(descriptor, size)
    finally:
        os.close(descriptor)
    if contents.problems or contents.damaged or not contents.rows:
        reason = [*contents.problems, *contents.damaged.values(), "it holds no sample"][0]
        log.warning("%s has no index and is left out: %s.", shard, reason)
        return False
    # Its writer may be about to write it, or may just have: that one tells of failures as well, and must stay.
    write_index(shard, Index(size, contents.rows, []), replace=False)
    return True


class IndexedReader(ABC):
    """Features of samples by key and caption hash, wherever the shards lie; indexes say which there are.

    Attributes:
        failures: Images that gave no features.
        own: How many samples lie in the first directory itself.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.own = 0
        self._samples = Samples()
        self._sizes: list[int] = []

    def __len__(self) -> int:
        return len(self._samples.numbers)

    def __contains__(self, sample: tuple[str, str]) -> bool:
        return named(*sample) in self._samples.numbers

    def keys(self) -> list[tuple[str, str]]:
        """Key and caption hash of every sample."""
        return [(key, caption) for key, _, caption in (name.partition(" ") for name in self._samples.numbers)]

    def diagnostics(self, samples: Iterable[tuple[str, str]] | None = None) -> dict[str, list[float]]:
        """The extractor's figures of some samples (key and caption hash), or of all, by name."""
        numbers = self._samples.numbers
        rows = list(numbers.values()) if samples is None else [numbers[named(*sample)] for sample in samples]
        figures = {name: column[rows] for name, column in self._samples.diagnostics.items()} if rows else {}
        known = {name: values[~np.isnan(values)].tolist() for name, values in figures.items()}
        return {name: values for name, values in known.items() if values}

    def place(self, key: str, caption: str = "") -> tuple[int, Row]:
        """Number of the shard in which a sample lies, and its row.

        Raises:
            KeyError: If the sample is not there.
        """
        return self._samples.place(self._samples.numbers[named(key, caption)], key, caption)

    def order(self, key: str, caption: str = "") -> tuple[int, int]:
        """What samples are sorted by to be read without seeking: shard and offset.

        Raises:
            KeyError: If the sample is not there.
        """
        number, row = self.place(key, caption)
        return number, row.offset

    @abstractmethod
    def read(self, key: str, caption: str = "") -> Arrays:
        """Features of one sample.

        Raises:
            KeyError: If the sample is not there.
            ShardError: If its bytes are not those that were written.
        """

    def layout(self, key: str, caption: str = "") -> Layout | None:
        """What a sample's bytes look like, if `read_into` can read it.

        Raises:
            KeyError: If the sample is not there.
            ShardError: If its shard cannot be opened.
        """
        return None

    def read_into(self, key: str, caption: str, layout: Layout, parts: Sequence[memoryview]) -> bool:
        """Read a sample's tensors to where they shall stand.

        Args:
            key: Its key.
            caption: Its caption's hash.
            layout: What it is expected to look like.
            parts: Of contiguous arrays, one for each of the layout's tensors, that are written to.

        Returns:
            Whether it looks like that and is what was written; else `read` tells what is wrong.

        Raises:
            KeyError: If the sample is not there.
            ShardError: If its shard cannot be opened.
        """
        return False

    def _add_index(self, index: Index) -> None:
        """Take over the rows of a further shard; a sample that is there already stays what it is."""
        self._samples.add(len(self._sizes), index.rows)
        self._sizes.append(index.bytes)


Features = dict[str, NDArray[Any] | list[NDArray[Any]]]
"""Of a batch: by name an array `[B, …]`, or a list of B arrays where shapes differ."""

Located = tuple[IndexedReader, str, str]
"""A sample: which reader has it, its key, and its caption's hash."""


def read_batch(samples: Sequence[Located], names: Sequence[str] | None = None) -> Features:
    """Features of several samples, each tensor read straight to its place in the batch where the samples look alike.

    Args:
        samples: At least one.
        names: Of the features that are wanted; all by default.

    Raises:
        KeyError: If a sample, or a name, is not there.
        ShardError: If a sample's bytes are not those that were written.
    """
    reader, key, caption = samples[0]
    layout = reader.layout(key, caption)
    batch, alike = ({}, 0) if layout is None else _read_alike(samples, names, layout)
    if alike == len(samples):
        return dict(batch)
    others = [reader.read(key, caption) for reader, key, caption in samples[alike:]]
    wanted = names or batch or others[0]
    return {name: together([*(batch[name][:alike] if alike else ()), *(each[name] for each in others)]) for name in wanted}


def together(arrays: list[NDArray[Any]]) -> NDArray[Any] | list[NDArray[Any]]:
    """Arrays of one shape as one, `[B, …]`; those of several shapes as they are."""
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays


def _read_alike(samples: Sequence[Located], names: Sequence[str] | None, layout: Layout) -> tuple[Arrays, int]:
    """Arrays of a batch, and how many of its samples stand in them: all before the first that does not have that layout."""
    known = {name: (shape, dtype) for name, (dtype, _, _), shape in layout.places}
    batch = {name: np.empty((len(samples), *known[name][0]), known[name][1]) for name in names or known}
    left_out = {name: np.empty(shape, dtype) for name, (shape, dtype) in known.items() if name not in batch}
    for i, (reader, key, caption) in enumerate(samples):
        parts = [(left_out[name] if name in left_out else batch[name][i, ...]).data for name in known]
        if not reader.read_into(key, caption, layout, parts):
            return batch, i
    return batch, len(samples)


class ShardReader(IndexedReader):
    """Random access to all samples of a cache directory.

    Opening reads the indexes only. A sample is compared with its index row the first time that this process reads it.

    Args:
        folder: The cache directory; may be missing or empty.
        rebuild: Write the lost index of a complete shard anew.
        others: Further cache directories with features of the same kind, for samples that the first one lacks. What is damaged there by
            its index or size is left out with a warning, and failures there are not this directory's.

    Raises:
        ShardError: If an index cannot be read, or a shard is missing or has another size than its index says.
    """

    def __init__(self, folder: Path, rebuild: bool = True, others: Iterable[Path] = ()) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._shards: list[Path] = []
        self._descriptors: dict[int, int] = {}
        try:
            for shard in shards_of(self.folder):
                if os.path.lexists(index_path(shard)) or (rebuild and shard.stat().st_size and rebuild_index(shard)):
                    self._add(shard)
        except FileNotFoundError as error:
            message = (
                f"shards of {self.folder} went away while they were read: another process repairs or removes it. Run again when it is done"
            )
            raise ShardError(message) from error
        self.own = len(self)
        for shard in (shard for other in others for shard in shards_of(other) if os.path.lexists(index_path(shard))):
            try:
                self._add(shard, own=False)
            except (ShardError, FileNotFoundError) as error:
                log.warning("not read: %s", error)
        self._samples.close()
        self._verified = bytearray(len(self._samples.size))

    def read(self, key: str, caption: str = "") -> Arrays:
        """Features of one sample.

        Raises:
            KeyError: If the sample is not there.
            ShardError: If its bytes are not those that were written.
        """
        number = self._samples.numbers[named(key, caption)]
        shard, row = self._samples.place(number, key, caption)
        descriptor = self._descriptor(shard)
        try:
            if self._verified[number]:
                return decode(read_bytes(descriptor, row))
            arrays = decode(read_features(descriptor, row, self._sizes[shard]))
        except (ValueError, OSError) as error:
            raise damaged(self._shards[shard], str(error)) from error
        self._verified[number] = True
        return arrays

    def layout(self, key: str, caption: str = "") -> Layout | None:
        """As of any `IndexedReader`."""
        shard, row = self.place(key, caption)
        with suppress(OSError):  # `read` says what is wrong
            return known_layout(self._descriptor(shard), row)
        return None

    def read_into(self, key: str, caption: str, layout: Layout, parts: Sequence[memoryview]) -> bool:
        """As of any `IndexedReader`."""
        number = self._samples.numbers[named(key, caption)]
        shard, row = self._samples.place(number, key, caption)
        with suppress(OSError):
            if read_into(self._descriptor(shard), row, layout, parts, bool(self._verified[number])):
                self._verified[number] = True
                return True
        return False

    def __getstate__(self) -> dict[str, Any]:
        """File descriptors belong to one process; a worker opens its own."""
        return self.__dict__ | {"_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def _descriptor(self, number: int) -> int:
        if number not in self._descriptors:
            if len(self._descriptors) >= MAX_OPEN:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            try:
                self._descriptors[number] = open_plain(self._shards[number])
            except OSError as error:
                raise damaged(self._shards[number], f"it cannot be opened any more ({error.strerror or error})") from error
        return self._descriptors[number]

    def _add(self, shard: Path, own: bool = True) -> None:
        index = read_index(shard)
        status = shard.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise damaged(shard, "it is a link or something else than a plain file")
        if status.st_size != index.bytes:
            raise damaged(shard, f"it has {status.st_size} bytes where its index says {index.bytes}")
        if own:
            self.failures.extend(index.failures)
        self._shards.append(shard)
        self._add_index(index)
