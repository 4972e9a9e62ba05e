"""Connections that lead only where they may: the address that was checked is the one that is connected to."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from datamodules.download.addresses import Rules, check_number, numeric
from datamodules.download.outcomes import DEAD, REFUSED, TIMED_OUT, FetchError

USER_AGENT = "Undertow/0.1 (collects images for research on detecting generated ones)"
"""What servers are told."""

Lookup = Callable[[str], list[str]]

_THREADS = 32
_KEPT = 10_000  # hosts
_KEPT_S = 60.0
_IDLE = 8  # connections that are kept: the pool looks at each of them, and through all others, whenever one is opened or closed
_ADDRESSES = 3  # of a host that has many, so that a dead one does not cost a timeout each


def system_lookup(host: str) -> list[str]:
    """Numeric addresses of a name, as the system orders them.

    Raises:
        OSError: The name has none.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Looks names up in threads, and remembers the answers for a minute, so that a name server is not asked once an image.

    Args:
        lookup: Numeric addresses of a name; raises OSError.
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._known: OrderedDict[str, tuple[float, asyncio.Future[list[str]]]] = OrderedDict()
        self._slots = asyncio.Semaphore(_THREADS)

    async def addresses(self, host: str) -> list[str]:
        """Numeric addresses of a host.

        Raises:
            OSError: It has none.
        """
        number = numeric(host)
        if number is not None:
            return [number]
        until, answer = self._known.get(host, (0.0, None))
        if answer is None or (answer.done() and until < time.monotonic()):
            await self._slots.acquire()
            answer = self._ask(host)
            self._known[host] = (time.monotonic() + _KEPT_S, answer)
            self._known.move_to_end(host)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return await asyncio.shield(answer)

    def _ask(self, host: str) -> "asyncio.Future[list[str]]":
        """Ask in a thread of its own, that nobody waits for at the end: a look-up cannot be stopped."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may be gone

        def settle(found: list[str], error: OSError | None) -> None:
            self._slots.release()
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                self._known.pop(host, None)  # the next try is to ask again
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(found)

        def work() -> None:
            found: list[str] = []
            error: OSError | None = None
            try:
                found = self._lookup(host)
            except OSError as caught:
                error = caught
            except (UnicodeError, ValueError) as caught:  # a label that is too long
                error = socket.gaierror(socket.EAI_NONAME, str(caught))
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, found, error)

        threading.Thread(target=work, name="look-up", daemon=True).start()
        return answer


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections for the pool: looks the name up once, checks the numbers, and connects to one of these very numbers.

    Above it, TLS and the Host header go on with the name. So a name server that answers otherwise the next time gains nothing.

    Args:
        rules: What may be connected to.
        resolver: Looks names up.
        dial: Connects to numeric addresses.
    """

    def __init__(self, rules: Rules, resolver: Resolver, dial: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._rules = rules
        self._resolver = resolver
        self._dial = dial or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host by name.

        Raises:
            FetchError: None of its addresses may be connected to, or it has none.
        """
        for number in await self._allowed(host, timeout):
            try:
                return await self._dial.connect_tcp(number, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refused: no address leads to a socket of this machine."""
        raise FetchError(REFUSED, "sockets of this machine are not connected to")

    async def sleep(self, seconds: float) -> None:
        """As the pool asks for it."""
        await asyncio.sleep(seconds)

    async def _allowed(self, host: str, limit: float | None) -> list[str]:
        try:
            async with asyncio.timeout(limit):
                found = await self._resolver.addresses(host)
        except TimeoutError as error:
            raise FetchError(TIMED_OUT, "the name was not looked up in time", heals=True, unreachable=True) from error
        except OSError as error:
            again = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            raise FetchError(DEAD, "the name of the host is not known", heals=again, unreachable=True) from error
        allowed = []
        refusal = FetchError(DEAD, "the name of the host is not known", unreachable=True)
        for number in found:
            try:
                check_number(number, self._rules)
            except FetchError as error:
                refusal = error
            else:
                allowed.append(number)
        if not allowed:
            raise refusal
        return allowed[:_ADDRESSES]


class _Body(httpx.AsyncByteStream):
    """What a server sends, as httpx wants it."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


class PoolTransport(httpx.AsyncBaseTransport):
    """Sends the requests of an httpx client through a pool of httpcore, whose errors come through as they are.

    Args:
        pool: Where connections come from.
    """

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path or b"/"
        )
        sent = httpcore.Request(request.method, url, headers=request.headers.raw, extensions=request.extensions)
        response = await self._pool.handle_async_request(sent)
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def make_pool(connections: int, backend: httpcore.AsyncNetworkBackend | None, proxy: str | None) -> httpcore.AsyncConnectionPool:
    """A pool of connections.

    Args:
        connections: At most.
        backend: Opens them; not used with a proxy, which opens them itself.
        proxy: Address of an http proxy; then it is the proxy that looks names up, and that must refuse what is private.
    """
    context = httpx.create_ssl_context(trust_env=False)
    if proxy is not None:
        return httpcore.AsyncHTTPProxy(
            proxy, ssl_context=context, max_connections=connections, max_keepalive_connections=_IDLE, keepalive_expiry=5
        )
    return httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=connections,
        max_keepalive_connections=_IDLE,
        keepalive_expiry=5,
        network_backend=backend,
    )


def make_client(
    pool: httpcore.AsyncConnectionPool, user_agent: str, connect_s: float, read_s: float, accept: str = "image/*,*/*;q=0.5"
) -> httpx.AsyncClient:
    """A client that follows nothing by itself, keeps no cookies and does not read the environment.

    Args:
        pool: Where connections come from.
        user_agent: What servers are told.
        connect_s: Seconds until a connection must stand.
        read_s: Seconds between two pieces of an answer.
        accept: What servers are told is wanted.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else it logs every address in full, with what is secret in it
    return httpx.AsyncClient(
        transport=PoolTransport(pool),
        headers={"User-Agent": user_agent, "Accept": accept, "Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=httpx.Timeout(read_s, connect=connect_s, pool=None),
        follow_redirects=False,
        trust_env=False,
    )
