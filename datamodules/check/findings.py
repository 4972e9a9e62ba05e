"""What `python -m datamodules.check` finds, as plain values."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median_low
from typing import Any

from datamodules.check.images import Looked, look
from datamodules.check.shortcuts import shortcuts
from datamodules.duplicates import near_duplicates
from datamodules.facts import FactsOfImage
from datamodules.families import UNKNOWN, FamilyMap
from datamodules.records import FAKE, REAL, SPLITS, Failure, Record
from datamodules.sources import FolderSource, LayoutSource
from datamodules.sources.base import Source
from datamodules.splits import assign_splits, tokens

EXAMPLES = 3
_KINDS = {REAL: "real", FAKE: "generated"}

Document = dict[str, Any]


def findings(source: Source, families: FamilyMap, cache_dir: Path, fast: bool = False) -> Document:
    """Look at all images of a source.

    Args:
        source: Where they come from.
        families: What family a generator is of.
        cache_dir: Where hashes and facts are remembered.
        fast: Read headers only: no file is read as a whole, so that neither copies nor near-duplicates are looked for.

    Returns:
        Plain values for JSON.

    Raises:
        DataError: The source cannot be read, or has no images.
    """
    records = families.resolve(source.records_by_path(cache_dir) if fast else source.records(cache_dir))
    looked = look(records, cache_dir, fast)
    counts = Counter(record.label for record in records)
    parts = [_part(own, looked.facts) for _, own in sorted(_by_part(records).items())]
    return {
        "source": {"kind": kind_of(source), "path": source.location},
        "images": len(records),
        "real": counts[REAL],
        "generated": counts[FAKE],
        "datasets": sorted({record.dataset for record in records}),
        "generators": sorted({record.generator for record in records if record.label == FAKE}),
        "unknown_families": sorted({r.generator for r in records if r.label == FAKE and r.family == UNKNOWN}),
        "parts": parts,
        "left_out": _reasons(source.failures),
        "unreadable": _reasons(_unreadable(records, looked)),
        "duplicates": None if fast else _duplicates(records),
        "leaks": _leaks(records),
        "near_duplicates": None if fast else _near(records, looked.hashes),
        "shortcuts": shortcuts(records, looked.facts),
        "caption_sources": _caption_sources(records),
        "decoded": not fast,
    }


def kind_of(source: Source) -> str:
    """What reads the images, in words."""
    if isinstance(source, LayoutSource):
        return f"layout {source.found.name} ({source.found.title})" if source.found else "a layout"
    return "folders named after classes or generators" if isinstance(source, FolderSource) else "a manifest"


def _by_part(records: Iterable[Record]) -> dict[tuple[str, int, str], list[Record]]:
    found: defaultdict[tuple[str, int, str], list[Record]] = defaultdict(list)
    for record in records:
        found[record.dataset, record.label, record.generator].append(record)
    return found


def _part(records: Sequence[Record], facts: Mapping[str, FactsOfImage]) -> Document:
    """What is said of the images of one generator, or of the real ones of a data set."""
    first = records[0]
    own = [facts[record.content_hash] for record in records if record.content_hash in facts]
    splits = Counter(record.split for record in records)
    sizes = Counter((int(float(fact["fact_width"])), int(float(fact["fact_height"]))) for fact in own)
    return {
        "dataset": first.dataset,
        "generator": first.generator,
        "kind": _KINDS[first.label],
        "family": first.family,
        "images": len(records),
        "splits": {split: splits[split] for split in SPLITS} | {"none": splits[None]},
        "captions": sum(record.caption is not None for record in records),
        "groups": len({record.group for record in records}),
        "pairs": len({record.pair for record in records if record.pair}),
        "formats": dict(sorted(Counter(str(fact["fact_format"]) for fact in own).items())),
        "width": _spread([width for width, _ in sizes.elements()]),
        "height": _spread([height for _, height in sizes.elements()]),
        "bytes": _spread([int(float(fact["fact_bytes"])) for fact in own]),
        "sizes": len(sizes),
        "most_common": [*max(sizes.items(), key=lambda item: (item[1], item[0]))[0], max(sizes.values())] if sizes else None,
    }


def _spread(values: Sequence[int]) -> list[int] | None:
    """Smallest, median and largest."""
    return [min(values), median_low(values), max(values)] if values else None


def _reasons(failures: Iterable[Failure]) -> list[Document]:
    """Failures by reason, the most frequent first; reasons that differ in numbers or names only are one."""
    found: defaultdict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        found[re.sub(r"\(.*\)|\d+|/\S+", "…", failure.reason)].append(failure)
    ordered = sorted(found.values(), key=lambda own: -len(own))
    return [{"reason": own[0].reason, "images": len(own), "example": own[0].where} for own in ordered]


def _unreadable(records: Iterable[Record], looked: Looked) -> list[Failure]:
    failures = []
    for record in records:
        if record.path and record.content_hash in looked.unreadable:
            failures.append(Failure(record.path, looked.unreadable[record.content_hash], record.key))
    return failures


def _duplicates(records: Sequence[Record]) -> Document:
    """Files of the same content: how many are copies of another, and of which contents copies lie where they must not."""
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record.content_hash].append(record)
    copies = [own for own in found.values() if len(own) > 1]
    classes = [own for own in copies if len({record.label for record in own}) > 1]
    splits = [own for own in copies if len({record.split for record in own} - {None}) > 1]
    examples = list({own[0].content_hash: own for own in [*classes, *splits, *copies]}.values())
    return {
        "copies": sum(len(own) - 1 for own in copies),
        "across_classes": len(classes),
        "across_splits": len(splits),
        "examples": [[record.path for record in own[:2]] for own in examples[:EXAMPLES]],
    }


def _leaks(records: Sequence[Record]) -> Document:
    """Groups and pairs that lie in several splits."""
    places: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for record in records:
        for token in tokens(record) if record.split else ():
            places[token].add(record.split or "")
    leaking = sorted(name for (kind, name), found in places.items() if kind != "content" and len(found) > 1)
    return {"groups": len(leaking), "examples": leaking[:EXAMPLES]}


def _near(records: Sequence[Record], hashes: Mapping[str, str]) -> Document:
    """Images that look the same without being the same file, in both classes, and in several splits."""
    classes = [replace(record, split="train" if record.label == REAL else "test") for record in records]
    found = {"across_classes": _strangers(near_duplicates(hashes, classes))}
    cut = any(record.split is None for record in records)
    found["across_splits"] = _strangers(near_duplicates(hashes, assign_splits(records) if cut else records))
    document: Document = {name: len(pairs) for name, pairs in found.items()}
    examples = [[a.path, b.path] for pairs in found.values() for a, b in pairs[:EXAMPLES]]
    return document | {"splits_cut_here": cut, "examples": examples[:EXAMPLES]}


def _strangers(pairs: Sequence[tuple[Record, Record]]) -> list[tuple[Record, Record]]:
    """Those of which nothing says that they belong together."""
    return [(a, b) for a, b in pairs if not set(tokens(a)) & set(tokens(b))]


def _caption_sources(records: Sequence[Record]) -> Document:
    """Where captions come from, by class."""
    found: Document = {}
    for label, kind in _KINDS.items():
        own = [record for record in records if record.label == label]
        found[kind] = dict(sorted(Counter(record.caption_source or "not said" for record in own if record.caption).items()))
    return found
