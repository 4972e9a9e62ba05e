"""DeepCache: a UNet whose deep layers run on some steps only (Ma et al., "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024).

What the deep layers say changes little from one step to the next. On every N-th step the whole network runs, and what enters the last
up block's last two layers is kept. On the steps between only the first convolution, the first down block's first layer and those last two
layers run, with the kept features as their input: 22% of the operations of Stable Diffusion 1.5's UNet.
"""

from typing import Any

import torch
from torch import Tensor, nn

from modules.diffusion.runner import attention
from modules.errors import ModelError

DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def check_reusable(unet: nn.Module) -> None:
    """Refuse a UNet whose outermost blocks are of other kinds than those that the shallow pass knows.

    Raises:
        ModelError: Naming the block.
    """
    outer: Any = unet
    for block, known in ((outer.down_blocks[0], DOWN), (outer.up_blocks[-1], UP)):
        if type(block).__name__ not in known:
            msg = f"reuse needs {' or '.join(known)} there, and this UNet has a {type(block).__name__}; leave reuse at 1"
            raise ModelError(msg)


def full_pass(unet: Any, latents: Tensor, timestep: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """The plain forward of the UNet, and the deep features on its way.

    Args:
        unet: diffusers' `UNet2DConditionModel`.
        latents: `[B, C, h, w]`.
        timestep: Integer, no dimensions.
        embeddings: `[B, L, D]`.

    Returns:
        The UNet's output `[B, C, h, w]`, and what enters the last up block's last two layers, `[B, D, h, w]`, without the skip connection.
    """
    kept: list[Tensor] = []

    def keep(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # The layer's input is [deep features, skip connection]; the latter is the first down block's first layer's output.
        skip = unet.down_blocks[0].resnets[0].out_channels
        kept.append(inputs[0][:, :-skip].clone())  # the slice alone would hold all of it

    handle = unet.up_blocks[-1].resnets[-2].register_forward_pre_hook(keep)
    try:
        output: Tensor = unet(latents, timestep, encoder_hidden_states=embeddings, return_dict=False)[0]
    finally:
        handle.remove()
    return output, kept[0]


def shallow_pass(unet: Any, latents: Tensor, timestep: Tensor, embeddings: Tensor, deep: Tensor) -> Tensor:
    """The UNet's output with given deep features: with those of these very latents and timestep, that of the full pass.

    Args:
        unet: As in `full_pass`.
        latents: As in `full_pass`.
        timestep: As in `full_pass`.
        embeddings: As in `full_pass`.
        deep: Of `full_pass`, at another step.
    """
    time = unet.time_embedding(unet.get_time_embed(latents, timestep))
    added = unet.get_aug_embed(time, embeddings, {})
    time = time if added is None else time + added
    time = time if unet.time_embed_act is None else unet.time_embed_act(time)
    text = unet.process_encoder_hidden_states(embeddings, {})
    first = unet.conv_in(2 * latents - 1 if unet.config.center_input_sample else latents)
    second = _layer(unet.down_blocks[0], 0, first, time, text)
    block = unet.up_blocks[-1]
    hidden = _layer(block, -2, torch.cat([deep, second], 1), time, text)
    hidden = _layer(block, -1, torch.cat([hidden, first], 1), time, text)
    if unet.conv_norm_out:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    output: Tensor = unet.conv_out(hidden)
    return output


def _layer(block: Any, number: int, hidden: Tensor, time: Tensor, text: Tensor) -> Any:
    """One of a block's residual layers, with its attention where it has one."""
    hidden = block.resnets[number](hidden, time)
    attentions = getattr(block, "attentions", None)
    return hidden if attentions is None else attentions[number](hidden, encoder_hidden_states=text, return_dict=False)[0]


class DeepCache:
    """A UNet for one run of consecutive steps, whose deep layers run on the first and then every `every`-th call.

    Its passes run as they are, neither compiled nor as a CUDA graph.

    Args:
        unet: diffusers' `UNet2DConditionModel`.
        every: 1 runs the whole network at every call.

    Attributes:
        calls: So far.
    """

    def __init__(self, unet: Any, every: int) -> None:
        self.unet = unet
        self.every = every
        self.calls = 0
        self._deep: Tensor | None = None

    def __call__(self, latents: Tensor, timestep: Tensor, embeddings: Tensor) -> Tensor:
        """The UNet's output; arguments as in `full_pass`."""
        whole = self.calls % self.every == 0
        self.calls += 1
        with attention(latents):
            if whole or self._deep is None:
                output, self._deep = full_pass(self.unet, latents, timestep, embeddings)
                return output
            return shallow_pass(self.unet, latents, timestep, embeddings, self._deep)
