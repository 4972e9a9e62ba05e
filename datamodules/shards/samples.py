"""Where all samples of a cache lie, in little memory: columns of numbers, and one dictionary from names to rows."""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.shards.index import Row


def named(key: str, caption: str) -> str:
    """Name of a sample among all: its key, and the hash of the caption that its features depend on, if any."""
    return f"{key} {caption}" if caption else key


class Samples:
    """Rows of indexes, without an object a row: a million samples take some 250 MB, and give the garbage collector nothing to look at.

    Attributes:
        numbers: Row number of each sample by name; of a sample that came twice the first one.
        size: Bytes of each row.
        diagnostics: A column for each of the extractor's figures, NaN where a row has none; after `close`.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.size = array("I")
        self.diagnostics: dict[str, NDArray[np.float64]] = {}
        self._shard, self._offset, self._checksum = array("I"), array("Q"), array("I")
        self._figures: dict[str, array[float]] = {}

    def add(self, shard: int, rows: Sequence[Row]) -> None:
        """Append the rows of one shard, those that are there already left out.

        Args:
            shard: Its number.
            rows: Of its index, checked.
        """
        for row in rows:
            number = len(self.size)
            if self.numbers.setdefault(named(row.key, row.caption), number) != number:
                continue
            self._shard.append(shard)
            self._offset.append(row.offset)
            self.size.append(row.size)
            self._checksum.append(row.checksum)
            for name, value in row.diagnostics.items():
                column = self._figures.setdefault(name, array("d"))
                column.extend([np.nan] * (number - len(column)))
                column.append(value)

    def close(self) -> None:
        """Nothing is added any more."""
        for column in self._figures.values():
            column.extend([np.nan] * (len(self.size) - len(column)))
        self.diagnostics = {name: np.frombuffer(column) for name, column in self._figures.items()}

    def place(self, number: int, key: str, caption: str) -> tuple[int, Row]:
        """Number of a sample's shard, and where it lies in it."""
        return self._shard[number], Row(key, caption, self._offset[number], self.size[number], self._checksum[number], {})
