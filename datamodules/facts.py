"""Facts of images that say nothing of how they were made, but may give the label away: of the file, and of the pixels.

A detector is no evidence where the file's format, its size, or the mean colour separates real from generated images as well as it does.
The audit compares both on the same images.
"""

import json
import re
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules import perturbations
from datamodules.memo import CONTENT, Form, Memo
from datamodules.perturbations import Pixels
from datamodules.reader import FORMATS, DecodedImage, ImageError, read_image
from datamodules.records import Record, seed_of

FactsOfImage = dict[str, float | str]
"""Facts of one image by column; what is not known is left out."""

MEMO = "facts.txt"  # another name where a fact is computed otherwise

DESCRIPTIONS: Mapping[str, str] = {
    "fact_format": "Format of the file, by its content.",
    "fact_bytes": "Length of the file in bytes.",
    "fact_bits_per_pixel": "Bits of the file for each pixel.",
    "fact_jpeg_quality": "Quality of a JPEG, 1 to 100: that of libjpeg whose luma quantisation table is nearest.",
    "fact_chroma": "Chroma subsampling of a JPEG.",
    "fact_width": "Width in pixels, upright.",
    "fact_height": "Height in pixels, upright.",
    "fact_aspect": "Width over height.",
    "fact_high_frequency": "Energy of the finest detail: mean square of the luminance's second difference across and down.",
    "fact_red": "Mean of the red channel, 0 to 255.",
    "fact_green": "Mean of the green channel, 0 to 255.",
    "fact_blue": "Mean of the blue channel, 0 to 255.",
    "fact_source_format": "Format of the file before it was copied or stored again, as the manifest has it.",
    "fact_source_width": "Width in pixels before the image was copied or stored again.",
    "fact_source_height": "Height in pixels before the image was copied or stored again.",
    "fact_source_aspect": "Width over height before the image was copied or stored again.",
    "fact_source_bytes": "Length of the file in bytes before it was copied or stored again.",
}
"""All columns, with a sentence each."""

TEXT_FACTS = ("fact_format", "fact_chroma", "fact_source_format")
"""Columns that are categories."""

NUMBER_FACTS = tuple(name for name in DESCRIPTIONS if name not in TEXT_FACTS)
"""Columns that are numbers."""

_NAMES = {name: name for name in DESCRIPTIONS}
_SIZE = ("fact_width", "fact_height", "fact_aspect")
_COLOURS = ("fact_red", "fact_green", "fact_blue")
_OF_PIXELS = frozenset({*_SIZE, *_COLOURS})
_OF_FILES = _OF_PIXELS | {"fact_format", "fact_bytes", "fact_bits_per_pixel"}  # these every image has
_MAY_LACK = {True: frozenset({"fact_high_frequency", "fact_jpeg_quality", "fact_chroma"}), False: frozenset({"fact_high_frequency"})}
_LIMITS = {"fact_jpeg_quality": 100.0} | dict.fromkeys(_COLOURS, 255.0)
_MOST = 1e15  # no number of an image is larger
_CHROMA = re.compile(r"grey|4:4:4|4:2:2|4:2:0|[1-4]×[1-4]")
_KEY = re.compile(rf"{CONTENT} [a-z0-9_.+]+")
_LUMA = np.array([299, 587, 114], dtype=np.float32)  # thousandths, ITU-R 601: every value and difference is a whole number, and exact
_STRIP = 2**15  # pixels that are looked at together: they stay in the processor's cache, and memory does not grow with the image
_ROWS = 257  # of uint8 whose sum is 65,535 at most
_MIDDLE = 2048  # pixels of a side whose detail is measured
_STANDARD = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(
        18,
        22,
        37,
        56,
        68,
        109,
        103,
        77,
        24,
        35,
        55,
        64,
        81,
        104,
        113,
        92,
        49,
        64,
        78,
        87,
        103,
        121,
        120,
        101,
        72,
        92,
        95,
        98,
        112,
        100,
        103,
        99,
    ),
)


def facts_of_pixels(pixels: Pixels) -> FactsOfImage:
    """Facts that every image has, whatever file it came from.

    Args:
        pixels: uint8 `[H, W, 3]`, RGB.

    Returns:
        `fact_width`, `fact_height`, `fact_aspect`; the mean colours, 0 to 255; `fact_high_frequency` where both sides have 3 pixels.
    """
    height, width = pixels.shape[:2]
    facts: FactsOfImage = {"fact_width": width, "fact_height": height, "fact_aspect": _rounded(width / height)}
    if min(height, width) >= 3:
        facts["fact_high_frequency"] = _rounded(high_frequency(pixels))
    facts |= {name: _rounded(int(total) / (height * width)) for name, total in zip(_COLOURS, _sums(pixels), strict=True)}
    return facts


def _sums(pixels: Pixels) -> NDArray[np.int64]:
    """Sum of each channel, exact; rows are added to rows first, which is quicker than to step from one channel's pixel to the next."""
    rows = pixels.reshape(len(pixels), -1)
    total = np.zeros(rows.shape[1], dtype=np.int64)
    for top in range(0, len(rows), _ROWS):
        total += rows[top : top + _ROWS].sum(axis=0, dtype=np.uint16)
    found: NDArray[np.int64] = total.reshape(-1, 3).sum(axis=0)
    return found


def facts_of_file(image: DecodedImage) -> FactsOfImage:
    """Facts of an image as it is stored, those of its pixels among them.

    Args:
        image: What the reader made of the file.

    Returns:
        All of `facts_of_pixels`; `fact_format`, `fact_bytes`, `fact_bits_per_pixel`; for a JPEG `fact_jpeg_quality` and `fact_chroma`.
    """
    facts = facts_of_pixels(image.pixels)
    facts |= {"fact_format": image.format, "fact_bytes": image.bytes}
    facts["fact_bits_per_pixel"] = _rounded(8 * image.bytes / (image.width * image.height))
    if image.quantisation:
        facts["fact_jpeg_quality"] = jpeg_quality(image.quantisation)
    if image.sampling:
        facts["fact_chroma"] = chroma(image.sampling)
    return facts


def facts_of(image: DecodedImage, pixels: Pixels, perturbation: str) -> FactsOfImage:
    """Facts of what a detector gets to see.

    Args:
        image: What the reader made of the file.
        pixels: The same after the perturbation, uint8 `[H, W, 3]`.
        perturbation: Its name. Under any but `none` there is no file any more, and only the pixels have facts.
    """
    return facts_of_file(image) if perturbation == "none" else facts_of_pixels(pixels)


def source_facts(record: Record) -> FactsOfImage:
    """What a record says of the file from which its own was made: the columns `fact_source_*` that it knows."""
    told = (record.source_format, record.source_width, record.source_height, record.source_bytes)
    names = ("fact_source_format", "fact_source_width", "fact_source_height", "fact_source_bytes")
    facts: FactsOfImage = {name: value for name, value in zip(names, told, strict=True) if value is not None}
    if record.source_width and record.source_height:
        facts["fact_source_aspect"] = _rounded(record.source_width / record.source_height)
    return facts


def high_frequency(pixels: Pixels) -> float:
    """Energy of the finest detail.

    Luminance (ITU-R 601, unrounded, 0 to 255) is filtered with the second difference across and down, `[1, -2, 1] ⊗ [1, -2, 1] / 16`; the
    result is the mean square of the response wherever the kernel fits. A flat image and any ramp have 0, a checkerboard of black and white
    pixels 127.5² = 16256.25, noise of variance v in the luminance 36/256 · v. It rises with noise, sharpening and blocks of a strong JPEG,
    and falls with blur and resizing. Of a larger image the middle 2048 × 2048 pixels are measured, for speed.

    Args:
        pixels: uint8 `[H, W, 3]`, 3 pixels at least on each side.
    """
    pixels = _centre(pixels)
    height, width = pixels.shape[:2]
    rows = max(8, _STRIP // width)
    total = 0.0
    for top in range(2, height, rows):
        luma = pixels[top - 2 : top + rows].astype(np.float32) @ _LUMA
        response = _second_difference(_second_difference(luma).T)
        total += float(np.square(response, out=response).sum(dtype=np.float64))
    return total / ((height - 2) * (width - 2)) / (16 * 1000) ** 2


def _centre(pixels: Pixels) -> Pixels:
    top, left = (max(0, side - _MIDDLE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + _MIDDLE, left : left + _MIDDLE]


def _second_difference(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of neighbours along the first axis, `[N, …]` to `[N - 2, …]`."""
    found: NDArray[np.float32] = values[:-2] + values[2:]
    found -= values[1:-1]
    found -= values[1:-1]
    return found


def jpeg_quality(table: Sequence[int]) -> int:
    """Quality on libjpeg's scale whose luma quantisation table is nearest to a given one.

    libjpeg, and with it Pillow, scales the table of ITU-T T.81, annex K.1, by 50/q below 50 and by 2 − q/50 from there on,
    rounds and limits to 1 … 255. The nearest is the one with the least sum of squared differences, the higher quality of two as near.
    A table that no libjpeg wrote (Photoshop, cameras) gets a number too: that of the libjpeg table that coarsens most alike.

    Args:
        table: 64 numbers row by row.

    Returns:
        1 to 100, exact for tables of libjpeg.
    """
    distances = np.square(_libjpeg_tables() - np.asarray(table, dtype=np.int64)).sum(axis=1)
    return 100 - int(np.argmin(distances[::-1]))


@lru_cache(maxsize=1)
def _libjpeg_tables() -> NDArray[np.int64]:
    """The luma tables of libjpeg at the qualities 1 to 100, `[100, 64]`, by the integer arithmetic of its `jpeg_quality_scaling`."""
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((np.array(_STANDARD) * scale[:, None] + 50) // 100, 1, 255)


def chroma(sampling: Sequence[tuple[int, int]]) -> str:
    """Chroma subsampling in words.

    Args:
        sampling: Horizontal and vertical sampling factors of a JPEG's components, 1 to 4.

    Returns:
        `grey` for one component; `4:4:4`, `4:2:2` or `4:2:0`; else `h×v`, the factors of the first component over the second's, or as they
        stand where those don't divide them.
    """
    if len(sampling) == 1:
        return "grey"
    (across, down), (other_across, other_down) = sampling[:2]
    if across % other_across == 0 and down % other_down == 0:
        across, down = across // other_across, down // other_down
    names = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}
    return names.get((across, down), f"{across}×{down}")


def _rounded(value: float) -> float:
    """Six significant digits: the last bits differ between processors, and lines of the memo stay short."""
    return float(f"{value:.6g}")


class Facts:
    """Facts of images by content hash and perturbation, remembered in a text file under the cache directory (see `Memo`).

    Args:
        cache_dir: Root of the feature cache.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._memo = Memo(Path(cache_dir) / MEMO, "Facts of images", _FORM)

    def remember(self, found: Mapping[tuple[str, str], FactsOfImage]) -> None:
        """Append facts of images, by content hash and perturbation; a memo that cannot be written costs time later, and is no error."""
        self._memo.remember({f"{content} {name}": facts for (content, name), facts in found.items()})

    def known(self, contents: Container[str]) -> dict[str, FactsOfImage]:
        """Facts of files that are remembered, by content hash."""
        found = self._memo.load(lambda key: key.endswith(" none") and key.partition(" ")[0] in contents)
        return {key.partition(" ")[0]: facts for key, facts in found.items()}

    def of(self, records: Sequence[Record], perturbation: str = "none") -> dict[str, FactsOfImage]:
        """Facts of records; files that have none yet are read, by one process of this machine while others wait.

        Args:
            records: Which images.
            perturbation: What they go through first.

        Returns:
            Columns `fact_*` by record key, without those that are not known; under `none` also what the records say of the files' sources.
            An image that cannot be read, or that the perturbation cannot be applied to, is left out.

        Raises:
            DataError: If there is no such perturbation.
        """
        perturb = perturbations.perturbation(perturbation)

        def compute(record: Record) -> FactsOfImage | None:
            try:
                image = read_image(Path(record.path or ""))
                return facts_of(image, perturb(image.pixels, seed_of(record)), perturbation)
            except ImageError:
                return None

        items = {_key(record, perturbation): record if record.path else None for record in records}
        known = self._memo.of(items, compute, f"Facts of images ({perturbation})", lambda key: key in items)
        own = source_facts if perturbation == "none" else lambda record: {}
        found = ((record, known[key]) for record, key in ((r, _key(r, perturbation)) for r in records) if key in known)
        return {record.key: facts | told if (told := own(record)) else facts for record, facts in found}


def _key(record: Record, perturbation: str) -> str:
    return f"{record.content_hash} {perturbation}"


def _write(facts: FactsOfImage) -> str:
    return json.dumps(facts, separators=(",", ":"), allow_nan=False)


def _read(key: str, text: str) -> FactsOfImage | None:
    """Facts of a line of the memo, or none where they are not such as this module writes."""
    facts = json.loads(text, object_pairs_hook=_with_shared_names)
    if not isinstance(facts, dict) or not all(_is_sound(name, value) for name, value in facts.items()):
        return None
    stored = key.endswith(" none")
    needed = _OF_FILES if stored else _OF_PIXELS
    return facts if needed <= facts.keys() <= needed | _MAY_LACK[stored] else None


def _with_shared_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The dictionary of a JSON object; the parser makes its names anew for every line, which is more than the values take."""
    return {_NAMES.get(name, name): value for name, value in pairs}


def _is_sound(name: str, value: object) -> bool:
    if name == "fact_format":
        return value in FORMATS
    if name == "fact_chroma":
        return isinstance(value, str) and _CHROMA.fullmatch(value) is not None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    lowest = 0 if name in _COLOURS or name == "fact_high_frequency" else 1e-9
    return lowest <= value <= _LIMITS.get(name, _MOST)


_FORM = Form(_KEY, _write, _read)
