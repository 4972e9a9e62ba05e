"""Latent diffusion models with random weights: speed does not depend on what a network has learnt."""

from typing import Any

import torch

from modules.diffusion import LatentDiffusion
from modules.diffusion.ddim import NoiseSchedule
from modules.diffusion.latent_denoiser import DTYPES
from modules.extractors import InversionExtractor

# Stable Diffusion 1.5's configurations, as its hub repository has them.
SD15: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    },
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "tokens": 77},
}

# The same shape of network, for a machine without a GPU: it tries the script, its times mean nothing.
TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    },
    "vae": {
        "block_out_channels": (16, 16, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 64,
    },
    "text": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "tokens": 16},
}

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1}

SIZES = {"sd15": SD15, "tiny": TINY}
TOKENIZER = "assets/tiny-diffusion/tokenizer"


def random_unet(size: str, dtype: torch.dtype, device: torch.device | str, seed: int = 0) -> Any:
    """Diffusers' UNet of random weights as it comes; equal ones for equal seeds, up to the rounding of `dtype`."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    with torch.device(device):
        unet: Any = UNet2DConditionModel(**SIZES[size]["unet"])
    return unet.to(dtype).eval().requires_grad_(False)


def random_model(size: str, dtype: torch.dtype, device: torch.device | str, seed: int = 0) -> LatentDiffusion:
    """A latent diffusion model of random weights.

    Args:
        size: `sd15`, or `tiny`.
        dtype: What the networks compute in.
        device: Where they are made; `meta` allocates nothing.
        seed: Of the weights.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    unet = random_unet(size, dtype, device, seed)
    text = dict(SIZES[size]["text"])
    tokens = text.pop("tokens")
    with torch.device(device):
        vae: Any = AutoencoderKL(**SIZES[size]["vae"])
        encoder: Any = CLIPTextModel(CLIPTextConfig(max_position_embeddings=tokens, **text))
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=tokens)
    return LatentDiffusion(vae.to(dtype), unet, encoder.to(dtype), tokenizer, NoiseSchedule.from_config(SCHEDULE)).to(device)


class RandomInversion(InversionExtractor):
    """The inversion extractor over a model of random weights.

    Args:
        weights_of: `sd15`, or `tiny`.
        **options: Of `InversionExtractor`.
    """

    def __init__(self, weights_of: str = "sd15", **options: Any) -> None:
        super().__init__(**options)
        self.weights_of = weights_of

    def load(self) -> None:
        """Make the model, on the GPU where there is one: there it takes a second."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.diffusion = random_model(self.weights_of, DTYPES[self.model_dtype], device)
