"""A text-to-image latent diffusion model as the operations that detectors need."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from modules.diffusion.ddim import Direction, NoiseSchedule, follow
from modules.diffusion.deep_cache import DeepCache, check_reusable
from modules.diffusion.fused import fuse
from modules.diffusion.multistep import follow_multistep, multistep_path
from modules.diffusion.runner import NetworkRunner
from modules.errors import ModelError, first_line
from modules.images import to_unit

TEXT_ROWS = 8  # prompts that the text encoder takes at once, always as many: a prompt's embedding never depends on its neighbours
PROMPTS_KEPT = 256  # embeddings of the latest prompts; those of Stable Diffusion take 30 MB in bfloat16
PIXELS_AT_ONCE = 16 * 512 * 512  # that the VAE takes at once: its activations are 60 times as large as the images

Solver = Literal["ddim", "dpm++"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)

# What `model_index.json` may name for each part. Other pipelines (two text encoders, transformers) need other conditioning.
SUPPORTED_PARTS = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}


class LatentDiffusion(nn.Module):
    """VAE, UNet, CLIP text encoder and noise schedule of any diffusers text-to-image model.

    The networks are frozen. Latents are float32 whatever dtype the networks compute in, so that a long chain of DDIM steps
    does not collect rounding errors.

    Args:
        vae: diffusers' `AutoencoderKL`.
        unet: diffusers' `UNet2DConditionModel`.
        text_encoder: transformers' `CLIPTextModel`.
        tokenizer: transformers' `CLIPTokenizer`.
        schedule: The noise schedule and what the UNet predicts.

    Attributes:
        graphs: Replay the UNet as a CUDA graph, on CUDA devices; pays where many passes of one batch size follow each other.
        compiled: Compile the UNet, which takes a minute or more at the next pass.
    """

    vae: Any  # diffusers' and transformers' networks: their configurations are attributes that nn.Module does not type
    unet: Any
    text_encoder: Any
    _timesteps: Tensor

    def __init__(self, vae: nn.Module, unet: nn.Module, text_encoder: nn.Module, tokenizer: Any, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.vae = vae
        self.unet = unet
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.schedule = schedule
        self.graphs = self.compiled = False
        self.requires_grad_(False).eval()
        self._embedded: dict[str, Tensor] = {}
        self._run = NetworkRunner(_Positional(unet))
        # On the networks' device from the start: a number handed to the UNet makes it wait for the device in every pass.
        self.register_buffer("_timesteps", torch.arange(len(schedule.alphas_cumprod)), persistent=False)
        # Convolutions are quicker so: on two CPU cores 1.3 times for the built-in UNet, 1.8 times for its decoder.
        self.vae.to(memory_format=torch.channels_last)
        self.unet.to(memory_format=torch.channels_last)
        fuse(self.vae)
        fuse(self.unet)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> "LatentDiffusion":
        """Load a model in the diffusers directory format.

        Args:
            path_or_id: A local directory, or a model id of the Hugging Face hub.
            dtype: What the networks compute in.
            device: Where they are put.
            revision: Branch, tag or commit of a hub model.

        Raises:
            ModelError: If the path looks local and is not a diffusers directory, or the model has parts that are not supported.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        check_model(path_or_id, revision)
        pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
        unet = UNet2DConditionModel.from_pretrained(path_or_id, subfolder="unet", torch_dtype=dtype, **pinned)
        vae = AutoencoderKL.from_pretrained(path_or_id, subfolder="vae", torch_dtype=dtype, **pinned)
        text_encoder = CLIPTextModel.from_pretrained(path_or_id, subfolder="text_encoder", dtype=dtype, **pinned)
        tokenizer = CLIPTokenizer.from_pretrained(path_or_id, subfolder="tokenizer", **pinned)
        config = DDIMScheduler.load_config(path_or_id, subfolder="scheduler", **pinned)
        return cls(vae, unet, text_encoder, tokenizer, NoiseSchedule.from_config(config)).to(device)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return next(self.unet.parameters()).dtype

    @property
    def factor(self) -> int:
        """Pixels of an image's side to one of its latent's: 8 for Stable Diffusion."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """Scaled mean of the VAE's posterior.

        Args:
            images: `[B, 3, H, W]`, uint8 or float in [0, 1]; H and W multiples of the VAE's factor (8 for Stable Diffusion).

        Returns:
            float32 `[B, C, h, w]`.
        """
        scaled = to_unit(images.to(self.device)) * 2 - 1
        parts = scaled.split(max(1, PIXELS_AT_ONCE // scaled[0, 0].numel()))
        mean = torch.cat([self.vae.encode(part.to(self.dtype)).latent_dist.mean.float() for part in parts])
        return mean * self.vae.config.scaling_factor

    def decode(self, latents: Tensor, clamp: bool = True) -> Tensor:
        """Images of latents: `[B, C, h, w]` to float32 `[B, 3, H, W]`, clamped to [0, 1].

        Without `clamp` values lie a little outside, and an overflow of the decoder can still be seen.
        """
        unscaled = latents / self.vae.config.scaling_factor
        parts = unscaled.split(max(1, PIXELS_AT_ONCE // (unscaled[0, 0].numel() * self.factor**2)))
        images = torch.cat([self.vae.decode(part.to(self.dtype)).sample.float() for part in parts]) / 2 + 0.5
        return images.clamp(0, 1) if clamp else images

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text conditioning, `[B, L, D]` in the networks' dtype; the latest prompts are remembered, and equal ones embedded once."""
        if any(row.device != self.device or row.dtype != self.dtype for row in list(self._embedded.values())[:1]):
            self._embedded.clear()  # the networks were moved
        wanted = dict.fromkeys(prompts)
        new = [prompt for prompt in wanted if prompt not in self._embedded]
        for start in range(0, len(new), TEXT_ROWS):
            part = new[start : start + TEXT_ROWS]
            self._embedded |= {prompt: row.clone() for prompt, row in zip(part, self._embed(part), strict=False)}
        rows = torch.stack([self._embedded[prompt] for prompt in prompts])
        for prompt in [known for known in self._embedded if known not in wanted][: max(0, len(self._embedded) - PROMPTS_KEPT)]:
            del self._embedded[prompt]
        return rows

    def _embed(self, prompts: list[str]) -> Tensor:
        """Embeddings of at most `TEXT_ROWS` prompts, with those of empty ones behind them."""
        filled = [*prompts, *[""] * (TEXT_ROWS - len(prompts))]
        tokens = self.tokenizer(
            filled, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        embedded: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return embedded

    def predict(self, latents: Tensor, timestep: int, embeddings: Tensor, guidance: float = 1.0) -> Tensor:
        """The UNet's raw output (noise, or `v`), of the latents' shape and dtype.

        Args:
            latents: `[B, C, h, w]`.
            timestep: Training timestep, the same for all.
            embeddings: `[B, L, D]` of `embed`.
            guidance: Classifier-free guidance (Ho and Salimans 2022). 1 takes one forward pass; any other value takes a second
                with the empty prompt.
        """
        plain = partial(self._run, graph=self.graphs, compiled=self.compiled)
        return self._guided((plain, plain), latents, timestep, embeddings, guidance)

    def _guided(
        self,
        passes: tuple[Callable[..., Tensor], Callable[..., Tensor]],
        latents: Tensor,
        timestep: int,
        embeddings: Tensor,
        guidance: float,
    ) -> Tensor:
        """`predict`; the first of the passes runs the UNet with the prompts, the second with empty ones."""
        noisy, time = latents.to(self.dtype), self._timesteps[timestep]
        conditional = passes[0](noisy, time, embeddings)
        if guidance == 1.0:
            return conditional.to(latents.dtype)
        unconditional = passes[1](noisy, time, self.embed([""]).expand_as(embeddings))
        return (unconditional + guidance * (conditional - unconditional)).to(latents.dtype)

    def predict_noise(self, latents: Tensor, timestep: int, embeddings: Tensor, guidance: float = 1.0) -> Tensor:
        """Predicted noise `ε(z, t, c)` of latents that are at noise level `timestep`; arguments as in `predict`."""
        output = self.predict(latents, timestep, embeddings, guidance)
        if self.schedule.prediction_type == "epsilon":
            return output
        alpha = float(self.schedule.alphas_cumprod[timestep])
        return alpha**0.5 * output + (1 - alpha) ** 0.5 * latents

    def invert(
        self, latents: Tensor, embeddings: Tensor, steps: int, guidance: float = 1.0, solver: Solver = "ddim", reuse: int = 1
    ) -> Tensor:
        """Deterministic inversion of clean latents to noise, `[B, C, h, w]` to the same.

        Args:
            latents: Clean.
            embeddings: `[B, L, D]` of `embed`.
            steps: Steps from clean to pure noise.
            guidance: As in `predict`.
            solver: `ddim`, or `dpm++` of second order (`modules.diffusion.multistep`).
            reuse: The UNet's deep layers run on every `reuse`-th step (`modules.diffusion.deep_cache`), and `graphs` and `compiled`
                say nothing then; 1 runs all of it on every step.
        """
        return self._solve(latents, "invert", steps, solver, self._predictor(embeddings, guidance, reuse))

    def denoise(
        self,
        latents: Tensor,
        embeddings: Tensor,
        steps: int,
        guidance: float = 1.0,
        start: int | None = None,
        solver: Solver = "ddim",
        reuse: int = 1,
    ) -> Tensor:
        """Deterministic sampling from noise to clean latents, `[B, C, h, w]` to the same.

        Args:
            latents: At the noise level of the first step that is taken.
            embeddings: `[B, L, D]` of `embed`.
            steps: Steps from pure noise to clean.
            guidance: As in `predict`.
            start: Take only the last `start` of those steps (image-to-image), by DDIM; all of them by default.
            solver: As in `invert`.
            reuse: As in `invert`.

        Raises:
            ValueError: If `start` is given with another solver: its steps build on those before them.
        """
        predict = self._predictor(embeddings, guidance, reuse)
        if start is None:
            return self._solve(latents, "denoise", steps, solver, predict)
        if solver != "ddim":
            msg = f"start is {start} and solver is {solver!r}; only ddim can start within a run"
            raise ValueError(msg)
        path = self.schedule.path(steps, "denoise")
        return follow(path[len(path) - start :], latents, predict)

    def _solve(self, latents: Tensor, direction: Direction, steps: int, solver: Solver, predict: Callable[[Tensor, int], Tensor]) -> Tensor:
        if solver == "dpm++":
            return follow_multistep(multistep_path(self.schedule, steps, direction), latents, predict)
        return follow(self.schedule.path(steps, direction), latents, predict)

    def _predictor(self, embeddings: Tensor, guidance: float, reuse: int) -> Callable[[Tensor, int], Tensor]:
        """`predict` for the steps of one run."""
        if reuse == 1:
            return partial(self.predict, embeddings=embeddings, guidance=guidance)
        check_reusable(self.unet)
        passes = DeepCache(self.unet, reuse), DeepCache(self.unet, reuse)
        return lambda latents, timestep: self._guided(passes, latents, timestep, embeddings, guidance)


class _Positional(nn.Module):
    """A UNet that takes and gives tensors alone."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timestep: Tensor, embeddings: Tensor) -> Any:
        return self.unet(latents, timestep, encoder_hidden_states=embeddings, return_dict=False)


def check_model(path_or_id: str, revision: str | None = None) -> None:
    """Refuse, before any weights are read, what is not a supported text-to-image model.

    Raises:
        ModelError: If a local directory lacks `model_index.json`, a path that does not exist looks local, or the model's parts are
            not those of `SUPPORTED_PARTS`.
    """
    index = read_model_index(path_or_id, revision)
    for part, wanted in SUPPORTED_PARTS.items():
        found = (index.get(part) or [None, None])[-1]
        if found != wanted:
            msg = f"{path_or_id!r} names {found} as its {part}; only text-to-image models with {wanted} are supported"
            raise ModelError(msg)


def read_model_index(path_or_id: str, revision: str | None = None) -> dict[str, Any]:
    """`model_index.json` of a local directory or a hub model."""
    folder = Path(path_or_id)
    if folder.is_dir() and (folder / "model_index.json").is_file():
        return dict(json.loads((folder / "model_index.json").read_text()))
    if folder.is_dir() or path_or_id.startswith((".", "/", "~")) or path_or_id.count("/") != 1 or path_or_id.startswith("assets/"):
        msg = f"{path_or_id!r} is not a directory with a model_index.json; name a diffusers model directory or a hub id like 'owner/name'"
        raise ModelError(msg)
    from diffusers import DiffusionPipeline

    try:
        return dict(DiffusionPipeline.load_config(path_or_id, revision=revision))
    except OSError as error:
        msg = (
            f"the model {path_or_id!r} cannot be had from the hub ({first_line(error)}); check its name, your network and, for a gated "
            "one, your login, or name a diffusers model directory"
        )
        raise ModelError(msg) from error
