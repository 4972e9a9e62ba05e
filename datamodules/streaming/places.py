"""Where shards may lie: a folder of this machine, a web server, an object store. Each is read forward from any byte, never through a shell.

`places.py` is the form of all, and the folder; `web.py` and `stores.py` are the others; `find.py` tells them apart.
"""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

from datamodules.hashing import describe_os_error
from datamodules.shards.index import open_plain
from datamodules.sources.tars.fetch import FetchError


class AbsentError(FetchError):
    """A file that is not there."""


class Opened(Protocol):
    """A file that is read forward."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the beginning of a buffer, and give the number of bytes: 0 at the end alone, None where there are none yet.

        Raises:
            FetchError: They cannot be had.
            OSError: Likewise.
        """

    def close(self) -> None:
        """Let go of it."""


class Place(ABC):
    """A file or a folder somewhere.

    Attributes:
        shown: Its name for messages, without secrets.
    """

    shown: str

    @property
    @abstractmethod
    def name(self) -> str:
        """Last part of its path."""

    @abstractmethod
    def parent(self) -> "Place":
        """The folder that it lies in."""

    @abstractmethod
    def child(self, name: str) -> "Place":
        """What lies in this folder under a name."""

    @abstractmethod
    def names(self) -> set[str]:
        """Names in this folder; at least those of its shards.

        Raises:
            AbsentError: There is no such folder.
            FetchError: They cannot be had.
        """

    @abstractmethod
    def open(self, start: int = 0, stop: int | None = None) -> Opened:
        """The file from byte `start` on, before byte `stop` where that is known: no further byte will be read.

        Raises:
            AbsentError: There is no such file.
            FetchError: It cannot be had.
        """

    def seeks(self) -> bool:
        """Whether this file can be opened at any byte without a transfer of what comes before.

        Raises:
            FetchError: It cannot be had.
        """
        return True

    def content(self, limit: int) -> bytes:
        """A small file's content.

        Raises:
            AbsentError: There is no such file.
            FetchError: It cannot be had, or is longer than `limit` bytes.
        """
        found, piece = bytearray(), memoryview(bytearray(1 << 16))
        opened = self.open()
        try:
            while (count := opened.readinto(piece)) != 0:
                if count is None:
                    message = f"{self.shown} ended too early, at byte {len(found)}"
                    raise FetchError(message, again=True)
                found += piece[:count]
                if len(found) > limit:
                    message = f"{self.shown} is longer than {limit} bytes"
                    raise FetchError(message)
        except OSError as error:
            raise unreadable(self.shown, error) from error
        finally:
            opened.close()
        return bytes(found)


class LocalPlace(Place):
    """A path."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.shown = str(self.path)

    @property
    def name(self) -> str:
        """Last part of its path."""
        return self.path.name

    def parent(self) -> Place:
        """The folder that it lies in."""
        return LocalPlace(self.path.parent)

    def child(self, name: str) -> Place:
        """What lies in this folder under a name."""
        return LocalPlace(self.path / name)

    def names(self) -> set[str]:
        """Names in this folder."""
        try:
            return set(os.listdir(self.path))
        except OSError as error:
            raise unreadable(self.shown, error) from error

    def open(self, start: int = 0, stop: int | None = None) -> Opened:
        """The file, which must be a plain one."""
        try:
            descriptor = open_plain(self.path)
            os.lseek(descriptor, start, os.SEEK_SET)
        except OSError as error:
            raise unreadable(self.shown, error) from error
        return os.fdopen(descriptor, "rb", buffering=0)


def unreadable(name: str, error: OSError) -> FetchError:
    """What the system says of a file, as the error of a place."""
    message = f"{name} cannot be read: {describe_os_error(error) if error.errno else error}"
    return AbsentError(message) if isinstance(error, (FileNotFoundError, NotADirectoryError)) else FetchError(message)
