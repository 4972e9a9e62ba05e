"""Train the built-in latent diffusion model and write it as a diffusers directory.

Run from the repository's root:

    python -m assets.train_tiny_diffusion --minutes 75 --output assets/tiny-diffusion

Two LightningModules share the time: first an autoencoder, then a U-Net with its text encoder on the autoencoder's
latents. All crops are made once and stay in memory. A stopped run goes on with `--resume`.
"""

import argparse
import math
import shutil
import string
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import CLIPTokenizer

from assets.tiny_diffusion_networks import (
    Network,
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    export,
)
from datamodules.sources.photographs import describe, load, photographs, random_crop_and_side

AUTOENCODER_SHARE = 0.35
EMPTY_PROMPT_SHARE = 0.12
UNKNOWN_SUBJECT_SHARE = 0.3
STEPS_PER_EPOCH = 200


def build_crops(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Crops of the diffusion model's photographs with changed colours, and the captions measured on them.

    Args:
        count: Number of crops, the same from each photograph up to one.
        seed: Seed of places, sides, colours, mirroring and unknown words.

    Returns:
        uint8 [count, 3, 64, 64], and `count` captions.
    """
    rng = np.random.default_rng(seed)
    photos = [(photo.subject, load(photo)) for photo in photographs("diffusion")]
    crops, captions = [], []
    for number in range(count):
        subject, images = photos[number % len(photos)]
        crop, side = random_crop_and_side(rng, images[rng.integers(len(images))])
        crop = _change_colours(rng, crop)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < UNKNOWN_SUBJECT_SHARE:  # so that a subject it has never seen does not hide the attributes
            subject = _unknown_words(rng)
        crops.append(crop.transpose(2, 0, 1))
        captions.append(describe(crop, subject, side))
    return torch.from_numpy(np.stack(crops)), captions


def _change_colours(rng: np.random.Generator, crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Random gamma, channel gains, channel order and saturation: seven photographs have few colours of their own."""
    if rng.random() < 0.3:
        return crop
    image = (crop / 255.0) ** np.exp(rng.normal(0, 0.35)) * np.exp(rng.normal(0, 0.12, size=3))
    if rng.random() < 0.4:
        image = image[..., rng.permutation(3)]
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * rng.uniform(0, 1.6)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _unknown_words(rng: np.random.Generator) -> str:
    """One or two words of random letters."""
    letters = np.array(list(string.ascii_lowercase))
    return " ".join("".join(rng.choice(letters, size=rng.integers(3, 10))) for _ in range(rng.integers(1, 3)))


class RandomBatches(IterableDataset[tuple[Tensor, ...]]):
    """Random batches of tensors in memory; an epoch is a fixed number of batches.

    Args:
        tensors: Tensors with the same first dimension.
        batch_size: Rows a batch.
        seed: Seed of the order.
    """

    def __init__(self, tensors: Sequence[Tensor], batch_size: int, seed: int) -> None:
        self.tensors = tensors
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for _ in range(STEPS_PER_EPOCH):
            rows = torch.randint(len(self.tensors[0]), (self.batch_size,), generator=self.generator)
            yield tuple(tensor[rows] for tensor in self.tensors)


class TimeBudget(lightning.Callback):
    """Stop after a time, and shape the learning rate over that time: a short rise, then a cosine down to zero.

    Args:
        seconds: The budget; time of earlier, stopped runs counts.
        peak: Largest learning rate.
        rise: Share of the budget in which the rate rises.
    """

    def __init__(self, seconds: float, peak: float, rise: float = 0.05) -> None:
        self.seconds, self.peak, self.rise = seconds, peak, rise
        self.spent = 0.0
        self._since = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of the moment."""
        now = time.monotonic()
        self.spent, self._since = self.spent + now - self._since, now
        done = min(1.0, self.spent / self.seconds)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, done - self.rise) / (1 - self.rise)))
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.peak * min(1.0, (done + 1e-3) / self.rise) * fall
        trainer.should_stop = done >= 1

    def state_dict(self) -> dict[str, Any]:
        """Seconds spent so far."""
        return {"spent": self.spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from an earlier run."""
        self.spent = state_dict["spent"]


class AutoencoderTraining(lightning.LightningModule):
    """Train the autoencoder on absolute and squared error with a very small KL term.

    Three steps in four use quarters of the crops, which are four times as cheap; the fourth uses whole crops.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = build_autoencoder().to(memory_format=torch.channels_last)

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        """Loss of uint8 images [B, 3, 64, 64]."""
        images = batch[0]
        if batch_idx % 4 == 3:
            images = images[: max(1, len(images) // 4)]
        else:
            top, left = (int(offset) for offset in torch.randint(0, 33, (2,)))
            images = images[..., top : top + 32, left : left + 32]
        images = images.float() / 127.5 - 1
        posterior = self.network.encode(images).latent_dist
        decoded = self.network.decode(posterior.sample()).sample
        squared = functional.mse_loss(decoded, images)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        self.log("psnr", 10 * torch.log10(4 / squared.detach()), prog_bar=True)
        return functional.l1_loss(decoded, images) + squared + 1e-4 * divergence

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; `TimeBudget` sets its rate."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)


class DiffusionTraining(lightning.LightningModule):
    """Train U-Net and text encoder together to predict the noise in latents.

    Args:
        text_encoder: The text encoder, trained along.
        empty: Token numbers [L] of the empty prompt, which replaces some captions.
    """

    empty: Tensor
    alphas: Tensor
    text_encoder: Network

    def __init__(self, text_encoder: Network, empty: Tensor) -> None:
        super().__init__()
        self.unet = build_unet().to(memory_format=torch.channels_last)
        self.text_encoder = text_encoder
        self.register_buffer("empty", empty)
        self.register_buffer("alphas", build_scheduler().alphas_cumprod)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error of the noise; latents [B, 4, 16, 16] with unit variance, token numbers [B, L]."""
        latents, tokens = batch[0].float(), batch[1].long()
        count = len(latents)
        dropped = torch.rand(count, 1, device=self.device) < EMPTY_PROMPT_SHARE
        tokens = torch.where(dropped, self.empty, tokens)
        # One timestep from each of `count` equal intervals: the loss of a batch varies less than with independent ones.
        places = (torch.arange(count, device=self.device) + torch.rand(count, device=self.device)) / count
        timesteps = (places * len(self.alphas)).long()
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        predicted = self.unet(noisy, timesteps, self.text_encoder(tokens).last_hidden_state).sample
        loss = functional.mse_loss(predicted, noise)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; `TimeBudget` sets its rate."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3)


def ramped_average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Exponential moving average whose memory grows with the steps made: a short run would else keep its random start.

    Args:
        averaged: Average so far, any shape.
        current: New value, same shape.
        count: Values averaged so far.

    Returns:
        The new average.
    """
    return torch.lerp(current, averaged, min(0.998, (1 + float(count)) / (10 + float(count))))


def fit(module: lightning.LightningModule, batches: RandomBatches, budget: TimeBudget, checkpoint: Path, average: bool) -> None:
    """Train one module until its time is spent, from its checkpoint where there is one.

    Args:
        module: What to train; it ends with the averaged weights where `average` is set.
        batches: Training data.
        budget: Time and learning rate.
        checkpoint: File that is rewritten after every epoch.
        average: Whether to keep an exponential moving average of the weights.
    """
    callbacks: list[lightning.Callback] = [budget]
    if average:
        callbacks.append(WeightAveraging(use_buffers=False, avg_fn=ramped_average))
    callbacks.append(ModelCheckpoint(checkpoint.parent, checkpoint.stem, enable_version_counter=False, save_on_train_epoch_end=True))
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=-1,
        logger=False,
        callbacks=callbacks,
        gradient_clip_val=1.0,
        enable_model_summary=False,
    )
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(module, loader, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)


@torch.no_grad()
def encode_all(network: Network, images: Tensor, batch_size: int = 64) -> Tensor:
    """Posterior means of all images.

    Args:
        network: The autoencoder.
        images: uint8 [N, 3, 64, 64].
        batch_size: Images a forward pass.

    Returns:
        float32 [N, 4, 16, 16] on the CPU, not scaled.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.eval().to(device)
    chunks = [network.encode(part.to(device).float() / 127.5 - 1).latent_dist.mean.cpu() for part in images.split(batch_size)]
    return torch.cat(chunks)


def tokenise(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token numbers of captions, padded.

    Args:
        tokenizer: The tokenizer.
        captions: N texts.

    Returns:
        int16 [N, L].
    """
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, max_length=tokenizer.model_max_length)["input_ids"]
    return torch.tensor(tokens, dtype=torch.int16)


def train(output: Path, minutes: float, seed: int, work: Path, crops: int = 20_000, batch_size: int = 32) -> None:
    """Train both parts and write the model.

    Args:
        output: The diffusers directory to write.
        minutes: Time for both trainings together; making and encoding the crops comes on top.
        seed: Seed of crops, weights and batches. The time budget decides how many steps are made, so two runs differ.
        work: Folder for the checkpoints; training goes on from those that it holds.
        crops: Number of crops.
        batch_size: Crops a step of the diffusion model, half of it for the autoencoder.
    """
    lightning.seed_everything(seed, verbose=False)
    images, captions = build_crops(crops, seed)
    tokenizer = build_tokenizer(captions)
    tokens = tokenise(tokenizer, ["", *captions])

    autoencoder = AutoencoderTraining()
    seconds = 60 * minutes * AUTOENCODER_SHARE
    batches = RandomBatches([images], batch_size // 2, seed)
    fit(autoencoder, batches, TimeBudget(seconds, peak=2e-3), work / "autoencoder.ckpt", average=False)
    latents = encode_all(autoencoder.network, images)
    scale = 1 / float(latents.std())

    diffusion = DiffusionTraining(build_text_encoder(tokenizer), tokens[0].long())
    batches = RandomBatches([(latents * scale).half(), tokens[1:]], batch_size, seed + 1)
    fit(diffusion, batches, TimeBudget(60 * minutes - seconds, peak=1.5e-3), work / "diffusion.ckpt", average=True)
    export(output, autoencoder.network, diffusion.unet, diffusion.text_encoder, tokenizer, scale)


def main(args: Sequence[str] | None = None) -> None:
    """Read the command line and train.

    Args:
        args: The command line's words; None for those of the process.
    """
    parser = argparse.ArgumentParser(description="Train the built-in latent diffusion model.")
    parser.add_argument("--minutes", type=float, default=75, help="time for both trainings together")
    parser.add_argument("--output", type=Path, default=Path("assets/tiny-diffusion"), help="diffusers directory to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of crops, weights and batches")
    parser.add_argument("--work", type=Path, default=Path("cache/tiny-diffusion"), help="folder for checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --work")
    parser.add_argument("--crops", type=int, default=20_000, help="number of crops to learn from")
    parser.add_argument("--batch-size", type=int, default=32, help="crops a step")
    options = parser.parse_args(args)
    if not options.resume:
        shutil.rmtree(options.work, ignore_errors=True)
    train(options.output, options.minutes, options.seed, options.work, options.crops, options.batch_size)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
