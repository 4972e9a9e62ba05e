"""Images that a source fetches from elsewhere and keeps under the cache: each file whole, each part of the work done once.

What was fetched is told by a journal beside the images, a line a part of the work (some rows, a shard), which is appended after the
images of that part are on disk. What is not in the journal is done again; an image that lies there already is not written again.
"""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.files import append_lines, lock, payload_of, remove_leftovers, write_atomically
from datamodules.hashing import describe_os_error, open_regular
from datamodules.reader import SUFFIX_OF, ImageError, read_image
from datamodules.records import REAL, Record

logger = logging.getLogger(__name__)

_DIGITS = 32

Entry = dict[str, Any]
"""Fields of one image's record as plain types, with `image` for its file below the folder."""


@dataclass(slots=True)
class Part:
    """What one part of the work gave.

    Attributes:
        unit: Name of the part.
        entries: Its images.
        failures: What was left out: where, and why.
        told: Anything else that the source wants to know again, as plain types.
    """

    unit: str
    entries: list[Entry] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)


class Keeper:
    """A folder of images under the cache, and the journal of how far the work is.

    Args:
        folder: The folder; it belongs to one source with one set of options.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[str, Part] = {}

    @contextmanager
    def opened(self) -> Iterator["Keeper"]:
        """Hold the folder, with its journal read: one process of this machine at a time goes on, the others wait.

        Raises:
            DataError: The folder cannot be written or read.
        """
        with lock(self.folder.with_name(f"{self.folder.name}.lock")):
            for inner in self.folder.glob("images/*"):
                remove_leftovers(inner)
            self.parts = {part.unit: part for part in self._journalled()}
            yield self

    @property
    def _journal(self) -> Path:
        return self.folder / "journal.txt"

    def _journalled(self) -> Iterator[Part]:
        try:
            with open_regular(self._journal) as file:
                for line in file:
                    payload = payload_of(line)
                    if payload:
                        yield Part(**json.loads(payload))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            reason = describe_os_error(error) if isinstance(error, OSError) else error
            message = f"The journal {self._journal} cannot be read ({reason}): delete its folder, and the images are fetched again."
            raise DataError(message) from error

    def finish(self, part: Part) -> None:
        """Note that a part is done, after its images were kept.

        Raises:
            DataError: The journal cannot be written.
        """
        fields = {"unit": part.unit, "entries": part.entries, "failures": part.failures, "told": part.told}
        try:
            append_lines(self._journal, [json.dumps(fields).encode()])
        except OSError as error:
            raise self._unwritable(error) from error
        self.parts[part.unit] = part

    def keep(self, content: bytes) -> str:
        """Write an image as it came, unless it is there.

        Args:
            content: The file's bytes.

        Returns:
            Its path below the folder, by a hash of its content.

        Raises:
            ImageError: The reader refuses it.
            DataError: It cannot be written.
        """
        digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
        stem = f"images/{digest[:2]}/{digest}"
        for suffix in SUFFIX_OF.values():  # what is there was decoded before it was written
            if (self.folder / f"{stem}{suffix}").exists():
                return f"{stem}{suffix}"
        name = f"{stem}{SUFFIX_OF[read_image(content).format]}"
        try:
            write_atomically(self.folder / name, content)
        except OSError as error:
            raise self._unwritable(error) from error
        return name

    def kept_or_refused(self, content: bytes) -> tuple[str | None, str]:
        """Keep an image, or tell why it is left out.

        Returns:
            Its path below the folder, or None; and the reason of a refusal.

        Raises:
            DataError: It cannot be written.
        """
        try:
            return self.keep(content), ""
        except ImageError as error:
            return None, error.reason

    def _unwritable(self, error: OSError) -> DataError:
        done = sum(len(part.entries) for part in self.parts.values())
        return DataError(
            f"{self.folder} cannot be written ({describe_os_error(error)}). {done} images are complete and stay: make room, or name "
            "another --data.cache_dir, and run the same command again."
        )

    def drop(self, names: Collection[str]) -> None:
        """Delete images that turned out not to be needed."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def drop_all_but(self, names: Collection[str]) -> None:
        """Delete images that no entry names: left by a run that was killed before it could note them."""
        kept = set(names)
        for inner in self.folder.glob("images/*"):
            for path in inner.iterdir():
                if path.relative_to(self.folder).as_posix() not in kept:
                    path.unlink(missing_ok=True)

    def record(self, entry: Entry, dataset: str, family: str | None, caption_source: str | None) -> Record:
        """The record of a kept image, without its key; groups and pairs get the data set's name, because they are global names.

        Args:
            entry: Its fields.
            dataset: Name of the data set where the entry has none.
            family: Family of its generator, where the source knows it.
            caption_source: Where captions come from.
        """
        fields = {name: value for name, value in entry.items() if name != "image" and value is not None}
        label, dataset = fields["label"], fields.get("dataset", dataset)
        fields |= {name: f"{dataset}/{fields[name]}" for name in ("group", "pair") if name in fields}
        return Record(
            **{
                "key": "",
                "dataset": dataset,
                "generator": "real" if label == REAL else "unknown",
                "family": "real" if label == REAL else family or "unknown",
                "caption_source": caption_source if "caption" in fields else None,
                **fields,
                "path": os.path.join(os.path.abspath(self.folder), entry["image"]),
            }
        )
