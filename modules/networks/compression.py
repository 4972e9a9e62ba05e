"""Training crops of images that were blurred and compressed at random (Wang et al., CVPR 2020; Corvi et al., ICASSP 2023).

Blur and JPEG belong to the whole image: JPEG's blocks start at the image's corner, wherever the crop is taken. Here only the blocks around
each crop are computed, which gives the same pixels for a small part of the work. (The chroma of an image's outermost pixels may differ by a
few levels: decoders treat the end of an image in a way of their own.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from modules.images import through_format

BLOCK = 16  # pixels that JPEG codes together where chroma has half the resolution
CHROMA = 2  # how far away the chroma lies that a decoded pixel depends on
TRUNCATE = 4.0  # standard deviations that the blur sums over, SciPy's default
DRAWS = 7  # random numbers of each crop, whatever comes of them


def mirrored(positions: Tensor, size: Tensor | int) -> Tensor:
    """Positions on a line of `size` pixels that is continued by its mirror images, on both sides: any integers to [0, size)."""
    positions = positions % (2 * size)
    return torch.minimum(positions, 2 * size - 1 - positions)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur as `scipy.ndimage.gaussian_filter` does it, rounded once at the end.

    Each image has a sigma of its own, on the device that holds them. The perturbation `blur` has one kernel, made in float64, and the
    two round a few halves differently: neither is made of the other, since both must stay what they were.

    Args:
        images: uint8 `[B, 3, H, W]`.
        sigma: Standard deviation in pixels of each image's blur, `[B]`, 0 or more.

    Returns:
        uint8 `[B, 3, H, W]`.
    """
    batch, channels, *sides = images.shape
    radius = _radius(float(sigma.max()))
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None].clamp(min=1e-3)).square())  # the smallest are no blur at all
    weights = weights * (offsets.abs() <= (TRUNCATE * sigma[:, None] + 0.5).floor())
    kernels = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None, :]
    blurred = images.float().reshape(1, batch * channels, *sides)
    with torch.autocast(images.device.type, enabled=False):  # eight bits of bfloat16 would be fewer than the pixels have
        for axis, kernel in ((3, kernels), (2, kernels.transpose(2, 3))):
            around = mirrored(torch.arange(-radius, blurred.shape[axis] + radius, device=images.device), blurred.shape[axis])
            blurred = conv2d(blurred.index_select(axis, around), kernel, groups=batch * channels)
    return blurred.reshape(images.shape).clamp(0, 255).round().to(torch.uint8)


def jpeg(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """Images after JPEG compression with chroma at half the resolution, computed on the CPU.

    Args:
        images: uint8 `[B, 3, H, W]`.
        qualities: libjpeg's quality of each image, 1 to 100.

    Returns:
        uint8 `[B, 3, H, W]`, on the images' device.
    """
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack(
        [through_format(image, "JPEG", quality=quality, subsampling="4:2:0") for image, quality in zip(pixels, qualities, strict=True)]
    )
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(images.device)


@dataclass(frozen=True)
class CompressedCrops:
    """A random crop of each image after random blur, random JPEG compression and a random flip.

    Images smaller than the crop are continued by their mirror images, as the authors do.

    Attributes:
        crop: Side of the crop in pixels.
        flip: Mirror half of the crops.
        blur_probability: Share of the images that are blurred.
        blur_sigma: Range of the blur's standard deviation in pixels.
        jpeg_probability: Share of the images that are compressed, after the blur.
        jpeg_quality: Range of libjpeg's quality, both ends included.
    """

    crop: int
    flip: bool
    blur_probability: float
    blur_sigma: tuple[float, float]
    jpeg_probability: float
    jpeg_quality: tuple[int, int]

    @torch.no_grad()
    def __call__(self, images: Tensor | list[Tensor]) -> Tensor:
        """Crops of the images, one of each; all random numbers come from the global generator of their device.

        Args:
            images: uint8 `[B, 3, H, W]`, or B images `[3, h, w]`.

        Returns:
            uint8 `[B, 3, crop, crop]`.
        """
        device = images[0].device
        draws = torch.rand(len(images), DRAWS, device=device)
        sizes = torch.tensor([tuple(image.shape[1:]) for image in images], device=device)
        room = sizes - self.crop  # negative where the image is smaller: then the crop starts before it
        places = torch.minimum((draws[:, :2] * (room.abs() + 1)).long(), room.abs()) + room.clamp(max=0)
        starts, side = self._region(places)
        around = starts[:, :, None] + torch.arange(side, device=device)  # [B, 2, side], positions in the image
        rows, columns = mirrored(around, sizes[:, :, None]).unbind(1)
        regions = torch.stack([image[:, down[:, None], along] for image, down, along in zip(images, rows, columns, strict=True)])
        regions = self._blurred(regions, draws[:, 2], draws[:, 3])
        # JPEG repeats the last row and column of an image whose sides are not whole blocks.
        inside = around.clamp(min=0).minimum(sizes[:, :, None] - 1) - starts[:, :, None]
        regions = self._compressed(_cut(regions, inside), draws[:, 4], draws[:, 5])
        wanted = mirrored(places[:, :, None] + torch.arange(self.crop, device=device), sizes[:, :, None]) - starts[:, :, None]
        flipped = (draws[:, 6] < 0.5) & self.flip
        wanted[:, 1] = torch.where(flipped[:, None], wanted[:, 1].flip(1), wanted[:, 1])
        return _cut(regions, wanted)

    def _region(self, places: Tensor) -> tuple[Tensor, int]:
        """Where the blocks begin that a crop's pixels depend on, `[B, 2]`, on the image's grid of blocks; and the side of such a region."""
        blur = _blocks(_radius(self.blur_sigma[1]))
        starts = (places - CHROMA).div(BLOCK, rounding_mode="floor") * BLOCK - blur
        return starts, _blocks(BLOCK - 1 + self.crop + 2 * CHROMA) + 2 * blur

    def _blurred(self, regions: Tensor, chance: Tensor, draw: Tensor) -> Tensor:
        chosen = (chance < self.blur_probability).nonzero()[:, 0]
        if len(chosen):
            low, high = self.blur_sigma
            regions[chosen] = gaussian_blur(regions[chosen], low + (high - low) * draw[chosen])
        return regions

    def _compressed(self, regions: Tensor, chance: Tensor, draw: Tensor) -> Tensor:
        chosen = (chance < self.jpeg_probability).nonzero()[:, 0]
        if len(chosen):
            low, high = self.jpeg_quality
            qualities = (low + (draw[chosen] * (high - low + 1)).long()).clamp(max=high)
            regions[chosen] = jpeg(regions[chosen], qualities.tolist())
        return regions


def _cut(images: Tensor, positions: Tensor) -> Tensor:
    """Rows and columns of each image: `[B, C, H, W]` and `[B, 2, side]` to `[B, C, side, side]`."""
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = positions[:, 0, :, None], positions[:, 1, None, :]
    # Advanced indices around the channel slice put the channels last.
    return images[sample, :, rows, columns].permute(0, 3, 1, 2).contiguous()


def _radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)


def _blocks(pixels: int) -> int:
    """The next multiple of a block's side."""
    return -(-pixels // BLOCK) * BLOCK
