"""Captions of images by BLIP or BLIP-2, the prompts of FakeInversion's inversion."""

from typing import Any

import torch
from torch import Tensor, nn

from modules.errors import ModelError


class Captioner(nn.Module):
    """An image captioner of the BLIP family (Li et al. 2022, 2023), deterministic (beam search, no sampling).

    Args:
        network: transformers' `BlipForConditionalGeneration` or `Blip2ForConditionalGeneration`.
        processor: Its processor.
        max_new_tokens: Longest caption in tokens.
    """

    network: Any  # transformers' own classes are not typed as nn.Module attributes

    def __init__(self, network: nn.Module, processor: Any, max_new_tokens: int = 20) -> None:
        super().__init__()
        self.network = network
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, path_or_id: str, dtype: torch.dtype = torch.float32, revision: str | None = None) -> "Captioner":
        """Load a BLIP or BLIP-2 model from a directory or the hub.

        Raises:
            ModelError: If the model is of another kind.
        """
        from transformers import AutoConfig, AutoProcessor, Blip2ForConditionalGeneration, BlipForConditionalGeneration

        classes: dict[str, Any] = {"blip": BlipForConditionalGeneration, "blip-2": Blip2ForConditionalGeneration}
        # Told no, transformers does not ask at the terminal whether the model may run code of its own.
        pinned: dict[str, Any] = {"trust_remote_code": False} | ({} if revision is None else {"revision": revision})
        kind = AutoConfig.from_pretrained(path_or_id, **pinned).model_type
        if kind not in classes:
            msg = f"captioner {path_or_id!r} is a {kind!r} model; BLIP and BLIP-2 are supported"
            raise ModelError(msg)
        network = classes[kind].from_pretrained(path_or_id, dtype=dtype, **pinned)
        return cls(network, AutoProcessor.from_pretrained(path_or_id, **pinned))

    def forward(self, images: Tensor) -> list[str]:
        """Describe images.

        Args:
            images: uint8 `[B, 3, H, W]`. Not floating point: the processor divides by 255 itself, so an image in [0, 1] would
                look black to it.

        Returns:
            One caption an image.

        Raises:
            TypeError: If the images are not uint8.
        """
        if images.dtype != torch.uint8:
            msg = f"the captioner takes uint8 images, not {images.dtype}"
            raise TypeError(msg)
        parameter = next(self.network.parameters())
        pixels = self.processor.image_processor(images=list(images.cpu()), return_tensors="pt").pixel_values
        tokens: Any = self.network.generate(
            pixel_values=pixels.to(parameter.device, parameter.dtype), max_new_tokens=self.max_new_tokens, num_beams=3, do_sample=False
        )
        return [caption.strip() for caption in self.processor.batch_decode(tokens, skip_special_tokens=True)]
