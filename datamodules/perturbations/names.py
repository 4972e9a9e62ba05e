"""Names of perturbations, and what they stand for.

| name | what is done |
|---|---|
| `none` | nothing |
| `jpeg_40`, `jpeg_40_444` | stored as JPEG at quality 40, with 4:2:0 chroma subsampling or without |
| `webp_80` | stored as lossy WebP at quality 80 |
| `resize_0.5` | both sides times 0.5 (Lanczos, antialiased), 1 pixel at least |
| `limit_1600` | made smaller, where it is larger, until the longer side has 1600 pixels (Lanczos) |
| `crop_256`, `crop_half` | a random square of 256 pixels; a random part of half of each side |
| `blur_1.0` | Gaussian blur, standard deviation in pixels |
| `noise_0.05` | Gaussian noise, standard deviation as a share of the range 0 … 255, clipped |
| `grayscale` | ITU-R 601 luma in all three channels |
| `horizontal_flip` | mirrored, with probability 0.5 |
| `rotate_30` | turned by an angle between −30 and 30 degrees, bilinear, black corners, size kept |
| `shuffle_4` | cut into 4 × 4 equal tiles (cropped to what divides) that are put together in a random order, not the image's own |
| `color_jitter` | brightness, contrast and saturation times 0.75 … 1.25, hue by −0.1 … 0.1 of the circle, in a random order |
| `equalise_224` | one past for all: a random square of 1.19 · 224 pixels off the 8 × 8 grid, made 224 (Lanczos), JPEG 90 with 4:2:0 |

Storing all images once more does not make them alike: where one class was JPEG before, it then is JPEG twice, and shows it. What breaks the
8 × 8 grid of the earlier compression is the re-sampling, which `equalise_S` therefore does first: no block of then fits a block of now.

Links joined by `+` are done one after the other: `resize_0.5+jpeg_75`. Each has one spelling only, because the name is a part of a cache
directory's: `blur_1` and `blur_1.0` would be two directories of the same features.
"""

import difflib
import hashlib
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from datamodules.errors import DataError
from datamodules.perturbations import operations
from datamodules.perturbations.operations import Pixels
from datamodules.perturbations.presets import PRESETS, REUPLOADS

Perturbation = Callable[[Pixels, int], Pixels]

MAX_LENGTH = 80
"""Characters of a name: it has to fit into a directory's."""


class _Parameter(NamedTuple):
    """The number in a name.

    Attributes:
        letter: What stands for it in messages.
        low: Its lowest value.
        high: Its highest value.
        whole: Whether it is a whole number.
        operation: Called with image, seed and the number.
    """

    letter: str
    low: float
    high: float
    whole: bool
    operation: Callable[[Pixels, int, float], Pixels]


_WITHOUT_NUMBER: dict[str, Perturbation] = {
    "none": operations.unchanged,
    "crop_half": operations.crop_half,
    "grayscale": operations.grayscale,
    "horizontal_flip": operations.horizontal_flip,
    "color_jitter": operations.color_jitter,
}
_WITH_NUMBER = {
    "jpeg_*": _Parameter("Q", 1, 100, True, partial(operations.jpeg, subsampling=2)),
    "jpeg_*_444": _Parameter("Q", 1, 100, True, partial(operations.jpeg, subsampling=0)),
    "webp_*": _Parameter("Q", 1, 100, True, operations.webp),
    "resize_*": _Parameter("FACTOR", 0.05, 4.0, False, operations.resize),
    "limit_*": _Parameter("PIXELS", 16, 16384, True, operations.limit),
    "crop_*": _Parameter("PIXELS", 16, 16384, True, operations.crop),
    "blur_*": _Parameter("SIGMA", 0.1, 20.0, False, operations.blur),
    "noise_*": _Parameter("SIGMA", 0.001, 1.0, False, operations.noise),
    "rotate_*": _Parameter("DEGREES", 1, 180, True, operations.rotate),
    "shuffle_*": _Parameter("N", 2, 64, True, operations.shuffle),
    "equalise_*": _Parameter("S", 16, 4096, True, operations.equalise),
}
_FORMS = [
    *_WITHOUT_NUMBER,
    *(f"{form.replace('*', given.letter)} ({given.low:g} to {given.high:g})" for form, given in _WITH_NUMBER.items()),
]
_EXAMPLES = {  # by their form, for what is nearly one of them
    re.sub(r"[0-9.]+", "#", example): example
    for example in (
        *_WITHOUT_NUMBER,
        "jpeg_40",
        "webp_80",
        "resize_0.5",
        "limit_1600",
        "crop_256",
        "blur_1.0",
        "noise_0.05",
        "rotate_30",
        "shuffle_4",
        "equalise_224",
        *PRESETS,  # as they are: none has a number
    )
}
_OTHER_WORDS = {"upload": REUPLOADS[0], "flip": "horizontal_flip", "scale": "resize_0.5", "gaussian": "noise_0.05", "equal": "equalise_224"}

NAMES_HELP: str = (
    f"{', '.join(_FORMS)}; joined by + they follow one another: limit_1600+jpeg_80; "
    f"where several are taken, also the presets {', '.join(PRESETS)}"
)
"""All forms and presets in one line, for --help."""


def perturbation(name: str) -> Perturbation:
    """The perturbation of a name.

    Args:
        name: One of the forms in this module's table, or several joined by `+`.

    Returns:
        A function of an image, uint8 `[H, W, 3]`, and a seed from its content, that gives an image, uint8 `[h, w, 3]` and contiguous.
        Nothing else decides what it gives, and it writes to nothing. It raises `ImageError` for an image that it cannot be applied to.
        It can be pickled.

    Raises:
        DataError: If there is no such perturbation, or the name has another spelling.
    """
    if len(name) > MAX_LENGTH:
        msg = f"perturbation {name[:MAX_LENGTH]!r}… has {len(name)} characters, {MAX_LENGTH} at most are allowed: take fewer links"
        raise DataError(msg)
    links = name.split("+")
    if len(links) > 1 and "none" in links:
        msg = f"perturbation {name!r}: none is no link of a chain; leave it out"
        raise DataError(msg)
    return partial(_in_turn, [(link, _find(link, name)) for link in links])


def link_seed(seed: int, position: int, link: str) -> int:
    """Seed of one link of a chain, from 0 to 2⁶³ − 1.

    Args:
        seed: Seed of the image.
        position: Place of the link in the chain, from 0.
        link: Its name.

    Returns:
        A number that says nothing of the other links' seeds. A link alone and the first one of a chain have the same.
    """
    digest = hashlib.sha256(f"{seed}\0{position}\0{link}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _in_turn(links: list[tuple[str, Perturbation]], image: Pixels, seed: int) -> Pixels:
    for position, (link, operation) in enumerate(links):
        image = operation(image, link_seed(seed, position, link))
    return image


def _find(link: str, name: str) -> Perturbation:
    if link in _WITHOUT_NUMBER:
        return _WITHOUT_NUMBER[link]
    if link in PRESETS:
        msg = f"perturbation {name!r}: {link} is a preset of several ({', '.join(PRESETS[link])}), and no single one; choose one of them"
        raise DataError(msg)
    head, _, value = link.partition("_")
    form = f"{head}_*"
    if head == "jpeg" and value.endswith("_444"):
        form, value = "jpeg_*_444", value.removesuffix("_444")
    if form not in _WITH_NUMBER or not value or difflib.get_close_matches(link, _WITHOUT_NUMBER, 1, 0.8):
        raise DataError(_unknown(link, name))
    given = _WITH_NUMBER[form]
    number = _number(value, given, form, name)
    return partial(_with_number, given.operation, number)


def _with_number(operation: Callable[[Pixels, int, float], Pixels], number: float, image: Pixels, seed: int) -> Pixels:
    return operation(image, seed, number)


def _number(value: str, given: _Parameter, form: str, name: str) -> float:
    kind = "whole number" if given.whole else "number"
    plain = re.fullmatch(r"[0-9]+" if given.whole else r"[0-9]+(\.[0-9]+)?", value)
    number = float(value) if plain else -1.0
    if not given.low <= number <= given.high:
        msg = (
            f"perturbation {name!r}: {given.letter} of {form.replace('*', given.letter)} must be a {kind} from {given.low:g} to "
            f"{given.high:g}, not {value!r}"
        )
        raise DataError(msg)
    if form == "resize_*" and number == 1:
        msg = f"perturbation {name!r}: a factor of 1 leaves the image as it is; write none, or leave the link out"
        raise DataError(msg)
    canonical = str(int(number)) if given.whole else repr(number)
    if value != canonical:
        msg = f"perturbation {name!r}: write {form.replace('*', canonical)}, the only spelling, so that its features are cached once"
        raise DataError(msg)
    return int(number) if given.whole else number


def _unknown(link: str, name: str) -> str:
    text = re.sub(r"[0-9.]+", "#", link.lower())
    forms = [form for form in difflib.get_close_matches(text, _EXAMPLES, 2, 0.6) if form not in PRESETS or _nearly(text, form)]
    near = [_EXAMPLES[form] for form in forms] + [example for word, example in _OTHER_WORDS.items() if word in link.lower()]
    kind = "the preset" if near and near[0] in PRESETS else "one like"
    suggestion = f"; did you mean {kind} {near[0]}?" if near else "."
    where = f" (in {name!r})" if link != name else ""
    return f"perturbation {link!r}{where} is not known{suggestion} There are {NAMES_HELP}"


def _nearly(text: str, preset: str) -> bool:
    return bool(difflib.get_close_matches(text, [preset], 1, 0.8))
