"""Which worker of which process streams what, and how well it is mixed: known without reading anything."""

import random
from collections import Counter

import numpy as np
import pytest

from datamodules.streaming.order import BLOCK_BYTES, BLOCKS, Share, batches_of, cut_blocks, mixed, share_of, shuffled
from datamodules.streaming.ranges import GAP


def blocks_of(shards, samples, size=4096, pieces=1, buffer=2**30):
    files = np.repeat(np.arange(shards), samples)
    starts = np.tile(np.arange(samples) * size, shards)
    return cut_blocks(files, starts, starts + size, pieces, buffer)


def delivered(blocks, share, batch_size, seed=0, epoch=0, buffer=100, at_once=8):
    samples, numbers = share_of(blocks, share, batch_size, seed, epoch)
    read = ({"position": position} for position in mixed(numbers, at_once, random.Random(f"{seed} {epoch}")))
    return [int(samples[each["position"]]) for each in shuffled(buffer, random.Random(seed))(read)]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 2), (3, 1), (1, 5), (4, 3)])
@pytest.mark.parametrize(("shards", "samples", "batch_size"), [(7, 13, 4), (1, 64, 8), (40, 1, 7), (3, 1, 2)])
def test_all_samples_once_and_as_many_batches_everywhere(ranks, workers, shards, samples, batch_size):
    total = shards * samples
    blocks = blocks_of(shards, samples, pieces=ranks * workers)
    seen = Counter()
    for rank in range(ranks):
        each = [delivered(blocks, Share(ranks, rank, workers, worker), batch_size) for worker in range(workers)]
        seen.update(sample for part in each for sample in part)
        assert sum(map(len, each)) == -(-total // ranks)
        assert sum(-(-len(part) // batch_size) for part in each) == batches_of(total, ranks, batch_size)
        batches = batches_of(total, ranks, batch_size)
        for worker, part in enumerate(each):  # of no worker but the last one asked is a batch smaller
            assert len(part) % batch_size == 0 or worker == (batches - 1) % workers
    assert set(seen) == set(range(total))
    assert sum(seen.values()) - total == -total % ranks, "only what fills up comes twice"
    assert max(seen.values()) <= 1 + -(-(-total % ranks) // total)


def test_the_order_depends_on_seed_and_epoch_only():
    blocks = blocks_of(10, 20)
    share = Share(2, 1, 2, 0)
    orders = {(seed, epoch): delivered(blocks, share, 8, seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert orders == {(seed, epoch): delivered(blocks, share, 8, seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4


def test_blocks_are_what_lies_together():
    gap, size = GAP + 1, BLOCK_BYTES // 3
    starts = np.array([0, size, 2 * size, 3 * size, 4 * size + gap, 0])
    files = np.array([0, 0, 0, 0, 0, 1])
    assert [block.tolist() for block in cut_blocks(files, starts, starts + size, 1, 2**30)] == [[0], [1], [2], [3], [4], [5]], "few samples"
    many = np.arange(BLOCKS * 100) * 4096
    blocks = cut_blocks(np.zeros(len(many), int), many, many + 4096, 1, 2**30)
    assert {len(block) for block in blocks} == {100}
    large = np.arange(BLOCKS * 100) * size
    assert {len(block) for block in cut_blocks(np.zeros(len(large), int), large, large + size, 1, 2**30)} == {2, 3}, "at most BLOCK_BYTES"
    assert [block.tolist() for block in cut_blocks(files, starts, starts + size, 1, 2**30, whole=True)] == [[0, 1, 2, 3, 4], [5]]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 2)])
def test_shards_sorted_by_class_are_mixed(ranks, workers):
    """Batches of 64 of the worst case, shards of one class, hold about as many of each class as if all samples were shuffled."""
    labels = np.repeat([0, 1], 10_000)
    buffer = 1000 // workers
    blocks = blocks_of(20, 1000, pieces=ranks * workers, buffer=buffer * 4096)
    shares = []
    for worker in range(workers):
        order = labels[delivered(blocks, Share(ranks, 0, workers, worker), 64, buffer=buffer)]
        shares += order[: len(order) // 64 * 64].reshape(-1, 64).mean(1).tolist()
    full = 0.5 / 64**0.5
    assert np.std(shares) < 2 * full
    assert 0.1 < min(shares) <= max(shares) < 0.9
    blocks = blocks_of(20, 1000)
    unmixed = labels[share_of(blocks, Share(ranks, 0, workers, 0), 64, 0, 0)[0]]
    assert np.std(unmixed[: len(unmixed) // 64 * 64].reshape(-1, 64).mean(1)) > 6 * full, "one block after the other they are not"


def test_neighbours_in_a_shard_are_far_apart_in_an_epoch():
    order = delivered(blocks_of(20, 1000, buffer=1000 * 4096), Share(), 64, buffer=1000)
    place = np.empty(20_000)
    place[order] = np.arange(20_000)
    assert np.median(np.abs(np.diff(place))) > 500
    assert abs(np.corrcoef(place, np.arange(20_000))[0, 1]) < 0.2
