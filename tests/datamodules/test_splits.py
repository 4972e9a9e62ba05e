import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from datamodules.errors import DataError
from datamodules.records import Record
from datamodules.splits import assign_splits, check_classes, check_leaks, limit_records


def record(name, group="", pair=None, dataset="d", generator="g", label=1, split=None):
    return Record(f"{name}", label, dataset, generator, path=f"/{name}.png", group=group or name, pair=pair, split=split)


def many(count, prefix="i", **fields):
    return [record(f"{prefix}{i}", **fields) for i in range(count)]


def by_name(records):
    return {r.key: r.split for r in records}


def counts(records, **fields):
    return Counter(r.split for r in records if all(getattr(r, name) == value for name, value in fields.items()))


def test_fractions_and_determinism():
    records = many(200)
    split = assign_splits(records, seed=1)
    assert counts(split) == {"train": 140, "val": 30, "test": 30}
    assert [r.key for r in split] == [r.key for r in records]
    shuffled = random.Random(0).sample(records, 200)
    assert by_name(assign_splits(shuffled, seed=1)) == by_name(split)
    assert by_name(assign_splits(records, seed=2)) != by_name(split)
    moved = [replace(r, path="/elsewhere" + r.path) for r in records]
    assert by_name(assign_splits(moved, seed=1)) == by_name(split)


def test_known_answer_never_changes():
    split = assign_splits(many(10), seed=0)
    order = sorted(range(10), key=lambda i: hashlib.sha256(f"0\0i{i}".encode()).hexdigest())
    assert [split[i].split for i in order] == ["train"] * 7 + ["val"] + ["test"] * 2


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.25, 0.25), {"train": 0.5, "val": 0.25, "test": 0.25}, [0.5, 0, 0.5], {"train": 0.5, "test": 0.5}]
)
def test_forms_of_fractions(fractions):
    found = counts(assign_splits(many(100), fractions))
    assert found["train"] == 50
    assert found["val"] == (25 if 0.25 in (fractions.values() if isinstance(fractions, dict) else fractions) else 0)


@pytest.mark.parametrize(
    "fractions", [(0.7, 0.2), (0.7, 0.2, 0.2), (1.2, -0.2, 0), {"train": 0.5, "dev": 0.5}, (float("nan"), 0.5, 0.5), {}]
)
def test_wrong_fractions(fractions):
    with pytest.raises(DataError, match="fractions"):
        assign_splits(many(4), fractions)


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_each_split_gets_one_of_three(count):
    assert set(counts(assign_splits(many(count), (0.98, 0.01, 0.01)))) == {"train", "val", "test"}


def test_groups_and_pairs_stay_together():
    rng = random.Random(0)
    records = [record(f"i{i}", group=f"g{rng.randrange(100)}", pair=f"p{rng.randrange(200)}" if i % 3 else None) for i in range(300)]
    split = assign_splits(records)
    for field in ("group", "pair"):
        places = defaultdict(set)
        for r in split:
            places[getattr(r, field)].add(r.split)
        places.pop(None, None)
        assert all(len(found) == 1 for found in places.values())
    assert check_leaks(split) == split


def test_equal_contents_stay_together():
    records = [record(f"{i:032x}{suffix}", group=f"g{i}{suffix}") for i in range(40) for suffix in ("", "-1", "-2")]
    places = defaultdict(set)
    for r in assign_splits(records):
        places[r.content_hash].add(r.split)
    assert all(len(found) == 1 for found in places.values())


def test_a_chain_of_groups_and_pairs_is_one():
    chain = [record(f"c{i}", group=f"g{i // 2}", pair=f"p{(i + 1) // 2}") for i in range(50)]
    assert len(counts(assign_splits([*chain, *many(50)])) & Counter(["train", "val", "test"])) == 3
    assert len(set(by_name(r for r in assign_splits([*chain, *many(50)]) if r.key[0] == "c").values())) == 1


def test_stratified_by_what_a_group_holds():
    records = [
        *many(40, "a", generator="a"),
        *many(20, "b", generator="b"),
        *many(20, "r", generator="real", label=0),
        *(record(f"m{i}{g}", group=f"m{i}", generator=g) for i in range(20) for g in "ab"),
    ]
    split = assign_splits(records, (0.5, 0.25, 0.25))
    assert counts(split, generator="real") == {"train": 10, "val": 5, "test": 5}
    for prefix, size in (("a", 40), ("b", 20), ("m", 40)):
        found = Counter(r.split for r in split if r.key.startswith(prefix))
        assert found == {"train": size // 2, "val": size // 4, "test": size // 4}


def test_many_small_strata_keep_the_fractions():
    records = [record(f"i{i}", dataset=f"d{i}") for i in range(2000)]
    found = counts(assign_splits(records))
    assert 1340 < found["train"] < 1460
    assert found["val"] > 240 < found["test"]


def test_own_splits_are_kept_and_followed():
    records = [record("a", group="g", split="val"), record("b", group="g"), record("c", split="test"), *many(30)]
    split = by_name(assign_splits(records))
    assert (split["a"], split["b"], split["c"]) == ("val", "val", "test")
    assert set(split.values()) == {"train", "val", "test"}


def test_own_splits_that_disagree_are_kept_and_reported():
    records = [record("a", group="g", split="train"), record("b", group="g", split="test"), record("c", group="g")]
    split = assign_splits(records)
    assert by_name(split) == {"a": "train", "b": "test", "c": "test"}
    with pytest.raises(DataError, match="'g' in train"):
        check_leaks(split)


def test_train_on_holds_everything_else_out():
    records = [
        *many(20, "r", dataset="faces", generator="ffhq", label=0),
        *many(20, "s", dataset="faces", generator="sd21"),
        *many(20, "h", dataset="faces", generator="stylegan2"),
        *many(20, "o", dataset="scenes", generator="imagenet", label=0),
        *many(5, "t", dataset="scenes", generator="dalle", split="train"),
    ]
    split = assign_splits(records, train_on=["faces/ffhq", "faces/sd*"])
    for generator in ("ffhq", "sd21"):
        assert counts(split, generator=generator) == {"train": 14, "val": 3, "test": 3}
    for generator in ("stylegan2", "imagenet", "dalle"):
        assert set(counts(split, generator=generator)) == {"test"}
    assert set(counts(assign_splits(records, train_on=["scenes"]), dataset="faces")) == {"test"}
    assert set(counts(assign_splits(records, train_on=[]))) == {"test"}


def test_what_shares_a_group_with_held_out_images_goes_to_test(caplog):
    records = [record(f"{kind}{i}", group=f"g{i}", generator=kind) for i in range(10) for kind in ("known", "new")]
    records += many(20, "free", generator="known")
    split = assign_splits(records, train_on=["d/known"])
    assert counts(split, generator="new") == {"test": 10}
    assert {r.split for r in split if r.group.startswith("g")} == {"test"}
    assert "10 images of train_on went to the test split" in caplog.text
    assert check_leaks(split) == split


def test_train_on_that_matches_nothing():
    with pytest.raises(DataError, match=r"'facse'.*d/g"):
        assign_splits(many(3), train_on=["facse", "d"])


@pytest.mark.parametrize("field", ["group", "pair", "content"])
def test_row_42_leaks_are_named(field):
    names = ("f" * 32, "f" * 32 + "-1") if field == "content" else ("a", "b")
    shared = {} if field == "content" else {field: "shared"}
    leaking = [record(names[0], split="train", **shared), record(names[1], split="test", **shared)]
    if field == "content":
        leaking = [replace(r, group=f"own{i}") for i, r in enumerate(leaking)]
    records = [*leaking, record("c", split="train")]
    with pytest.raises(DataError) as caught:
        check_leaks(records)
    assert f"1 contents, groups or pairs lie in more than one split: {field} " in str(caught.value)
    assert f"train (/{names[0]}.png) and test (/{names[1]}.png)" in str(caught.value)


def test_row_42_leaks_are_dropped(caplog):
    records = [
        *(record(f"a{split}", group="all", split=split) for split in ("train", "val", "test")),
        *(record(f"b{split}", pair="early", split=split) for split in ("train", "val")),
        record("alone", split="train"),
        record("unsplit", group="all"),
    ]
    kept = check_leaks(records, on_leak="drop")
    assert [r.key for r in kept] == ["atest", "bval", "alone", "unsplit"]
    assert "Removed 2 images from train and 1 from val" in caplog.text
    assert check_leaks(kept) == kept
    with pytest.raises(DataError, match="on_leak"):
        check_leaks(records, on_leak="ignore")


def test_row_36_empty_data_set_class_and_test_split(caplog):
    real, fake = many(4, "r", label=0, split="train"), many(4, "f", split="train")
    tests = [record("t", split="test"), record("u", split="test", label=0)]
    check_classes([*real, *fake, *tests])
    for records, message in [
        ([], "data set is empty"),
        ([*real, *fake], "test split is empty"),
        ([*real, *tests], "train split has no generated images"),
        ([*fake, *tests], "train split has no real images"),
        (tests, "train split is empty"),
    ]:
        with pytest.raises(DataError, match=message):
            check_classes(records)
    check_classes(tests, needed=["test"])
    assert not caplog.text
    check_classes(tests[:1], needed=["test"])
    assert "test split has no real images" in caplog.text


def test_limit_for_each_split_and_generator():
    records = [*many(30, "a", generator="a", split="train"), *many(5, "b", generator="b"), *many(30, "c", generator="a", split="test")]
    chosen = limit_records(records, 10, seed=3)
    assert Counter((r.generator, r.split) for r in chosen) == {("a", "train"): 10, ("b", None): 5, ("a", "test"): 10}
    assert chosen == [r for r in records if r in chosen]
    assert set(limit_records(records[::-1], 10, seed=3)) == set(chosen)
    assert set(limit_records(records, 10, seed=4)) != set(chosen)
    assert limit_records(records, None) == records
    assert set(limit_records(records, 5, seed=3)) <= set(chosen)
    with pytest.raises(DataError, match="limit is 0"):
        limit_records(records, 0)


def test_limit_keeps_pairs_together():
    kinds = (("photos", 0), ("img2img", 1), ("autoencoder", 1))
    records = [record(f"{kind}{i}", pair=f"p{i}", generator=kind, label=label) for i in range(50) for kind, label in kinds]
    chosen = limit_records(records, 7)
    assert Counter(Counter(r.pair for r in chosen).values()) == {3: 7}


def test_one_group_of_many_images():
    records = many(30_000, group="all")
    assert len(set(by_name(assign_splits(records)).values())) == 1
