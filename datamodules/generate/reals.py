"""A user's own real images: which there are, and the pixels that both the stored real and its fake are made of."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.captions import clean_caption
from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular
from datamodules.reader import DEFAULT_LIMITS, ImageError, read_image
from datamodules.records import REAL
from datamodules.sources.folder import FAKE_FOLDERS, images_below
from datamodules.sources.manifest import ManifestSource

Pixels = NDArray[np.uint8]
Skip = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Real:
    """A real image that a fake is to be made from.

    Attributes:
        id: Its path relative to the folder or manifest that names it.
        path: Its file.
        generator: Name of the reals' source.
        group: What a split must not separate it from; empty where nothing says it.
        split: `train`, `val`, `test`, or none: then the run that uses it cuts the splits by group.
        caption: One line of text, empty where there is none.
        caption_source: Where that comes from.
    """

    id: str
    path: Path
    generator: str
    group: str = ""
    split: str | None = None
    caption: str = ""
    caption_source: str = ""


@dataclass(frozen=True, slots=True)
class Square:
    """What real and fake are both made of: the image's centre square at the model's size.

    Attributes:
        real: Where it comes from.
        digest: SHA-256 of the file's content, 64 hex digits: the seed of all that is random.
        pixels: uint8 `[S, S, 3]`.
        mask: The user's mask of the same square, `[S, S]`; None without one.
        format: Of the file.
        width: Of the file, in pixels.
        height: Likewise.
        bytes: Length of the file.
    """

    real: Real
    digest: str
    pixels: Pixels
    mask: NDArray[np.bool_] | None
    format: str
    width: int
    height: int
    bytes: int

    @property
    def stem(self) -> str:
        """Name of its files."""
        return self.digest[:16]


MaskOf = Callable[[str, int, int], NDArray[np.bool_]]
"""From an image's id, height and width to its mask."""


def read_reals(images: Path, skip: Skip, allow_outside: bool = False) -> list[Real]:
    """The real images of a folder or a manifest.

    Args:
        images: A folder, all of whose images are real (folders in it that are named for generated images are left out), or a manifest
            (`.csv`, `.jsonl`, `.parquet`), of which the real images are taken.
        skip: Called with id and reason for each image that cannot be used.
        allow_outside: Also read files outside of the manifest's folder.

    Returns:
        The images in order. Whether they can be read is not known yet.

    Raises:
        DataError: There is no such file or folder, or no real image in it.
    """
    if not images.exists():
        msg = f"--images {images} does not exist: name a folder of real images, or a manifest"
        raise DataError(msg)
    if images.is_dir() and allow_outside:
        msg = f"--allow_outside is for manifests; {images} is a folder: leave it out"
        raise DataError(msg)
    found = list(_from_folder(images, skip) if images.is_dir() else _from_manifest(images, skip, allow_outside))
    if not found:
        msg = f"--images {images} names no real image that can be used: check that it is the right one, and the labels of a manifest"
        raise DataError(msg)
    return found


def _from_folder(folder: Path, skip: Skip) -> Iterator[Real]:
    root = os.path.abspath(folder.expanduser())
    for path in images_below(Path(root), skip):
        name = os.path.relpath(path, root)
        if any(part.lower() in FAKE_FOLDERS for part in Path(name).parts[:-1]):
            skip(name, "it lies in a folder of generated images")
        else:
            yield Real(name, Path(path), Path(root).name or "real")


def _from_manifest(path: Path, skip: Skip, allow_outside: bool) -> Iterator[Real]:
    folder = os.path.abspath(path.expanduser().parent)
    for record in ManifestSource(str(path), allow_outside=allow_outside).entries(Path()):
        if record.label != REAL:
            continue
        name = os.path.relpath(record.path or "", folder)
        try:
            caption = clean_caption(record.caption) if record.caption else ""
        except ValueError as error:
            skip(name, str(error))
            continue
        source = (record.caption_source or "manifest") if caption else ""
        yield Real(name, Path(record.path or ""), record.generator, record.group, record.split, caption, source)


def read_square(real: Real, size: int, mask_of: MaskOf | None = None) -> Square:
    """The centre square of a real image at the model's size, bicubic with antialiasing.

    Args:
        real: Which one.
        size: Side in pixels. A smaller image is refused: enlarged, it would show the traces of that.
        mask_of: The user's masks, where there are any.

    Raises:
        ImageError: It cannot be read, is too small, or has no usable mask.
    """
    try:
        with open_regular(real.path) as file:
            content = file.read(DEFAULT_LIMITS.max_bytes + 1)
    except OSError as error:
        msg = f"its file cannot be read: {describe_os_error(error)}"
        raise ImageError(msg) from error
    decoded = read_image(content)
    height, width = decoded.pixels.shape[:2]
    if min(height, width) < size:
        msg = f"it is too small (its shorter side has {min(height, width)} pixels, the model's size is {size}; --size sets another)"
        raise ImageError(msg)
    mask = None
    if mask_of is not None:
        given = np.repeat(mask_of(real.id, height, width)[..., None] * np.uint8(255), 3, axis=2)
        mask = _square(given, size)[..., 0] >= 128
        if not mask.any():
            msg = "its mask marks nothing in the centre square"
            raise ImageError(msg)
    digest = hashlib.sha256(content).hexdigest()
    pixels = _square(decoded.pixels, size)
    return Square(real, digest, pixels, mask, decoded.format, decoded.width, decoded.height, len(content))


def _square(pixels: Pixels, size: int) -> Pixels:
    import torch

    from modules.images import center_square

    return center_square(torch.from_numpy(pixels).permute(2, 0, 1), size).permute(1, 2, 0).contiguous().numpy()
