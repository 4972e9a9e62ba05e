"""What perturbations do to pixels: functions of an image, a seed and a number.

Each takes uint8 `[H, W, 3]`, gives a new uint8 `[h, w, 3]` that is contiguous and can be written to (`unchanged` gives the image
itself), and draws whatever is random from its seed alone.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from datamodules.reader import DEFAULT_LIMITS, ImageError
from modules.images import through_format

Pixels = NDArray[np.uint8]

BRIGHTNESS = CONTRAST = SATURATION = (0.75, 1.25)
HUE = (-0.1, 0.1)
FLIP_PROBABILITY = 0.5
GRID = 8  # pixels of a JPEG's block
EQUALISED_QUALITY = 90
BLUR_RADIUS = 4  # standard deviations that the kernel reaches: beyond lie less than 0.01% of its weight


def unchanged(image: Pixels, seed: int) -> Pixels:
    """The image itself."""
    return np.ascontiguousarray(image)


def jpeg(image: Pixels, seed: int, quality: float, subsampling: int) -> Pixels:
    """The image after a round trip through JPEG.

    Args:
        image: uint8 `[H, W, 3]`.
        seed: Not used.
        quality: 1 to 100, on libjpeg's scale.
        subsampling: 0 for 4:4:4, 2 for 4:2:0.

    Raises:
        ImageError: A side is longer than the format holds.
    """
    return _stored(image, "JPEG", quality=int(quality), subsampling=subsampling)


def webp(image: Pixels, seed: int, quality: float) -> Pixels:
    """The image after a round trip through lossy WebP at a quality from 1 to 100.

    Raises:
        ImageError: A side is longer than the format holds.
    """
    return _stored(image, "WEBP", quality=int(quality))


def _stored(image: Pixels, form: str, **options: int) -> Pixels:
    try:
        return through_format(image, form, **options)
    except (OSError, ValueError) as error:
        height, width = image.shape[:2]
        msg = f"The image has {width}x{height} pixels, which {form} cannot store ({' '.join(str(error).split())[:100]})."
        raise ImageError(msg) from error


def resize(image: Pixels, seed: int, factor: float) -> Pixels:
    """Both sides times a factor, rounded, 1 pixel at least.

    Raises:
        ImageError: The result has more pixels than an image may have.
    """
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    if height * width > DEFAULT_LIMITS.max_pixels:
        msg = f"The image would have {width}x{height} pixels, the limit is {DEFAULT_LIMITS.max_pixels} in all."
        raise ImageError(msg)
    return _resampled(image, height, width)


def limit(image: Pixels, seed: int, pixels: float) -> Pixels:
    """The longer side made `pixels` long where it is longer; a smaller image stays as it is."""
    factor = pixels / max(image.shape[:2])
    if factor >= 1:
        return np.array(image)
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return _resampled(image, height, width)


def _resampled(image: Pixels, height: int, width: int) -> Pixels:
    # Pillow widens the kernel when it makes an image smaller, so nothing aliases.
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def crop(image: Pixels, seed: int, pixels: float) -> Pixels:
    """A square of `pixels` at a random place.

    Raises:
        ImageError: The image is smaller.
    """
    size = int(pixels)
    height, width = image.shape[:2]
    if min(height, width) < size:
        msg = f"The image has {width}x{height} pixels, smaller than the crop of {size} pixels; use crop_half."
        raise ImageError(msg)
    return _random_part(image, seed, size, size)


def crop_half(image: Pixels, seed: int) -> Pixels:
    """A part at a random place, each side half of the image's (rounded down, 1 pixel at least)."""
    height, width = image.shape[:2]
    return _random_part(image, seed, max(1, height // 2), max(1, width // 2))


def _random_part(image: Pixels, seed: int, height: int, width: int) -> Pixels:
    rng = np.random.default_rng(seed)
    top = rng.integers(image.shape[0] - height + 1)
    left = rng.integers(image.shape[1] - width + 1)
    return np.array(image[top : top + height, left : left + width])


def equalise(image: Pixels, seed: int, pixels: float) -> Pixels:
    """The image with a past that all images share: a crop off the 8 × 8 grid, re-sampled, then stored as JPEG.

    The square of `crop_side(pixels)` pixels lies at a random place whose distances from the top and from the left are no multiples of 8.
    It is resized (Lanczos) to `pixels` × `pixels`, then goes through JPEG at quality 90 with 4:2:0. The place is drawn from the seed
    alone, uniformly among those allowed. What is left of an earlier JPEG has no common period with the last one's blocks, but is not gone:
    of quality 40 a faint trace remains at its own new period, 8 · `pixels` / `crop_side(pixels)`.

    Args:
        image: uint8 `[H, W, 3]`, each side longer than `crop_side(pixels)`.
        seed: Decides the place.
        pixels: Side of what comes out.

    Raises:
        ImageError: The image is too small.
    """
    size = int(pixels)
    side = crop_side(size)
    height, width = image.shape[:2]
    if min(height, width) <= side:
        fits = next((small for small in range(size - 1, 15, -1) if crop_side(small) < min(height, width)), None)
        advice = f"use equalise_{fits}, or leave such images out" if fits else "leave such images out"
        msg = f"The image has {width}x{height} pixels, equalise_{size} needs {side + 1} on each side; {advice}."
        raise ImageError(msg)
    rng = np.random.default_rng(seed)
    top, left = (_off_grid(rng, length - side) for length in (height, width))
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    return jpeg(_resampled(square, size, size), seed, EQUALISED_QUALITY, subsampling=2)


def crop_side(size: int) -> int:
    """Side of the square that `equalise` makes `size` pixels long.

    The smallest whole number of at least 1.19 · `size` that is no multiple of `size` (blocks would fall on blocks again) nor of 8.
    """
    side = -(-119 * size // 100)
    while side % size == 0 or side % GRID == 0:
        side += 1
    return side


def _off_grid(rng: np.random.Generator, most: int) -> int:
    """One of the numbers from 1 to `most` that are no multiples of 8, all equally likely."""
    index = int(rng.integers(most - most // GRID))
    return index + index // (GRID - 1) + 1


def blur(image: Pixels, seed: int, sigma: float) -> Pixels:
    """Gaussian blur with a standard deviation of `sigma` pixels; the image is mirrored at its edges.

    The kernel is sampled at whole pixels, reaches `BLUR_RADIUS` standard deviations and has sum 1.
    """
    # One axis after the other: torchvision's own blur builds the square kernel, whose cost grows with the square of sigma, and cannot
    # mirror an image that is smaller than it.
    radius = int(BLUR_RADIUS * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).float()
    blurred = np.empty(image.shape, np.uint8)
    for channel in range(image.shape[2]):
        padded = np.pad(image[..., channel].astype(np.float32), radius, mode="symmetric")
        rows = torch.nn.functional.conv2d(torch.from_numpy(padded)[None, None], kernel.view(1, 1, -1, 1))
        whole = torch.nn.functional.conv2d(rows, kernel.view(1, 1, 1, -1))[0, 0]
        blurred[..., channel] = whole.round_().clamp_(0, 255).numpy()
    return blurred


def noise(image: Pixels, seed: int, sigma: float) -> Pixels:
    """Independent Gaussian noise on every value, with a standard deviation of `sigma` · 255, rounded and clipped."""
    values = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    values *= np.float32(sigma * 255)
    values += image
    return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)


def grayscale(image: Pixels, seed: int) -> Pixels:
    """ITU-R 601 luma, 0.299 R + 0.587 G + 0.114 B, in three equal channels."""
    return np.array(Image.fromarray(image).convert("L").convert("RGB"))


def horizontal_flip(image: Pixels, seed: int) -> Pixels:
    """The image or, with probability `FLIP_PROBABILITY`, its mirror image."""
    flips = np.random.default_rng(seed).random() < FLIP_PROBABILITY
    return np.array(image[:, ::-1] if flips else image, order="C")


def rotate(image: Pixels, seed: int, degrees: float) -> Pixels:
    """The image turned about its centre by an angle that is uniform in ±`degrees`; bilinear, black corners, size kept."""
    angle = np.random.default_rng(seed).uniform(-degrees, degrees)
    return np.array(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))


def shuffle(image: Pixels, seed: int, tiles: float) -> Pixels:
    """The image cut into `tiles` × `tiles` equal tiles that are put together in a random order: content goes, texture stays.

    All orders are equally likely but the image's own, which would be no change. What does not divide evenly is cropped, an equal part of it
    on either side.

    Raises:
        ImageError: A side has fewer pixels than tiles.
    """
    across = int(tiles)
    height, width = (side // across for side in image.shape[:2])
    if min(height, width) < 1:
        msg = f"The image has {image.shape[1]}x{image.shape[0]} pixels, too few for {across}x{across} tiles; use a smaller shuffle_N."
        raise ImageError(msg)
    top, left = (image.shape[0] - height * across) // 2, (image.shape[1] - width * across) // 2
    even = image[top : top + height * across, left : left + width * across]
    parts = even.reshape(across, height, across, width, -1).swapaxes(1, 2).reshape(across**2, height, width, -1)
    rng = np.random.default_rng(seed)
    order = own = np.arange(across**2)
    while np.array_equal(order, own):
        order = rng.permutation(across**2)
    rows = parts[order].reshape(across, across, height, width, -1).swapaxes(1, 2)
    return np.ascontiguousarray(rows.reshape(even.shape))


def color_jitter(image: Pixels, seed: int) -> Pixels:
    """Brightness, contrast, saturation and hue changed at random, by torchvision's definitions.

    Order and factors are drawn like those of torchvision's `ColorJitter(0.25, 0.25, 0.25, 0.1)` after `torch.manual_seed(seed)`, from a
    generator of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(4, generator=generator).tolist()
    changes = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation, transforms.adjust_hue)
    factors = [float(torch.empty(1).uniform_(*span, generator=generator)) for span in (BRIGHTNESS, CONTRAST, SATURATION, HUE)]
    pixels = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
    for i in order:
        pixels = changes[i](pixels, factors[i])
    return pixels.permute(1, 2, 0).contiguous().numpy()
