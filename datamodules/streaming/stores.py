"""Object stores as places, by fsspec."""

from typing import Any

from datamodules.errors import DataError
from datamodules.sources.tars.fetch import FetchError
from datamodules.streaming.places import AbsentError, Opened, Place

STORES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Schemes of object stores, and the package that fsspec reads each with."""

_READAHEAD = 4 * 2**20  # bytes of a request


class StorePlace(Place):
    """A path of an object store, read by fsspec with whatever credentials its package finds."""

    def __init__(self, url: str) -> None:
        self.url = self.shown = url
        scheme = url.partition(":")[0].lower()
        try:
            self._found()
        except (ImportError, ValueError) as error:  # or a scheme that fsspec knows from the package only
            message = f"{url} is read with the package {STORES[scheme]}, which is not installed: pip install {STORES[scheme]}"
            raise DataError(message) from error
        except Exception as error:  # of whatever kind this store's package has
            raise self._failed(error) from error

    @property
    def name(self) -> str:
        """Last part of its path."""
        return self.url.rpartition("/")[2]

    def parent(self) -> Place:
        """The folder that it lies in."""
        return StorePlace(self.url.rpartition("/")[0])

    def child(self, name: str) -> Place:
        """What lies in this folder under a name."""
        return StorePlace(f"{self.url}/{name}")

    def names(self) -> set[str]:
        """Names in this folder."""
        store, path = self._found()
        try:
            return {str(each).rstrip("/").rpartition("/")[2] for each in store.ls(path, detail=False)}
        except Exception as error:
            raise self._failed(error) from error

    def open(self, start: int = 0, stop: int | None = None) -> Opened:
        """The file, by requests of ranges."""
        store, path = self._found()
        try:
            file = store.open(path, "rb", block_size=_READAHEAD, cache_type="readahead")
            file.seek(start)
        except Exception as error:
            raise self._failed(error) from error
        return _StoreFile(self, file)

    def _found(self) -> tuple[Any, str]:
        """The store, one a process: fsspec remembers it, and none is carried over a fork."""
        from fsspec.core import url_to_fs

        return url_to_fs(self.url)

    def _failed(self, error: Exception) -> FetchError:
        message = f"{self.shown} cannot be read ({type(error).__name__}: {str(error)[:200]})"
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return AbsentError(message)
        return FetchError(message, again=not isinstance(error, PermissionError))


class _StoreFile:
    """A file of a store whose errors are told like all others."""

    def __init__(self, place: StorePlace, file: Any) -> None:
        self._place = place
        self._file = file

    def readinto(self, buffer: memoryview, /) -> int:
        """As of any `Opened`."""
        try:
            found = self._file.read(len(buffer))
            buffer[: len(found)] = found
            return len(found)
        except Exception as error:
            raise self._place._failed(error) from error

    def close(self) -> None:
        """Let go of it."""
        self._file.close()
