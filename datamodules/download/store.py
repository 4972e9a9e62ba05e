"""Images on disk: named by their content, there as a whole or not at all."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from datamodules.download.outcomes import NOT_IMAGE, FetchError
from datamodules.files import replacing, write_atomically
from datamodules.reader import SUFFIX_OF, ImageError, ReaderLimits, read_image

IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Stored:
    """An image of the folder.

    Attributes:
        path: Relative to the folder.
        sha256: Of its content.
        bytes: Its length.
    """

    path: str
    sha256: str
    bytes: int


class Store:
    """The images of a folder. Images of the same content are stored once.

    Args:
        folder: Where everything goes.
        limits: What an image may be.
    """

    def __init__(self, folder: Path, limits: ReaderLimits) -> None:
        self.folder = folder
        self._limits = limits

    def check(self, data: bytes) -> Stored:
        """Decode an image: where it belongs, before it lies there. May be called from several threads.

        Args:
            data: What a server sent.

        Raises:
            FetchError: It is no image that the reader takes.
        """
        try:
            decoded = read_image(data, self._limits)
        except ImageError as error:
            raise FetchError(NOT_IMAGE, error.reason) from error
        digest = hashlib.sha256(data).hexdigest()
        return Stored(f"{IMAGES}/{digest[:2]}/{digest[:32]}{SUFFIX_OF[decoded.format]}", digest, len(data))

    def put(self, checked: Stored, data: bytes) -> None:
        """Store the bytes as they came, on the disk when this returns. May be called from several threads.

        Args:
            checked: Of `check`.
            data: What was checked.

        Raises:
            OSError: It cannot be written.
        """
        if not self.has(checked.path, checked.bytes):
            write_atomically(self.folder / checked.path, data)

    def has(self, path: str, size: int) -> bool:
        """Whether an image lies there in its whole length."""
        try:
            return os.stat(self.folder / path).st_size == size
        except OSError:
            return False

    def name(self, path: str, name: str) -> str:
        """Give an image another name besides: a hard link where the file system has them, else a copy.

        Args:
            path: Relative to the folder.
            name: Likewise, without suffix.

        Returns:
            The name with the suffix.

        Raises:
            OSError: It cannot be written.
        """
        source = self.folder / path
        target = self.folder / f"{name}{source.suffix}"
        with contextlib.suppress(OSError):
            if os.path.samefile(source, target):
                return f"{name}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in target.parent.glob(f"{target.stem}.*"):  # another image that had the name before
            old.unlink()
        try:
            os.link(source, target)
        except OSError:
            with source.open("rb") as read, replacing(target) as written:
                while piece := read.read(1 << 20):
                    written.write(piece)
        return f"{name}{source.suffix}"
