"""Training batches as a webdataset pipeline over shards that lie elsewhere.

Of webdataset come the pipeline, its shuffle buffer and its batching. Its opener, tar reader and decoders are not used: they start programs
for `pipe:`, unpack compressed tars, read as much as a header says and unpickle members. A member is looked for where the index says and
compared with its row; nothing else in a shard is looked at.
"""

import copy
import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.dataset import Batch, FeatureDataset, tensors, whole_batch
from datamodules.loading import Resuming
from datamodules.shards import together
from datamodules.shards.index import BLOCK
from datamodules.streaming.options import StreamOptions
from datamodules.streaming.order import Numbers, Share, batches_of, cut_blocks, mixed, share_of, shuffled
from datamodules.streaming.ranges import RangeReader
from datamodules.streaming.reader import StreamReader

Sample = dict[str, Any]


class StreamDataset(IterableDataset[Batch]):
    """This process's batches of an epoch, those of one worker after the other.

    Args:
        dataset: The samples; its readers must be `StreamReader`s.
        options: Size of the shuffle buffer, and blocks that are read at once.
        batch_size: Samples a batch.
        share: This process; the worker is found out where the data is read.
        seed: Another seed, another order.
    """

    def __init__(self, dataset: FeatureDataset, options: StreamOptions, batch_size: int, share: Share, seed: int) -> None:
        self.dataset = dataset
        self.options = options
        self.batch_size = batch_size
        self.share = share
        self.seed = seed
        self.epoch = 0
        self.skip = 0
        files, starts, stops = places_of(dataset)
        self._stops = stops
        whole = not cast(StreamReader, dataset.source_of(0)[0]).seeks
        size = options.buffer * 2**20 / share.workers
        self.buffer = max(1, int(size // (stops - starts).max()))
        self.blocks = cut_blocks(files, starts, stops, share.ranks * share.workers, size, whole)

    def __len__(self) -> int:
        return batches_of(len(self.dataset), self.share.ranks, self.batch_size)

    @property
    def order_number(self) -> int:
        """A number that differs where the order does, for the same seed."""
        told = f"{self.seed} {self.buffer} {self.options.blocks} {[block.tolist() for block in self.blocks]}"
        return zlib.crc32(told.encode())

    def at(self, epoch: int, skip: int = 0) -> "StreamDataset":
        """The batches of an epoch, without the first `skip` of them."""
        other = copy.copy(self)
        other.epoch, other.skip = epoch, skip
        return other

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        # The loader asks its worker 0 first, and so worker 0 goes on with that worker's batches whose turn it is.
        worker = ((info.id if info else 0) + self.skip) % self.share.workers
        return iter(self._pipeline(replace(self.share, worker=worker)))

    def _pipeline(self, share: Share) -> Iterable[Batch]:
        import webdataset as wds

        samples, blocks = share_of(self.blocks, share, self.batch_size, self.seed, self.epoch)
        done = len(range(share.worker, self.skip, share.workers)) * self.batch_size
        name = f"{self.seed} {self.epoch} {share.rank} {share.worker}"
        order = partial(self._order, samples, blocks, name)
        past: frozenset[int] = frozenset()
        if done:  # what was delivered is not fetched again
            walked = shuffled(self.buffer, random.Random(f"{name} buffer"))(order())
            past = frozenset(sample["position"] for sample, _ in zip(walked, range(done), strict=False))
        return wds.DataPipeline(
            order,
            partial(self._fetch, past=past),
            shuffled(self.buffer, random.Random(f"{name} buffer")),
            partial(_without, past=past),
            wds.map(self._decode),
            wds.batched(self.batch_size, collation_fn=self._batch),
        )

    def _order(self, samples: Numbers, blocks: Numbers, name: str) -> Iterator[Sample]:
        """What is to be read, in the order of reading; `last` where nothing more of that block is."""
        for position in mixed(blocks, self.options.blocks, random.Random(f"{name} blocks")):
            last = position + 1 == len(blocks) or blocks[position + 1] != blocks[position]
            told = {"position": position, "sample": int(samples[position]), "block": int(blocks[position]), "last": last}
            yield {"__key__": str(position), **told}

    def _fetch(self, order: Iterable[Sample], past: frozenset[int]) -> Iterator[Sample]:
        """Samples with their undecoded features, but for those that are past."""
        opened: dict[int, RangeReader] = {}
        try:
            for sample in order:
                if sample["position"] not in past:
                    sample["safetensors"] = self._content(sample, opened)
                yield sample
                if sample["last"] and (ended := opened.pop(sample["block"], None)):
                    ended.close()
        finally:
            for ranges in opened.values():
                ranges.close()

    def _content(self, sample: Sample, opened: dict[int, RangeReader]) -> bytearray:
        reader, number, row = sample["row"] = self._located(sample["sample"])
        if sample["block"] not in opened:
            opened[sample["block"]] = reader.ranges(number, int(self._stops[self.blocks[sample["block"]][-1]]))
        return reader.content(opened[sample["block"]], number, row)

    def _located(self, index: int) -> tuple[StreamReader, int, Any]:
        reader, key, caption = self.dataset.source_of(index)
        return (cast(StreamReader, reader), *reader.place(key, caption))

    def _decode(self, sample: Sample) -> Sample:
        reader, number, row = sample["row"]
        arrays = reader.decode(number, row, sample.pop("safetensors"))
        sample["features"] = {name: arrays[name] for name in self.dataset.features or arrays}
        return sample

    def _batch(self, samples: list[Sample]) -> Batch:
        arrays = [sample["features"] for sample in samples]
        features = {name: together([each[name] for each in arrays]) for name in arrays[0]}
        return self.dataset.batch([sample["sample"] for sample in samples], tensors(features))


def _without(samples: Iterable[Sample], past: frozenset[int]) -> Iterator[Sample]:
    return (sample for sample in samples if sample["position"] not in past)


def places_of(dataset: FeatureDataset) -> tuple[Numbers, Numbers, Numbers]:
    """Where the samples of a data set lie: number of the file, first byte and the byte after the last, `[N]` each.

    A sample that comes several times an epoch stands in as many files, so that each time is drawn for itself.
    """
    files: dict[tuple[int, int, int], int] = {}
    times: dict[tuple[int, str, str], int] = {}
    found = []
    for index in range(len(dataset)):
        reader, key, caption = dataset.source_of(index)
        number, row = reader.place(key, caption)
        time = times[id(reader), key, caption] = times.get((id(reader), key, caption), -1) + 1
        file = files.setdefault((id(reader), number, time), len(files))
        found.append((file, row.offset - BLOCK, row.offset + row.size))
    files_, starts, stops = np.array(found, np.int64).T
    return files_, starts, stops


class StreamLoader(Resuming):
    """Streamed training batches, as many on every process, that can be stopped in mid-epoch and go on with the very next batch.

    Args:
        dataset: Whose batches.
        workers: Processes that read.
        pin_memory: As of `DataLoader`.
    """

    def __init__(self, dataset: StreamDataset, workers: int = 0, pin_memory: bool = False) -> None:
        self.dataset = dataset
        self.workers = workers
        self.pin_memory = pin_memory
        self.epoch = 0

    @property
    def sampler(self) -> "StreamLoader":
        """What Lightning tells the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """From now on give the batches of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        """Batches of the epoch that is set; workers are started anew for each, since they are told the order when they start."""
        self._taken = self._first_batch()
        dataset = self.dataset.at(self.epoch, self._taken)
        options: dict[str, Any] = {"num_workers": self.workers, "collate_fn": whole_batch, "pin_memory": self.pin_memory}
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, **options)
        for batch in loader:
            self._taken += 1
            yield batch

    def _units(self) -> dict[str, int]:
        share = self.dataset.share
        return {
            "batch_size": self.dataset.batch_size,
            "ranks": share.ranks,
            "workers": share.workers,
            "length": len(self),
            "order": self.dataset.order_number,
        }

    def _epoch(self) -> int:
        return self.epoch


def stream_loader(
    dataset: FeatureDataset, options: StreamOptions, batch_size: int, ranks: int, rank: int, seed: int, workers: int, pin_memory: bool
) -> StreamLoader:
    """Streamed training batches in an order of the seed and the epoch; see `StreamDataset` and `StreamLoader`."""
    share = Share(ranks, rank, max(workers, 1))
    return StreamLoader(StreamDataset(dataset, options, batch_size, share, seed), workers, pin_memory)
