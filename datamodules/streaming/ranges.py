"""Reading ranges of one file that lies elsewhere, whatever happens on the way: each failed read is tried again from where it was."""

import logging
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from datamodules.sources.tars.fetch import FetchError
from datamodules.streaming.places import Opened, Place, unreadable

log = logging.getLogger(__name__)

GAP = 4 * 2**20
"""Bytes that are rather read and forgotten than jumped over by another request: what a connection brings in about a request's delay."""

TRIES = 6
PATIENCE = 120.0  # seconds that a server may take for one range

_PAUSE = 0.5  # seconds before the second try, doubled for each further one
_PIECE = 1 << 20

Found = TypeVar("Found")


class RangeReader:
    """Ranges of a file; those that follow each other come by one request.

    Args:
        place: The file.
        stop: End of all ranges that will be read, so that no request asks for more.
        seeks: Whether the file can be opened at any byte; else no gap is jumped over.
    """

    def __init__(self, place: Place, stop: int, seeks: bool = True) -> None:
        self._gap = GAP if seeks else sys.maxsize
        self._place = place
        self._stop = stop
        self._opened: Opened | None = None
        self._position = 0

    def read(self, start: int, size: int) -> bytearray:
        """Exactly so many bytes from a position on.

        Raises:
            FetchError: They cannot be had, after several tries where another one may help.
        """
        found = bytearray(size)
        tried(lambda: self._attempt(start, memoryview(found)))
        return found

    def close(self) -> None:
        """Let go of the file; reading on opens it again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _attempt(self, start: int, buffer: memoryview) -> None:
        try:
            self._read(start, buffer)
        except OSError as error:
            self.close()
            raise unreadable(self._place.shown, error) from error
        except FetchError:
            self.close()
            raise

    def _read(self, start: int, buffer: memoryview) -> None:
        if self._opened is None or not 0 <= start - self._position <= self._gap:
            self.close()
            self._opened = self._place.open(start, max(self._stop, start + len(buffer)))
            self._position = start
        until = time.monotonic() + PATIENCE
        while (between := start - self._position) > 0:
            self._fill(self._opened, memoryview(bytearray(min(between, _PIECE))), until)
        self._fill(self._opened, buffer, until)

    def _fill(self, opened: Opened, buffer: memoryview, until: float) -> None:
        while len(buffer):
            count = opened.readinto(buffer[:_PIECE])
            if not count or time.monotonic() > until:
                what = "took too long" if count else "ended too early"
                message = f"the transfer of {self._place.shown} {what}, at byte {self._position}"
                raise FetchError(message, again=True)
            self._position += count
            buffer = buffer[count:]


def tried(ask: Callable[[], Found]) -> Found:
    """What a request gives, asked again with growing pauses where that may help.

    Raises:
        FetchError: The last error.
    """
    for attempt in range(1, TRIES):
        try:
            return ask()
        except FetchError as error:
            if not error.again:
                raise
            log.warning("%s: it is tried again", error)
        time.sleep(_PAUSE * 2 ** (attempt - 1) * (0.5 + random.random()))  # not as long as every other process
    return ask()
