"""The only place that decodes an untrusted image.

What is decoded is decided here and not by Pillow: the format by the file's first bytes and an allow-list, the size by the
header before any pixel is decoded. Whatever a hostile file makes a decoder do comes out as `ImageError`.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")
SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    ".webp": "WebP",
    ".gif": "GIF",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}
"""Formats by the suffix that a file of theirs has, in lower case."""

SUFFIX_OF = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
"""The suffix that a file of each format gets here."""

# The classes and not Image.open: that one warns of large images, or refuses them, by a limit of the whole process before
# ours is asked, and hands the secondary pictures in a phone's JPEG to another plugin.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
}
_PILLOW_GUARD = 2 * (1024**3 // 12)  # pixels; above, some of Pillow's plugins refuse whatever we say
_MAX_SCANS = 200  # an encoder writes about ten; each costs a pass over all pixels however short it is
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_OPAQUE_MODES = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """An image that is refused.

    Attributes:
        reason: One sentence for a person, without the path.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """What an image may be at most and at least; all of it is checked before a pixel is decoded.

    Attributes:
        max_bytes: Length of the file.
        max_pixels: Width times height. 64 million pixels need about one gigabyte at the worst moment of decoding.
        min_side: Shorter side in pixels.
        max_aspect: Longer side over shorter side.
    """

    max_bytes: int = 200_000_000
    max_pixels: int = 64_000_000
    min_side: int = 16
    max_aspect: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= _PILLOW_GUARD:
            message = f"max_pixels is {self.max_pixels}: choose 1 to {_PILLOW_GUARD}, where Pillow's own guard begins."
            raise DataError(message)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as every other part of the project sees it.

    Attributes:
        pixels: uint8 [H, W, 3], RGB in 0 … 255, upright.
        format: One of `FORMATS`, from the content.
        width: As stored, before an EXIF rotation.
        height: As stored.
        mode: Pillow's name of the stored pixel layout, for example `CMYK`.
        bytes: Length of the file.
        notes: What was done or noticed, each with a word to group by: `animated: first frame`, `exif: turned upright`,
            `alpha: composited on white`, `depth: 16 bits scaled to 8`, `suffix: named .jpg, is PNG`.
        quantisation: Quantisation table of a JPEG's first component (luma, as a rule), 64 numbers row by row; empty for other formats.
        sampling: Sampling factors of a JPEG's components, horizontal and vertical; empty for other formats.
    """

    pixels: NDArray[np.uint8]
    format: str
    width: int
    height: int
    mode: str
    bytes: int
    notes: tuple[str, ...] = ()
    quantisation: tuple[int, ...] = ()
    sampling: tuple[tuple[int, int], ...] = ()


DEFAULT_LIMITS = ReaderLimits()


def read_image(source: Path | bytes, limits: ReaderLimits = DEFAULT_LIMITS) -> DecodedImage:
    """Decode an image to upright 8-bit RGB, or refuse it.

    Greyscale, black-and-white and palette images repeat or look up their colours. CMYK and YCbCr are converted by Pillow's
    fixed formulas. Embedded colour profiles are not applied: the numbers stay those that the generator or camera wrote.
    Everything that is transparent, by an alpha channel or by a transparent colour, is composited on white. 16-bit (and
    12-bit) channels keep their most significant eight bits, so 32768 becomes 128. Of an animation or a TIFF of several
    pages the first picture is taken. The EXIF orientation is applied. Floating-point and 32-bit integer images are
    refused, since nothing says which values are black and white.

    Args:
        source: A file, or its content.
        limits: What an image may be.

    Returns:
        The pixels, uint8 [H, W, 3] in 0 … 255, with the facts of the file.

    Raises:
        ImageError: Whenever the image is not decoded, for whatever reason.
    """
    data = source if isinstance(source, bytes) else _read_file(source, limits)
    if not data:
        message = "The file is empty."
        raise ImageError(message)
    if len(data) > limits.max_bytes:
        raise ImageError(_too_long(len(data), limits))
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        message = "Something in this process has set PIL.ImageFile.LOAD_TRUNCATED_IMAGES, so damage cannot be seen: remove that."
        raise ImageError(message)
    name = sniff(data)
    notes = [] if isinstance(source, bytes) else _suffix_notes(source, name)
    try:
        return _decode(data, name, limits, notes)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a GIF's frames may exceed its header
        message = f"The image has more pixels than the limit of {limits.max_pixels}."
        raise ImageError(message) from error
    except Exception as error:  # on hostile data decoders raise nearly every type there is, MemoryError included
        text = " ".join(str(error).split())[:200]
        message = f"The {name} data is damaged, cut short or not supported ({type(error).__name__}: {text})."
        raise ImageError(message) from error


def read_header(path: Path, limits: ReaderLimits = DEFAULT_LIMITS) -> tuple[str, int, int, int]:
    """What an image's header says, without decoding its pixels: damage further on is not seen.

    Args:
        path: A file.
        limits: What an image may be.

    Returns:
        Format, width and height as stored, and length of the file in bytes.

    Raises:
        ImageError: The file cannot be read, its header is not that of an image, or says that it is beyond the limits.
    """
    data = _read_file(path, limits)
    if not data:
        message = "The file is empty."
        raise ImageError(message)
    name = sniff(data)
    try:
        size = _webp_size(data) if name == "WebP" and len(data) >= 30 else _PLUGINS[name](io.BytesIO(data)).size
    except Exception as error:  # as in `read_image`
        message = f"The {name} header is damaged or not supported ({type(error).__name__})."
        raise ImageError(message) from error
    _check_size(*size, limits)
    return name, *size, len(data)


def _read_file(path: Path, limits: ReaderLimits) -> bytes:
    try:
        with open_regular(path) as file:
            size = file.seek(0, io.SEEK_END)
            if size > limits.max_bytes:
                raise ImageError(_too_long(size, limits))
            file.seek(0)
            return file.read(limits.max_bytes + 1)
    except OSError as error:
        message = f"The file cannot be read: {describe_os_error(error)}."
        raise ImageError(message) from error


def _too_long(size: int, limits: ReaderLimits) -> str:
    return f"The file has {size} bytes, the limit is {limits.max_bytes}."


def sniff(data: bytes) -> str:
    """Format of an image by its first bytes, of which 12 are enough.

    Raises:
        ImageError: It is none of `FORMATS`.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for magic, name in _MAGIC.items():
        if data.startswith(magic):
            return name
    message = f"The content is none of {', '.join(FORMATS)} (it begins with {data[:12]!r})."
    raise ImageError(message)


def _suffix_notes(path: Path, name: str) -> list[str]:
    suffix = path.suffix.lower()
    return [f"suffix: named {suffix}, is {name}"] if SUFFIXES.get(suffix, name) != name else []


def _check_size(width: int, height: int, limits: ReaderLimits) -> None:
    if width * height > limits.max_pixels:
        message = f"The image has {width}x{height} pixels, the limit is {limits.max_pixels} in all."
        raise ImageError(message)
    if min(width, height) < limits.min_side:
        message = f"The image has {width}x{height} pixels, the shorter side must have {limits.min_side}."
        raise ImageError(message)
    if max(width, height) > limits.max_aspect * min(width, height):
        message = f"The image has {width}x{height} pixels, one side may be {limits.max_aspect:g} times the other at most."
        raise ImageError(message)


def _check_before_opening(data: bytes, name: str, limits: ReaderLimits) -> None:
    """What Pillow would only refuse after it has spent the memory or the time."""
    if name == "WebP" and len(data) >= 30:  # opening allocates the canvas
        _check_size(*_webp_size(data), limits)
    if name == "JPEG" and data.count(b"\xff\xda") > _MAX_SCANS and _scans(data) > _MAX_SCANS:
        message = f"The JPEG has more than {_MAX_SCANS} scans, each of which costs as much time as the whole image."
        raise ImageError(message)
    if name == "PNG":
        # Pillow checks no checksum of the pixel data: a flipped bit would be decoded to noise.
        PngImageFile(io.BytesIO(data)).verify()


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height by the header of the first chunk."""
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _scans(data: bytes) -> int:
    """Scans of a JPEG's main picture, counted as its decoder meets them (a thumbnail's do not count)."""
    count, position = 0, 2
    while (match := _MARKER.search(data, position)) is not None and count <= _MAX_SCANS:
        position = match.end()
        marker = data[position - 1]
        if marker == 0xD9:
            break
        if marker not in (0x01, 0xD8):
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
        count += marker == 0xDA
    return count


def _decode(data: bytes, name: str, limits: ReaderLimits, notes: list[str]) -> DecodedImage:
    _check_before_opening(data, name, limits)
    image = _PLUGINS[name](io.BytesIO(data))
    width, height = image.size
    turned = False
    if isinstance(image, TiffImageFile):
        width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
        turned = image.tag_v2.get(_ORIENTATION) in _TURNS  # Pillow turns a TIFF while it loads it
    _check_size(width, height, limits)
    mode, bits = image.mode, _bits(image, data)
    if getattr(image, "is_animated", False):
        notes.append("animated: first frame")
    image.load()
    if bits > 8:
        notes.append(f"depth: {bits} bits scaled to 8")
    rgb, composited = _to_rgb(image, bits)
    if composited:
        notes.append("alpha: composited on white")
    turn = None if isinstance(image, TiffImageFile) else _turn(image)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if turned or turn is not None:
        notes.append("exif: turned upright")
    table, sampling = _compression(image)
    return DecodedImage(np.array(rgb, dtype=np.uint8), name, width, height, mode, len(data), tuple(notes), table, sampling)


def _compression(image: ImageFile.ImageFile) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """A JPEG's quantisation table of the first component, and sampling factors of all; empty where its headers contradict each other."""
    if not isinstance(image, JpegImageFile):
        return (), ()
    components = list(image.layer)  # identifier, horizontal and vertical factor, number of the table
    if len(components) != image.layers or not all(1 <= factor <= 4 for part in components for factor in part[1:3]):
        return (), ()
    table = tuple(image.quantization.get(components[0][3], ()))
    return table if len(table) == 64 else (), tuple((part[1], part[2]) for part in components)


def _bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Bits of a channel as stored."""
    if isinstance(image, PngImageFile):
        return 16 if image.mode == "I;16" or data[24] == 16 else 8
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(258, (8,)))
    return 8


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata beside a sound picture is common
        return None


def _to_rgb(image: Image.Image, bits: int) -> tuple[Image.Image, bool]:
    """The image in mode RGB, and whether anything was transparent."""
    if image.mode.startswith("I;16"):
        return _grey_to_rgb(image, bits)
    if image.mode not in _OPAQUE_MODES | _ALPHA_MODES:
        message = f"Pixels of mode {image.mode} have no known range: save the image with 8 or 16 bits a channel."
        raise ImageError(message)
    if image.mode == "La":
        image = image.convert("LA")
    transparent = image.info.get("transparency")
    if image.mode in _OPAQUE_MODES and transparent is None:
        return image if image.mode == "RGB" else image.convert("RGB"), False
    if bits == 16 and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)  # Pillow shortens the pixels, not this
    return _on_white(image.convert("RGBA"))


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB"), False
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB"), True


def _grey_to_rgb(image: Image.Image, bits: int) -> tuple[Image.Image, bool]:
    values = np.asarray(image)
    grey = (values >> (bits - 8)).astype(np.uint8)
    transparent = image.info.get("transparency")
    mask = values == transparent if isinstance(transparent, int) else np.zeros_like(values, dtype=bool)
    grey[mask] = 255
    return Image.fromarray(grey).convert("RGB"), bool(mask.any())
