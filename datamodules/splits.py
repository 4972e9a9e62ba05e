"""Training, validation and test: who goes where, and whether anything leaks.

Groups and pairs are global names: two data sets that use the same one mean the same photograph or prompt.
"""

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from datamodules.errors import DataError
from datamodules.records import FAKE, REAL, SPLITS, Record

logger = logging.getLogger(__name__)

FRACTIONS = (0.7, 0.15, 0.15)
"""Shares of training, validation and test where nothing else is asked for."""

_RANK = {name: rank for rank, name in enumerate(SPLITS)}
_CLASS_NAMES = {REAL: "real", FAKE: "generated"}


def assign_splits(
    records: Sequence[Record],
    fractions: Sequence[float] | Mapping[str, float] = FRACTIONS,
    seed: int = 0,
    train_on: Sequence[str] | None = None,
) -> list[Record]:
    """Give every record a split, so that what belongs together stays together.

    Images that share a group, a pair or their content form a component. Components that hold images of the same data sets
    and generators are ordered by a hash of the seed and their group's name, and cut at the fractions; each split gets one at
    least where there are three. The result depends on neither the order nor the location of the files.

    A record that has a split keeps it, and what it is connected with follows it (into the later of train, val and test
    where they differ, which `check_leaks` then reports). With `train_on`, everything else goes to the test split whole,
    whatever split it had, and so does what it is connected with, unless that has a split of its own.

    Args:
        records: All records, with keys.
        fractions: Shares of train, val and test, in this order or by name; they add up to 1.
        seed: Another seed gives other splits.
        train_on: Patterns (`faces`, `genimage/*`) of a data set's name or of `dataset/generator`. Only what matches one may
            be used in training and validation; its reals are split like its generators.

    Returns:
        The records in the same order, each with a split.

    Raises:
        DataError: Wrong fractions, or a pattern that matches nothing.
    """
    shares = _shares(fractions)
    allowed = _allowed(records, train_on)
    strata: defaultdict[tuple[tuple[str, str], ...], list[list[int]]] = defaultdict(list)
    splits: dict[int, str] = {}
    moved = 0
    for component in _components(records):
        own = [records[i].split or "" for i in component if records[i].split is not None and allowed[i]]
        if not all(allowed[i] for i in component):
            splits.update((i, (records[i].split if allowed[i] else None) or "test") for i in component)
            moved += sum(allowed[i] and records[i].split is None for i in component)
        elif own:
            latest = max(own, key=_RANK.__getitem__)
            splits.update((i, records[i].split or latest) for i in component)
        else:
            strata[tuple(sorted({(records[i].dataset, records[i].generator) for i in component}))].append(component)
    for components in strata.values():
        for split, members in _cut(records, components, shares, seed):
            splits.update((i, split) for i in members)
    if moved:
        logger.warning("%d images of train_on went to the test split, because they share a group or pair with what is not.", moved)
    return [record if record.split == splits[i] else replace(record, split=splits[i]) for i, record in enumerate(records)]


def _shares(fractions: Sequence[float] | Mapping[str, float]) -> tuple[float, ...]:
    if isinstance(fractions, Mapping):
        unknown = sorted(set(fractions) - set(SPLITS))
        values = tuple(float(fractions.get(name, 0.0)) for name in SPLITS)
    else:
        unknown = [] if len(fractions) == len(SPLITS) else [f"{len(fractions)} values"]
        values = tuple(float(value) for value in fractions)
    if unknown or not all(0 <= value <= 1 for value in values) or not math.isclose(sum(values), 1, abs_tol=1e-6):
        message = f"The split fractions {fractions} are wrong: give {', '.join(SPLITS)}, each from 0 to 1, with sum 1."
        raise DataError(message)
    return values


def _allowed(records: Sequence[Record], train_on: Sequence[str] | None) -> list[bool]:
    if train_on is None:
        return [True] * len(records)
    names = sorted({(record.dataset, f"{record.dataset}/{record.generator}") for record in records})
    matching = {pattern: {pair for pair in names if any(fnmatchcase(name, pattern) for name in pair)} for pattern in train_on}
    idle = [pattern for pattern, found in matching.items() if not found]
    if idle:
        known = ", ".join(name for _, name in names[:20]) + (" …" if len(names) > 20 else "")
        message = f"train_on names {', '.join(map(repr, idle))}, which matches no data set. There are {known or 'none'}."
        raise DataError(message)
    usable = set().union(*matching.values())
    return [(record.dataset, f"{record.dataset}/{record.generator}") in usable for record in records]


def tokens(record: Record) -> Iterator[tuple[str, str]]:
    """What a split must not separate: content, group and pair of an image."""
    if record.content_hash:
        yield "content", record.content_hash
    if record.group and record.group != record.content_hash:
        yield "group", record.group
    if record.pair:
        yield "pair", record.pair


def _components(records: Sequence[Record]) -> list[list[int]]:
    """Indices of the records that are connected with each other."""
    parent = list(range(len(records)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, record in enumerate(records):
        for token in tokens(record):
            parent[find(i)] = find(first.setdefault(token, i))
    members: defaultdict[int, list[int]] = defaultdict(list)
    for i in range(len(records)):
        members[find(i)].append(i)
    return list(members.values())


def hashed(seed: int, name: str) -> int:
    """A number below 2⁶⁴ that chooses by a name: the same in any order and on any machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()[:8], "big")


def _cut(
    records: Sequence[Record], components: Sequence[list[int]], shares: tuple[float, ...], seed: int
) -> Iterator[tuple[str, list[int]]]:
    """Splits of the components of one stratum."""
    named = []
    for component in components:
        name = min(records[i].group or records[i].content_hash for i in component)
        named.append((hashed(seed, name), name, component))
    named.sort()
    if len(named) < len(SPLITS):  # too few to share out: each takes its chance, or many small strata would all go to train
        for value, _, component in named:
            position = value / 2**64
            index = next((i for i in range(len(shares)) if position < sum(shares[: i + 1])), max(range(3), key=shares.__getitem__))
            yield SPLITS[index], component
        return
    counts = _counts(len(named), shares)
    splits = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    for split, (_, _, component) in zip(splits, named, strict=True):
        yield split, component


def _counts(total: int, shares: tuple[float, ...]) -> list[int]:
    """How many of `total` components each split gets: largest remainders, and one at least for every share above 0."""
    counts = [int(total * share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - total * shares[i], -i))  # a tie goes to test
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    for i, share in enumerate(shares):
        if share > 0 and counts[i] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts


def check_leaks(records: Sequence[Record], on_leak: str = "error") -> list[Record]:
    """Refuse, or remove, images whose content, group or pair lies in more than one split.

    Args:
        records: Records with splits; those without one are passed through.
        on_leak: `error`, or `drop` to remove such images from training and validation. The test split always stays whole,
            and validation does against training.

    Returns:
        The records that are left, in the same order.

    Raises:
        DataError: Something leaks and `on_leak` is `error`, or `on_leak` is something else.
    """
    if on_leak not in ("error", "drop"):
        message = f"on_leak is {on_leak!r}: choose error or drop."
        raise DataError(message)
    leaks = _leaks(records)
    if not leaks:
        return list(records)
    if on_leak == "error":
        message = (
            f"{len(leaks)} contents, groups or pairs lie in more than one split: {_examples(leaks)}. "
            "Correct the splits, or set on_leak to drop, which removes such images from training and validation."
        )
        raise DataError(message)
    kept = [record for record in records if record.split is None or not _leaks_upwards(record, leaks)]
    dropped = Counter(record.split for record in records) - Counter(record.split for record in kept)
    logger.warning("Removed %d images from train and %d from val, because a later split has the same.", dropped["train"], dropped["val"])
    return kept


def _leaks(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, Record]]:
    """Contents, groups and pairs that lie in several splits, with the first record of each split."""
    only: dict[tuple[str, str], str] = {}
    leaking = set()
    placed = [record for record in records if record.split is not None]
    for record in placed:
        for token in tokens(record):
            if only.setdefault(token, record.split or "") != record.split:
                leaking.add(token)
    found: dict[tuple[str, str], dict[str, Record]] = {token: {} for token in only if token in leaking}
    for record in placed if leaking else ():
        for token in leaking.intersection(tokens(record)):
            found[token].setdefault(record.split or "", record)
    return found


def _leaks_upwards(record: Record, leaks: Mapping[tuple[str, str], Mapping[str, Record]]) -> bool:
    own = _RANK[record.split or "train"]
    return any(_RANK[split] > own for token in tokens(record) for split in leaks.get(token, ()))


def _examples(leaks: Mapping[tuple[str, str], Mapping[str, Record]]) -> str:
    texts = []
    for (kind, value), found in sorted(leaks.items())[:3]:
        where = " and ".join(f"{split} ({found[split].path or found[split].url or found[split].key})" for split in SPLITS if split in found)
        texts.append(f"{kind} {value!r} in {where}")
    return "; ".join(texts)


def check_classes(records: Sequence[Record], needed: Iterable[str] = ("train", "test")) -> None:
    """Stop before a model is loaded where a split or a class is empty.

    Args:
        records: Records with splits.
        needed: Splits that the run uses: `test` alone where a trained detector is evaluated.

    Raises:
        DataError: No record at all, a needed split without images, or a training split of one class.
    """
    counts = Counter((record.split, record.label) for record in records)
    found = ", ".join(f"{split}: {counts[split, REAL]} real and {counts[split, FAKE]} generated" for split in SPLITS)
    if not records:
        message = "The data set is empty: check the path of the source and its failures."
        raise DataError(message)
    for split in needed:
        if counts[split, REAL] + counts[split, FAKE] == 0:
            message = f"The {split} split is empty ({found}): change the fractions, train_on, or the splits that the data has."
            raise DataError(message)
        empty = [name for label, name in _CLASS_NAMES.items() if counts[split, label] == 0]
        if empty and split == "train":
            message = f"The train split has no {empty[0]} images ({found}): a detector needs both; check labels and train_on."
            raise DataError(message)
        if empty:
            logger.warning("The %s split has no %s images: most of its metrics are undefined.", split, empty[0])


def limit_records(records: Sequence[Record], limit: int | None, seed: int = 0) -> list[Record]:
    """At most `limit` images of each split, data set and generator.

    They are chosen by a hash of the seed and the pair's name (the content, where an image has no pair), so that a real image
    and the fakes made from it are chosen together, and the choice depends on neither order nor location.

    Args:
        records: Records, with splits where there are any.
        limit: Number of images; none for all.
        seed: Another seed chooses others.

    Returns:
        The chosen records in the same order.

    Raises:
        DataError: A limit below 1.
    """
    if limit is None:
        return list(records)
    if limit < 1:
        message = f"The limit is {limit}: give 1 or more images for each generator, or none for all."
        raise DataError(message)
    buckets: defaultdict[tuple[str | None, str, str], list[tuple[int, str, int]]] = defaultdict(list)
    for i, record in enumerate(records):
        order = hashed(seed, record.pair or record.content_hash)
        buckets[record.split, record.dataset, record.generator].append((order, record.key, i))
    chosen = {i for bucket in buckets.values() for _, _, i in sorted(bucket)[:limit]}
    return [record for i, record in enumerate(records) if i in chosen]
