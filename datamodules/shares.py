"""Shares of a data set for independent jobs, which need nothing of each other but the same records."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.errors import DataError
from datamodules.records import Record, seed_of

MOST = 9999  # jobs

_TEXT = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")


@dataclass(frozen=True, slots=True)
class Share:
    """One of several parts of a data set: the images whose content hash falls into it.

    All shares together hold every image once, whatever order or place its file has. Further files of one content are in one share.

    Attributes:
        number: Which, from 1.
        of: How many there are.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """A share as it is written, `3/8`.

        Raises:
            DataError: It is none.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None or int(found[1]) > int(found[2]):
            msg = f"--share {text}: give the number of a share and how many there are, from 1/1 to {MOST}/{MOST}, for example 3/8"
            raise DataError(msg)
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def number_of(self, record: Record) -> int:
        """Number of the share that an image is in, from 1."""
        return seed_of(record) % self.of + 1

    def part(self, records: Sequence[Record]) -> list[Record]:
        """The images of this share, in the same order."""
        return [record for record in records if self.number_of(record) == self.number]


WHOLE = Share()
