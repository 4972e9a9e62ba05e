"""How complex an image is, by trivial measures: a control for every statistic, which may measure no more than this."""

import io
from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from modules.extractors.base import Extractor, Features
from modules.images import center_square, to_uint8

JPEG = {"format": "JPEG", "quality": 90, "subsampling": 0}  # 4:4:4
PNG = {"format": "PNG", "compress_level": 6}
FLOOR = 1e-24  # squared amplitude: above the rounding of a constant image, below one grey level of one pixel


class Complexity(Extractor):
    """Compressed sizes, gradients and spectrum of an image, on the CPU.

    Reconstruction errors, likelihoods and divergences all grow or shrink with the amount of detail in an image, and so may differ
    between real and generated images for that reason alone. A statistic that separates them no better than these has shown nothing.

    `forward` gives float32 `[B]` features:

    - `jpeg_bits_per_pixel`: length of the image as JPEG, quality 90, 4:4:4.
    - `png_bits_per_pixel`: length of the image as PNG.
    - `gradient_energy`: mean squared difference of neighbours, across and down, of pixels in [0, 1].
    - `spectral_slope`: exponent of the luminance's power over radial frequency (see `spectral_slope`); near -2 for photographs.

    Args:
        size: Side in pixels of the square that is measured: the centre of the image, resized; the image as it is by default. The measures
            depend on the size of an image, so name one where images differ in it.
    """

    name: ClassVar[str] = "complexity"

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        if size is not None and size < 8:
            msg = f"size is {size}; at least 8 pixels are needed"
            raise ValueError(msg)
        self.size = size

    def load(self) -> None:
        """Nothing to load."""

    def prepare(self, image: Tensor) -> Tensor:
        """Centre square, its side resized to `size`, or the image as it is: uint8 `[3, H, W]` to uint8 `[3, h, w]`."""
        return image if self.size is None else center_square(image, self.size)

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Measure each image; see the class for the features. Nothing random: `prompts` and `seeds` are not used."""
        levels = to_uint8(images).cpu()
        found = [_measure(image) for image in levels]
        return {name: torch.tensor([each[name] for each in found]) for name in found[0]}


def _measure(image: Tensor) -> dict[str, float]:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    unit = image.double() / 255
    return {
        "jpeg_bits_per_pixel": bits_per_pixel(picture, **JPEG),
        "png_bits_per_pixel": bits_per_pixel(picture, **PNG),
        "gradient_energy": gradient_energy(unit),
        "spectral_slope": spectral_slope(0.299 * unit[0] + 0.587 * unit[1] + 0.114 * unit[2]),
    }


def bits_per_pixel(picture: Image.Image, **options: object) -> float:
    """Length in bits of an image in a file format, headers included, by its number of pixels.

    Args:
        picture: The image.
        options: What `Image.save` takes, `format` among them.
    """
    file = io.BytesIO()
    picture.save(file, **options)  # type: ignore[arg-type]
    return 8 * file.tell() / (picture.width * picture.height)


def gradient_energy(image: Tensor) -> float:
    """Mean squared difference of horizontal and of vertical neighbours, their sum, of an image `[C, H, W]` in [0, 1]."""
    total = sum(image.diff(dim=dim).square().sum() / max(1, image.diff(dim=dim).numel()) for dim in (1, 2))
    return float(total)


def spectral_slope(luminance: Tensor) -> float:
    """Exponent k of power ~ frequency^k, by least squares in the logarithms of the radially averaged spectrum.

    The mean is taken off and a Hann window laid over the image, so that its borders do not look like detail. Radial bins are one cycle
    an image wide, up to the Nyquist frequency.

    Args:
        luminance: Floating point `[H, W]` in [0, 1].

    Returns:
        The exponent; 0 for a constant image, and for one with fewer than three bins.
    """
    height, width = luminance.shape
    bins = min(height, width) // 2
    if bins < 3:
        return 0.0
    window = torch.hann_window(height).outer(torch.hann_window(width)).to(luminance)
    power = torch.fft.fft2((luminance - luminance.mean()) * window, norm="forward").abs().square()
    across, down = torch.fft.fftfreq(width).to(power), torch.fft.fftfreq(height).to(power)
    radius = (down[:, None].square() + across.square()).sqrt() * min(height, width)
    nearest = radius.round().long().flatten()
    total = torch.zeros(int(nearest.max()) + 1).to(power).index_add_(0, nearest, power.flatten())
    mean = total / nearest.bincount().clamp(min=1)
    logs = mean[1 : bins + 1].clamp(min=FLOOR).log()
    frequency = torch.arange(1, bins + 1).to(power).log()
    centred = frequency - frequency.mean()
    return float((centred * logs).sum() / centred.square().sum())
