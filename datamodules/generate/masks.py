"""Which part of an image is generated: seeded masks of a stated area, or a user's own.

The masks of one image are nested: a larger one holds a smaller one (a box up to the rounding of its corners). So scores by fraction
differ by the fraction, and not also by what happens to be in it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from datamodules.errors import DataError
from datamodules.reader import ImageError, read_image
from datamodules.sources.folder import images_below

KINDS = ("box", "freeform")
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)
_SMOOTH = 8  # a freeform mask's details are about the image's side over this
_HALF = 128  # grey level of a user's mask from which a pixel is generated

Mask = NDArray[np.bool_]


def random_mask(kind: str, fraction: float, size: int, seed: int) -> Mask:
    """A mask of an exact area.

    Args:
        kind: `box` (a rectangle with sides of up to 2:1 where it fits, whose last column may be cut so that the area is exact) or
            `freeform` (where a smooth random field is largest).
        fraction: Share of the pixels, above 0 and at most 1; one pixel at least.
        size: Side of the image in pixels.
        seed: Decides place and form; of one seed masks are nested.

    Returns:
        `[size, size]`, true where pixels are generated; `max(1, round(fraction · size²))` of them.

    Raises:
        ValueError: Another kind, or a fraction out of range.
    """
    if kind not in KINDS or not 0 < fraction <= 1:
        msg = f"no mask of kind {kind!r} and fraction {fraction}: kinds are {', '.join(KINDS)}, fractions above 0 and at most 1"
        raise ValueError(msg)
    count = max(1, round(fraction * size * size))
    rng = np.random.default_rng(seed)
    return _box(rng, count, size) if kind == "box" else _freeform(rng, count, size)


def _box(rng: np.random.Generator, count: int, size: int) -> Mask:
    aspect, down, right = float(np.exp(rng.uniform(-np.log(2), np.log(2)))), rng.uniform(), rng.uniform()
    height = int(np.clip(round((count * aspect) ** 0.5), -(-count // size), min(size, count)))
    width = -(-count // height)
    top, left = round(down * (size - height)), round(right * (size - width))
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + height, left : left + width] = True
    mask[top + height - (height * width - count) : top + height, left + width - 1] = False
    return mask


def _freeform(rng: np.random.Generator, count: int, size: int) -> Mask:
    field = gaussian_filter(rng.normal(size=(size, size)), size / _SMOOTH)
    mask = np.zeros(size * size, dtype=bool)
    mask[np.argsort(-field.ravel(), kind="stable")[:count]] = True
    return mask.reshape(size, size)


class MaskFolder:
    """A user's masks, one an image, each with the name of its image (whatever the suffix) in the same folders; bright is generated.

    Args:
        folder: Where they lie.

    Raises:
        DataError: No such folder, no images in it, or two masks of one name.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            msg = f"--masks {folder} is not a folder: name the one that holds the masks"
            raise DataError(msg)
        self._paths: dict[str, Path] = {}
        for path in images_below(folder, lambda where, why: None):
            name = _without_suffix(Path(path).relative_to(folder).as_posix())
            if name in self._paths:
                msg = f"--masks {folder} has two masks called {name!r}: nobody can say which is meant; remove one"
                raise DataError(msg)
            self._paths[name] = Path(path)
        if not self._paths:
            msg = f"--masks {folder} holds no images: name the folder that holds the masks"
            raise DataError(msg)

    def read(self, name: str, height: int, width: int) -> Mask:
        """The mask of an image.

        Args:
            name: Of the image, relative to its folder.
            height: Of the image in pixels, upright.
            width: Likewise.

        Returns:
            `[height, width]`.

        Raises:
            ImageError: There is none, it cannot be read, or it has another size.
        """
        path = self._paths.get(_without_suffix(name))
        if path is None:
            msg = "it has no mask"
            raise ImageError(msg)
        try:
            pixels = read_image(path).pixels
        except ImageError as error:
            msg = f"its mask cannot be used: {error.reason}"
            raise ImageError(msg) from error
        if pixels.shape[:2] != (height, width):
            msg = f"its mask has another size ({pixels.shape[1]}x{pixels.shape[0]} pixels, the image {width}x{height})"
            raise ImageError(msg)
        bright: Mask = pixels.max(axis=2) >= _HALF
        return bright


def _without_suffix(name: str) -> str:
    return str(Path(name).with_suffix("")) if Path(name).name else name


def whole_cells(mask: Mask, cell: int) -> Mask:
    """The mask grown to whole cells of a latent: true in every cell that has a pixel in it.

    Args:
        mask: `[S, S]`.
        cell: Pixels of a side of a latent's cell.
    """
    places = np.arange(-(-mask.shape[0] // cell)) * cell
    held = np.maximum.reduceat(np.maximum.reduceat(mask, places, axis=0), places, axis=1)
    grown: Mask = np.repeat(np.repeat(held, cell, axis=0), cell, axis=1)[: mask.shape[0], : mask.shape[1]]
    return grown
