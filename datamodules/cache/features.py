"""The feature cache: one directory for each combination of settings that changes a number."""

import contextlib
import hashlib
import itertools
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.cache.folders import MANIFEST, MAX_MANIFEST_BYTES
from datamodules.errors import DataError
from datamodules.files import write_atomically
from datamodules.hashing import ContentHashes, hash_tree, walk_files
from datamodules.records import Failure, Record
from datamodules.shards import IndexedReader, ShardReader
from datamodules.shards.index import read_plain
from modules.settings import fingerprint

if TYPE_CHECKING:  # torch, which the commands that only look at folders do without
    from modules.extractors.base import Extractor

# Raised when the code changes a number that the settings do not show.
FORMAT = 1
MAX_WEIGHT_FILES = 1000
TRIES = 10  # to write a manifest that counts all shards
LIBRARIES = (
    "torch",
    "torchvision",
    "torchmetrics",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "timm",
    "pillow",
    "safetensors",
    "lightning",
)


def caption_hash(record: Record, extractor: "Extractor") -> str:
    """Hash of the caption where the extractor's features depend on it, else empty: a changed caption means a new extraction."""
    if not (extractor.uses_record_captions and record.caption):
        return ""
    return hashlib.sha256(record.caption.encode()).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that touch the numbers."""
    return {name: version(name) for name in LIBRARIES}


class FeatureCache:
    """Features of one extractor under one perturbation.

    Args:
        root: The cache's root directory.
        extractor: Whose features.
        perturbation: Name of the perturbation that images go through first.
        source: Name of the records' source, part of the directory's name only: features are found by the images' content.
        hashes: Remembers content hashes of weight files.
    """

    def __init__(self, root: Path, extractor: "Extractor", perturbation: str, source: str, hashes: ContentHashes) -> None:
        self.extractor = extractor
        self.settings: dict[str, Any] = {
            "format": FORMAT,
            "extractor": extractor.identity(),
            "weights": {name: _identity(name, revision, hashes) for name, revision in extractor.weights.items()},
            "perturbation": perturbation,
        }
        self.extractor_fingerprint = fingerprint(self._portable() | {"perturbation": None})
        features = f"{extractor.name}-{self.extractor_fingerprint}"
        images = f"{source}-{perturbation}-{fingerprint({'format': FORMAT, 'perturbation': perturbation})}"
        self.folder = Path(root) / features / images

    @property
    def location(self) -> str:
        """Where the features lie, for messages."""
        return str(self.folder)

    def reader(self) -> IndexedReader:
        """The features that are there now: of this source, and of the same images in another source's directory."""
        _, perturbation, images = self.folder.name.rsplit("-", 2)
        same = self.folder.parent.glob(f"*-{perturbation}-{images}") if self.folder.parent.is_dir() else ()
        return ShardReader(self.folder, others=sorted(folder for folder in same if folder != self.folder))

    def missing(self, records: Iterable[Record], reader: IndexedReader | None = None) -> list[Record]:
        """Records without features, leaving out those that failed before.

        Args:
            records: Which images.
            reader: What `reader` gave a moment ago; by default the directory is looked at now.
        """
        reader = reader or self.reader()
        failed = {failure.key for failure in reader.failures}
        return [
            record
            for record in records
            if (record.key, caption_hash(record, self.extractor)) not in reader and record.content_hash not in failed
        ]

    def write_manifest(self, source: dict[str, Any], source_failures: list[Failure]) -> dict[str, Any]:
        """Write `manifest.json`: settings in full, counts, failures with their reasons, diagnostics, library versions.

        Independent jobs may write it at the same time, without locks: each looks again after it has written whether another one has added
        shards meanwhile, and then writes anew, so that the last one to write has seen all shards. Where others add some each time, it is
        left to them.

        Args:
            source: Settings of the records' source.
            source_failures: Images that the source itself could not read.

        Returns:
            What was written.
        """
        for _ in range(TRIES):
            indexes = self._indexes()
            manifest = self._manifest(source, source_failures)
            write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
            if self._indexes() == indexes:
                break
        return manifest

    def correct_manifest(self, reader: IndexedReader, source: dict[str, Any], source_failures: list[Failure]) -> None:
        """Write `manifest.json` anew where it does not count what is there: a job was killed between its last shard and the manifest.

        Args:
            reader: What `reader` gave.
            source: Settings of the records' source.
            source_failures: Images that the source itself could not read.
        """
        if not reader.own and not reader.failures:
            return  # the features are in another source's directory
        counts = read_counts(self.folder / MANIFEST)
        if counts.get("images") != reader.own or counts.get("failures", 0) < len(reader.failures):
            with contextlib.suppress(OSError):  # a cache that others may only read
                self.write_manifest(source, source_failures)

    def _indexes(self) -> set[str]:
        """Names of the indexes that are there."""
        return {name for name in os.listdir(self.folder) if name.endswith(".index.json")}

    def _manifest(self, source: dict[str, Any], source_failures: list[Failure]) -> dict[str, Any]:
        reader = ShardReader(self.folder)
        failures = [*source_failures, *reader.failures]
        return {
            "settings": self.settings,
            "source": source,
            "counts": {"images": len(reader), "failures": len(failures)},
            "failures": [{"where": failure.where, "reason": failure.reason, "key": failure.key} for failure in failures],
            "diagnostics": {name: _summary(values) for name, values in reader.diagnostics().items()},
            "versions": library_versions(),
        }

    def poor_features(self, figures: Mapping[str, Sequence[float]]) -> list[str]:
        """A sentence for each diagnostic whose median is below what the extractor expects.

        Args:
            figures: The extractor's figures of the images that count, by name.
        """
        found = []
        for name, (limit, meaning) in self.extractor.warn_below.items():
            median = statistics.median(figures[name]) if figures.get(name) else limit
            if median < limit:
                found.append(f"{name} is {median:.1f} in the median, below {limit:.1f}: {meaning}.")
        return found

    def _portable(self) -> dict[str, Any]:
        """Settings in which the path of weights does not matter, only their content."""
        text = json.dumps(self.settings["extractor"], sort_keys=True)
        unnamed = []
        for name, identity in sorted(self.settings["weights"].items()):
            quoted, within = json.dumps(name), json.dumps(name)[1:-1]
            if quoted in text:
                text = text.replace(quoted, json.dumps(identity))
            elif Path(name).is_file() and within in text:  # the file of an encoder, a part of its name
                text = text.replace(within, identity)
            else:
                unnamed.append(identity)
        return {"format": FORMAT, "extractor": json.loads(text)} | ({"weights": unnamed} if unnamed else {})


def read_counts(path: Path) -> dict[str, Any]:
    """`counts` of a manifest, empty where it is missing or cannot be read."""
    try:
        return dict(json.loads(read_plain(path, MAX_MANIFEST_BYTES))["counts"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _identity(name: str, revision: str | None, hashes: ContentHashes) -> str:
    """Hash of a file's or a directory's content, or a hub model's id and revision; takes no network."""
    folder = Path(name)
    if folder.is_file():
        return f"sha256:{hash_tree(folder, hashes)}"
    if not folder.is_dir():
        return f"{name}@{revision or 'main'}"
    # A checkpoint from a stranger names this directory: "/" would be read from end to end, /proc without an end.
    files = walk_files(folder, lambda path, reason: None)
    if next(itertools.islice(files, MAX_WEIGHT_FILES, None), None):
        msg = f"{name!r} holds more than {MAX_WEIGHT_FILES} files: it is no model directory"
        raise DataError(msg)
    return f"sha256:{hash_tree(folder, hashes)}"


def _summary(values: list[float]) -> dict[str, float]:
    return {"images": len(values), "minimum": min(values), "median": statistics.median(values), "maximum": max(values)}
