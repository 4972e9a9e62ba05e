"""The loop that fetches: reads a list as far ahead as it needs, asks, stores, and writes down what became of each address."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from datamodules.download.addresses import address_id
from datamodules.download.fetch import Body, Fetcher
from datamodules.download.journal import Journal, Known
from datamodules.download.lists import Listing
from datamodules.download.outcomes import ARRIVED, DEAD, FetchError, Outcome
from datamodules.download.store import Store, Stored
from datamodules.download.waiting import Address, Waiting

_SLICE_S = 0.02  # seconds that the list is read without a look at the network
_WRITERS = 16  # threads, which wait for the disk
_URL_SHOWN = 2000  # characters of an address in the journal


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast it goes.

    Attributes:
        concurrency: Images at a time.
        per_host: Of one host.
        tries: Of one image.
        backoff: Seconds before the second try; doubled for each further one, and varied at random by half.
        deadline: Seconds of all tries of an image together, without the waiting between them.
        give_up: Connections to a host in a row that cannot be made, after which it counts as dead; 0 for never.
        threads: That decode.
    """

    concurrency: int = 64
    per_host: int = 4
    tries: int = 3
    backoff: float = 1.0
    deadline: float = 60.0
    give_up: int = 20
    threads: int = 2


class Engine:
    """Fetches what the journal does not have.

    Args:
        fetcher: Asks servers.
        store: Keeps images.
        journal: Knows what was decided before, and is told what is decided now.
        pace: How fast it goes.
        retry_failed: Ask again for what failed in earlier runs.
        progress: Called with each status that is decided.
    """

    def __init__(
        self, fetcher: Fetcher, store: Store, journal: Journal, pace: Pace, retry_failed: bool, progress: Callable[[str], object]
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self._journal = journal
        self._pace = pace
        self._retry_failed = retry_failed
        self._progress = progress
        self._waiting = Waiting(pace.per_host, pace.give_up)
        self._running: set[asyncio.Task[None]] = set()
        self._window = max(1000, 20 * pace.concurrency)  # addresses that wait: enough hosts to choose from
        self._decoders = ThreadPoolExecutor(pace.threads, thread_name_prefix="decode")
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="write")
        self.counts: Counter[str] = Counter()

    async def run(self, listings: Iterator[Listing], stop: asyncio.Event) -> bool:
        """Fetch all that a list names.

        Args:
            listings: The list, read as it is needed.
            stop: Ends the run early.

        Returns:
            Whether the list was done; False where it was stopped.

        Raises:
            OSError: Something cannot be written; what was decided before stays.
        """
        more = True
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                more = more and self._fill(listings)
                self._start()
                if not more and not self._running and not len(self._waiting):
                    return True
                await self._pause(more, stopped)
                if self._journal.is_due:  # beside the loop: a slow disk must not let transfers run into their deadline
                    await asyncio.get_running_loop().run_in_executor(self._writers, self._journal.sync)
            return False
        finally:
            stopped.cancel()
            await self._end()

    def _fill(self, listings: Iterator[Listing]) -> bool:
        """Read on, for a moment; False at the end of the list."""
        until = time.monotonic() + _SLICE_S
        while len(self._waiting) < self._window:
            listing = next(listings, None)
            if listing is None:
                return False
            self._consider(listing)
            if time.monotonic() > until:
                break
        return True

    def _consider(self, listing: Listing) -> None:
        if not listing.url or listing.problem:
            return
        identity = address_id(listing.url)
        if self._is_settled(self._journal.find(identity)):
            return
        self._journal.queue(identity)
        self._waiting.add(Address(identity, listing.url, _host(listing.url)))

    def _is_settled(self, known: Known | None) -> bool:
        """Whether nothing is to be asked for: it was decided, or is being asked for."""
        if known is None:
            return False
        if known.status == ARRIVED:
            return self._store.has(known.path, known.bytes)
        return known.fresh or not self._retry_failed

    def _start(self) -> None:
        while len(self._running) < self._pace.concurrency:
            address = self._waiting.take(time.monotonic())
            if address is None:
                return
            task = asyncio.create_task(self._attempt(address))
            self._running.add(task)

    async def _pause(self, more: bool, stopped: "asyncio.Task[bool]") -> None:
        """Wait until something is to be done."""
        full = len(self._waiting) >= self._window or len(self._running) >= self._pace.concurrency
        due = self._waiting.next_time()
        limit = 0.0 if more and not full else None if due is None else max(0.0, due - time.monotonic())
        done, _ = await asyncio.wait({*self._running, stopped}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            self._running.discard(task)
            task.result()  # raises what cannot be gone on with

    async def _end(self) -> None:
        """Break off what still runs; a picture that is being written is finished."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
        self._decoders.shutdown(wait=True)
        self._writers.shutdown(wait=True)

    async def _attempt(self, address: Address) -> None:
        """One try of one address: decides it, or lets it wait for the next."""
        start = time.monotonic()
        try:
            if self._waiting.is_dead(address.host):
                raise FetchError(DEAD, "not asked for: no connection to its host was made for others before", unreachable=True)
            address.tries += 1
            body = await self._fetcher.fetch(address.url, self._pace.deadline - address.seconds)
            address.seconds += time.monotonic() - start
            loop = asyncio.get_running_loop()
            stored = await loop.run_in_executor(self._decoders, self._store.check, body.data)
            await loop.run_in_executor(self._writers, self._store.put, stored, body.data)
        except FetchError as error:
            address.seconds += time.monotonic() - start
            self._failed(address, error)
        else:
            self._arrived(address, body, stored)
        finally:
            self._waiting.done(address.host)

    def _failed(self, address: Address, error: FetchError) -> None:
        self._waiting.heard(address.host, answered=not error.unreachable)
        if error.heals and address.tries < self._pace.tries and address.seconds < self._pace.deadline:
            wait = self._pace.backoff * 2 ** (address.tries - 1) if error.wait is None else error.wait
            self._waiting.add_later(address, time.monotonic() + wait + self._pace.backoff * random.random() / 2)
            return
        self._decide(address, Outcome(address.id, "", error.status, error.reason, error.http))

    def _arrived(self, address: Address, body: Body, stored: Stored) -> None:
        self._waiting.heard(address.host, answered=True)
        found = Outcome(address.id, "", ARRIVED, http=body.http, bytes=stored.bytes, sha256=stored.sha256, path=stored.path, host=body.host)
        self._decide(address, found)

    def _decide(self, address: Address, outcome: Outcome) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        url = address.url[:_URL_SHOWN]
        self._journal.add(replace(outcome, url=url, tries=address.tries, seconds=round(address.seconds, 3), time=now))
        self.counts[outcome.status] += 1
        self._progress(outcome.status)


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
