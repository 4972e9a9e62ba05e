"""Pooled features of a diffusion model's UNet: an encoder that the built-in model gives without a download."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.latent_denoiser import LatentDenoiser
from modules.errors import ModelError
from modules.extractors.base import Features
from modules.extractors.statistic import StatisticExtractor, generators_of

BLOCK = re.compile(r"(down|up)_\d+|mid")


class UNetEmbeddingExtractor(StatisticExtractor):
    """What the blocks of a latent diffusion model's UNet see in an image, pooled to one vector.

    The image is encoded to a latent, brought to the noise level of a timestep, and goes through the UNet once. Baranchuk et al. 2022
    ("Label-Efficient Semantic Segmentation with Diffusion Models") and Tang et al. 2023 ("Emergent Correspondence from Image Diffusion",
    DIFT) found that the activations in it tell what is in an image. Here those of each named block are pooled over space, to mean and
    standard deviation of each channel.

    `forward` gives float32 `[B, D]` `embedding`: of the blocks in the order of their names, the channels' means, then their deviations.

    With the built-in model these are features of a tiny model that was trained on seven photographs, at 64 pixels. They are real features
    and need no download, but they are nothing like CLIP's: they know textures and colours, no objects. With Stable Diffusion 2.1 as
    the model, `blocks: [up_1]`, `timestep: 261` and `state_draws: 8` they are near DIFT's for semantics, pooled. Any model's features
    depend on the size of the image that it sees; the built-in one knows `size: 64`.

    Args:
        model: Directory or hub id of a text-to-image diffusers model.
        revision: Branch, tag or commit of a hub model.
        model_dtype: What the networks compute in: `float32`, `bfloat16` or `float16`. Pooling is float32.
        blocks: Of the UNet, each once: `down_0` (the first), `down_1`, …, `mid`, `up_0` (the one after the middle), `up_1`, …
        timestep: Of the noise schedule: what the UNet is told, and the level that the latent is brought to.
        state_draws: How often the latent is noised to that level, from a seed of the image's content; the features are averaged. 0 takes
            the latent as it is, scaled by `√ᾱ`: no noise.
        normalise: Divide each embedding by its Euclidean norm.
        **options: Of `StatisticExtractor`.
    """

    name: ClassVar[str] = "unet_embedding"

    def __init__(
        self,
        model: str = "assets/tiny-diffusion",
        revision: str | None = None,
        model_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        blocks: Sequence[str] = ("down_0", "down_1", "up_1", "up_2"),
        timestep: int = 51,
        state_draws: int = 0,
        normalise: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if isinstance(blocks, str) or not blocks or len(set(blocks)) != len(blocks) or not all(BLOCK.fullmatch(each) for each in blocks):
            msg = f"data.extractor.blocks is {blocks!r}; it must list one or more of down_0, down_1, …, mid, up_0, up_1, …, each once"
            raise ValueError(msg)
        if state_draws < 0:
            msg = f"data.extractor.state_draws is {state_draws}; it is a number of noise images, or 0 for none"
            raise ValueError(msg)
        self.model = model
        self.revision = revision
        self.model_dtype = model_dtype
        self.blocks = blocks
        self.timestep = timestep
        self.state_draws = state_draws
        self.normalise = normalise
        self.denoiser = LatentDenoiser(model, revision, model_dtype)

    @property
    def denoisers(self) -> list[Denoiser]:
        """The model."""
        return [self.denoiser]

    def load(self) -> None:
        """Load the model and, where it is used, the captioner.

        Raises:
            ModelError: If the UNet has no such blocks, the schedule no such timestep, or as for `StatisticExtractor`.
        """
        super().load()
        self.denoiser.level(self.timestep)
        known = list(self._modules_of_blocks())
        unknown = [block for block in self.blocks if block not in known]
        if unknown:
            msg = f"data.extractor.blocks names {', '.join(unknown)}; the UNet of {self.model!r} has {', '.join(known)}"
            raise ModelError(msg)

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Embed images; see the class for the feature."""
        conditioned = self.conditioned(self.denoiser, prompts)
        level = self.denoiser.level(self.timestep)
        clean = self.denoiser.encode(images)
        states = self.noised(clean, level, self.state_draws, generators_of(seeds)) if self.state_draws else (level.signal * clean)[:, None]
        draws = states.shape[1]
        position = torch.arange(len(clean), device=clean.device).repeat_interleave(draws)

        def pooled(rows: Tensor, of: Tensor) -> Tensor:
            with self._watched() as seen:
                conditioned.noise(rows, level, of)
            return torch.cat([seen[block] for block in self.blocks], dim=1)

        embeddings = self.in_rows(pooled, states.flatten(0, 1), position).unflatten(0, (-1, draws)).mean(1)
        return {"embedding": normalize(embeddings, dim=1) if self.normalise else embeddings}

    @contextmanager
    def _watched(self) -> Iterator[dict[str, Tensor]]:
        """Of each named block, its pooled output of the pass that is made meanwhile."""
        seen: dict[str, Tensor] = {}

        def watch(name: str) -> Any:
            def keep(module: nn.Module, inputs: Any, outputs: Any) -> None:
                # down blocks give what they pass on, and what they lay by for the way up
                seen[name] = pool(outputs[0] if isinstance(outputs, tuple) else outputs)

            return keep

        modules = self._modules_of_blocks()
        handles = [modules[name].register_forward_hook(watch(name)) for name in self.blocks]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _modules_of_blocks(self) -> dict[str, nn.Module]:
        if self.denoiser.diffusion is None:
            msg = "load() was not called"
            raise RuntimeError(msg)
        unet = self.denoiser.diffusion.unet
        down = {f"down_{i}": block for i, block in enumerate(unet.down_blocks)}
        middle = {"mid": unet.mid_block} if unet.mid_block is not None else {}
        return down | middle | {f"up_{i}": block for i, block in enumerate(unet.up_blocks)}


def pool(activations: Tensor) -> Tensor:
    """Mean and standard deviation over space of each channel: `[B, C, h, w]` to float32 `[B, 2 C]`, the means first."""
    variance, mean = torch.var_mean(activations.float(), dim=(2, 3), correction=0)
    return torch.cat([mean, variance.sqrt()], dim=1)
