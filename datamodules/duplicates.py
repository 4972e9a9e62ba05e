"""Near-duplicates: the same picture in two splits, saved again, resized, brightened or a little cropped.

Every image that is decoded for extraction leaves a perceptual hash under the cache directory. It holds 256 signs of luminance gradients
and 16 mean colours. Two images count as the same picture where at most 28 signs differ and no colour does by more than 20 levels. On 1,800
real images (1.6 million pairs) no two distinct ones do, and over 99.5% of copies do after JPEG of quality 40, resizing to half and back, 5%
of brightness or 2% cropped all round; a crop from one corner moves the picture, and is found less often.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import DataError
from datamodules.memo import CONTENT, Form, Memo
from datamodules.reader import ImageError, read_image
from datamodules.records import SPLITS, Record

logger = logging.getLogger(__name__)

MEMO = "perceptual-hashes.txt"  # another name where the hash changes
DISTANCE = 28  # signs that may differ
COLOUR = 20  # levels that a mean colour may differ by
MIN_GRADIENTS = 64  # of the 256 must be steeper than _STEEP levels: what is nearly flat looks like everything that is
_STEEP = 2
_SIGN_BYTES, _COLOUR_BYTES = 32, 48
# Two hashes are compared where they agree in one of 21 bands of 12 signs: always so up to a distance of 20, in 99.8% of cases at 28.
_BANDS, _WIDTH = 21, 12
_ORDER = np.random.default_rng(0).permutation(8 * _SIGN_BYTES)  # neighbouring signs agree too often to share a band
_CHUNK = 2**17  # pairs that are compared at once
_ROWS = 2**12  # hashes that are taken apart at once
_HASH = re.compile(r"[0-9a-f]{160}")
_RANK = {name: rank for rank, name in enumerate(SPLITS)}

Bytes = NDArray[np.uint8]


def perceptual_hash(pixels: Bytes) -> str:
    """Hash of what an image looks like.

    Args:
        pixels: uint8 `[H, W, 3]`.

    Returns:
        160 hex digits, or nothing for an image that is too flat to be told from others.
    """
    image = Image.fromarray(pixels)
    image = image.reduce(max(1, min(image.size) // 128))  # exact means, and quick; what follows looks at 17 pixels
    grey = image.convert("L")
    across = np.diff(np.asarray(grey.resize((17, 8), Image.Resampling.LANCZOS), dtype=np.int16), axis=1)
    down = np.diff(np.asarray(grey.resize((8, 17), Image.Resampling.LANCZOS), dtype=np.int16), axis=0)
    gradients = np.concatenate([across.ravel(), down.ravel()])
    if np.count_nonzero(abs(gradients) > _STEEP) < MIN_GRADIENTS:
        return ""
    return np.packbits(gradients > 0).tobytes().hex() + image.resize((4, 4), Image.Resampling.BOX).tobytes().hex()


class PerceptualHashes:
    """Perceptual hashes by content hash, remembered in a text file under the cache directory (see `Memo`).

    Args:
        cache_dir: Root of the feature cache.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._memo = Memo(Path(cache_dir) / MEMO, "Perceptual hashes", _FORM)

    def remember(self, hashes: Mapping[str, str]) -> None:
        """Append the hashes of images, by content hash; a memo that cannot be written costs time later, and is no error."""
        self._memo.remember(hashes)

    def load(self) -> dict[str, str]:
        """All hashes that are remembered."""
        return self._memo.load()

    def of(self, records: Sequence[Record]) -> dict[str, str]:
        """Hashes of records by content hash; files that have none yet are read, by one process of this machine while others wait."""
        paths = {record.content_hash: record.path or None for record in records}
        return self._memo.of(paths, _hash_file, "Looking for near-duplicates", paths.__contains__)


def _read_line(content: str, text: str) -> str | None:
    found = text.replace("-", "")
    return found if not found or _HASH.fullmatch(found) else None


_FORM = Form(re.compile(CONTENT), lambda found: found or "-", _read_line)


def _hash_file(path: str) -> str | None:
    try:
        return perceptual_hash(read_image(Path(path)).pixels)
    except ImageError:
        return None


def near_duplicates(hashes: Mapping[str, str], records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Images of training and validation that a later split has too.

    Args:
        hashes: Perceptual hashes by content hash; records without one are left out.
        records: Records; those without a split are left out.

    Returns:
        Each such image with one of the later split that looks the same, in the order of the records. It does not depend on that order
        which images are found.
    """
    placed = [record for record in records if record.split in _RANK and hashes.get(record.content_hash)]
    if not placed:
        return []
    raw = np.frombuffer(bytes.fromhex("".join(hashes[record.content_hash] for record in placed)), dtype=np.uint8)
    raw = raw.reshape(len(placed), _SIGN_BYTES + _COLOUR_BYTES)
    ranks = np.array([_RANK[record.split or ""] for record in placed])
    partner = np.full(len(placed), -1)
    for rank in range(len(SPLITS) - 1):
        earlier, later = np.flatnonzero(ranks == rank), np.flatnonzero(ranks > rank)
        if len(earlier) and len(later):
            # Copies of one hash are compared once: ten thousand placeholders are one picture.
            ours, inverse = np.unique(raw[earlier], axis=0, return_inverse=True)
            theirs, first = np.unique(raw[later], axis=0, return_index=True)
            found = _partners(ours, theirs)[inverse.ravel()]
            partner[earlier] = np.where(found >= 0, later[first[found]], -1)
    return [(placed[i], placed[partner[i]]) for i in np.flatnonzero(partner >= 0)]


def _partners(ours: Bytes, theirs: Bytes) -> NDArray[np.int64]:
    """For each hash of `ours` the position of one of `theirs` that looks the same, or -1; uint8 `[N, 80]` and `[M, 80]`."""
    partner = np.full(len(ours), -1)
    our_words, their_words = (np.ascontiguousarray(part[:, :_SIGN_BYTES]).view(np.uint64) for part in (ours, theirs))
    our_keys, their_keys = _band_keys(ours), _band_keys(theirs)
    for band in range(_BANDS):
        open_ = np.flatnonzero(partner < 0)
        for i, j in _same_key(our_keys[open_, band], their_keys[:, band]):
            near = np.bitwise_count(our_words[open_[i]] ^ their_words[j]).sum(axis=1, dtype=np.int64) <= DISTANCE
            left, right = open_[i[near]], j[near]
            colours = abs(ours[left, _SIGN_BYTES:].astype(np.int16) - theirs[right, _SIGN_BYTES:])
            same = colours.max(axis=1, initial=0) <= COLOUR
            partner[left[same][::-1]] = right[same][::-1]  # the first one stays
    return partner


def _band_keys(hashes: Bytes) -> NDArray[np.uint16]:
    """The bands of each hash as numbers, `[N, bands]`."""
    keys = np.empty((len(hashes), _BANDS), dtype=np.uint16)
    weights = (1 << np.arange(_WIDTH)).astype(np.uint16)
    for start in range(0, len(hashes), _ROWS):
        signs = np.unpackbits(hashes[start : start + _ROWS, :_SIGN_BYTES], axis=1)[:, _ORDER[: _BANDS * _WIDTH]]
        keys[start : start + _ROWS] = signs.reshape(-1, _BANDS, _WIDTH).astype(np.uint16) @ weights
    return keys


def _same_key(ours: NDArray[np.uint16], theirs: NDArray[np.uint16]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions of all pairs of equal keys, in chunks that fit in memory."""
    order = np.argsort(theirs, kind="stable")
    low, high = (np.searchsorted(theirs[order], ours, side) for side in ("left", "right"))
    ends = np.cumsum(high - low)
    start = 0
    while start < len(ours):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, "right")))
        counts = (high - low)[start:stop]
        i = np.repeat(np.arange(start, stop), counts)
        within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield i, order[low[i] + within]
        start = stop


def check_near_duplicates(records: Sequence[Record], cache_dir: Path, on_leak: str = "error") -> list[Record]:
    """Refuse, or remove, images of training and validation that a later split has almost the same.

    Args:
        records: Records with splits and content hashes, after `check_leaks`; those without a split are passed through.
        cache_dir: Root of the feature cache, where the perceptual hashes are. Images without one are read.
        on_leak: `error`, or `drop` to remove such images. The test split always stays whole, and validation does against training.

    Returns:
        The records that are left, in the same order; the same on every rank.

    Raises:
        DataError: There are near-duplicates and `on_leak` is `error`, or `on_leak` is something else.
    """
    if on_leak not in ("error", "drop"):
        message = f"on_leak is {on_leak!r}: choose error or drop."
        raise DataError(message)
    if len({record.split for record in records} & _RANK.keys()) < 2:
        return list(records)
    pairs = near_duplicates(PerceptualHashes(Path(cache_dir)).of(records), records)
    if not pairs:
        return list(records)
    if on_leak == "error":
        shown = "; ".join(" and ".join(f"{r.split} ({r.path or r.url or r.key})" for r in pair) for pair in pairs[:3])
        message = (
            f"{len(pairs)} images of train and val are near-duplicates of one in a later split: {shown}. Give such images a common group, "
            "correct the splits, or set on_leak to drop, which removes them from training and validation."
        )
        raise DataError(message)
    dropped = {record.key for record, _ in pairs}
    counts = Counter(record.split for record, _ in pairs)
    logger.warning("Removed %d images from train and %d from val: near-duplicates of a later split's.", counts["train"], counts["val"])
    return [record for record in records if record.key not in dropped]
