"""Which generators are trained on, how often images come, and that pairs stay together."""

import itertools
import random
from collections import Counter

import pytest

from datamodules.errors import DataError
from datamodules.generators import check_repeats, hold_out_generators, repeats, training_generators
from datamodules.loading import PairSampler
from datamodules.records import Record


def record(name, generator="a", label=1, split="train", group="", pair=None, dataset="d"):
    return Record(name, label, dataset, generator, path=f"/{name}", group=group or name, pair=pair, split=split)


RECORDS = [record(f"{generator}{i}", generator) for generator in "abcdef" for i in range(3)] + [record("r", "laion", 0)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["a"], ["a"]),
        (["d/a", "b"], ["a", "b"]),
        (["!d/a"], ["b", "c", "d", "e", "f"]),
        (["[abc]", "!b"], ["a", "c"]),
        (["*"], list("abcdef")),
    ],
)
def test_patterns_choose_generators(wanted, expected):
    assert sorted(training_generators(RECORDS, wanted)) == [f"d/{name}" for name in expected]


def test_all_may_be_trained_on_by_default():
    assert training_generators(RECORDS) is None
    assert hold_out_generators(RECORDS, None) == RECORDS


def test_more_generators_include_the_fewer_ones_and_a_seed_chooses_others():
    chosen = [training_generators(RECORDS, most=count) for count in range(1, 7)]
    assert all(set(fewer) < set(more) for fewer, more in itertools.pairwise(chosen))
    assert len({training_generators(RECORDS, most=1, seed=seed)[0] for seed in range(30)}) > 3
    shuffled = random.Random(0).sample(RECORDS, len(RECORDS))
    assert training_generators(shuffled, most=3) == chosen[2]


@pytest.mark.parametrize(
    ("wanted", "most", "message"),
    [
        (["z"], None, "'z', which matches no generator. There are d/a"),
        (["!*"], None, "there are training images of none"),
        (None, 0, "max_generators is 0"),
        (None, 7, "max_generators is 7, and there are training images of d/a"),
    ],
)
def test_what_chooses_nothing_is_refused(wanted, most, message):
    with pytest.raises(DataError, match=message):
        training_generators(RECORDS, wanted, most)


def test_only_generators_with_training_images_are_chosen_from():
    records = [*RECORDS, *(record(f"t{i}", f"test{i}", split="test") for i in range(20))]
    for seed in range(5):
        chosen = training_generators(records, most=3, seed=seed)
        assert len(chosen) == 3
        assert not any("test" in name for name in chosen)
    with pytest.raises(DataError, match="there are training images of none"):
        training_generators(records, ["test0"])


@pytest.mark.parametrize("pattern", ["z", "!a", "other/a"])
def test_a_repeat_of_no_images_is_refused(pattern):
    check_repeats(RECORDS, {"a": 2, "d/*": 3, "laion": 2})
    with pytest.raises(DataError, match="matches no images"):
        check_repeats(RECORDS, {pattern: 2})


def test_a_real_image_source_is_no_generator():
    with pytest.raises(DataError, match="matches no generator"):
        training_generators(RECORDS, ["laion"])


def test_other_generators_are_tested_on_whole_and_the_rest_keeps_its_split():
    records = [record("x", "a"), record("y", "b", split="val"), record("z", "b"), record("r", "laion", 0), record("s", "laion", 0, "test")]
    found = hold_out_generators(records, ["d/a"])
    assert {each.key: each.split for each in found} == {"x": "train", "y": "test", "z": "test", "r": "train", "s": "test"}


@pytest.mark.parametrize("field", ["group", "pair"])
def test_a_fake_of_a_training_photograph_is_neither_trained_nor_tested_on(field):
    records = [record("real", "laion", 0, **{field: "photo"}), record("fake", "b", **{field: "photo"}), record("free", "b")]
    found = hold_out_generators(records, ["d/a"])
    assert {each.key: each.split for each in found} == {"real": "train", "free": "test"}
    tested = [record("real", "laion", 0, "test", **{field: "photo"}), record("fake", "b", split="test", **{field: "photo"})]
    assert hold_out_generators(tested, ["d/a"]) == tested


def test_the_largest_number_of_the_patterns_counts():
    times = {"a": 2, "d/*": 3, "b": 5}
    assert [repeats(record("x", generator), times) for generator in "abc"] == [3, 5, 3]
    assert repeats(record("x", "a", dataset="other"), times) == 2
    assert repeats(record("x", "c", dataset="other"), {}) == 1


def epoch(sampler, number=0):
    sampler.set_epoch(number)
    return list(sampler)


@pytest.mark.parametrize(("batch_size", "ranks"), [(4, 1), (8, 2), (6, 3), (64, 1)])
def test_pairs_stay_together_and_every_image_comes_once(batch_size, ranks):
    pairs = [0, 1, 2, -1, 0, 1, -1, 2, 2, 3, -1, 3, 4, 4, -1, 5, 5, 5, 6, 6, -1, 7, 8, 9, 9] * 2
    pairs = [pair + 10 * (i >= 25) if pair >= 0 else -1 for i, pair in enumerate(pairs)]
    samplers = [PairSampler(pairs, pairs, batch_size, ranks, rank, seed=3) for rank in range(ranks)]
    for number in range(5):
        batches = [epoch(sampler, number) for sampler in samplers]
        assert len({len(each) for each in batches}) == 1
        assert len(batches[0]) == len(samplers[0])
        flat = [batch for each in batches for batch in each]
        assert all(flat)
        assert sorted(i for batch in flat for i in batch) == list(range(len(pairs)))
        where = {i: number for number, batch in enumerate(flat) for i in batch}
        places = {}
        for i, pair in enumerate(pairs):
            if pair >= 0:
                places.setdefault(pair, set()).add(where[i])
        assert all(len(found) == 1 for found in places.values())
        assert max(Counter(where.values()).values()) <= len(pairs) / len(flat) + 3


def test_the_order_of_pairs_depends_on_seed_and_epoch_and_can_be_gone_on_with():
    pairs = [i // 2 for i in range(40)]
    sampler = PairSampler(pairs, pairs, 8, seed=1)
    assert epoch(sampler) == epoch(sampler) != epoch(sampler, 1)
    assert epoch(PairSampler(pairs, pairs, 8, seed=2)) != epoch(sampler)
    whole = epoch(sampler)
    sampler.skip = 2
    assert epoch(sampler) == whole[2:]
    assert epoch(sampler) == whole


def test_a_pair_larger_than_a_batch_is_refused():
    with pytest.raises(DataError, match=r"6 images belong to one pair.*data\.batch_size"):
        PairSampler(range(10), [0] * 6 + [-1] * 4, 4)
