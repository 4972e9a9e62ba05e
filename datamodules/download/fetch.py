"""One try to get one image: redirects, answers and limits."""

import asyncio
import contextlib
import math
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore
import httpx

from datamodules.download.addresses import Rules, parse
from datamodules.download.outcomes import DEAD, NOT_IMAGE, REFUSED, TIMED_OUT, TOO_LARGE, FetchError
from datamodules.errors import DataError
from datamodules.reader import ImageError, sniff

REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Answers that name another address."""

HEALS = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 508, 520, 521, 522, 523, 524, 527, 529})
"""Answers after which another try may succeed."""

_OPT_OUT = ("noai", "noimageai")
_SNIFFED = 16  # bytes that tell every format


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may cost.

    Attributes:
        max_bytes: Of the image.
        redirects: Followed at most.
        longest_wait: Seconds that a server may ask to wait before the next try.
    """

    max_bytes: int = 20_000_000
    redirects: int = 5
    longest_wait: float = 60.0


@dataclass(frozen=True, slots=True)
class Body:
    """What came.

    Attributes:
        data: The bytes, which begin as an image does; nothing else is known of them yet.
        http: The server's answer.
        host: That they came from.
    """

    data: bytes
    http: int
    host: str


class Fetcher:
    """Asks for images.

    Args:
        client: Follows nothing by itself.
        rules: What may be asked for, checked for every address on the way.
        limits: What an image may cost.
    """

    def __init__(self, client: httpx.AsyncClient, rules: Rules, limits: Limits) -> None:
        self._client = client
        self._rules = rules
        self._limits = limits

    async def fetch(self, address: str, seconds: float) -> Body:
        """Get what an address leads to.

        Args:
            address: Cleaned.
            seconds: Until the transfer must have ended.

        Raises:
            FetchError: Nothing came that begins as an image does.
        """
        try:
            async with asyncio.timeout(seconds):
                with explained():
                    return await self._follow(parse(address, self._rules))
        except TimeoutError as error:
            raise FetchError(TIMED_OUT, "the transfer did not end before its deadline") from error

    async def _follow(self, url: httpx.URL) -> Body:
        seen = set()
        for _ in range(self._limits.redirects + 1):
            seen.add(str(url))
            async with self._answer(url) as response:
                if response.status_code not in REDIRECTS:
                    return Body(await self._body(response), response.status_code, url.host)
                url = self._next(url, response)
            if str(url) in seen:
                raise FetchError(DEAD, "redirects in a circle", response.status_code)
        raise FetchError(DEAD, f"more than {self._limits.redirects} redirects", response.status_code)

    @contextlib.asynccontextmanager
    async def _answer(self, url: httpx.URL) -> AsyncIterator[httpx.Response]:
        response = await self._client.send(self._client.build_request("GET", url), stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    def _next(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        target = response.headers.get("location", "")
        if not target:
            raise FetchError(DEAD, "a redirect to nowhere", response.status_code)
        try:
            return parse(str(url.join(target)).partition("#")[0], self._rules)
        except FetchError as error:
            raise FetchError(REFUSED, f"redirected to what is refused: {error.reason}", response.status_code) from error
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise FetchError(REFUSED, "redirected to what is no address", response.status_code) from error

    async def _body(self, response: httpx.Response) -> bytes:
        self._check(response)
        data = bytearray()
        sniffed = False
        async for part in response.aiter_raw():
            data += part
            if len(data) > self._limits.max_bytes:
                raise self._too_large(response.status_code)
            if not sniffed and len(data) >= _SNIFFED:
                _sniff(bytes(data[:_SNIFFED]), response.status_code)
                sniffed = True
        _sniff(bytes(data[:_SNIFFED]), response.status_code)
        return bytes(data)

    def _check(self, response: httpx.Response) -> None:
        code = response.status_code
        if code != 200:
            wait = self._wait(response.headers.get("retry-after", ""))
            raise FetchError(DEAD, f"HTTP {code}", code, heals=code in HEALS, wait=wait)
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):  # a few bytes may stand for gigabytes, and images gain nothing by it
            raise FetchError(REFUSED, f"packed although the bytes as they are were asked for: {encoding[:20]}", code)
        wishes = {
            word.strip() for value in response.headers.get_list("x-robots-tag") for word in value.lower().replace(":", ",").split(",")
        }
        if wishes & set(_OPT_OUT):
            raise FetchError(REFUSED, "its owner asks not to use it for AI (X-Robots-Tag)", code)
        length = response.headers.get("content-length", "")
        if length.isascii() and length.isdecimal() and int(length[:18]) > self._limits.max_bytes:
            raise self._too_large(code)

    def _too_large(self, code: int) -> FetchError:
        return FetchError(TOO_LARGE, f"more than {self._limits.max_bytes} bytes", code)

    def _wait(self, text: str) -> float | None:
        """Seconds that a server asks to wait: a number of them, or a date."""
        try:
            seconds = float(text) if text.strip()[:1].isdigit() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
        return min(max(seconds, 0.0), self._limits.longest_wait) if math.isfinite(seconds) else None


def _sniff(data: bytes, code: int) -> None:
    if not data:
        raise FetchError(NOT_IMAGE, "nothing was sent", code)
    try:
        sniff(data)
    except ImageError as error:
        raise FetchError(NOT_IMAGE, f"no image that is read: it begins with {data[:12]!r}", code) from error


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Errors of connections as ours; those of ours as they are."""
    try:
        yield
    except (httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
        raise FetchError(TIMED_OUT, "no connection in time", heals=True, unreachable=True) from error
    except httpcore.TimeoutException as error:
        raise FetchError(TIMED_OUT, "no answer in time", heals=True) from error
    except httpcore.ConnectError as error:
        if _certificate(error):
            raise FetchError(DEAD, "the certificate of the host is not valid") from error
        raise FetchError(DEAD, "no connection to the host", heals=True, unreachable=True) from error
    except httpcore.ProxyError as error:
        raise FetchError(DEAD, f"the proxy: {error}"[:200], heals=True) from error
    except (httpcore.NetworkError, httpcore.RemoteProtocolError, OSError) as error:
        raise FetchError(DEAD, "the connection ended early, or what was sent is no HTTP", heals=True) from error
    except (httpx.InvalidURL, httpx.RemoteProtocolError) as error:  # the client reads where a redirect leads, though it does not follow
        raise FetchError(REFUSED, "redirected to what is no address") from error
    except (FetchError, DataError):
        raise
    except Exception as error:  # whatever a hostile server makes the libraries raise must not end the run
        raise FetchError(DEAD, f"the answer cannot be used: {type(error).__name__}") from error


def _certificate(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
