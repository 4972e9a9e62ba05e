"""Networks, tokenizer and scheduler of the built-in diffusion model, and how they become a diffusers directory."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PROMPT_LENGTH = 32  # tokens
TEXT_WIDTH = 64
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
Network = Any  # diffusers' and transformers' classes look to a type checker as if they were no modules
_KEPT = ("README.md", "samples.png")  # what stands beside the weights and is not written by a training run


def build_autoencoder() -> Network:
    """The autoencoder: [B, 3, 64, 64] in [-1, 1] to [B, 4, 16, 16], 0.9 M parameters, convolutions only."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,  # so that training on small crops carries over to whole images
    )


def build_unet() -> Network:
    """The noise predictor on [B, 4, 16, 16], 3.9 M parameters, most of them at 4x4 where they cost least time."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> Network:
    """A two-layer CLIP text model of width 64 over the tokenizer's vocabulary, not pre-trained."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_scheduler() -> Any:
    """Stable Diffusion's noise schedule, with every default that matters written out."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


def build_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose vocabulary is all bytes and the merges learned from the captions.

    Args:
        captions: Texts to learn the merges from.

    Returns:
        The tokenizer; it can spell any text.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(vocab_size=700, min_frequency=20, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(captions, trainer)
    # The library shows its merges only as JSON.
    merges: Any = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), _BOS, _EOS]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=PROMPT_LENGTH)


def export(output: Path, vae: Network, unet: Network, text_encoder: Network, tokenizer: CLIPTokenizer, scale: float) -> None:
    """Write the model as a diffusers directory of float16 safetensors; whoever reads it meanwhile sees the old or the new one.

    Args:
        output: The directory; an earlier one is replaced, its card and picture stay.
        vae: Trained autoencoder.
        unet: Trained U-Net.
        text_encoder: Trained text encoder.
        tokenizer: Its tokenizer.
        scale: What latents are multiplied with to have unit variance.
    """
    vae.register_to_config(scaling_factor=scale)
    pipeline: Any = StableDiffusionPipeline(
        vae=vae.cpu().half(),
        text_encoder=text_encoder.cpu().half(),
        tokenizer=tokenizer,
        unet=unet.cpu().half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    fresh, old = (output.with_name(f".{output.name}.{state}-{os.getpid()}") for state in ("new", "old"))
    pipeline.save_pretrained(fresh, safe_serialization=True)
    _write_vocabulary(tokenizer, fresh / "tokenizer")
    _name_like_transformers_4(fresh / "text_encoder" / "model.safetensors")
    _declare_float32(fresh / "text_encoder" / "config.json")
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone
    for name in _KEPT:
        if (output / name).exists():
            shutil.copy2(output / name, fresh / name)
    if output.exists():
        output.rename(old)
    fresh.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def _write_vocabulary(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The two files that transformers 4 reads; release 5 writes `tokenizer.json` alone."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")


def _name_like_transformers_4(weights: Path) -> None:
    """The tensor names of Stable Diffusion's own files, which every release of transformers reads."""
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def _declare_float32(config: Path) -> None:
    """Let transformers load float32, like diffusers does, where its caller names no type; the file is float16."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
