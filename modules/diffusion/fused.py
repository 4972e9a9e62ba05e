"""Layers of diffusers' networks that take fewer passes over memory on a GPU in half precision, with the same parameters."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def fuse(network: nn.Module) -> None:
    """Replace group normalisations, the SiLU after them and GEGLU by layers that fuse them on CUDA devices in half precision.

    Parameters and their names stay; in float32, on other devices, with gradients and where `torch.compile` traces the network the
    layers do what they did.

    Args:
        network: diffusers' `UNet2DConditionModel` or `AutoencoderKL`; changed in place.
    """
    from diffusers.models.activations import GEGLU
    from diffusers.models.resnet import ResnetBlock2D

    module: Any
    for module in list(network.modules()):
        if isinstance(module, ResnetBlock2D) and isinstance(module.nonlinearity, nn.SiLU) and module.time_embedding_norm == "default":
            module.norm1, module.norm2 = GroupNorm.of(module.norm1, silu=True), GroupNorm.of(module.norm2, silu=True)
            module.nonlinearity = SiLUOfVectors()
        elif isinstance(getattr(module, "conv_norm_out", None), nn.GroupNorm) and isinstance(getattr(module, "conv_act", None), nn.SiLU):
            module.conv_norm_out, module.conv_act = GroupNorm.of(module.conv_norm_out, silu=True), nn.Identity()
        for name, child in list(module.named_children()):
            if type(child) is nn.GroupNorm:
                setattr(module, name, GroupNorm.of(child, silu=False))
            elif type(child) is GEGLU:
                setattr(module, name, FusedGEGLU(child.proj))


class GroupNorm(nn.GroupNorm):
    """Group normalisation that keeps the memory format channels last, with SiLU where it follows."""

    silu: bool

    @classmethod
    def of(cls, norm: nn.GroupNorm, silu: bool) -> "GroupNorm":
        """The same normalisation with the very same parameters."""
        made = cls(norm.num_groups, norm.num_channels, norm.eps, norm.affine, device="meta")
        made.weight, made.bias, made.silu = norm.weight, norm.bias, silu
        return made.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, …]` to the same."""
        if input.ndim == 4 and self.affine and _is_fused(input) and input.is_contiguous(memory_format=torch.channels_last):
            from modules.diffusion.kernels import group_norm

            return group_norm(input, self.num_groups, self.weight, self.bias, self.eps, self.silu)
        normalised = super().forward(input)
        return functional.silu(normalised) if self.silu else normalised


class SiLUOfVectors(nn.Module):
    """SiLU of time embeddings `[B, C]`; that of activations `[B, C, H, W]` was taken by the normalisation before it."""

    def forward(self, values: Tensor) -> Tensor:
        """The same shape."""
        return values if values.ndim == 4 else functional.silu(values)


class FusedGEGLU(nn.Module):
    """diffusers' GEGLU, its halves multiplied in one pass.

    Args:
        projection: The layer's.
    """

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.proj = projection

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, L, C]` to `[B, L, D]`."""
        projected = self.proj(hidden)
        if _is_fused(projected):
            from modules.diffusion.kernels import geglu

            return geglu(projected)
        values, gates = projected.chunk(2, dim=-1)
        return values * functional.gelu(gates)


def _is_fused(values: Tensor) -> bool:
    half = values.dtype in (torch.bfloat16, torch.float16)
    return half and values.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
