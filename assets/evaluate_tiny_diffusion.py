"""Measure the built-in diffusion model on photographs that it never saw, and draw its samples: the figures of its card.

Run from the repository's root:

    python -m assets.evaluate_tiny_diffusion
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from assets.train_tiny_diffusion import build_crops
from datamodules.sources.photographs import Role, describe, load, photographs, random_crop_and_side
from modules.diffusion.latent_diffusion import LatentDiffusion

matplotlib.use("Agg")
from matplotlib import pyplot as plt

UNSEEN: tuple[Role, ...] = ("detector", "test")
TIMESTEPS = (100, 300, 600)
STEPS = (10, 25, 50)
PROMPTS = (
    "a wide photo of a motorcycle, medium light, orange, medium contrast, detailed",
    "a close photo of old coins, medium light, grey, medium contrast, detailed",
    "a close photo of a brick wall, bright, red, low contrast, smooth",
    "a wide photo of a chinese temple, very bright, blue, high contrast, very detailed",
    "a medium photo of an astronaut, dark, orange, high contrast, smooth",
    "a medium photo of a cat, medium light, orange, low contrast, smooth",
    "a close photo of grass, dark, green, medium contrast, very detailed",
    "",
)


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops of photographs that the model never saw.

    Attributes:
        images: uint8 [N, 3, 64, 64].
        captions: N captions.
        names: N names of photographs.
    """

    images: Tensor
    captions: list[str]
    names: list[str]


def unseen_crops(per_photograph: int, seed: int) -> Crops:
    """Crops of the detector's and the test's photographs.

    Args:
        per_photograph: Crops of each photograph; the first of each come first.
        seed: Seed of places and sides.

    Returns:
        `per_photograph` crops of each, photographs in turn.
    """
    rng = np.random.default_rng(seed)
    photos = [(photo, load(photo)[0]) for role in UNSEEN for photo in photographs(role)]
    images, captions, names = [], [], []
    for number in range(per_photograph * len(photos)):
        photo, image = photos[number % len(photos)]
        crop, side = random_crop_and_side(rng, image)
        images.append(crop.transpose(2, 0, 1))
        captions.append(describe(crop, photo.subject, side))
        names.append(photo.name)
    return Crops(torch.from_numpy(np.stack(images)), captions, names)


def in_batches(function: Callable[..., Tensor], *inputs: Tensor, size: int = 64) -> Tensor:
    """Apply a function to inputs in batches of `size` rows, without gradients; all results together on the CPU."""
    with torch.no_grad():
        chunks = zip(*(part.split(size) for part in inputs), strict=True)
        return torch.cat([function(*chunk).float().cpu() for chunk in chunks])


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in decibels, [N], of two batches [N, 3, H, W] in [0, 1]."""
    return -10 * (images - others).square().mean(dim=(1, 2, 3)).clamp_min(1e-10).log10()


def wiener_error(noisy: Tensor, noise: Tensor, alpha: float, sample: Tensor) -> Tensor:
    """Error of the best linear noise predictor for latents with the mean and the full covariance of a sample.

    Args:
        noisy: Noised latents [N, C, h, w].
        noise: The noise in them, same shape.
        alpha: Cumulative product of the noise schedule at their timestep.
        sample: Clean latents [M, C, h, w], from which mean and covariance are estimated; M well above C*h*w.

    Returns:
        Mean squared error of each image, [N].
    """
    clean = sample.flatten(1).double()
    covariance = torch.cov(clean.T)
    mixed = alpha * covariance + (1 - alpha) * torch.eye(len(covariance), dtype=torch.float64)
    centred = noisy.flatten(1).double() - alpha**0.5 * clean.mean(dim=0)
    predicted = (1 - alpha) ** 0.5 * torch.linalg.solve(mixed, centred.T).T
    return (predicted - noise.flatten(1).double()).square().mean(dim=1).float()


def denoising_errors(model: LatentDiffusion, latents: Tensor, prompts: Tensor, timestep: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Error of the model's noise prediction.

    Args:
        model: The model.
        latents: Clean scaled latents [N, C, h, w].
        prompts: Embeddings [N, L, D].
        timestep: Noise level.
        seed: Seed of the noise.

    Returns:
        Mean squared error of each image [N], the noisy latents and their noise.
    """
    alpha = float(model.schedule.alphas_cumprod[timestep])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
    predicted = in_batches(lambda part, text: model.predict_noise(part, timestep, text), noisy, prompts)
    return (predicted - noise).square().mean(dim=(1, 2, 3)), noisy, noise


def report_autoencoder(model: LatentDiffusion, crops: Crops) -> list[str]:
    """Lines of a Markdown table: PSNR of the autoencoder, by photograph and over all."""
    decoded = in_batches(lambda images: model.decode(model.encode(images)), crops.images)
    values = psnr(crops.images / 255, decoded)
    lines = ["| photograph | autoencoder PSNR, dB |", "|---|---|"]
    for name in dict.fromkeys(crops.names):
        rows = [number for number, other in enumerate(crops.names) if other == name]
        lines.append(f"| {name} | {values[rows].mean():.1f} |")
    pooled = -10 * (crops.images / 255 - decoded).square().mean().log10()
    return [*lines, f"| **mean of all crops** | **{values.mean():.1f}** |", f"| of the pooled squared error | {pooled:.1f} |"]


def report_round_trip(model: LatentDiffusion, crops: Crops, latents: Tensor, prompts: Tensor) -> list[str]:
    """Lines of a Markdown table: what inversion and denoising lose, in latents and images, by number of steps."""
    alone = in_batches(model.decode, latents)
    lines = [
        "| steps each way | latent, signal to error, dB | PSNR against the autoencoder's image, dB | against the original, dB |",
        "|---|---|---|---|",
    ]
    for steps in STEPS:
        back = in_batches(lambda part, text, n=steps: model.denoise(model.invert(part, text, n), text, n), latents, prompts)
        decoded = in_batches(model.decode, back)
        ratio = 10 * (latents.var(dim=(1, 2, 3)) / (back - latents).square().mean(dim=(1, 2, 3))).log10()
        originals = psnr(crops.images / 255, decoded)
        lines.append(f"| {steps} | {ratio.mean():.1f} | {psnr(alone, decoded).mean():.1f} | {originals.mean():.1f} |")
    return lines


def report_denoising(
    model: LatentDiffusion, crops: Crops, latents: Tensor, prompts: Tensor, empty: Tensor, samples: dict[str, Tensor]
) -> list[str]:
    """Lines of a Markdown table: the model's noise prediction with and without caption, and linear predictors.

    Args:
        model: The model.
        crops: The crops.
        latents: Their latents [N, C, h, w].
        prompts: Embeddings of their captions [N, L, D].
        empty: Embeddings of the empty prompt [N, L, D].
        samples: Clean latents for the linear predictors, by the predictor's name.
    """
    names = np.array(crops.names)
    titles = ["timestep", "model, caption", "model, empty prompt", "empty − caption ± paired s.e.", "photographs with a gain", *samples]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for timestep in TIMESTEPS:
        error, noisy, noise = denoising_errors(model, latents, prompts, timestep, seed=timestep)
        gain = denoising_errors(model, latents, empty, timestep, seed=timestep)[0] - error
        spread = gain.std() / len(gain) ** 0.5
        better = sum(float(gain[names == name].mean()) > 0 for name in set(crops.names))
        alpha = float(model.schedule.alphas_cumprod[timestep])
        linear = [f"{wiener_error(noisy, noise, alpha, sample).mean():.4f}" for sample in samples.values()]
        cells = [f"{error.mean():.4f}", f"{(error + gain).mean():.4f}", f"{gain.mean():.5f} ± {spread:.5f}"]
        lines.append(f"| {' | '.join([str(timestep), *cells, f'{better} of {len(set(crops.names))}', *linear])} |")
    return lines


def draw(model: LatentDiffusion, crops: Crops, latents: Tensor, prompts: Tensor, path: Path, columns: int = 10) -> None:
    """Draw text-to-image samples, and originals with what the autoencoder and the round trip make of them.

    Args:
        model: The model.
        crops: The crops; the first `columns` are drawn.
        latents: Their latents.
        prompts: Embeddings of their captions.
        path: PNG file to write.
        columns: Images a row.
    """
    rows: list[tuple[str, Tensor]] = []
    generator = torch.Generator().manual_seed(0)
    for prompt in PROMPTS:
        noise = torch.randn((columns, *latents.shape[1:]), generator=generator)
        made = in_batches(lambda part, text: model.decode(model.denoise(part, text, 50)), noise, model.embed([prompt] * columns))
        rows.append((prompt or "(empty prompt)", made))
    chosen, text = latents[:columns], prompts[:columns]
    back = in_batches(lambda part, words: model.decode(model.denoise(model.invert(part, words, 25), words, 25)), chosen, text)
    rows.append(("originals, never seen in training", crops.images[:columns] / 255))
    rows.append(("through the autoencoder", in_batches(model.decode, chosen)))
    rows.append(("inverted and denoised, 25 steps each", back))
    figure, axes = plt.subplots(len(rows), 1, figsize=(columns, 1.22 * len(rows)), layout="constrained")
    for axis, (title, images) in zip(axes, rows, strict=True):
        axis.imshow(torch.cat(list(images), dim=2).permute(1, 2, 0).numpy())
        axis.set_title(title, fontsize=9, loc="left")
        axis.axis("off")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(args: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print the tables.

    Args:
        args: The command line's words; None for those of the process.
    """
    parser = argparse.ArgumentParser(description="Measure the built-in latent diffusion model on photographs it never saw.")
    parser.add_argument("--model", type=Path, default=Path("assets/tiny-diffusion"), help="diffusers directory")
    parser.add_argument("--crops", type=int, default=50, help="crops a photograph")
    parser.add_argument("--sample", type=int, default=6000, help="crops for the covariance of the linear predictors")
    parser.add_argument("--seed", type=int, default=1, help="seed of the crops")
    options = parser.parse_args(args)
    model = LatentDiffusion.from_pretrained(str(options.model))
    many = unseen_crops(max(options.crops, options.sample // 12), options.seed)
    count = 12 * options.crops
    crops = Crops(many.images[:count], many.captions[:count], many.names[:count])
    oracle = in_batches(model.encode, many.images)
    latents = oracle[:count]
    seen = in_batches(model.encode, build_crops(options.sample, options.seed)[0])
    prompts, empty = model.embed(crops.captions), model.embed([""] * count)
    samples = {"linear, covariance of training crops": seen, "linear, covariance of these photographs' crops": oracle}
    print("\n".join(report_autoencoder(model, crops)), end="\n\n", flush=True)
    print("\n".join(report_denoising(model, crops, latents, prompts, empty, samples)), end="\n\n", flush=True)
    draw(model, crops, latents, prompts, options.model / "samples.png")
    print("\n".join(report_round_trip(model, crops, latents, prompts)))


if __name__ == "__main__":
    main()
