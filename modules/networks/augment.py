"""Augmentation of stacked feature images, alike for all channels of a sample, on the device that holds them."""

import torch
from torch import Tensor
from torch.nn import functional


def resize(images: Tensor, side: int) -> Tensor:
    """Square images at another side, antialiased bilinear: float `[B, C, H, H]` to `[B, C, side, side]`."""
    if images.shape[-1] == side:
        return images
    return functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def random_flip(images: Tensor) -> Tensor:
    """Mirror each sample left to right with probability one half: `[B, C, H, W]`."""
    flipped = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def random_crop(images: Tensor, side: int) -> Tensor:
    """Cut a square of random place from each sample: `[B, C, H, W]` to `[B, C, side, side]`.

    Raises:
        ValueError: If the images are smaller than the crop.
    """
    height, width = _room(images, side)
    rows = torch.randint(height + 1, (len(images), 1), device=images.device) + torch.arange(side, device=images.device)
    columns = torch.randint(width + 1, (len(images), 1), device=images.device) + torch.arange(side, device=images.device)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    # Advanced indices around the channel slice put the channels last.
    return images[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def center_crop(images: Tensor, side: int) -> Tensor:
    """Cut the central square: `[B, C, H, W]` to `[B, C, side, side]`.

    Raises:
        ValueError: If the images are smaller than the crop.
    """
    height, width = _room(images, side)
    top, left = height // 2, width // 2
    return images[..., top : top + side, left : left + side]


def _room(images: Tensor, side: int) -> tuple[int, int]:
    height, width = images.shape[-2] - side, images.shape[-1] - side
    if height < 0 or width < 0:
        msg = f"cannot crop {side} pixels from features of {images.shape[-2]} x {images.shape[-1]}; set model.crop or model.resize"
        raise ValueError(msg)
    return height, width
