"""A web server on this machine that lies in every way that a downloader must survive; used by a benchmark and by tests."""

import asyncio
import io
import struct
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

import numpy as np
from PIL import Image

Answer = Callable[["LyingServer", str, int], AsyncIterator[bytes]]

SIDE = 64
_FOREVER = 1_000_000


@lru_cache(maxsize=8192)
def picture(number: int, kind: str = "JPEG", side: int = SIDE) -> bytes:
    """A small picture that no other number has."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few kilobytes whose header promises very many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")


def head(status: str, *headers: str, length: int | None = None) -> bytes:
    """The beginning of an answer."""
    lines = [f"HTTP/1.1 {status}", *headers, *([] if length is None else [f"Content-Length: {length}"])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def whole(data: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An honest answer."""
    return head(status, *headers, length=len(data)) + data


def _always(answer: Callable[[int], bytes]) -> Answer:
    async def send(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
        yield answer(number)

    return send


def _redirect(target: Callable[[int], str], status: str = "302 Found") -> Answer:
    return _always(lambda number: head(status, f"Location: {target(number)}", length=0))


async def _flaky(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
    fails = server.asked[path] < 3
    yield whole(b"later", status="503 Busy") if fails else whole(picture(number))


async def _throttled(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
    yield whole(b"", "Retry-After: 0", status="429 Slow down") if server.asked[path] < 2 else whole(picture(number))


async def _drip(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
    data = picture(number)
    yield head("200 OK", "Content-Type: image/jpeg", length=len(data))
    for i in range(len(data)):
        yield data[i : i + 1]
        await asyncio.sleep(1)


async def _silent(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
    await asyncio.sleep(_FOREVER)
    yield b""


async def _endless(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
    yield head("200 OK", "Content-Type: image/jpeg") + picture(number)
    while True:
        yield bytes(65536)


async def _chunked(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
    data = picture(number)
    yield head("200 OK", "Transfer-Encoding: chunked")
    for start in range(0, len(data), 1000):
        piece = data[start : start + 1000]
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    yield b"0\r\n\r\n"


async def _closed(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
    yield head("200 OK", "Connection: close") + picture(number)


async def _endless_head(server: "LyingServer", path: str, number: int) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"X-More: " + bytes(b"a" * 10_000) + b"\r\n"


ARRIVES: dict[str, Answer] = {
    "good": _always(lambda number: whole(picture(number), "Content-Type: image/jpeg")),
    "wrongtype": _always(lambda number: whole(picture(number, "PNG"), "Content-Type: text/html; charset=utf-8")),
    "cookie": _always(lambda number: whole(picture(number), "Set-Cookie: track=1; Path=/")),
    "nolength": _closed,
    "chunked": _chunked,
    "flaky": _flaky,
    "throttled": _throttled,
    "moved": _redirect(lambda number: f"/good/{number}", "301 Moved"),
    "relative": _redirect(lambda number: f"../moved/{number}#part", "307 Moved"),
    "double": _always(lambda number: whole(picture(-1 % 2**32))),
}
"""What ends in an image."""

LIES: dict[str, tuple[str, Answer]] = {
    "missing": ("dead", _always(lambda number: whole(picture(number), status="404 Not Found"))),
    "gone": ("dead", _always(lambda number: whole(b"", status="410 Gone"))),
    "broken": ("dead", _always(lambda number: whole(b"", status="500 Broken"))),
    "partial": ("dead", _always(lambda number: whole(picture(number), status="206 Partial Content"))),
    "hangup": ("dead", _always(lambda number: b"")),
    "nonsense": ("dead", _always(lambda number: b"\x00\x01 this is no HTTP\r\n\r\n")),
    "short": ("dead", _always(lambda number: head("200 OK", length=99_999) + picture(number))),
    "circle": ("dead", _redirect(lambda number: f"/circle/{number}")),
    "chain": ("dead", _redirect(lambda number: f"/chain/{number + 10_000_000}")),
    "nowhere": ("dead", _always(lambda number: head("302 Found", length=0))),
    "longhead": ("dead", _endless_head),
    "tofile": ("refused", _redirect(lambda number: "file:///etc/passwd")),
    "todata": ("refused", _redirect(lambda number: "data:image/png;base64,AAAA")),
    "touser": ("refused", _redirect(lambda number: "http://user:secret@127.0.0.1/")),
    "packed": ("refused", _always(lambda number: whole(zlib.compress(picture(number), wbits=31), "Content-Encoding: gzip"))),
    "noai": ("refused", _always(lambda number: whole(picture(number), "X-Robots-Tag: noindex, noai"))),
    "page": ("not_image", _always(lambda number: whole(b"<!doctype html><p>This picture has moved", "Content-Type: image/jpeg"))),
    "empty": ("not_image", _always(lambda number: whole(b"", "Content-Type: image/jpeg"))),
    "cut": ("not_image", _always(lambda number: whole(picture(number)[:-900], "Content-Type: image/jpeg"))),
    "understated": ("not_image", _always(lambda number: head("200 OK", length=1000) + picture(number))),
    "bomb": ("not_image", _always(lambda number: whole(bomb(), "Content-Type: image/png"))),
    "pixel": ("not_image", _always(lambda number: whole(picture(number, "GIF", 1), "Content-Type: image/gif"))),
    "svg": ("not_image", _always(lambda number: whole(b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "Content-Type: image/svg+xml"))),
    "declared": ("too_large", _always(lambda number: head("200 OK", length=10**15) + picture(number))),
    "endless": ("too_large", _endless),
    "drip": ("timed_out", _drip),
    "silent": ("timed_out", _silent),
}
"""What ends in none, and how it is to be recorded."""

INWARD: dict[str, Answer] = {
    "tometadata": _redirect(lambda number: "http://169.254.169.254/latest/meta-data/"),
    "toloopback": _redirect(lambda number: f"http://[::1]/good/{number}"),
    "toinner": _redirect(lambda number: f"http://inner.example/good/{number}"),
    "toport": _redirect(lambda number: "http://images.example:6379/"),
}
"""Redirects to what is refused unless private addresses and all ports are allowed; `inner.example` is a name for a private address."""


class LyingServer:
    """Answers `/KIND/NUMBER` as `ARRIVES` and `LIES` say, in a thread of its own.

    Attributes:
        asked: Requests by path.
        heads: Request heads, as they came.
        busiest: Most requests that were open at a time.
        pause: Seconds before each answer.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        self.heads: list[str] = []
        self.busiest = 0
        self.pause = pause
        self.port = 0
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._answers = ARRIVES | INWARD | {kind: answer for kind, (_, answer) in LIES.items()}

    @property
    def root(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["LyingServer"]:
        """Serve until the block ends."""
        started = threading.Event()
        thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        thread.start()
        started.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1000))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self._open += 1
                self.busiest = max(self.busiest, self._open)
                try:
                    kept = await self._answer(request, writer)
                finally:
                    self._open -= 1
                if not kept:
                    break
        writer.close()

    async def _answer(self, request: str, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        path = request.split(" ", 2)[1].partition("?")[0]
        self.asked[path] += 1
        self.heads.append(request)
        await asyncio.sleep(self.pause)
        kind, _, number = path.strip("/").partition("/")
        async for piece in self._answers[kind](self, path, int(number)):
            writer.write(piece)
            await writer.drain()
        return kind in ("good", "moved", "chunked")
