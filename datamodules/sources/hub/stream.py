"""The library `datasets`, as far as it is used: splits, files and rows of a data set, streamed, images as the bytes that they are."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular
from datamodules.reader import DEFAULT_LIMITS

logger = logging.getLogger(__name__)

LIBRARY = "datasets>=4.0"
"""What pip installs. Older releases could run a data set's own code."""

SAVED = ("dataset_dict.json", "state.json")
"""Files by which a folder is known that `save_to_disk` wrote."""

MOST_FILES = 2000
"""A data set of more files than this is read in so many groups of them."""

Row = dict[str, Any]
Result = TypeVar("Result")


def _library() -> Any:
    try:
        library = import_module("datasets")
    except ModuleNotFoundError as error:
        message = (
            "HubSource reads data sets with the library datasets, which is not installed. Install it into the project's environment: "
            f".venv/bin/python -m pip install --constraint constraints.txt '{LIBRARY}'"
        )
        raise DataError(message) from error
    if int(library.__version__.partition(".")[0]) < 4:
        message = f"The library datasets is {library.__version__}, which may run a data set's own code: install '{LIBRARY}'."
        raise DataError(message)
    return library


class HubStream:
    """A data set of the hub, or a folder or file on disk, opened for streaming.

    Args:
        repository: Id on the hub (`owner/name`), or path of a folder or Parquet file, or of what `save_to_disk` wrote.
        config: Name of a configuration (a subset), where there are several.
        revision: Commit, branch or tag on the hub.

    Attributes:
        revision: The commit that is read; None on disk.

    Raises:
        DataError: The library is missing, or the data set cannot be opened.
    """

    def __init__(self, repository: str, config: str | None = None, revision: str | None = None) -> None:
        self._datasets = _library()
        self.repository = repository
        self._folder = local_path(repository)
        self.revision = None if self._folder else revision
        if self._folder is None:
            self.revision = self._asked(lambda: commit_of(repository, revision))
        self._opened: dict[str, Any] = dict(self._asked(lambda: self._open(config)))

    def _open(self, config: str | None) -> Any:
        load: Callable[..., Any] = self._datasets.load_dataset
        if self._folder is None:
            return load(self.repository, config, revision=self.revision, streaming=True)
        if self._folder.is_file():
            return load("parquet", data_files=str(self._folder), streaming=True)
        if any((self._folder / name).exists() for name in SAVED):
            saved = self._datasets.load_from_disk(str(self._folder))
            tables = saved if hasattr(saved, "keys") else {"train": saved}
            return {
                name: table.to_iterable_dataset(num_shards=min(len(table), len(table.cache_files)) or 1) for name, table in tables.items()
            }
        return load(str(self._folder), config, streaming=True)

    def _asked(self, ask: Callable[[], Result]) -> Result:
        """The answer of the library, whose errors are of many types."""
        try:
            return ask()
        except DataError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            message = (
                f"The data set {self.repository!r} cannot be read ({type(error).__name__}: {reason}). Check its name, config, revision and "
                "the network; where its terms must be accepted, do so on the hub and log in with `hf auth login`. What was fetched stays."
            )
            raise DataError(message) from error

    @property
    def splits(self) -> list[str]:
        """Names of its splits, as it calls them."""
        return list(self._opened)

    def features(self, split: str) -> dict[str, Any]:
        """Columns of a split and their types, as the library describes them."""

        def resolved() -> dict[str, Any]:
            opened = self._opened[split]
            if opened.features is None:  # from text files: known once some rows were read
                self._opened[split] = opened = opened._resolve_features()
            return dict(opened.features)

        return self._asked(resolved)

    def files(self, split: str) -> int:
        """Number of files, or groups of them, that a split can be read by."""
        return min(int(self._opened[split].num_shards), MOST_FILES)

    def rows(self, split: str, file: int, start: int, columns: Sequence[str]) -> Iterator[Row]:
        """Rows of one file, images undecoded, classes by their names.

        Args:
            split: As the data set calls it.
            file: Number of the file.
            start: Rows to pass over.
            columns: Those that are wanted; no others are looked at.

        Raises:
            DataError: The stream breaks.
        """
        features = self.features(split)
        chosen = self._opened[split].select_columns(list(columns))
        for name in columns:
            if type(features[name]).__name__ == "Image":
                chosen = chosen.cast_column(name, self._datasets.Image(decode=False))
        names = {name: features[name].names for name in columns if type(features[name]).__name__ == "ClassLabel"}
        rows = self._asked(lambda: iter(chosen.shard(self.files(split), file).skip(start)))
        while (row := self._asked(lambda: next(rows, None))) is not None:
            yield {name: _class_name(value, names[name]) if name in names else value for name, value in row.items()}

    def content(self, value: Any) -> bytes:
        """The bytes of an undecoded image.

        Args:
            value: Bytes, or `{"bytes", "path"}`. A path is read only where it lies in the data set itself: a table from somewhere
                else could name any file of this machine.

        Raises:
            ValueError: There are none, or the path leads elsewhere.
        """
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            value = self._read(path) if content is None and isinstance(path, str) else content
        if not isinstance(value, bytes | bytearray):
            msg = f"it holds no image but {'nothing' if value is None else type(value).__name__}"
            raise ValueError(msg)
        return bytes(value)

    def _read(self, path: str) -> bytes:
        limit = DEFAULT_LIMITS.max_bytes + 1
        if self._folder is not None:
            root, file = os.path.realpath(self._folder), os.path.realpath(path)
            if "::" in path or "://" in path or os.path.commonpath([root, file]) != root:
                msg = f"it names a file outside of the data set: {path[:80]!r}"
                raise ValueError(msg)
            try:
                with open_regular(file) as opened:
                    return opened.read(limit)
            except OSError as error:
                msg = f"its file cannot be read: {describe_os_error(error)}"
                raise ValueError(msg) from error
        # `datasets` opens the first of a chain of places, so each of them must be harmless: archives of this data set.
        *outer, last = path.split("::")
        inside = last.startswith(f"hf://datasets/{self.repository}@") and all(hop.startswith(("zip://", "tar://")) for hop in outer)
        if not inside or ".." in path.replace("::", "/").split("/"):
            msg = f"it names a file outside of the data set: {path[:80]!r}"
            raise ValueError(msg)
        xopen = import_module("datasets.utils.file_utils").xopen
        with self._asked(lambda: xopen(path, "rb")) as remote:
            return self._asked(lambda: bytes(remote.read(limit)))


def local_path(repository: str) -> Path | None:
    """The path that a name is, where it is one on this machine; None for an id of the hub.

    Raises:
        DataError: It looks like a path, and there is nothing.
    """
    path = Path(repository).expanduser()
    if path.exists():
        return path.absolute()
    if repository.startswith(("/", ".", "~")) or repository.count("/") > 1:
        message = f"There is nothing at {path.absolute()}: repository is a path, or an id of the hub (owner/name)."
        raise DataError(message)
    return None


def commit_of(repository: str, revision: str | None) -> str:
    """The commit that a revision of a hub data set is now."""
    from huggingface_hub import HfApi  # slow to import

    found = HfApi().dataset_info(repository, revision=revision).sha
    if not found:
        message = f"The hub names no commit of {repository!r} at {revision or 'its newest revision'}."
        raise DataError(message)
    return found


def _class_name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None  # -1 stands for unlabelled
    return value


def is_image(feature: Any) -> bool:
    """Whether a column's type may hold images: the library's own, plain bytes, or bytes beside a path."""
    if isinstance(feature, dict):
        return "bytes" in feature
    return type(feature).__name__ == "Image" or str(getattr(feature, "dtype", "")) in {"binary", "large_binary"}
