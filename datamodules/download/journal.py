"""What became of each address: a file that is only appended to, and an index of it that does not grow in memory."""

import errno
import json
import os
import sqlite3
import time
import zlib
from pathlib import Path
from typing import NamedTuple

from datamodules.download.outcomes import ARRIVED, FAILURES, Outcome
from datamodules.files import payload_of, sync_directory
from datamodules.hashing import open_regular

JOURNAL = "journal.txt"
QUEUED = "queued"

_SYNC_S = 1.0  # what a power cut may lose, and is fetched again
_MAX_LINE = 100_000  # bytes; a longer one is none of ours


class Known(NamedTuple):
    """What the index knows of an address.

    Attributes:
        status: `queued`, `arrived`, or one of `FAILURES`.
        reason: Why it did not arrive.
        path: Of the image, relative to the folder.
        bytes: Its length.
        sha256: Of the image.
        fresh: Whether it was decided since the journal was opened.
    """

    status: str
    reason: str
    path: str
    bytes: int
    sha256: str
    fresh: bool


class Journal:
    """A row an address, appended when it is decided. Of an address with several rows the last one holds.

    A row is in the hands of the system when `add` returns, so that killing the process loses none; it is on the disk when `sync` returns,
    which is due every second.
    The index is a temporary database, made from the file whenever it is opened.

    Args:
        folder: In which the journal lies; made where it is missing.

    Raises:
        OSError: It cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL
        self._index = sqlite3.connect("", isolation_level=None)  # a file that SQLite deletes
        self._index.execute("PRAGMA journal_mode = OFF")
        self._index.execute(
            "CREATE TABLE addresses"
            " (id TEXT PRIMARY KEY, status TEXT, reason TEXT, path TEXT, bytes INT, sha256 TEXT, fresh INT) WITHOUT ROWID"
        )
        self._index.execute("BEGIN")  # and never commit: nobody else looks at it
        self.damaged = self._load()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        sync_directory(folder)
        self._synced = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Append a row.

        Raises:
            OSError: It cannot be written as a whole; then nothing else should be done.
        """
        payload = json.dumps(outcome.to_dict(), ensure_ascii=True).encode()
        # A line break first: what was left unfinished before then damages no line of ours.
        line = b"\n%08x %s\n" % (zlib.crc32(payload), payload)
        if os.write(self._file, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._remember(outcome, fresh=True)

    @property
    def is_due(self) -> bool:
        """Whether rows should be brought to the disk again."""
        return time.monotonic() - self._synced > _SYNC_S

    def sync(self) -> None:
        """Wait until all rows are on the disk; another thread may add some meanwhile."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Flush and close; the index is gone."""
        try:
            self.sync()
        finally:
            os.close(self._file)
            self._index.close()

    def find(self, identity: str) -> Known | None:
        """What is known of an address."""
        query = "SELECT status, reason, path, bytes, sha256, fresh FROM addresses WHERE id = ?"
        row = self._index.execute(query, (identity,)).fetchone()
        return Known(*row) if row else None

    def queue(self, identity: str) -> None:
        """Note that an address is being asked for, so that a list which names it twice does not ask twice. Not written to the file."""
        self._index.execute("INSERT OR REPLACE INTO addresses VALUES (?, ?, '', '', 0, '', 1)", (identity, QUEUED))

    def database(self) -> sqlite3.Connection:
        """The index, for tables of a moment beside its own."""
        return self._index

    def doubled(self, at_least: int, most: int) -> list[tuple[int, str]]:
        """Contents that arrived from many addresses, which may be placeholders for images that are gone: number and path."""
        query = "SELECT count(*), min(path) FROM addresses WHERE status = ? GROUP BY sha256 HAVING count(*) >= ? ORDER BY 1 DESC LIMIT ?"
        return [(int(count), str(path)) for count, path in self._index.execute(query, (ARRIVED, at_least, most))]

    def _remember(self, outcome: Outcome, fresh: bool) -> None:
        row = (outcome.id, outcome.status, outcome.reason, outcome.path, outcome.bytes, outcome.sha256, fresh)
        self._index.execute("INSERT OR REPLACE INTO addresses VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _load(self) -> int:
        """Fill the index; gives the number of lines that are cut or damaged."""
        damaged = 0
        try:
            with open_regular(self.path) as file:
                while line := file.readline(_MAX_LINE):
                    if line.strip():
                        damaged += not self._load_line(line)
        except FileNotFoundError:
            pass
        return damaged

    def _load_line(self, line: bytes) -> bool:
        try:
            outcome = Outcome(**json.loads(payload_of(line) or b""))
        except (ValueError, TypeError, RecursionError):
            return False
        fine = isinstance(outcome.id, str) and isinstance(outcome.path, str) and outcome.status in (ARRIVED, *FAILURES)
        if fine:
            self._remember(outcome, fresh=False)
        return fine
