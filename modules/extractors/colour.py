"""Colour statistics of an image, which generators get wrong in ways of their own."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from modules.extractors.base import Extractor, Features
from modules.images import center_square, to_uint8

PAIRS = ((0, 1), (0, 2), (1, 2))  # red and green, red and blue, green and blue
CLIPPING = (0, 5, 10)  # levels from either end of the range within which a pixel counts as badly exposed
FIXED = len(PAIRS) * 3 + 3 + 2 * len(CLIPPING)  # numbers that do not depend on the bins


class ColourExtractor(Extractor):
    """Histograms of red, green, blue, hue and saturation, moments of saturation, correlations of channels, and clipping.

    Cameras measure colour and clip; generators compose it. McCloskey and Albright 2019 ("Detecting GAN-generated Imagery using Saturation
    Cues") count over- and under-exposed pixels, Li et al. 2020 ("Identification of Deep Network Generated Images Using Disparities in
    Color Components") look at hue, saturation and at what a difference filter leaves in each channel, and Barni et al. 2020 ("CNN
    Detection of GAN-Generated Face Images based on Cross-Band Co-occurrences Analysis") at how channels go together. These are plain
    statistics after their ideas, not their detectors. They depend on what is photographed as well: a weak cue, and a control.

    `forward` gives float32 `[B, 5 · bins + 18]` `colour`. In this order:

    - shares of pixels by level of red, of green, of blue, `bins` each;
    - share of chroma (the largest channel less the smallest) by hue, `bins`, 0 for an image without colour: a grey pixel has no hue;
    - shares of pixels by saturation of HSV, `bins`; black counts as unsaturated;
    - mean, standard deviation and skewness of the saturation;
    - correlations of red and green, red and blue, green and blue: of their levels; of the differences of neighbours across; of those of
      neighbours down. 0 where a channel is constant;
    - shares of pixels whose largest channel is at most 0, 5, 10; shares of those whose smallest is at least 255, 250, 245.

    Args:
        size: Side in pixels of the square that is measured: the centre of the image, resized; the image as it is by default, since resizing
            mixes colours.
        bins: Of each histogram.
    """

    name: ClassVar[str] = "colour"

    def __init__(self, size: int | None = None, bins: int = 16) -> None:
        super().__init__()
        if size is not None and size < 8:
            msg = f"size is {size}; at least 8 pixels are needed"
            raise ValueError(msg)
        if not 2 <= bins <= 256:
            msg = f"data.extractor.bins is {bins}; 2 to 256 are possible, as many as there are levels"
            raise ValueError(msg)
        self.size = size
        self.bins = bins

    @property
    def dimension(self) -> int:
        """How many numbers an image has."""
        return 5 * self.bins + FIXED

    def load(self) -> None:
        """Nothing to load."""

    def prepare(self, image: Tensor) -> Tensor:
        """Centre square, its side resized to `size`, or the image as it is: uint8 `[3, H, W]` to uint8 `[3, h, w]`."""
        return image if self.size is None else center_square(image, self.size)

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Measure each image; see the class for the feature. Nothing random: `prompts` and `seeds` are not used."""
        return {"colour": torch.stack([colour(image, self.bins) for image in to_uint8(images)])}


def colour(image: Tensor, bins: int) -> Tensor:
    """The numbers of one image, as `ColourExtractor` lists them: uint8 `[3, H, W]` to float32 `[5 · bins + 18]`."""
    levels = image.flatten(1).long()
    value, least = _largest(levels), _smallest(levels)
    chroma = value - least
    ones = torch.ones_like(value)
    # Whole numbers decide the bins, so that a pixel at a bin's edge falls into the same one on every device.
    histograms = [shares(channel * bins // 256, ones, bins) for channel in levels]
    histograms += [shares(hue_bins(levels, bins), chroma, bins), shares(saturation_bins(value, chroma, bins), ones, bins)]
    saturation = chroma.double() / value.clamp(min=1)
    exposed = [value <= level for level in CLIPPING] + [least >= 255 - level for level in CLIPPING]
    wide = image.double()
    fields = (wide, wide.diff(dim=2), wide.diff(dim=1))
    numbers = [*moments(saturation), *(number for field in fields for number in correlations(field.flatten(1)))]
    clipped = torch.stack(exposed).double().mean(1)
    return torch.cat([*histograms, torch.stack(numbers), clipped]).float()


def shares(places: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Histogram with sum 1, or 0 where all weights are: bins `[N]` and whole weights `[N]` to float64 `[bins]`."""
    counts = torch.zeros(bins, dtype=torch.long, device=places.device).scatter_add_(0, places, weights)
    return counts.double() / weights.sum().clamp(min=1)


def hue_bins(levels: Tensor, bins: int) -> Tensor:
    """Bin of each pixel's hue, from 0 at red by green and blue to red again: whole `[3, N]` to `[N]`; 0 for a grey one."""
    red, green, blue = levels
    value = _largest(levels)
    chroma = value - _smallest(levels)
    blue_or_green = torch.where(value == green, 2 * chroma + blue - red, 4 * chroma + red - green)
    sixths = torch.where(value == red, green - blue, blue_or_green)  # 6 · hue · chroma
    circle = (6 * chroma).clamp(min=1)
    return bins * (sixths % circle) // circle


def saturation_bins(value: Tensor, chroma: Tensor, bins: int) -> Tensor:
    """Bin of each pixel's saturation, chroma over value: whole `[N]` to `[N]`; 0 for a black one."""
    return (bins * chroma // value.clamp(min=1)).clamp(max=bins - 1)


def moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and skewness of `[N]`; the latter is 0 where all are equal."""
    variance, mean = torch.var_mean(values, correction=0)
    third = (values - mean).pow(3).mean()
    spread = variance.sqrt()
    return mean, spread, torch.where((values == values[0]).all(), 0.0, third / spread.pow(3))


def correlations(channels: Tensor) -> list[Tensor]:
    """Pearson's correlation of each pair of channels: `[3, N]` to three numbers; 0 where a channel is constant, or empty."""
    if not channels.shape[1]:
        return [channels.new_zeros(()) for _ in PAIRS]
    centred = channels - channels.mean(1, keepdim=True)
    lengths = centred.norm(dim=1)
    constant = (channels == channels[:, :1]).all(1)
    return [
        torch.where(constant[i] | constant[j], 0.0, (centred[i] * centred[j]).sum() / (lengths[i] * lengths[j])).clamp(-1, 1)
        for i, j in PAIRS
    ]


def _largest(levels: Tensor) -> Tensor:
    return torch.maximum(torch.maximum(levels[0], levels[1]), levels[2])


def _smallest(levels: Tensor) -> Tensor:
    return torch.minimum(torch.minimum(levels[0], levels[1]), levels[2])  # amin of whole numbers takes 20 times as long
