"""What is made of the journal at the end: the manifest, what is not in it and why, and how much of each generator is left."""

import csv
import io
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from datamodules.download.addresses import address_id
from datamodules.download.journal import QUEUED, Journal, Known
from datamodules.download.lists import FIELDS, Listing
from datamodules.download.outcomes import ARRIVED, FAILURES
from datamodules.download.store import Store
from datamodules.files import replacing
from datamodules.sources.base import safe_name

MANIFEST, SKIPPED, SURVIVAL = "manifest.csv", "skipped.csv", "survival.csv"
PENDING = "pending"
COUNTS = ("listed", "unusable", "without_url", *FAILURES, PENDING, ARRIVED, "kept", "groups", "groups_whole")
"""Columns of the survival table. `listed` is the sum of the others up to `arrived`; `kept` are the manifest's rows."""

Keep = Literal["groups", "images"]
Cohort = tuple[str, str, int | None]


@dataclass(slots=True)
class Tables:
    """What was written.

    Attributes:
        survival: `COUNTS` by data set, generator and label.
        reasons: How often each reason for an image's absence holds, without what is of one image only.
    """

    survival: dict[Cohort, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    def total(self, name: str) -> int:
        """Sum of one column of `COUNTS` but the groups, which may be of several generators."""
        return sum(counts[name] for counts in self.survival.values())

    def count(self, cohort: Cohort, name: str, number: int = 1) -> None:
        """Add to a number of the survival table."""
        self.survival.setdefault(cohort, Counter())[name] += number


def write_tables(listings: Callable[[], Iterator[Listing]], journal: Journal, store: Store, keep: Keep) -> Tables:
    """Write `manifest.csv`, `skipped.csv` and `survival.csv` beside the images; the manifest last.

    The list is read twice, since a group's images may stand anywhere in it. Memory does not grow with it, but by generators.

    Args:
        listings: The list from its start.
        journal: What became of each address.
        store: Where the images are.
        keep: `groups`: an image is in the manifest only where all of its group that the list names arrived. `images`: each that arrived.

    Raises:
        DataError: The list cannot be read.
        OSError: A table cannot be written.
    """
    tables = Tables()
    groups = _Groups(journal.database())
    for listing in listings():
        status, _ = _status(listing, journal, store)
        tables.count(listing.cohort, "listed")
        tables.count(listing.cohort, status)
        groups.add(listing, status == ARRIVED)
    for cohort, all_, whole in groups.by_cohort():
        tables.count(cohort, "groups", all_)
        tables.count(cohort, "groups_whole", whole)
    with ExitStack() as stack:
        manifest, skipped = (_Table(stack.enter_context(replacing(store.folder / name))) for name in (MANIFEST, SKIPPED))
        manifest.write(["path", *FIELDS, "url"])
        skipped.write(["where", "url", "status", "reason", *FIELDS])
        for listing in listings():
            path, status, reason = _placed(listing, journal, store, groups if keep == "groups" else None)
            if path:
                tables.count(listing.cohort, "kept")
                manifest.write([path, *_cells(listing), listing.url])
            else:
                tables.reasons[reason.partition(":")[0].partition("(")[0].strip()] += 1
                skipped.write([listing.where, listing.url, status, reason, *_cells(listing)])
        _write_survival(store.folder / SURVIVAL, tables)
    return tables


def _placed(listing: Listing, journal: Journal, store: Store, groups: "_Groups | None") -> tuple[str, str, str]:
    """Path of an image for the manifest; where it is empty, the status and the reason."""
    status, known = _status(listing, journal, store)
    if status != ARRIVED or known is None:
        return "", status, _reason(listing, status, known)
    if groups is not None and (missing := groups.missing(listing)):
        return "", status, f"its group is not whole: {missing} of its images did not arrive"
    if not listing.name:
        return known.path, status, ""
    name = "/".join(safe_name(part) if part in {".", ".."} or "\\" in part else part for part in listing.name.split("/"))
    if not _take(journal.database(), name):
        return "", status, "another address of the same image arrived"
    return store.name(known.path, name), status, ""


def _take(database: sqlite3.Connection, name: str) -> bool:
    return database.execute("INSERT OR IGNORE INTO names VALUES (?)", (name,)).rowcount > 0


def _status(listing: Listing, journal: Journal, store: Store) -> tuple[str, Known | None]:
    if listing.problem:
        return "unusable", None
    if not listing.url:
        return "without_url", None
    known = journal.find(address_id(listing.url))
    if known is None or known.status == QUEUED or (known.status == ARRIVED and not store.has(known.path, known.bytes)):
        return PENDING, known
    return known.status, known


def _reason(listing: Listing, status: str, known: Known | None) -> str:
    told = {"unusable": listing.problem, "without_url": "the list has no address", PENDING: "not asked for yet"}
    return told.get(status) or (known.reason if known else "")


def _cells(listing: Listing) -> list[Any]:
    return ["" if (value := listing.cells[name]) is None else value for name in FIELDS]


class _Table:
    """Rows of a CSV file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, cells: Iterable[Any]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow([cell.replace("\0", "") if isinstance(cell, str) else cell for cell in cells])
        self._file.write(text.getvalue().encode("utf-8", "replace"))


class _Groups:
    """How much of each group arrived, in a temporary database. An image without a group is one by itself."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._alone: dict[Cohort, list[int]] = {}
        self._cohorts: dict[Cohort, int] = {}
        for table in ("groups", "members", "names"):
            database.execute(f"DROP TABLE IF EXISTS {table}")
        database.execute("CREATE TABLE groups (name TEXT PRIMARY KEY, missing INT) WITHOUT ROWID")
        database.execute("CREATE TABLE members (cohort INT, name TEXT, PRIMARY KEY (cohort, name)) WITHOUT ROWID")
        database.execute("CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, listing: Listing, arrived: bool) -> None:
        """Count an image. Of several addresses of one named image one is enough."""
        name = listing.name or listing.cells["group"]
        if not name:
            counts = self._alone.setdefault(listing.cohort, [0, 0])
            counts[0] += 1
            counts[1] += arrived
            return
        cohort = self._cohorts.setdefault(listing.cohort, len(self._cohorts))
        merged = "min(missing, excluded.missing)" if listing.name else "missing + excluded.missing"
        query = f"INSERT INTO groups VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET missing = {merged}"
        self._database.execute(query, (name, not arrived))
        self._database.execute("INSERT OR IGNORE INTO members VALUES (?, ?)", (cohort, name))

    def missing(self, listing: Listing) -> int:
        """Number of images of a listing's group that did not arrive."""
        name = listing.name or listing.cells["group"]
        row = self._database.execute("SELECT missing FROM groups WHERE name = ?", (name or "",)).fetchone()
        return int(row[0]) if row else 0

    def by_cohort(self) -> Iterator[tuple[Cohort, int, int]]:
        """Groups, and whole ones, that have an image of a data set and generator."""
        for cohort, (all_, whole) in self._alone.items():
            yield cohort, all_, whole
        query = "SELECT cohort, count(*), sum(missing = 0) FROM members JOIN groups USING (name) GROUP BY cohort"
        cohorts = list(self._cohorts)
        for number, all_, whole in self._database.execute(query):
            yield cohorts[number], all_, whole


def _write_survival(path: Path, tables: Tables) -> None:
    with replacing(path) as file:
        table = _Table(file)
        table.write(["dataset", "generator", "label", *COUNTS, "share"])
        for (dataset, generator, label), counts in sorted(tables.survival.items(), key=lambda item: tuple(map(str, item[0]))):
            share = f"{counts[ARRIVED] / counts['listed']:.4f}"
            table.write([dataset, generator, "" if label is None else label, *(counts[name] for name in COUNTS), share])
