"""Fakes of a real image's content, by any diffusers model: image to image, an autoencoder's round trip, inpainted parts.

Image to image is SDEdit (Meng et al. 2022, arXiv 2108.01073): noised part of the way and denoised again. Inpainting with a model that was
not trained for it is latent blending (Avrahami et al. 2023, Blended Latent Diffusion, arXiv 2206.02779): after each step what lies outside
of the mask is replaced by the original, noised to that step's level. diffusers' inpainting pipelines do that where the denoiser has
no channels for a mask. An autoencoder shifts the whole image, so the result is pasted into the original by pixels afterwards.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.errors import DataError
from datamodules.generate.masks import Mask, whole_cells
from datamodules.generate.reals import Pixels
from datamodules.generate.sampling import BLACK, UNSAFE, Loading
from modules.diffusion.latent_diffusion import read_model_index
from modules.errors import ModelError, UserError
from modules.images import to_uint8, to_unit

EDITS = ("img2img", "autoencoder", "inpaint")
OVERFLOW = "its fake has values that are no numbers: the networks overflowed (try another --dtype)"
_PIPELINES = {"img2img": ("AutoPipelineForImage2Image", "image-to-image"), "inpaint": ("AutoPipelineForInpainting", "inpainting")}


class Editor(Protocol):
    """What makes fakes of images.

    Attributes:
        notes: What is known of the model once it is loaded: `scheduler` (class of the sampler) and, of a hub model, `commit`.
    """

    notes: dict[str, str]

    def edit(
        self, images: Sequence[Pixels], prompts: Sequence[str], seeds: Sequence[int], masks: Sequence[Mask | None]
    ) -> list[Pixels | str]:
        """A fake of each image.

        Args:
            images: B of uint8 `[S, S, 3]`.
            prompts: What they show, B of them.
            seeds: Of each image's noise, from 0 to 2⁶³ − 1. A fake depends on its own alone, up to the rounding of another batch size.
            masks: Of each what is generated, `[S, S]`; None for all of it.

        Returns:
            For each a fake of the same size, or the reason why there is none.

        Raises:
            DataError: The model refuses the settings, or memory runs out.
        """
        ...


class PipelineEditor:
    """A pipeline that makes images from images, or their masked parts, with all its settings.

    Args:
        kind: `img2img` or `inpaint`.
        loading: Which model, any pipeline that has such a variant, and where it runs.
        strength: How far an image is noised, above 0 and at most 1.
        steps: Denoising steps from noise to an image; about `strength · steps` of them are taken.
        guidance: Scale of classifier-free guidance; 1 is none.

    Raises:
        ModelError: The model cannot be loaded as such a pipeline.
    """

    def __init__(self, kind: str, loading: Loading, *, strength: float = 0.5, steps: int = 50, guidance: float = 7.5) -> None:
        self.kind = kind
        self.model = loading.model
        self.strength = strength
        self.steps = steps
        self.guidance = guidance
        self.pipeline = loading.pipeline(*_PIPELINES[kind])
        self.notes = {"scheduler": type(self.pipeline.scheduler).__name__, "commit": loading.commit()}

    def edit(
        self, images: Sequence[Pixels], prompts: Sequence[str], seeds: Sequence[int], masks: Sequence[Mask | None]
    ) -> list[Pixels | str]:
        """See `Editor.edit`; of an inpainted image the pixels outside of the mask are the original's own."""
        size = images[0].shape[0]
        options: dict[str, Any] = {"strength": self.strength, "guidance_scale": self.guidance, "num_inference_steps": self.steps}
        full = [np.ones((size, size), dtype=bool) if mask is None else mask for mask in masks]
        if self.kind == "inpaint":
            # A latent's cell is generated or not as a whole: in every cell that the mask touches it has to be.
            grown = np.stack([whole_cells(mask, self.pipeline.vae_scale_factor) for mask in full])
            options |= {"mask_image": torch.from_numpy(grown).float()[:, None], "height": size, "width": size}
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: the same on every device
        with _words_for(f"the pipeline of {self.model!r} refuses --strength {self.strength}, --steps {self.steps}, --size {size}"):
            made = self.pipeline(prompt=list(prompts), image=_batch(images), generator=noise, output_type="np", **options)
        unsafe = getattr(made, "nsfw_content_detected", None) or [False] * len(images)
        fakes = [UNSAFE if flagged else _judged(fake) for fake, flagged in zip(np.asarray(made.images), unsafe, strict=True)]
        _same_size(fakes, size, self.model)
        return [
            fake if isinstance(fake, str) else np.where(mask[..., None], fake, image)
            for fake, mask, image in zip(fakes, full, images, strict=True)
        ]


class AutoencoderEditor:
    """The round trip through an autoencoder: encoded to the mean of its posterior and decoded, with no noise.

    Args:
        loading: Which model, a pipeline with a part `vae` or an autoencoder alone, and where it runs.

    Raises:
        ModelError: There is no autoencoder of images.
    """

    def __init__(self, loading: Loading) -> None:
        self.model = loading.model
        self.vae = _load_autoencoder(loading.model, loading.revision, loading.dtype).to(loading.device).eval().requires_grad_(False)
        self.notes = {"scheduler": "", "commit": loading.commit()}

    @torch.inference_mode()
    def edit(
        self, images: Sequence[Pixels], prompts: Sequence[str], seeds: Sequence[int], masks: Sequence[Mask | None]
    ) -> list[Pixels | str]:
        """See `Editor.edit`; prompts, seeds and masks change nothing."""
        with _words_for(f"the autoencoder of {self.model!r} refuses --size {images[0].shape[0]}"):
            scaled = (_batch(images) * 2 - 1).to(self.vae.device, self.vae.dtype)
            encoded = self.vae.encode(scaled)
            latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded[0]
            decoded = self.vae.decode(latents).sample.float().cpu() / 2 + 0.5
        fakes = [_judged(fake) for fake in decoded.permute(0, 2, 3, 1).numpy()]
        _same_size(fakes, images[0].shape[0], self.model)
        return fakes


def native_size(kind: str, model: str, revision: str | None = None) -> int:
    """Side in pixels that a model was trained for, from its configuration alone.

    Args:
        kind: One of `EDITS`: of an autoencoder it is its own.
        model: Directory or hub id.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: The configuration does not say it, or cannot be read.
    """
    vae, denoiser = _config(model, revision, "vae"), {}
    if kind != "autoencoder":
        denoiser = _config(model, revision, "unet") or _config(model, revision, "transformer")
    size = denoiser.get("sample_size")
    cell = 2 ** (len(vae.get("block_out_channels", ())) - 1) if vae else 0
    found = vae.get("sample_size") if kind == "autoencoder" else size * cell if isinstance(size, int) else None
    if not isinstance(found, int) or found < 1:
        msg = f"the configuration of {model!r} does not say what size its images have: name it with --size"
        raise ModelError(msg)
    return found


def _config(model: str, revision: str | None, part: str) -> dict[str, Any]:
    """The configuration of a part; empty without it. Of an autoencoder alone, its own is that of the `vae`."""
    from diffusers import AutoencoderKL

    kind = _parts(model, revision).get(part)
    if kind is None:
        return {}
    with _told_as_model_error(model, "read"):
        return dict(AutoencoderKL.load_config(model, revision=revision, **({"subfolder": part} if kind else {})))


def _parts(model: str, revision: str | None) -> dict[str, str]:
    """Class of each part of a pipeline; of an autoencoder alone an empty one of `vae`."""
    from diffusers import AutoencoderKL

    with contextlib.suppress(Exception):  # most models are pipelines; what is wrong with this one, the next lines say
        index = read_model_index(model, revision)
        return {name: str(value[-1]) for name, value in index.items() if isinstance(value, list) and value and value[-1]}
    with contextlib.suppress(Exception):
        if "Autoencoder" in str(AutoencoderKL.load_config(model, revision=revision).get("_class_name")):
            return {"vae": ""}
    read_model_index(model, revision)  # for its words on what is neither
    return {}


def _load_autoencoder(model: str, revision: str | None, dtype: torch.dtype) -> Any:
    import diffusers

    kind = _parts(model, revision).get("vae")
    with _told_as_model_error(model, "loaded as an autoencoder"):
        config = _config(model, revision, "vae")
        network = getattr(diffusers, str(config.get("_class_name")), None)
        if kind is None or network is None or "Autoencoder" not in network.__name__:
            msg = f"--model {model!r} has no autoencoder (a part `vae`): name a latent diffusion model, or an autoencoder"
            raise ModelError(msg)
        return network.from_pretrained(model, revision=revision, torch_dtype=dtype, **({"subfolder": "vae"} if kind else {}))


@contextlib.contextmanager
def _told_as_model_error(model: str, done: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged weights, no network: libraries raise nearly every type for these
        told = " ".join(str(error).split())[:300]
        msg = f"--model {model!r} cannot be {done} ({type(error).__name__}: {told})"
        raise ModelError(msg) from error


@contextlib.contextmanager
def _words_for(refusal: str) -> Iterator[None]:
    """A sentence instead of a traceback where a model refuses its settings, or memory runs out."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        msg = "out of memory: take a smaller --batch_size or --size, or --dtype float16"
        raise DataError(msg) from error
    except (ValueError, RuntimeError) as error:  # shapes that do not fit are RuntimeErrors
        msg = f"{refusal}: {' '.join(str(error).split())[:300]}"
        raise DataError(msg) from error


def _batch(images: Sequence[Pixels]) -> torch.Tensor:
    return to_unit(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


def _judged(fake: NDArray[np.float32]) -> Pixels | str:
    if not np.isfinite(fake).all():
        return OVERFLOW
    pixels: Pixels = to_uint8(torch.from_numpy(np.ascontiguousarray(fake))).numpy()
    return pixels if pixels.any() else BLACK


def _same_size(fakes: Sequence[Pixels | str], size: int, model: str) -> None:
    for fake in fakes:
        if not isinstance(fake, str) and fake.shape[:2] != (size, size):
            msg = f"{model!r} makes {fake.shape[1]}x{fake.shape[0]} pixels of --size {size}: name a multiple of its latent's cells"
            raise DataError(msg)
