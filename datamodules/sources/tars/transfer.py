"""A shard from an address, by the checked connections of the downloads: a loop in a thread of its own, read from as from a file."""

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Iterator

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from datamodules.download.addresses import Rules, parse
from datamodules.download.fetch import HEALS, REDIRECTS, explained
from datamodules.download.network import USER_AGENT, CheckedBackend, Resolver, make_client, make_pool
from datamodules.download.outcomes import REFUSED
from datamodules.download.outcomes import FetchError as TransferError
from datamodules.sources.tars.fetch import Access, FetchError, ShardStream, shown

_HOPS = 5
_PIECE_S = 30.0  # without a byte
_GATHERED, _GATHERED_S = 32, 0.1  # pieces that are handed over together, and seconds that the first one waits
_CLOSING_S = 5.0


@contextlib.contextmanager
def transferred(place: str, access: Access) -> Iterator[ShardStream]:
    """A shard at an address as a stream from its beginning.

    Args:
        place: The address; a user and a password in it are sent to its own host only.
        access: What may be fetched.

    Raises:
        FetchError: It cannot be had; also while it is read.
    """
    with start_blocking_portal() as portal:  # also inside of a loop that runs already, as notebooks have one
        transfer = portal.call(_make, place, access)
        try:
            portal.call(transfer.begin)
            yield ShardStream(lambda size: transfer.read(portal, size), transfer.length)
        finally:
            portal.call(transfer.end)


async def _make(place: str, access: Access) -> "_Transfer":
    return _Transfer(place, access)


class _Transfer:
    """One answer, read forward within limits; made in the loop."""

    def __init__(self, place: str, access: Access) -> None:
        self.length: int | None = None
        self._place = place
        self._access = access
        self._rules = Rules(access.allow_private, ports=frozenset())
        pool = make_pool(1, CheckedBackend(self._rules, Resolver()), None)
        self._client = make_client(pool, USER_AGENT, _PIECE_S, _PIECE_S, accept="*/*")
        self._response: httpx.Response | None = None
        self._deadline = time.monotonic() + access.timeout
        self._count = 0
        self._buffer = io.BytesIO()

    async def begin(self) -> None:
        """Ask, and follow redirects, until a body begins.

        Raises:
            FetchError: None does.
        """
        async with self._limited():
            self._response = await self._answer()
        self._pieces = self._response.aiter_raw()
        length = self._response.headers.get("content-length", "")
        self.length = int(length) if length.isascii() and length.isdecimal() and len(length) <= 18 else None
        if (self.length or 0) > self._access.max_bytes:
            message = f"{shown(self._place)} has {self.length} bytes, the limit is {self._access.max_bytes}."
            raise FetchError(message)

    async def end(self) -> None:
        """Close the connection, whatever the server does."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSING_S):
                if self._response is not None:
                    await self._response.aclose()
                await self._client.aclose()

    def read(self, portal: BlockingPortal, size: int) -> bytes:
        """At most so many bytes; none at the end. From outside of the loop."""
        taken = self._buffer.read(size)
        if not taken:
            self._buffer = io.BytesIO(portal.call(self._more))
            taken = self._buffer.read(size)
        return taken

    async def _answer(self) -> httpx.Response:
        url, auth = self._own()
        for _ in range(_HOPS + 1):
            response = await self._client.send(self._client.build_request("GET", url), stream=True, auth=auth)
            if response.status_code == 200 and response.headers.get("content-encoding", "identity").strip().lower() in ("", "identity"):
                return response
            await response.aclose()
            url, auth = self._next(url, response), None
        message = f"{shown(self._place)} redirects more than {_HOPS} times."
        raise FetchError(message)

    def _own(self) -> tuple[httpx.URL, tuple[str, str] | None]:
        """The address itself, and the user and password that it names."""
        try:
            url = httpx.URL(self._place)
        except httpx.InvalidURL as error:
            message = f"{shown(self._place)} is no address ({error})."
            raise FetchError(message) from error
        auth = (url.username, url.password) if url.userinfo else None
        return self._allowed(str(url.copy_with(userinfo=b"", fragment=None))), auth

    def _next(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        """Where an answer leads that is not the shard.

        Raises:
            FetchError: Nowhere.
        """
        code = response.status_code
        target = response.headers.get("location", "") if code in REDIRECTS else ""
        if target:
            return self._allowed(str(url.join(target)).partition("#")[0])
        reason = "packed bytes (Content-Encoding)" if code == 200 else str(code)
        reason += " without a place to go to" if code in REDIRECTS else ""
        message = f"{shown(self._place)} cannot be fetched: the server answers {reason}."
        raise FetchError(message, again=code in HEALS)

    def _allowed(self, text: str) -> httpx.URL:
        url = parse(text, self._rules)
        if url.scheme != "https" and not self._access.allow_http:
            message = f"{url.host} is asked for by {url.scheme}: only https is read, and http where allow_http is set."
            raise FetchError(message)
        return url

    async def _more(self) -> bytes:
        """The next bytes, as many as come in a moment: a call from outside of the loop costs more than a piece."""
        async with self._limited():
            pieces = [await self._piece()]
            until = time.monotonic() + _GATHERED_S
            while pieces[-1] and len(pieces) < _GATHERED and time.monotonic() < until:
                pieces.append(await self._piece())
        return b"".join(pieces)

    async def _piece(self) -> bytes:
        piece = await anext(self._pieces, b"")  # no piece is empty
        self._count += len(piece)
        if self._count > self._access.max_bytes:
            message = f"{shown(self._place)} has more than {self._access.max_bytes} bytes, the limit."
            raise FetchError(message)
        if not piece and self.length is not None and self._count != self.length:
            message = f"The transfer of {shown(self._place)} broke off after {self._count} of {self.length} bytes."
            raise FetchError(message, again=True)
        return piece

    @contextlib.asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """What is done within the time of the whole transfer; its errors name the shard."""
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                with explained():
                    yield
        except TimeoutError as error:
            message = f"{shown(self._place)} took longer than {self._access.timeout:g} seconds: shard_timeout is the limit."
            raise FetchError(message) from error
        except TransferError as error:
            hint = " Private addresses are read only where allow_private is set." if error.status == REFUSED else ""
            message = f"{shown(self._place)} cannot be fetched: {error.reason}.{hint}"
            raise FetchError(message, again=error.heals) from error
