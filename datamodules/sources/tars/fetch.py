"""Shards by path or address: one function opens either as a stream. No shell, no other program, no scheme but https (http by option)."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular
from datamodules.sources.tars.archive import Readable

_REDIRECTS = 5
_PIECE_TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True, slots=True)
class Access:
    """What may be fetched.

    Attributes:
        allow_http: Also addresses without encryption.
        allow_private: Also addresses of this machine and of private networks.
        max_bytes: Length of a shard.
        timeout: Seconds for a whole shard.
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


def is_address(place: str) -> bool:
    """Whether a shard is named by an address and not by a path."""
    return place.lower().startswith(("https://", "http://"))


def shown(place: str) -> str:
    """A place for messages and tables: an address without its user, password and query, which may hold secrets."""
    if not is_address(place):
        return place
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def opened(place: str, access: Access) -> Iterator[Readable]:
    """A shard as a stream from its beginning.

    Args:
        place: Path, or address.
        access: What may be fetched.

    Raises:
        FetchError: It cannot be had; also while it is read.
    """
    if is_address(place):
        with _fetched(place, access) as stream:
            yield stream
        return
    try:
        file = open_regular(place)
    except OSError as error:
        message = f"{place} cannot be read: {describe_os_error(error)}."
        raise FetchError(message) from error
    with file:
        yield file


@contextmanager
def _fetched(url: str, access: Access) -> Iterator[Readable]:
    import httpx  # slow to import

    deadline = time.monotonic() + access.timeout
    with httpx.Client(timeout=_PIECE_TIMEOUT, trust_env=False, follow_redirects=False) as client:
        where = url
        for _ in range(_REDIRECTS + 1):
            response = _asked(client, where, access)
            try:
                target = response.headers.get("location") if response.is_redirect else None
                if target is None:
                    yield _Body(response, url, access, deadline)
                    return
                where = urljoin(where, target)
            finally:
                response.close()
    message = f"{shown(url)} redirects more than {_REDIRECTS} times."
    raise FetchError(message)


def _asked(client: Any, url: str, access: Access) -> Any:
    """The answer to a request of one address, its body not read yet; the address that was checked is the one connected to."""
    import httpx

    try:
        parts = httpx.URL(url)
        host = checked_host(parts.scheme, parts.host, parts.port, access)
        request = client.build_request(
            "GET",
            parts.copy_with(host=host, username=None, password=None),
            headers={"Host": parts.netloc.decode("ascii"), "Accept-Encoding": "identity"},
            extensions={"sni_hostname": parts.host, "timeout": httpx.Timeout(_PIECE_TIMEOUT).as_dict()},
        )
        response = client.send(request, stream=True, auth=(parts.username, parts.password) if parts.username else None)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        message = f"{shown(url)} cannot be fetched ({type(error).__name__}: {str(error)[:200]})."
        raise FetchError(message, again=isinstance(error, httpx.TransportError)) from error
    if response.status_code >= 400 or (response.status_code != 200 and not response.is_redirect):
        response.close()
        message = f"{shown(url)} cannot be fetched: the server answers {response.status_code}."
        raise FetchError(message, again=response.status_code in (408, 429) or response.status_code >= 500)
    return response


def checked_host(scheme: str, host: str, port: int | None, access: Access) -> str:
    """An address of a host that may be connected to.

    Raises:
        FetchError: The scheme is not allowed, the host has no address, or one of them is private.
    """
    if scheme != "https" and not (scheme == "http" and access.allow_http):
        message = f"{host} is asked for by {scheme or 'no scheme'}: only https is read, and http where allow_http is set."
        raise FetchError(message)
    try:
        found = socket.getaddrinfo(host, port or (443 if scheme == "https" else 80), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"The host {host!r} is not found ({error})."
        raise FetchError(message, again=True) from error
    from datamodules.download.addresses import is_public  # and httpx with it, which is slow to import

    addresses = [str(entry[4][0]) for entry in found]
    private = [address for address in addresses if not is_public(address)]
    if not addresses or (private and not access.allow_private):
        message = f"The host {host!r} has the private address {', '.join(private)}: it is read only where allow_private is set."
        raise FetchError(message)
    return addresses[0]


class _Body:
    """The body of an answer, read forward within limits."""

    def __init__(self, response: Any, url: str, access: Access, deadline: float) -> None:
        self._pieces = response.iter_raw()
        self._buffer = b""
        self._url = shown(url)
        self._access = access
        self._deadline = deadline
        length = response.headers.get("content-length", "")
        self._length = int(length) if length.isascii() and length.isdecimal() else None
        self._count = 0
        if self._length is not None and self._length > access.max_bytes:
            message = f"{self._url} has {self._length} bytes, the limit is {access.max_bytes}."
            raise FetchError(message)

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end.

        Raises:
            FetchError: The transfer breaks, takes too long or has no end.
        """
        if not self._buffer:
            self._buffer = self._piece()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _piece(self) -> bytes:
        import httpx

        try:
            piece: bytes = next((piece for piece in self._pieces if piece), b"")
        except httpx.HTTPError as error:
            message = f"The transfer of {self._url} broke off ({type(error).__name__}: {str(error)[:200]})."
            raise FetchError(message, again=True) from error
        self._count += len(piece)
        if time.monotonic() > self._deadline:
            message = f"{self._url} took longer than {self._access.timeout:g} seconds: shard_timeout is the limit."
            raise FetchError(message)
        if self._count > self._access.max_bytes:
            message = f"{self._url} has more than {self._access.max_bytes} bytes, the limit."
            raise FetchError(message)
        if not piece and self._length is not None and self._count != self._length:
            message = f"The transfer of {self._url} broke off after {self._count} of {self._length} bytes."
            raise FetchError(message, again=True)
        return piece
