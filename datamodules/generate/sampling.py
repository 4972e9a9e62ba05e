"""Text to image with any diffusers pipeline, an image's noise from its own id."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from datamodules.errors import DataError
from modules.diffusion.latent_diffusion import read_model_index
from modules.errors import ModelError, UserError

UNSAFE = "the pipeline's safety checker blacked its fake out"
BLACK = "its fake is black throughout: the networks overflowed (try another --dtype)"


@dataclass(frozen=True)
class Loading:
    """Which model, and where it runs.

    Attributes:
        model: Directory in the diffusers format, or hub id.
        revision: Branch, tag or commit of a hub model.
        dtype: What the networks compute in.
        device: Where they run.
    """

    model: str
    revision: str | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def pipeline(self, auto: str, task: str) -> Any:
        """The model as a pipeline, see `load_pipeline`, where it runs and without a progress bar of its own.

        Raises:
            ModelError: It cannot be loaded as such a pipeline.
        """
        pipeline = load_pipeline(auto, task, self.model, self.revision, self.dtype).to(self.device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def commit(self) -> str:
        """The commit of a hub model that was loaded, by the folder of the hub's cache that holds it; empty of a local one."""
        from huggingface_hub import try_to_load_from_cache

        if Path(self.model).is_dir():
            return ""
        for name in ("model_index.json", "config.json"):
            found = try_to_load_from_cache(self.model, name, revision=self.revision)
            if isinstance(found, str):
                return Path(found).parent.name
        return ""


class Sampler:
    """A text-to-image pipeline with all its settings.

    Args:
        loading: Which model, and where it runs.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance (Ho and Salimans 2022); 1 is none.
        size: Height and width in pixels; the pipeline's own by default.
        seed: Other seeds give other images.

    Attributes:
        notes: What is known of the model: of one of the hub its `commit`.

    Raises:
        ModelError: The model cannot be loaded as a text-to-image pipeline.
    """

    def __init__(self, loading: Loading, *, steps: int = 50, guidance: float = 7.5, size: int | None = None, seed: int = 0) -> None:
        self.model = loading.model
        self.steps = steps
        self.guidance = guidance
        self.size = size
        self.seed = seed
        self.pipeline = loading.pipeline("AutoPipelineForText2Image", "text-to-image")
        self.notes = {"commit": loading.commit()}

    def sample(self, ids: Sequence[str], prompts: Sequence[str]) -> list[Image.Image | str]:
        """One image a prompt.

        Args:
            ids: Name of each image, B of them; its noise depends on this and the seed alone, not on the rest of the batch.
            prompts: What they show, B of them.

        Returns:
            For each an RGB image, or the reason why there is none.

        Raises:
            DataError: The pipeline refuses the settings, or memory runs out.
        """
        noise = [torch.Generator().manual_seed(noise_seed(self.seed, name)) for name in ids]  # on the CPU: the same on every device
        options: dict[str, Any] = {} if self.size is None else {"height": self.size, "width": self.size}
        try:
            made = self.pipeline(
                prompt=list(prompts), num_inference_steps=self.steps, guidance_scale=self.guidance, generator=noise, **options
            )
        except torch.OutOfMemoryError as error:
            msg = f"out of memory with {len(ids)} images at a time: take a smaller --batch_size or --size, or --dtype float16"
            raise DataError(msg) from error
        except ValueError as error:
            told = " ".join(str(error).split())[:300]
            msg = f"the pipeline of {self.model!r} refuses --steps {self.steps}, --guidance {self.guidance}, --size {self.size}: {told}"
            raise DataError(msg) from error
        unsafe = getattr(made, "nsfw_content_detected", None) or [False] * len(ids)
        return [_judged(image, flagged) for image, flagged in zip(made.images, unsafe, strict=True)]


def noise_seed(seed: int, name: str) -> int:
    """Seed of an image's noise, from 0 to 2⁶³ − 1, by the run's seed and the image's id."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _judged(image: Image.Image, unsafe: bool) -> Image.Image | str:
    if unsafe:
        return UNSAFE
    image = image.convert("RGB")
    return image if image.getbbox() else BLACK  # no bounding box: every value is 0


def load_pipeline(auto: str, task: str, model: str, revision: str | None, dtype: torch.dtype) -> Any:
    """A pipeline of diffusers.

    Args:
        auto: diffusers' class that chooses the pipeline's by the model, such as `AutoPipelineForText2Image`.
        task: What that does, for messages.
        model: Directory in the diffusers format, or hub id.
        revision: Branch, tag or commit of a hub model.
        dtype: What the networks compute in.

    Raises:
        ModelError: The model cannot be loaded as such a pipeline.
    """
    try:
        read_model_index(model, revision)  # for its words on paths that are no models
        import diffusers

        return getattr(diffusers, auto).from_pretrained(model, torch_dtype=dtype, revision=revision)
    except UserError:
        raise
    except Exception as error:  # damaged weights, another kind of pipeline, no network: libraries raise nearly every type for these
        told = " ".join(str(error).split())[:300]
        article = "an" if task[0] in "aeiou" else "a"
        msg = f"--model {model!r} cannot be loaded as {article} {task} pipeline of diffusers ({type(error).__name__}: {told})"
        raise ModelError(msg) from error
