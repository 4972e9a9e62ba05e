"""Named perturbations of an image: pure functions whose parameters are in their names.

`none` leaves the image as it is; `jpeg_40` stores it as JPEG at quality 40 with 4:2:0 chroma subsampling, `jpeg_40_444` without.
"""

import io
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import DataError

Pixels = NDArray[np.uint8]
Perturbation = Callable[[Pixels, int], Pixels]

_JPEG = re.compile(r"jpeg_(\d{1,3})(_444)?")


def perturbation(name: str) -> Perturbation:
    """The perturbation of a name.

    Args:
        name: `none`, `jpeg_Q` or `jpeg_Q_444` with a quality Q from 1 to 100.

    Returns:
        A function of an image, uint8 `[H, W, 3]`, and a seed from its content, that gives an image.

    Raises:
        DataError: If there is no such perturbation.
    """
    if name == "none":
        return _unchanged
    match = _JPEG.fullmatch(name)
    if match and 1 <= int(match[1]) <= 100:
        quality, subsampling = int(match[1]), 0 if match[2] else 2
        return lambda image, seed: _jpeg(image, quality, subsampling)
    msg = f"perturbation {name!r} is not known; there are none, jpeg_Q and jpeg_Q_444 (Q from 1 to 100)"
    raise DataError(msg)


def _unchanged(image: Pixels, seed: int) -> Pixels:
    return image


def _jpeg(image: Pixels, quality: int, subsampling: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(buffer, formats=["JPEG"]) as stored:
        return np.asarray(stored.convert("RGB"))
