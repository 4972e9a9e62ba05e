"""What every source of images has in common: keys from contents, groups, failures."""

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.errors import DataError
from datamodules.hashing import ContentHashes, FileHash, hash_of_path
from datamodules.records import FAKE, REAL, Failure, Record

logger = logging.getLogger(__name__)

MEMO = "content-hashes.txt"
"""Name of the file under the cache that remembers content hashes."""

_KEY_DIGITS = 32


class Source(ABC):
    """Where records come from.

    A subclass says in `entries` which images there are. It stores every parameter of its constructor as a public attribute
    of the same name and of a plain type, because its settings are read back from there.

    Attributes:
        failures: The images that the last call of `records` left out, and why.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, safe in a file's name: a part of the cache directory's."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the source looks, for messages: a path or an address."""

    @abstractmethod
    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """The records without their keys, in the same order every time.

        An image that cannot be had is passed to `skip`; what makes the source useless as a whole is a `DataError`.

        Args:
            cache_dir: Folder in which a source may keep what it makes or fetches.
        """

    def skip(self, where: str, reason: str, key: str = "") -> None:
        """Record an image that is left out.

        Args:
            where: Its path or address as the source names it.
            reason: One sentence for a person.
            key: Its key, where the content could be read.
        """
        self.failures.append(Failure(where, reason, key))

    def records(self, cache_dir: Path) -> list[Record]:
        """All images that can be read, with keys.

        The key is the first 32 hex digits of the content's SHA-256; further files of the same content get `-1`, `-2` … in
        the order of `entries`. An empty group becomes the content hash, the family of every real image becomes `real`.
        Files that are missing, empty or unreadable are left out and stand in `failures`.

        Args:
            cache_dir: Folder of the cache; the hashes are remembered in it.

        Returns:
            The records in the order of `entries`.

        Raises:
            DataError: Nothing is left.
        """
        return self._all(cache_dir, ContentHashes(cache_dir / MEMO).hash_files)

    def records_by_path(self, cache_dir: Path) -> list[Record]:
        """As `records`, with keys that come from paths, and no file is read: for a look at many images.

        Such keys name nothing that is stored, and two files of the same content are two images.

        Args:
            cache_dir: Folder of the cache, for sources that fetch.

        Returns:
            The records in the order of `entries`.

        Raises:
            DataError: Nothing is left.
        """
        return self._all(cache_dir, lambda paths: list(map(hash_of_path, paths)))

    def _all(self, cache_dir: Path, hash_files: Callable[[Sequence[str]], list[FileHash]]) -> list[Record]:
        self.failures = []
        entries = list(self.entries(cache_dir))
        hashes = hash_files([entry.path for entry in entries if entry.path is not None])
        records = self._keyed(entries, iter(hashes))
        if not records:
            reasons = "; ".join(f"{failure.where}: {failure.reason}" for failure in self.failures[:3])
            message = f"No image is left of {len(entries)} that {self.location} names ({reasons or 'it names none'}): check the path."
            raise DataError(message)
        self._report(records)
        return records

    def _keyed(self, entries: Sequence[Record], hashes: Iterator[FileHash]) -> list[Record]:
        seen: Counter[str] = Counter()
        records = []
        for entry in entries:
            content = entry.content_hash
            if entry.path is not None:
                hashed = next(hashes)
                reason = hashed.reason or ("" if hashed.size else "the file is empty") or _unsafe_name(entry.path)
                if reason:
                    self.skip(entry.path, reason)
                    continue
                content = hashed.digest[:_KEY_DIGITS]
            elif not content:
                self.skip(entry.url or "", "it has no local file")
                continue
            key = f"{content}-{seen[content]}" if seen[content] else content
            seen[content] += 1
            family = "real" if entry.label == REAL else entry.family
            records.append(replace(entry, key=key, group=entry.group or content, family=family))
        return records

    def _report(self, records: Sequence[Record]) -> None:
        counts = Counter(record.label for record in records)
        logger.info("%s: %d real and %d generated images.", self.location, counts[REAL], counts[FAKE])
        if self.failures:
            first = self.failures[0]
            logger.warning("%s: %d images are left out, first %s: %s.", self.location, len(self.failures), first.where, first.reason)
        labels: defaultdict[str, set[int]] = defaultdict(set)
        for record in records:
            labels[record.content_hash].add(record.label)
        contradictory = sorted(content for content, found in labels.items() if len(found) > 1)
        if contradictory:
            example = next(record.path or record.url for record in records if record.content_hash == contradictory[0])
            logger.warning(
                "%s: %d files are both a real and a generated image, for example %s.", self.location, len(contradictory), example
            )


def _unsafe_name(path: str) -> str:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not valid UTF-8, which no table can hold: rename the file"
    return ""


def safe_name(text: str) -> str:
    """A name of at most 40 characters out of a-z, 0-9, dot, dash and underscore; different texts keep different names.

    Args:
        text: Any text.

    Returns:
        The text itself where it is such a name, else what is left of it and eight digits of its hash.
    """
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.")
    if plain == text and 0 < len(plain) <= 40:
        return plain
    digits = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain[:31]}-{digits}".lstrip("-")
