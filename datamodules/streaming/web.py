"""Web servers as places. Names are looked up once, and the address that was checked is the one connected to, also after a redirect."""

import contextlib
import logging
import os
import re
import socket
import threading
from typing import Any
from urllib.parse import urljoin, urlsplit

from datamodules.shards.index import SHARD_NAME
from datamodules.sources.tars.fetch import Access, FetchError, shown
from datamodules.streaming.places import AbsentError, Opened, Place

LISTING = "shards.txt"
"""File beside the shards that names them, one a line, for servers that do not list folders."""

MAX_LISTING_BYTES = 64 * 2**20
TIMEOUT = 30.0  # seconds without a byte

_REDIRECTS = 5


class Connections:
    """Clients of web servers, one a host and process; the address that was checked is the one connected to.

    Args:
        access: What may be asked for.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell every request, with whatever secrets stand in the address
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._context: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"access": self.access}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["access"])  # type: ignore[misc]

    def send(self, url: str, headers: dict[str, str]) -> Any:
        """The answer to a request after redirects, its body not read yet.

        Raises:
            FetchError: The address may not be asked for, or there is no answer.
        """
        where = url
        for _ in range(_REDIRECTS + 1):
            response = self._send(where, url, headers)
            target = response.headers.get("location") if response.is_redirect else None
            if target is None:
                return response
            response.close()
            where = urljoin(where, target)
        message = f"{shown(url)} redirects more than {_REDIRECTS} times"
        raise FetchError(message)

    def _send(self, where: str, url: str, headers: dict[str, str]) -> Any:
        import httpx  # slow to import

        try:
            parts = httpx.URL(where)
            host = _checked_host(parts.scheme, parts.host, parts.port, self.access)
            request = self._client(parts.host).build_request(
                "GET",
                parts.copy_with(host=host, username=None, password=None, fragment=None),
                headers={"Host": parts.netloc.decode("ascii"), "Accept-Encoding": "identity"} | headers,
                extensions={"sni_hostname": parts.host, "timeout": httpx.Timeout(TIMEOUT).as_dict()},
            )
            auth = (parts.username, parts.password) if parts.username else None
            return self._client(parts.host).send(request, stream=True, auth=auth)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            message = f"{shown(url)} cannot be fetched ({type(error).__name__}: {str(error)[:200]})"
            raise FetchError(message, again=isinstance(error, httpx.TransportError)) from error

    def _client(self, host: str) -> Any:
        """A client for one host name: a connection is never used for another that has the same address."""
        import httpx

        if self._process != os.getpid():
            self._forget()  # a fork's: those connections are its parent's
        with self._lock:
            if host not in self._clients:
                self._context = self._context or httpx.create_ssl_context(trust_env=False)
                self._clients[host] = httpx.Client(verify=self._context, timeout=TIMEOUT, trust_env=False, follow_redirects=False)
            return self._clients[host]


class HttpPlace(Place):
    """An address of a web server."""

    def __init__(self, url: str, connections: Connections) -> None:
        self.url = url
        self.shown = shown(url)
        self._connections = connections

    @property
    def name(self) -> str:
        """Last part of its path."""
        return urlsplit(self.url).path.rpartition("/")[2]

    def parent(self) -> Place:
        """The folder that it lies in."""
        return self._at(urlsplit(self.url).path.rstrip("/").rpartition("/")[0])

    def child(self, name: str) -> Place:
        """What lies in this folder under a name; a query (a signature of the folder) stays."""
        return self._at(f"{urlsplit(self.url).path.rstrip('/')}/{name}")

    def _at(self, path: str) -> "HttpPlace":
        return HttpPlace(urlsplit(self.url)._replace(path=path).geturl(), self._connections)

    def names(self) -> set[str]:
        """Names of the shards in this folder: by a file that lists them, else by the server's page of the folder."""
        try:
            page = self.child(LISTING).content(MAX_LISTING_BYTES)
            return {line.strip() for line in page.decode("utf-8", "replace").splitlines() if SHARD_NAME.fullmatch(line.strip())}
        except AbsentError:
            page = self.child("").content(MAX_LISTING_BYTES)
        found = set(re.findall(rf"(?<![\w-]){SHARD_NAME.pattern}(?!\w)", page.decode("utf-8", "replace")))
        if not found:
            message = (
                f"{self.shown} names no shards: the server shows no list of the folder. Put one beside the shards, there by "
                f"`ls shard-*.tar > {LISTING}`"
            )
            raise FetchError(message)
        return found

    def seeks(self) -> bool:
        """Whether the server knows ranges."""
        response = self._connections.send(self.url, {"Range": "bytes=0-0"})
        response.close()
        self._check(response.status_code)
        return bool(response.status_code == 206)

    def open(self, start: int = 0, stop: int | None = None) -> Opened:
        """The file, by a request of the range; of a server that knows none, what comes before is read and forgotten."""
        whole = start == 0 and stop is None
        range_ = {} if whole else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        response = self._connections.send(self.url, range_)
        try:
            self._check(response.status_code, (200,) if whole else (200, 206))
        except FetchError:
            response.close()
            raise
        body = _Body(response, self.shown)
        if response.status_code == 206 and not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            body.close()
            message = f"{self.shown} cannot be fetched: the server sends another range than was asked for"
            raise FetchError(message)
        if response.status_code == 200:
            _pass_over(body, start)
        return body

    def _check(self, status: int, expected: tuple[int, ...] = (200, 206)) -> None:
        if status not in expected:
            message = f"{self.shown} cannot be fetched: the server answers {status}"
            if status in (404, 410):
                raise AbsentError(message)
            raise FetchError(message, again=status in (408, 429) or status >= 500)


def _pass_over(body: Opened, count: int) -> None:
    forgotten = memoryview(bytearray(1 << 20))
    while count > 0 and (passed := body.readinto(forgotten[:count])):
        count -= passed


class _Body:
    """The body of an answer, read forward."""

    def __init__(self, response: Any, name: str) -> None:
        self._response = response
        self._pieces = response.iter_raw()
        self._buffer = memoryview(b"")
        self._name = name
        length = response.headers.get("content-length", "")
        self._left = int(length) if length.isascii() and length.isdecimal() else -1

    def readinto(self, buffer: memoryview, /) -> int:
        """As of any `Opened`.

        Raises:
            FetchError: The transfer breaks.
        """
        import httpx

        if not self._buffer:
            try:
                self._buffer = memoryview(next((piece for piece in self._pieces if piece), b""))
            except (httpx.HTTPError, httpx.StreamError) as error:
                message = f"the transfer of {self._name} broke off ({type(error).__name__}: {str(error)[:200]})"
                raise FetchError(message, again=True) from error
            self._left -= len(self._buffer)
        count = min(len(buffer), len(self._buffer))
        buffer[:count], self._buffer = self._buffer[:count], self._buffer[count:]
        return count

    def close(self) -> None:
        """Let go of it; a body that was read to its end leaves its connection for the next request."""
        if self._left == 0:
            self._buffer = memoryview(b"")
            with contextlib.suppress(FetchError):
                self.readinto(memoryview(bytearray(1)))  # the mark of its end
        self._response.close()


def _checked_host(scheme: str, host: str, port: int | None, access: Access) -> str:
    """An address of a host that may be connected to.

    Raises:
        FetchError: The scheme is not allowed, the host has no address, or one of them is private.
    """
    if scheme != "https" and not (scheme == "http" and access.allow_http):
        message = f"{host} is asked for by {scheme or 'no scheme'}: only https is read, and http where allow_http is set"
        raise FetchError(message)
    try:
        found = socket.getaddrinfo(host, port or (443 if scheme == "https" else 80), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"the host {host!r} is not found ({error})"
        raise FetchError(message, again=True) from error
    from datamodules.download.addresses import is_public  # and httpx with it, which is slow to import

    addresses = [str(entry[4][0]) for entry in found]
    private = [address for address in addresses if not is_public(address)]
    if not addresses or (private and not access.allow_private):
        message = f"the host {host!r} has the private address {', '.join(private)}: it is read only where allow_private is set"
        raise FetchError(message)
    return addresses[0]
