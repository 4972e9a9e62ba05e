"""What is computed of images once, and remembered in a text file under the cache directory."""

import logging
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from tqdm import tqdm

from datamodules.files import append_lines, lock, payload_of
from datamodules.hashing import open_regular

logger = logging.getLogger(__name__)

CONTENT = r"[0-9a-f]{32}"
"""Pattern of a content hash, which every key of a memo begins with."""

_MAX_LINE = 4096  # bytes; a longer one is no line of ours, and must not fill the memory
_SLICE = 1000  # images that an interrupted run loses at most
_PROGRESS_FROM = 200  # images; below, the bar would only flicker

Value = TypeVar("Value")
Item = TypeVar("Item")


class Form(NamedTuple, Generic[Value]):
    """How a memo's values stand in its lines.

    Attributes:
        key: Pattern of a whole key.
        write: A value as text without spaces and line breaks.
        read: The value of a key's text, or none where it is not one; raises nothing but `ValueError` and `RecursionError`.
    """

    key: re.Pattern[str]
    write: Callable[[Value], str]
    read: Callable[[str, str], Value | None]


class Memo(Generic[Value]):
    """Values by content hash (or what begins with it), in a text file.

    Like the memo of content hashes it is only ever appended to, a line an image with a checksum before it, and a line that was
    cut or mixed up is passed over: any number of processes can share it, without locks.

    Args:
        path: The file.
        what: What it holds, for messages: `Perceptual hashes`.
        form: How values are written.
    """

    def __init__(self, path: Path, what: str, form: Form[Value]) -> None:
        self.path = path
        self.what = what
        self.form = form

    def remember(self, found: Mapping[str, Value]) -> None:
        """Append values by key; a memo that cannot be written costs time later, and is no error."""
        if not found:
            return
        try:
            append_lines(self.path, [f"{key} {self.form.write(value)}".encode() for key, value in found.items()])
        except OSError as error:
            logger.warning("%s cannot be remembered in %s (%s): they are computed again.", self.what, self.path, error)

    def load(self, wanted: Callable[[str], bool] = lambda key: True) -> dict[str, Value]:
        """Values that are remembered, by key; of a key that stands there twice the last one.

        Args:
            wanted: Which keys; what is not wanted is not parsed.
        """
        known: dict[str, Value] = {}
        try:
            with open_regular(self.path) as file:
                while line := file.readline(_MAX_LINE):
                    key, value = self._parse(line, wanted)
                    if value is not None:
                        known[key] = value
        except OSError:
            pass  # there is none yet
        return known

    def _parse(self, line: bytes, wanted: Callable[[str], bool]) -> tuple[str, Value | None]:
        try:
            key, _, text = (payload_of(line) or b"").decode().rpartition(" ")
            if self.form.key.fullmatch(key) and wanted(key):
                return key, self.form.read(key, text)
        except (ValueError, RecursionError):  # cut, damaged, or nested without end
            pass
        return "", None

    def of(
        self,
        items: Mapping[str, Item | None],
        compute: Callable[[Item], Value | None],
        task: str,
        wanted: Callable[[str], bool] = lambda key: True,
    ) -> dict[str, Value]:
        """Values of images: those that are missing are computed in threads, by one process of this machine while others wait.

        Args:
            items: What `compute` takes, by key; none for an image that cannot be had.
            compute: Gives the value of one image, or none where it has none, which is not remembered.
            task: What the progress bar says.
            wanted: As for `load`; must hold for the keys of `items`.

        Returns:
            Values by key, in the order of `items`; those without one are left out.
        """
        known = self.load(wanted)
        if _missing(items, known):
            with lock(self.path.with_suffix(".lock")):
                known = self.load(wanted)
                known |= self._compute(_missing(items, known), compute, task)
        return {key: known[key] for key in items if key in known}

    def _compute(self, items: Mapping[str, Item], compute: Callable[[Item], Value | None], task: str) -> dict[str, Value]:
        found: dict[str, Value] = {}
        keys = list(items)
        quiet = None if len(keys) > _PROGRESS_FROM else True
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, tqdm(total=len(keys), desc=task, unit="image", disable=quiet) as bar:
            for start in range(0, len(keys), _SLICE):
                part = keys[start : start + _SLICE]
                new = {}
                for key, value in zip(part, pool.map(compute, (items[key] for key in part)), strict=True):
                    bar.update()
                    if value is not None:
                        new[key] = value
                self.remember(new)
                found |= new
        return found


def _missing(items: Mapping[str, Item | None], known: Mapping[str, object]) -> dict[str, Item]:
    return {key: item for key, item in items.items() if item is not None and key not in known}
