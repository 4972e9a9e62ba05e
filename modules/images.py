"""Images as tensors: the two ranges that extractors accept, the way between them, their centre, and what a file format leaves of them."""

from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# Mean and standard deviation of ImageNet's red, green and blue in [0, 1], which networks trained on it expect to be taken out.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_unit(images: Tensor) -> Tensor:
    """Images as float in [0, 1].

    Args:
        images: `[B, 3, H, W]`, uint8, or floating point already in [0, 1].

    Raises:
        TypeError: If the dtype is neither.
        ValueError: If the shape is another.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        msg = f"images have shape {tuple(images.shape)}; [B, 3, H, W] is needed"
        raise ValueError(msg)
    if images.dtype == torch.uint8:
        return images.float() / 255
    if images.is_floating_point():
        return images
    msg = f"images have dtype {images.dtype}; uint8, or floating point in [0, 1], is needed"
    raise TypeError(msg)


def to_uint8(images: Tensor) -> Tensor:
    """Floating-point images as uint8, clamped to [0, 1] and rounded to the nearest level; uint8 as they are. Any shape.

    Raises:
        TypeError: If the dtype is neither.
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        msg = f"images have dtype {images.dtype}; uint8, or floating point in [0, 1], is needed"
        raise TypeError(msg)
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of uint8 image pairs, `[B, 3, H, W]` each to `[B]`; infinite for equal images."""
    error = (first.double() - second.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


def center_square(image: Tensor, size: int) -> Tensor:
    """The centre square of an image at another side, bicubic with antialiasing: uint8 `[3, H, W]` to uint8 `[3, size, size]`."""
    from torchvision.transforms.v2 import functional as transforms

    square = transforms.center_crop(image, [min(image.shape[1:])] * 2)
    if square.shape[1] == size:
        return square
    return transforms.resize(square, [size, size], transforms.InterpolationMode.BICUBIC, antialias=True)


def through_format(image: NDArray[np.uint8], form: str, **options: int | str) -> NDArray[np.uint8]:
    """An image after it was stored in a file format and read again, by Pillow.

    Args:
        image: `[H, W, 3]`.
        form: Pillow's name of the format, like `JPEG`.
        options: What `Image.save` takes for it, like `quality`.

    Returns:
        A new `[H, W, 3]`.

    Raises:
        OSError: If the format cannot store such an image.
        ValueError: Likewise.
    """
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    with Image.open(buffer, formats=[form]) as stored:
        return np.array(stored.convert("RGB"))
