"""Inversion and reconstruction with the built-in model: ours against a loop over diffusers as a user writes it.

python -m benchmarks.inversion --images 16 --steps 10

The loop takes one image at a time, or a batch; weights, images and prompts are the same. The loop in float64 tells how
far each way lies from the exact numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import Row, alternate, compared, finish, machine, parser
from modules.diffusion import LatentDiffusion
from modules.extractors import InversionExtractor
from modules.images import to_uint8

MODEL = "assets/tiny-diffusion"
PROMPTS = ("a close photo of a cat", "a rocket on its pad, bright", "", "a bowl of coffee on a table")


@dataclass(frozen=True, slots=True)
class Found:
    """What inversion gives of a batch.

    Attributes:
        latents: The noise and the reconstructed latents, float `[2 B, C, h, w]`.
        pictures: Both decoded, in [0, 1], `[2 B, 3, H, W]`.
    """

    latents: Tensor
    pictures: Tensor

    def largest(self, other: "Found") -> list[float]:
        """Largest difference of latents and of pictures."""
        return [float(difference.abs().max()) for difference in self._differences(other)]

    def distance(self, other: "Found") -> list[float]:
        """Root mean square of the difference of latents and of pictures."""
        return [float(difference.square().mean().sqrt()) for difference in self._differences(other)]

    def _differences(self, other: "Found") -> list[Tensor]:
        return [self.latents.double() - other.latents.double(), self.pictures.double() - other.pictures.double()]


class DiffusersLoop:
    """DDIM inversion and sampling with diffusers' parts and schedulers.

    Args:
        steps: DDIM steps each way.
        dtype: Of networks, state and schedule.
    """

    def __init__(self, steps: int, dtype: torch.dtype = torch.float32) -> None:
        from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        self.dtype = dtype
        self.vae: Any = AutoencoderKL.from_pretrained(MODEL, subfolder="vae", torch_dtype=dtype)
        self.unet: Any = UNet2DConditionModel.from_pretrained(MODEL, subfolder="unet", torch_dtype=dtype)
        self.text_encoder: Any = CLIPTextModel.from_pretrained(MODEL, subfolder="text_encoder", dtype=dtype)
        self.tokenizer: Any = CLIPTokenizer.from_pretrained(MODEL, subfolder="tokenizer")
        inverse = DDIMInverseScheduler.from_pretrained(MODEL, subfolder="scheduler")
        forward = DDIMScheduler.from_pretrained(MODEL, subfolder="scheduler")
        self.schedulers: list[Any] = [inverse, forward]
        for scheduler in self.schedulers:
            scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)
            scheduler.set_timesteps(steps)
        inverse.initial_alpha_cumprod = inverse.initial_alpha_cumprod.to(dtype)
        forward.final_alpha_cumprod = forward.final_alpha_cumprod.to(dtype)

    @torch.no_grad()
    def batch(self, images: Tensor, prompts: Sequence[str]) -> Found:
        """Invert and reconstruct images at once: uint8 `[B, 3, H, W]`."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        text = self.text_encoder(tokens.input_ids)[0]
        state = self.vae.encode(images.to(self.dtype) / 127.5 - 1).latent_dist.mode() * self.vae.config.scaling_factor
        ends = []
        for scheduler in self.schedulers:
            for timestep in scheduler.timesteps:
                noise = self.unet(state, timestep, encoder_hidden_states=text).sample
                state = scheduler.step(noise, timestep, state).prev_sample
            ends.append(state)
        pictures = [self.vae.decode(end / self.vae.config.scaling_factor).sample for end in ends]
        return Found(torch.cat(ends), (torch.cat(pictures) / 2 + 0.5).clamp(0, 1))

    def one_by_one(self, images: Tensor, prompts: Sequence[str]) -> Found:
        """The same, an image at a time."""
        found = [self.batch(images[i : i + 1], prompts[i : i + 1]) for i in range(len(images))]
        return Found(
            *(torch.stack(parts).transpose(0, 1).flatten(0, 1) for parts in zip(*((f.latents, f.pictures) for f in found), strict=True))
        )


def photographs(count: int) -> tuple[Tensor, list[str]]:
    """Crops of photographs that the model never saw, uint8 `[count, 3, 64, 64]`, and a prompt for each."""
    from datamodules.sources.photographs import load, random_crop
    from datamodules.sources.photographs import photographs as known

    generator = np.random.default_rng(0)
    held = known("test")
    crops = [random_crop(generator, load(held[i % len(held)])[0]) for i in range(count)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), [PROMPTS[i % len(PROMPTS)] for i in range(count)]


@torch.no_grad()
def ours(model: LatentDiffusion, images: Tensor, prompts: Sequence[str], steps: int) -> Found:
    """What the extractor computes before it rounds to uint8."""
    text = model.embed(prompts)
    noise = model.invert(model.encode(images), text, steps)
    latents = torch.cat([noise, model.denoise(noise, text, steps)])
    return Found(latents, model.decode(latents))


def measure(images: int, steps: int, rounds: int) -> list[Row]:
    """Both loops against the extractor.

    Args:
        images: How many, in one batch of ours.
        steps: DDIM steps each way.
        rounds: That count.
    """
    pixels, prompts = photographs(images)
    loop = DiffusersLoop(steps)
    extractor = InversionExtractor(model=MODEL, size=pixels.shape[-1], steps=steps)
    extractor.load()
    model = extractor.diffusion
    assert model is not None

    def extract() -> dict[str, Tensor]:
        model._embedded.clear()  # or the prompts of the round before would be known already
        with torch.no_grad():
            return extractor.extract(pixels, prompts, [0] * images)[0]

    exact = DiffusersLoop(steps, torch.float64).one_by_one(pixels, prompts)
    single, mine = loop.one_by_one(pixels, prompts), ours(model, pixels, prompts, steps)
    features = extract()
    stored = torch.cat([features["noise_map"], features["reconstruction"]])
    levels = int((stored.int() - to_uint8(single.pictures).int()).abs().max())
    seconds = alternate(
        {"one": lambda: loop.one_by_one(pixels, prompts), "batch": lambda: loop.batch(pixels, prompts), "ours": extract}, rounds
    )
    between = mine.largest(single)
    told = {
        "ours": mine.distance(exact),
        "one at a time": single.distance(exact),
        "in a batch": loop.batch(pixels, prompts).distance(exact),
    }
    distances = "; ".join(f"{way} {latents:.1e} and {pictures:.1e}" for way, (latents, pictures) in told.items())
    words = f"latents {between[0]:.1e}, pictures {between[1]:.1e}, stored features {levels} levels of 255; "
    words += f"root mean square from float64: {distances}"
    what = f"invert and reconstruct {images} images of {pixels.shape[-1]} pixels, {steps} + {steps} steps"
    numbers = {"largest": between, "levels": levels, "from_float64": told}
    return [
        compared(what, "images", images, seconds["ours"], ("diffusers, one at a time", seconds["one"]), "≥ 1.3", words, **numbers),
        compared(what, "images", images, seconds["ours"], ("diffusers, batched", seconds["batch"])),
    ]


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    options = parser(__doc__, "inversion")
    options.add_argument("--images", type=int, default=16)
    options.add_argument("--steps", type=int, default=10)
    chosen = options.parse_args(args)
    before = machine()
    return finish("inversion", chosen, measure(chosen.images, chosen.steps, chosen.rounds), before)


if __name__ == "__main__":
    main()
