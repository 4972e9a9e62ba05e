"""Pairs of a fake and its most similar real image: found, and written as a manifest."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cli import is_main_process
from datamodules.cache.features import library_versions
from datamodules.duplicates import PerceptualHashes, near_duplicates
from datamodules.files import write_atomically
from datamodules.records import Failure, Record
from datamodules.sources.manifest import OPTIONAL
from datamodules.sources.synris.groups import connected
from modules.extractors import Extractor
from workflow.assignment import MEMORY, Assigned, assign
from workflow.embeddings import embed

COLUMNS = ("path", "label", *OPTIONAL, "similarity")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MANIFEST, SETTINGS, LEFT_OUT = "manifest.csv", "matching.json", "left_out.csv"


@dataclass(frozen=True)
class Match:
    """A fake with its real image, `similarity` in [−1, 1]."""

    fake: Record
    real: Record
    similarity: float


@dataclass(frozen=True)
class Matching:
    """What a matching came to.

    Attributes:
        matches: Pairs, the most similar first.
        left_out: Images that have no part in it, and why.
        assigned: How they were chosen; None where there was nothing to choose.
        images: Number of fakes, and of images of the pool, that could be chosen from.
        by_chance: Mean similarity of all fakes with all images of the pool: what a pair has without matching.
    """

    matches: list[Match]
    left_out: list[Failure]
    assigned: Assigned | None
    images: tuple[int, int]
    by_chance: float | None = None


def left_out_for(record: Record, reason: str) -> Failure:
    """The record of an image that has no part in the matching.

    Args:
        record: The image.
        reason: One sentence for a person.
    """
    return Failure(record.path or record.url or "", reason, record.key)


def match(
    fakes: Sequence[Record],
    pool: Sequence[Record],
    extractor: Extractor,
    cache_dir: Path,
    hardware: dict[str, Any],
    least: float = -1.0,
    memory_limit: int = MEMORY,
    **loading: Any,
) -> Matching:
    """Pair fakes with real images of a pool, each image at most once; see `assignment.assign` for which.

    An image of the pool that is a fake's file, or looks the same (see `datamodules.duplicates`), is no partner for any: either it is not
    real, or the fake is a copy.

    Args:
        fakes: Generated images, each content once.
        pool: Real images, each content once.
        extractor: The encoder.
        cache_dir: Root of the feature cache.
        hardware: Arguments of the Trainer that extracts.
        least: No pair is less similar, in [−1, 1].
        memory_limit: Bytes that the assignment may take.
        **loading: Of `embeddings.embed`: `feature`, `extract_batch_size`, `extract_workers`.
    """
    left_out: list[Failure] = []
    known = {record.content_hash for record in fakes}
    left_out += [left_out_for(record, "its file is one of the fakes") for record in pool if record.content_hash in known]
    candidates = [record for record in pool if record.content_hash not in known]
    vectors = embed([*fakes, *candidates], extractor, cache_dir, hardware, "matching", **loading)
    copies = _copies(fakes, candidates, cache_dir) if is_main_process() else {}
    left_out += [
        left_out_for(record, f"it looks the same as the fake {copies[record.key]}") for record in candidates if record.key in copies
    ]
    left_out += [left_out_for(record, "it has no embedding") for record in (*fakes, *candidates) if record.key not in vectors]
    rows = [record for record in fakes if record.key in vectors]
    columns = [record for record in candidates if record.key in vectors and record.key not in copies]
    if not rows or not columns:
        return Matching([], left_out, None, (len(rows), len(columns)))
    ours, theirs = (np.stack([vectors[record.key] for record in side]) for side in (rows, columns))
    assigned = assign(ours, theirs, least, memory_limit)
    pairs = zip(assigned.fakes.tolist(), assigned.reals.tolist(), assigned.similarity.tolist(), strict=True)
    matches = [Match(rows[row], columns[column], similarity) for row, column, similarity in pairs]
    taken = {one.fake.key for one in matches}
    left_out += [left_out_for(record, f"no free real image is as similar as {least:g}") for record in rows if record.key not in taken]
    matches.sort(key=lambda one: (-one.similarity, one.fake.key))
    by_chance = float(ours.mean(0, dtype=np.float64) @ theirs.mean(0, dtype=np.float64))
    return Matching(matches, left_out, assigned, (len(rows), len(columns)), by_chance)


def _copies(fakes: Sequence[Record], pool: Sequence[Record], cache_dir: Path) -> dict[str, str]:
    """Images of the pool that look the same as a fake, by key, each with that fake's path."""
    placed = [*(replace(record, split="train") for record in pool), *(replace(record, split="test") for record in fakes)]
    hashes = PerceptualHashes(cache_dir).of(placed)
    return {record.key: str(fake.path) for record, fake in near_duplicates(hashes, placed)}


def manifest_rows(matches: Sequence[Match], folder: Path, dataset: str = "matched", split: str | None = "test") -> list[dict[str, Any]]:
    """The rows of the manifest: of each pair the real image, then the fake.

    A pair is one group, together with every pair that has a group or a pair's name in common with it: no split can part what belongs
    together. Captions and all else that the sources knew stay.

    Args:
        matches: The pairs.
        folder: Where the manifest will lie; paths are relative to it.
        dataset: First part of the data sets' names; the second is the generator's.
        split: Of all images; None for none.
    """
    # A joined group has the name of one of the fakes' own: what else there is of that one still belongs to it.
    told = []
    for one in matches:
        marks = [f"group {record.group}" for record in (one.fake, one.real)]
        marks += [f"pair {record.pair}" for record in (one.fake, one.real) if record.pair]
        told.append((one.fake.group or one.fake.content_hash, marks))
    groups = connected(told)
    rows = []
    for one, (name, _) in zip(matches, told, strict=True):
        place = f"{dataset}/{one.fake.generator}"
        shared = {"dataset": place, "group": groups[name], "pair": f"{place}/{one.fake.content_hash[:16]}", "split": split}
        for record in (one.real, one.fake):
            own = {column: getattr(record, column) for column in OPTIONAL}
            # "./" keeps a name from being read as a formula by a spreadsheet.
            path = "./" + Path(os.path.relpath(str(record.path), folder.absolute())).as_posix()
            rows.append({"path": path, "label": record.label, **own, **shared, "similarity": round(one.similarity, 6)})
    return rows


def write_matching(found: Matching, folder: Path, settings: dict[str, Any], dataset: str, split: str | None) -> dict[str, Any]:
    """Write `matching.json`, `left_out.csv` and, last, `manifest.csv`.

    Args:
        found: What came out.
        folder: Where to.
        settings: What `matching.json` says of how.
        dataset: As for `manifest_rows`.
        split: As for `manifest_rows`.

    Returns:
        The contents of `matching.json`.
    """
    similarity = np.array([one.similarity for one in found.matches])
    document = {
        "settings": settings,
        "method": found.assigned.method if found.assigned else None,
        "method_reason": found.assigned.reason if found.assigned else "there was nothing to choose from",
        "counts": {
            "fakes": found.images[0],
            "pool": found.images[1],
            "pairs": len(found.matches),
            "pairs_by_generator": dict(sorted(Counter(one.fake.generator for one in found.matches).items())),
            "left_out": len(found.left_out),
        },
        "similarity": {
            "mean": float(similarity.mean()) if similarity.size else None,
            "mean_by_chance": found.by_chance,
            "quantiles": {f"{q:g}": float(np.quantile(similarity, q)) if similarity.size else None for q in QUANTILES},
        },
        "versions": library_versions(),
    }
    write_atomically(folder / SETTINGS, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode())
    skipped = [{"path": ascii(each.where)[1:-1], "reason": each.reason} for each in found.left_out]
    write_atomically(folder / LEFT_OUT, _csv(("path", "reason"), skipped))
    write_atomically(folder / MANIFEST, _csv(COLUMNS, manifest_rows(found.matches, folder, dataset, split)))
    return document


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
