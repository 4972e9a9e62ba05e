"""Every image of a data set looked at once: facts, a perceptual hash, or why it cannot be read."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from datamodules.duplicates import PerceptualHashes, perceptual_hash
from datamodules.facts import Facts, FactsOfImage, facts_of_file
from datamodules.reader import ImageError, read_header, read_image
from datamodules.records import Record

_SLICE = 500  # images that an interrupted run loses at most
_PROGRESS_FROM = 50  # images; below, the bar would only flicker

Look = tuple[FactsOfImage | None, str, str]


@dataclass
class Looked:
    """What was seen.

    Attributes:
        facts: By content hash.
        hashes: Perceptual hashes by content hash; none where only headers were read.
        unreadable: By content hash, why.
    """

    facts: dict[str, FactsOfImage] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def look(records: Sequence[Record], cache_dir: Path, fast: bool = False) -> Looked:
    """Decode what has not been decoded yet; what is seen is remembered under the cache directory every few hundred images.

    Args:
        records: Which images.
        cache_dir: Root of the feature cache.
        fast: Only read headers, and remember nothing.
    """
    paths = {record.content_hash: record.path for record in records if record.path}
    facts, hashes = Facts(cache_dir), PerceptualHashes(cache_dir)
    seen = Looked()
    if not fast:
        seen.facts = facts.known(paths.keys())
        seen.hashes = {content: found for content, found in hashes.load().items() if content in paths}
    todo = [content for content in paths if fast or content not in seen.facts or content not in seen.hashes]
    see: Callable[[str], Look] = _header if fast else _decoded
    quiet = None if len(todo) > _PROGRESS_FROM else True
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(todo), desc="Reading headers" if fast else "Looking at images", unit="image", disable=quiet) as bar,
    ):
        for start in range(0, len(todo), _SLICE):
            part = todo[start : start + _SLICE]
            new = Looked()
            for content, (known, found, reason) in zip(part, pool.map(see, [paths[content] or "" for content in part]), strict=True):
                bar.update()
                if known is None:
                    new.unreadable[content] = reason
                else:
                    new.facts[content], new.hashes[content] = known, found
            if not fast:
                facts.remember({(content, "none"): known for content, known in new.facts.items()})
                hashes.remember(new.hashes)
            seen.facts |= new.facts
            seen.hashes |= new.hashes
            seen.unreadable |= new.unreadable
    return seen


def _decoded(path: str) -> Look:
    try:
        image = read_image(Path(path))
    except ImageError as error:
        return None, "", error.reason
    return facts_of_file(image), perceptual_hash(image.pixels), ""


def _header(path: str) -> Look:
    try:
        name, width, height, length = read_header(Path(path))
    except ImageError as error:
        return None, "", error.reason
    facts: FactsOfImage = {"fact_format": name, "fact_bytes": length, "fact_width": width, "fact_height": height}
    facts |= {"fact_aspect": float(f"{width / height:.6g}"), "fact_bits_per_pixel": float(f"{8 * length / (width * height):.6g}")}
    return facts, "", ""
