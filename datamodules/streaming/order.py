"""In which order samples are streamed: a function of the indexes, the seed, the epoch and who asks, known before a byte is read.

An epoch is dealt out exactly. Shards are cut into blocks of neighbouring samples, the blocks are shuffled, and their samples, one after the
other, are cut into one piece a process and that into one a worker, whole batches each. A worker reads several of its blocks at once, drawn
by lot by how much is left of each, into a shuffle buffer.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.streaming.ranges import GAP

BLOCK_BYTES = 16 * 2**20
"""Length of a block at most (of one sample, if it is longer): a request brings in much more than its delay costs."""

BLOCKS = 32
"""Blocks that fill a worker's shuffle buffer, and that each worker has at least in an epoch: of few large ones, batches would come from
few shards. Measured in docs/streaming.md."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Who reads.

    Attributes:
        ranks: Number of processes.
        rank: This one's number.
        workers: Workers of each.
        worker: This one's number.
    """

    ranks: int = 1
    rank: int = 0
    workers: int = 1
    worker: int = 0


def cut_blocks(files: Numbers, starts: Numbers, stops: Numbers, pieces: int, buffer: float, whole: bool = False) -> list[Numbers]:
    """Samples that lie near each other.

    Args:
        files: Number of the file of each sample, `[N]`.
        starts: Its first byte there, `[N]`.
        stops: The byte after its last, `[N]`.
        pieces: Number of pieces that the samples are dealt out in; each should get `BLOCKS` of them.
        buffer: Bytes of a worker's shuffle buffer, which should hold as many.
        whole: A block a file, for servers from which files come whole only.

    Returns:
        Numbers of samples, in the order of their bytes.
    """
    limit = max(1, len(files) // (pieces * BLOCKS))
    length = min(BLOCK_BYTES, buffer / BLOCKS)
    blocks: list[list[int]] = []
    for i in np.lexsort((starts, files)).tolist():
        block = blocks[-1] if blocks else [i]
        near = starts[i] - stops[block[-1]] <= GAP and stops[i] - starts[block[0]] <= length and len(block) < limit
        if blocks and files[i] == files[block[0]] and (near or whole):
            block.append(i)
        else:
            blocks.append([i])
    return [np.array(block, np.int64) for block in blocks]


def batches_of(samples: int, ranks: int, batch_size: int) -> int:
    """Batches of every process in an epoch, the last of which may be smaller."""
    each = -(-samples // ranks)
    return -(-each // batch_size)


def share_of(blocks: Sequence[Numbers], share: Share, batch_size: int, seed: int, epoch: int) -> tuple[Numbers, Numbers]:
    """The samples of one worker in an epoch, block by block.

    Batch t of a process is its worker t modulo `workers`'s, as a DataLoader takes them. Where the samples do not divide by `ranks`, as many
    as are needed come a second time, so that each process has the same number.

    Args:
        blocks: Of `cut_blocks`.
        share: Who asks.
        batch_size: Samples a batch.
        seed: Another seed, another order.
        epoch: Likewise.

    Returns:
        Numbers of samples, `[n]`, and of the block that each was taken from, `[n]`.
    """
    order = np.random.default_rng((seed % 2**63, epoch)).permutation(len(blocks))
    samples = np.concatenate([blocks[i] for i in order])
    numbers = np.repeat(order, [len(blocks[i]) for i in order])
    each = -(-len(samples) // share.ranks)
    # Cyclic: what is filled up with is the epoch's first samples.
    chosen = np.arange(share.rank * each, (share.rank + 1) * each) % len(samples)
    batches = -(-each // batch_size)
    counts = [len(range(worker, batches, share.workers)) * batch_size for worker in range(share.workers)]
    counts[(batches - 1) % share.workers] -= batches * batch_size - each
    start = sum(counts[: share.worker])
    chosen = chosen[start : start + counts[share.worker]]
    return samples[chosen], numbers[chosen]


def mixed(blocks: Numbers, at_once: int, rng: random.Random) -> Iterator[int]:
    """Positions of a share's samples in the order in which they are read: from several blocks in turn, each in its own order.

    Args:
        blocks: Block of each sample, `[n]`; those of one block follow each other.
        at_once: Blocks that are open at the same time.
        rng: Draws which block is next, the more often the more is left of it.
    """
    edges = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(blocks)]
    waiting = iter([(start, stop) for start, stop in itertools.pairwise(edges) if start < stop])
    opened: list[list[int]] = []
    while True:
        while len(opened) < at_once and (found := next(waiting, None)):
            opened.append(list(found))
        if not opened:
            return
        drawn = rng.random() * sum(stop - start for start, stop in opened)
        for chosen in opened:  # by lot: several times as fast as `choices` for so few
            drawn -= chosen[1] - chosen[0]
            if drawn < 0:
                break
        yield chosen[0]
        chosen[0] += 1
        if chosen[0] == chosen[1]:
            opened.remove(chosen)


def shuffled(buffer: int, rng: random.Random) -> Any:
    """The shuffle buffer of webdataset as a stage of a pipeline; it is full before the first item leaves it.

    Args:
        buffer: Items in it.
        rng: Draws which of them leaves.
    """
    from webdataset.filters import shuffle  # slow to import

    return shuffle(buffer, initial=buffer, rng=rng)
