"""Several sources as one."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datamodules.errors import DataError
from datamodules.records import Record
from datamodules.sources.base import Source, safe_name

logger = logging.getLogger(__name__)


class JoinedSource(Source):
    """The images of several sources, for example to train on one set and to test on another, or to add a generator to a set.

    Every image keeps its own data set's name, and each data set comes from one source; by `dataset` all are one data set, so that fakes of
    one source are measured against real images of another. Files of the same content are one image's copies, wherever they lie, and never
    come into different splits.

    Args:
        sources: The sources by name.
        splits: For some of them, the split that all their images come into: `train`, `val` or `test`.
        dataset: Name of one data set for all images; by default each source's own names stay.

    Raises:
        DataError: There is no source, `splits` names one that is not there, or `dataset` is empty.
    """

    def __init__(self, sources: dict[str, Source], splits: dict[str, str] | None = None, dataset: str | None = None) -> None:
        super().__init__()
        if not sources or (strange := sorted(set(splits or {}) - set(sources))):
            message = f"splits names {', '.join(strange)}; there are {', '.join(sources)}." if sources else "sources names no source."
            raise DataError(message)
        if dataset is not None and not dataset.strip():
            message = f"dataset is {dataset!r}, which is no name: name the data set that all sources make up, or leave it out."
            raise DataError(message)
        self.sources = sources
        self.splits = splits
        self.dataset = dataset

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        return safe_name("+".join(source.name for source in self.sources.values()) if self.dataset is None else self.dataset)

    @property
    def location(self) -> str:
        """Where all of them look."""
        return ", ".join(source.location for source in self.sources.values())

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """The records of one source after the other.

        Args:
            cache_dir: Folder in which they may keep what they make.

        Raises:
            DataError: Two sources hold the same data set and `dataset` names none for all, or one cannot be read.
        """
        owner: dict[str, str] = {}
        names: dict[str, str] = {}  # of groups and pairs, by the source that has them
        shared: set[str] = set()
        for name, source in self.sources.items():
            source.failures = []
            for record in source.entries(cache_dir):
                if self.dataset is None and owner.setdefault(record.dataset, name) != name:
                    message = (
                        f"The sources {owner[record.dataset]} and {name} both hold images of a data set named {record.dataset!r}: "
                        "give one of them another name by its option dataset, or its manifest's column; or say by the joined source's "
                        "option dataset that all are one."
                    )
                    raise DataError(message)
                told = [name for name in (record.group, record.pair) if name]
                shared |= {each for each in told if names.setdefault(each, name) != name}
                yield replace(record, split=(self.splits or {}).get(name) or record.split, dataset=self.dataset or record.dataset)
            self.failures += source.failures
        if shared:
            logger.warning(
                "%d names of groups or pairs, such as %r, occur in several of the joined sources: their images come into one split. "
                "If they are not of one photograph or prompt, give them other names.",
                len(shared),
                min(shared),
            )
