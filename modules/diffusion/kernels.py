"""Triton kernels for half-precision activations that lie channels last, as cuDNN's convolutions want them.

torch's own group normalisation on CUDA gives contiguous activations, so that each convolution after it begins with a copy: in Stable
Diffusion's UNet copies take a quarter of the time. Statistics and affine map are float32 here, as in torch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 64  # of one program: 128 bytes of a pixel
PIXELS = 64  # a program takes at a time
SPLITS = 32  # programs that share the pixels of an image at most


@triton.jit
def _sums(x, sums, channels, pixels, chunk, channels_at_once: tl.constexpr, pixels_at_once: tl.constexpr):
    """Sum and sum of squares of each channel over a part of an image's pixels; from the first pixel's value, so that they stay small."""
    image, part, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = block * channels_at_once + tl.arange(0, channels_at_once)
    known = channel < channels
    first = x + image.to(tl.int64) * pixels * channels
    origin = tl.load(first + channel, mask=known, other=0.0).to(tl.float32)
    total = tl.zeros((channels_at_once,), tl.float32)
    squares = tl.zeros((channels_at_once,), tl.float32)
    for start in range(part * chunk, tl.minimum(part * chunk + chunk, pixels), pixels_at_once):
        pixel = start + tl.arange(0, pixels_at_once)
        inside = (pixel < tl.minimum(part * chunk + chunk, pixels))[:, None] & known[None, :]
        value = tl.load(first + pixel[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - origin[None, :], 0.0)
        total += tl.sum(value, 0)
        squares += tl.sum(value * value, 0)
    place = sums + ((image * tl.num_programs(1) + part) * 2) * channels + channel
    tl.store(place, total, mask=known)
    tl.store(place + channels, squares, mask=known)


@triton.jit
def _affine(
    x, sums, weight, bias, scale, shift, channels, pixels, parts, eps, of_group, at_once: tl.constexpr, parts_at_once: tl.constexpr
):
    """Scale and shift of each channel of one group from the sums of its parts."""
    image, group = tl.program_id(0), tl.program_id(1)
    inner = tl.arange(0, at_once)
    channel = group * of_group + inner
    known = inner < of_group
    part = tl.arange(0, parts_at_once)
    place = sums + ((image * parts + part[:, None]) * 2) * channels + channel[None, :]
    inside = (part < parts)[:, None] & known[None, :]
    total = tl.sum(tl.load(place, mask=inside, other=0.0), 0)
    squares = tl.sum(tl.load(place + channels, mask=inside, other=0.0), 0)
    origin = tl.load(x + image.to(tl.int64) * pixels * channels + channel, mask=known, other=0.0).to(tl.float32)
    # Chan et al.: the group's variance from those of its channels, none of which subtracts large numbers.
    mean = origin + total / pixels
    within = squares - total * total / pixels
    middle = tl.sum(tl.where(known, mean, 0.0), 0) / of_group
    between = tl.where(known, (mean - middle) * (mean - middle), 0.0)
    variance = (tl.sum(tl.where(known, within, 0.0), 0) + pixels * tl.sum(between, 0)) / (pixels * of_group)
    factor = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    tl.store(scale + image * channels + channel, factor, mask=known)
    offset = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32) - middle * factor
    tl.store(shift + image * channels + channel, offset, mask=known)


@triton.jit
def _apply(x, scale, shift, out, channels, pixels, silu: tl.constexpr, channels_at_once: tl.constexpr, pixels_at_once: tl.constexpr):
    """`x · scale + shift` of each channel, through SiLU where asked."""
    image, part, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = block * channels_at_once + tl.arange(0, channels_at_once)
    known = channel < channels
    factor = tl.load(scale + image * channels + channel, mask=known, other=0.0)
    offset = tl.load(shift + image * channels + channel, mask=known, other=0.0)
    pixel = part * pixels_at_once + tl.arange(0, pixels_at_once)
    inside = (pixel < pixels)[:, None] & known[None, :]
    place = image.to(tl.int64) * pixels * channels + pixel[:, None] * channels + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * factor[None, :] + offset[None, :]
    if silu:
        value = value * tl.sigmoid(value)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _geglu(x, out, width, total, at_once: tl.constexpr):
    """First half of each row times GELU of its second half."""
    place = tl.program_id(0).to(tl.int64) * at_once + tl.arange(0, at_once)
    known = place < total
    row, column = place // width, place % width
    value = tl.load(x + row * 2 * width + column, mask=known, other=0.0).to(tl.float32)
    gate = tl.load(x + row * 2 * width + width + column, mask=known, other=0.0).to(tl.float32)
    gate = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    # rounded between, as two operations of torch round
    gate = gate.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + place, (value * gate).to(out.dtype.element_ty), mask=known)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool = False) -> Tensor:
    """Group normalisation (Wu and He 2018), and SiLU of it where asked.

    Args:
        x: `[B, C, H, W]` in the channels-last memory format, on a CUDA device.
        groups: Number of groups, a divisor of C.
        weight: `[C]`.
        bias: `[C]`.
        eps: Added to the variance.
        silu: Whether SiLU follows.

    Returns:
        The same shape, dtype and memory format.
    """
    batch, channels, height, width = x.shape
    pixels = height * width
    blocks = triton.cdiv(channels, CHANNELS)
    parts = max(1, min(SPLITS, triton.cdiv(pixels, PIXELS)))
    chunk = triton.cdiv(pixels, parts)
    sums = torch.empty(batch, parts, 2, channels, device=x.device, dtype=torch.float32)
    scale, shift = (torch.empty(batch, channels, device=x.device, dtype=torch.float32) for _ in range(2))
    out = torch.empty_like(x)
    of_group = channels // groups
    _sums[batch, parts, blocks](x, sums, channels, pixels, chunk, CHANNELS, PIXELS)
    at_once, parts_at_once = triton.next_power_of_2(of_group), triton.next_power_of_2(parts)
    _affine[batch, groups](x, sums, weight, bias, scale, shift, channels, pixels, parts, eps, of_group, at_once, parts_at_once)
    _apply[batch, triton.cdiv(pixels, PIXELS), blocks](x, scale, shift, out, channels, pixels, silu, CHANNELS, PIXELS)
    return out


def geglu(x: Tensor) -> Tensor:
    """GEGLU (Shazeer 2020): `[…, 2 D]` contiguous on a CUDA device to `[…, D]`, the first half times GELU of the second."""
    width = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], width)
    _geglu[triton.cdiv(out.numel(), 1024),](x, out, width, out.numel(), 1024)
    return out
