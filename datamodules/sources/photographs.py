"""The photographs that come inside the scikit-image and scikit-learn packages, their crops and their captions.

Three disjoint roles keep the built-in experiment honest: the diffusion model learns from one set of photographs, the
detector from another, and the test uses a third. Only files that lie in the installed packages are read; nothing is
downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Role = Literal["diffusion", "detector", "test"]
Pixels = npt.NDArray[np.uint8]

ROLES: tuple[Role, ...] = ("diffusion", "detector", "test")
CROP_SIZE = 64

_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
_LARGEST_ZOOM_OUT = 3
_FLAT_STD = 6.0  # grey levels; below it a crop is sky or paper and tells nothing about a generator
_CROP_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Photograph:
    """One photograph of the installed packages.

    Attributes:
        name: Unique name; crops of one photograph share it as their `group`.
        files: File names as `package/file`; several where they show the same scene (a stereo pair).
        role: Which of the three disjoint sets it belongs to.
        subject: What it shows, as a caption would name it.
    """

    name: str
    files: tuple[str, ...]
    role: Role
    subject: str


PHOTOGRAPHS: tuple[Photograph, ...] = (
    Photograph("astronaut", ("skimage/astronaut.png",), "diffusion", "an astronaut"),
    Photograph("china", ("sklearn/china.jpg",), "diffusion", "a chinese temple"),
    Photograph("motorcycle", ("skimage/motorcycle_left.png", "skimage/motorcycle_right.png"), "diffusion", "a motorcycle"),
    Photograph("coins", ("skimage/coins.png",), "diffusion", "old coins"),
    Photograph("brick", ("skimage/brick.png",), "diffusion", "a brick wall"),
    Photograph("camera", ("skimage/camera.png",), "diffusion", "a man with a camera"),
    Photograph("rocket", ("skimage/rocket.jpg",), "diffusion", "a rocket"),
    Photograph("chelsea", ("skimage/chelsea.png",), "detector", "a cat"),
    Photograph("flower", ("sklearn/flower.jpg",), "detector", "a flower"),
    Photograph("ihc", ("skimage/ihc.png",), "detector", "stained tissue"),
    Photograph("grass", ("skimage/grass.png",), "detector", "grass"),
    Photograph("moon", ("skimage/moon.png",), "detector", "the moon"),
    Photograph("clock_motion", ("skimage/clock_motion.png",), "detector", "a clock"),
    Photograph("coffee", ("skimage/coffee.png",), "test", "a cup of coffee"),
    Photograph("hubble_deep_field", ("skimage/hubble_deep_field.jpg",), "test", "distant galaxies"),
    Photograph("retina", ("skimage/retina.jpg",), "test", "a retina"),
    Photograph("gravel", ("skimage/gravel.png",), "test", "gravel"),
    Photograph("cell", ("skimage/cell.png",), "test", "a cell"),
    Photograph("microaneurysms", ("skimage/microaneurysms.png",), "test", "blood vessels"),
)


def photographs(role: Role) -> list[Photograph]:
    """The photographs of one role, in a fixed order.

    Args:
        role: `diffusion`, `detector` or `test`.

    Returns:
        The photographs of that role.

    Raises:
        ValueError: For any other role.
    """
    if role not in ROLES:
        msg = f"role {role!r} is not one of {', '.join(ROLES)}"
        raise ValueError(msg)
    return [photo for photo in PHOTOGRAPHS if photo.role == role]


def file_path(file: str) -> Path:
    """Where a photograph's file lies in the installed package, found without importing the package.

    Args:
        file: `package/file`, as in `Photograph.files`.

    Returns:
        Path of an existing file.

    Raises:
        FileNotFoundError: Where the package, or the file in it, is missing.
    """
    package, _, name = file.partition("/")
    spec = find_spec(package) if package in _FOLDERS else None
    if spec is None or spec.origin is None:
        msg = f"the package of the photograph {file!r} is not installed: install scikit-image and scikit-learn"
        raise FileNotFoundError(msg)
    path = Path(spec.origin).parent / _FOLDERS[package] / name
    if not path.is_file():
        msg = f"{path} is missing: this release of {package} does not come with the photograph {name!r}"
        raise FileNotFoundError(msg)
    return path


def load(photo: Photograph) -> list[Pixels]:
    """Read all files of a photograph.

    Args:
        photo: Which one.

    Returns:
        One uint8 array [H, W, 3] in [0, 255] a file; grey photographs are repeated over the channels.
    """
    images = []
    for file in photo.files:
        with Image.open(file_path(file)) as image:
            images.append(np.asarray(image.convert("RGB")))
    return images


def random_crop(rng: np.random.Generator, image: Pixels, size: int = CROP_SIZE) -> Pixels:
    """Cut a square of random place and side, resized to `size`.

    Args:
        rng: Source of randomness; the same state gives the same crop.
        image: uint8 [H, W, 3], with a short side of at least `size`.
        size: Side of the result in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    return random_crop_and_side(rng, image, size)[0]


def random_crop_and_side(rng: np.random.Generator, image: Pixels, size: int = CROP_SIZE) -> tuple[Pixels, int]:
    """Like `random_crop`, and tell the side that was cut, which the caption needs.

    Sides are log-uniform from `size` to the smaller of three times `size` and the image's short side. Nearly flat crops are
    drawn again, a limited number of times; then the least flat of them is taken.

    Args:
        rng: Source of randomness.
        image: uint8 [H, W, 3].
        size: Side of the result in pixels.

    Returns:
        uint8 [size, size, 3], and the side of the square in the photograph's pixels.

    Raises:
        ValueError: For an image smaller than a crop.
    """
    height, width = image.shape[:2]
    largest = min(_LARGEST_ZOOM_OUT * size, height, width)
    if largest < size:
        msg = f"cannot cut {size}x{size} pixels from an image of {width}x{height}"
        raise ValueError(msg)
    best: tuple[float, Pixels, int] = (-1.0, image, 0)
    for _ in range(_CROP_ATTEMPTS):
        side = round(float(np.exp(rng.uniform(np.log(size), np.log(largest)))))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        square = Image.fromarray(image[top : top + side, left : left + side])
        crop = np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))
        spread = float(crop.std())
        if spread > best[0]:
            best = (spread, crop, side)
        if spread >= _FLAT_STD:
            break
    return best[1], best[2]


def describe(crop: Pixels, subject: str, side: int) -> str:
    """A caption from what is measured on the crop: brightness, colour, contrast, detail, distance, then the subject.

    The attributes are shared between photographs, so a model trained on some of them can use the caption of a
    photograph that it never saw. Nothing in the caption changes when the crop is mirrored.

    Args:
        crop: uint8 [H, W, 3] in [0, 255].
        subject: What the photograph shows.
        side: Side of the crop before resizing, in the photograph's pixels.

    Returns:
        For example `a close photo of a cat, dark, orange, high contrast, smooth`.
    """
    rgb = crop.astype(np.float64) / 255
    grey = rgb @ np.array([0.299, 0.587, 0.114])
    detail = (np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
    distance = _word(side / crop.shape[0], (1.4, 2.1), ("close", "medium", "wide"))
    words = (
        _word(grey.mean(), (0.15, 0.3, 0.5, 0.7), ("very dark", "dark", "medium light", "bright", "very bright")),
        _colour(rgb.mean(axis=(0, 1))),
        _word(grey.std(), (0.08, 0.16, 0.24), ("flat", "low contrast", "medium contrast", "high contrast")),
        _word(detail, (0.02, 0.04, 0.07), ("blurred", "smooth", "detailed", "very detailed")),
    )
    return f"a {distance} photo of {subject}, {', '.join(words)}"


def _word(value: float, limits: Sequence[float], words: Sequence[str]) -> str:
    """The word of the interval that the value lies in; one more word than limits."""
    return words[int(np.searchsorted(limits, value, side="right"))]


def _colour(mean: npt.NDArray[np.float64]) -> str:
    """A colour word for a mean colour [3] in [0, 1]: grey where the saturation is small, else by hue."""
    high, low = float(mean.max()), float(mean.min())
    if high - low < 0.04 or (high - low) / high < 0.1:
        return "grey"
    red, green, blue = (mean - low) / (high - low)
    if red == 1:
        hue = (green - blue) % 6
    elif green == 1:
        hue = blue - red + 2
    else:
        hue = red - green + 4
    names = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "red")
    return _word(60 * hue, (15, 45, 70, 160, 200, 260, 330), names)
