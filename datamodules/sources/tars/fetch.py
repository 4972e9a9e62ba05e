"""Shards by path or address: one function opens either as a stream. No shell, no other program, no scheme but https (http by option)."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular


@dataclass(frozen=True, slots=True)
class Access:
    """What may be fetched.

    Attributes:
        allow_http: Also addresses without encryption.
        allow_private: Also addresses of this machine and of private networks.
        max_bytes: Length of a shard.
        timeout: Seconds for a whole shard: names looked up, redirects and all.
    """

    allow_http: bool = False
    allow_private: bool = False
    max_bytes: int = 20_000_000_000
    timeout: float = 3600.0


class FetchError(DataError):
    """A shard that cannot be had.

    Attributes:
        again: Whether another try may help.
    """

    def __init__(self, message: str, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class ShardStream:
    """A shard that is read forward.

    Args:
        read: Gives at most so many bytes; none at the end.
        size: Length where it is known.

    Attributes:
        watch: Told of the number of bytes that were read.
    """

    def __init__(self, read: Callable[[int], bytes], size: int | None) -> None:
        self._read = read
        self.size = size
        self.watch: Callable[[int], object] = lambda count: None

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end.

        Raises:
            FetchError: The transfer breaks, takes too long or has no end.
        """
        content = self._read(size)
        self.watch(len(content))
        return content


def is_address(place: str) -> bool:
    """Whether a shard is named by an address and not by a path."""
    return place.lower().startswith(("https://", "http://"))


def shown(place: str) -> str:
    """A place for messages and tables: an address without its user, password and query, which may hold secrets.

    Raises:
        DataError: It begins as an address does, and is none.
    """
    if not is_address(place):
        return place
    try:
        parts = urlsplit(place)
    except ValueError as error:
        message = f"shards names what is no address ({error}): {place.partition('?')[0].rpartition('@')[2][:80]!r}. Correct it."
        raise DataError(message) from error
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def opened(place: str, access: Access) -> Iterator[ShardStream]:
    """A shard as a stream from its beginning.

    Args:
        place: Path, or address.
        access: What may be fetched.

    Raises:
        FetchError: It cannot be had; also while it is read.
    """
    if is_address(place):
        from datamodules.sources.tars.transfer import transferred  # httpx is slow to import

        with transferred(place, access) as stream:
            yield stream
        return
    try:
        file = open_regular(place)
    except OSError as error:
        message = f"{place} cannot be read: {describe_os_error(error)}."
        raise FetchError(message) from error
    with file:
        yield ShardStream(file.read, os.fstat(file.fileno()).st_size)
