"""One run of the command: the folder is locked, the list fetched, the tables written."""

import asyncio
import contextlib
import resource
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpcore
from tqdm import tqdm

from datamodules.download.addresses import Rules
from datamodules.download.engine import Engine, Pace
from datamodules.download.fetch import Fetcher, Limits
from datamodules.download.journal import Journal
from datamodules.download.lists import UrlList
from datamodules.download.network import USER_AGENT, CheckedBackend, Lookup, Resolver, make_client, make_pool, system_lookup
from datamodules.download.outcomes import ARRIVED
from datamodules.download.store import IMAGES, Store
from datamodules.download.tables import Keep, Tables, write_tables
from datamodules.errors import DataError
from datamodules.files import remove_leftovers
from datamodules.hashing import describe_os_error
from datamodules.reader import ReaderLimits
from datamodules.shards.lock import alone

_PLACEHOLDERS = 10  # addresses of one content, from which on it may stand for images that are gone


@dataclass(frozen=True, slots=True)
class Settings:
    """How to download.

    Attributes:
        rules: What may be asked for.
        limits: What one transfer may cost.
        images: What an image may be.
        pace: How fast it goes.
        connect_timeout: Seconds until a connection must stand, the name's look-up among them.
        read_timeout: Seconds between two pieces of an answer.
        proxy: Address of an http proxy, or none.
        user_agent: What servers are told.
        retry_failed: Ask again for what failed in earlier runs.
    """

    rules: Rules = field(default_factory=Rules)
    limits: Limits = field(default_factory=Limits)
    images: ReaderLimits = field(default_factory=ReaderLimits)
    pace: Pace = field(default_factory=Pace)
    connect_timeout: float = 10.0
    read_timeout: float = 20.0
    proxy: str | None = None
    user_agent: str = USER_AGENT
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What a run has to say.

    Attributes:
        counts: Addresses that it decided, by status.
        tables: What was written.
        doubled: Contents that arrived from many addresses: number and path.
        damaged: Lines of the journal that could not be read; their addresses were asked for again.
    """

    counts: Counter[str]
    tables: Tables
    doubled: list[tuple[int, str]]
    damaged: int


def download(
    listed: UrlList,
    folder: Path,
    settings: Settings,
    keep: Keep = "images",
    only_tables: bool = False,
    lookup: Lookup = system_lookup,
    dial: httpcore.AsyncNetworkBackend | None = None,
) -> Told:
    """Fetch what a list names and the folder does not have, and write the tables.

    Args:
        listed: The list.
        folder: Where everything goes.
        settings: How.
        keep: Whole groups, or each image that arrives.
        only_tables: Fetch nothing.
        lookup: Numeric addresses of a name.
        dial: Connects to numeric addresses.

    Raises:
        DataError: The list cannot be read, or the folder cannot be written.
        BusyError: Another process writes the folder.
        KeyboardInterrupt: It was stopped; the journal has all that was decided.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder), contextlib.closing(Journal(folder)) as journal:
            _remove_leftovers(folder)
            store = Store(folder, settings.images)
            counts: Counter[str] = Counter()
            if not only_tables:
                backend = CheckedBackend(settings.rules, Resolver(lookup), dial)
                counts = asyncio.run(_fetch(listed, store, journal, settings, backend))
            tables = write_tables(listed.listings, journal, store, keep)
            return Told(counts, tables, journal.doubled(_PLACEHOLDERS, 3), journal.damaged)
    except OSError as error:
        message = (
            f"{folder} cannot be written ({describe_os_error(error)}). What arrived stays, and is in the journal: "
            "make room or mend it, and run the same command again."
        )
        raise DataError(message) from error


async def _fetch(listed: UrlList, store: Store, journal: Journal, settings: Settings, backend: CheckedBackend) -> Counter[str]:
    _allow_files(2 * settings.pace.concurrency + 200)
    pool = make_pool(settings.pace.concurrency, backend, settings.proxy)
    counts: Counter[str] = Counter()
    with _stopping() as stop, tqdm(desc="Images", unit="address", disable=None, smoothing=0.05) as bar:

        def progress(status: str) -> None:
            counts[status] += 1
            if bar.update():  # when it is drawn
                bar.set_postfix(arrived=counts[ARRIVED], failed=counts.total() - counts[ARRIVED], refresh=False)

        async with make_client(pool, settings.user_agent, settings.connect_timeout, settings.read_timeout) as client:
            fetcher = Fetcher(client, settings.rules, settings.limits)
            engine = Engine(fetcher, store, journal, settings.pace, settings.retry_failed, progress)
            if not await engine.run(listed.listings(), stop):
                raise KeyboardInterrupt
    return counts


@contextlib.contextmanager
def _stopping() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set, so that what runs is ended in order."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _allow_files(number: int) -> None:
    """Let the process have so many files open, as far as the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= number:
        return
    most = number if hard == resource.RLIM_INFINITY else min(number, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < number:
        message = f"The system lets a process have {most} open files, and {number} are needed: lower --concurrency."
        raise DataError(message)


def _remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed left half written."""
    for each in (folder, *(folder / IMAGES).glob("*")):
        remove_leftovers(each)
