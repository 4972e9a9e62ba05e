"""What the training-free statistics of a denoiser share: the image's states, prompts, seeds, and batches of many rows an image."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, NoiseLevel
from modules.diffusion.divergence import Estimate, chunks
from modules.errors import ModelError, UnusableImageError
from modules.extractors.base import Features
from modules.extractors.prompted import PromptedExtractor, PromptSource
from modules.images import center_square

EMPTY: PromptSource = "empty"


@dataclass(frozen=True, slots=True)
class Conditioned:
    """A denoiser with the prompts of a batch's images.

    Attributes:
        denoiser: The model.
        embeddings: Conditioning of each image, `[B, …]`, or None.
    """

    denoiser: Denoiser
    embeddings: Tensor | None

    def noise(self, states: Tensor, level: NoiseLevel, images: Tensor) -> Tensor:
        """Predicted noise of states `[N, …]`, each of the image at that position of the batch, `[N]`."""
        return self.denoiser.predict_noise(states, level, self._rows(images))

    def clean(self, states: Tensor, level: NoiseLevel, images: Tensor) -> Tensor:
        """Predicted clean states; arguments as for `noise`."""
        return self.denoiser.predict_clean(states, level, self._rows(images))

    def score(self, states: Tensor, level: NoiseLevel, images: Tensor) -> Tensor:
        """The score field; arguments as for `noise`."""
        return self.denoiser.score(states, level, self._rows(images))

    def _rows(self, images: Tensor) -> Tensor | None:
        return None if self.embeddings is None else self.embeddings[images]


class StatisticExtractor(PromptedExtractor):
    """A few numbers an image from a frozen denoiser; a subclass gives `forward`, whose features are `[B]` each.

    Random numbers come from a generator of each image's own, so that its numbers do not depend on the batch, the order or the process.
    An estimate `x` comes with its standard error `x_se`.

    Args:
        size: Side in pixels of the square that the model sees: the centre of the image with its short side resized. None keeps the size
            and cuts each side down to a multiple of what the model takes.
        prompt_source: `empty` (unconditional), `records` (the records' captions), or `captioner`.
        captioner: BLIP or BLIP-2 model that describes the images where `prompt_source` is `captioner`.
        captioner_revision: Branch, tag or commit of a hub captioner.
        rows_at_once: At most so many states go through the model in one pass; a matter of memory, not of the result.
    """

    def __init__(
        self,
        size: int | None = None,
        prompt_source: PromptSource = EMPTY,
        captioner: str = "Salesforce/blip2-opt-2.7b",
        captioner_revision: str | None = None,
        rows_at_once: int = 64,
    ) -> None:
        super().__init__(prompt_source, captioner, captioner_revision)
        if rows_at_once < 2 or (size is not None and size < 8):
            msg = f"size is {size} and rows_at_once is {rows_at_once}; at least 8 pixels and 2 rows are needed"
            raise ValueError(msg)
        self.size = size
        self.rows_at_once = rows_at_once

    @property
    @abstractmethod
    def denoisers(self) -> list[Denoiser]:
        """The models."""

    @property
    def idle(self) -> set[str]:
        """The captioner where none is used."""
        return set() if self.prompt_source == "captioner" else {"captioner", "captioner_revision"}

    @property
    def weights(self) -> dict[str, str | None]:
        """The models, and the captioner where one is used."""
        return super().weights | {name: revision for each in self.denoisers for name, revision in each.weights.items()}

    def load(self) -> None:
        """Load the models and, where it is used, the captioner.

        Raises:
            ModelError: If there are prompts, and no model takes any; or no model takes images of this size.
        """
        if self.prompt_source != EMPTY and not any(denoiser.uses_prompts for denoiser in self.denoisers):
            kinds = ", ".join(type(denoiser).__name__ for denoiser in self.denoisers)
            msg = f"data.extractor.prompt_source is {self.prompt_source}, but {kinds} takes no prompt: set it to empty"
            raise ModelError(msg)
        multiple = max(denoiser.multiple for denoiser in self.denoisers)
        if self.size is not None and self.size % multiple:
            msg = f"data.extractor.size is {self.size}; the model takes images whose sides are multiples of {multiple}"
            raise ModelError(msg)
        for denoiser in self.denoisers:
            denoiser.load()
        self.load_captioner(self.denoisers[0].dtype)

    def unload(self) -> None:
        """Let go of them."""
        super().unload()
        for denoiser in self.denoisers:
            denoiser.unload()

    def prepare(self, image: Tensor) -> Tensor:
        """The centre square at `size`, or the image with its sides cut to multiples: uint8 `[3, H, W]` to uint8 `[3, h, w]`.

        Raises:
            UnusableImageError: If nothing would be left.
        """
        multiple = max(denoiser.multiple for denoiser in self.denoisers)
        if self.size is not None:
            return center_square(image, self.size)
        height, width = (side - side % multiple for side in image.shape[1:])
        if not height or not width:
            shape = f"{image.shape[2]} x {image.shape[1]}"
            msg = f"an image of {shape} pixels is smaller than the {multiple} that the model needs; set data.extractor.size"
            raise UnusableImageError(msg)
        top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
        return image[:, top : top + height, left : left + width]

    def conditioned(self, denoiser: Denoiser, prompts: Sequence[str]) -> Conditioned:
        """The denoiser with these prompts."""
        return Conditioned(denoiser, denoiser.embed(prompts))

    def noised(self, states: Tensor, level: NoiseLevel, draws: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Clean states `[B, …]` at a noise level, so many independent times: `[B, draws, …]`; each image draws from its own generator."""
        noise = torch.stack([torch.randn(draws, *states.shape[1:], generator=each) for each in generators]).to(states)
        return level.signal * states[:, None] + level.noise * noise

    def in_rows(self, function: Callable[[Tensor, Tensor], Tensor], states: Tensor, images: Tensor) -> Tensor:
        """A function of rows and their images, `rows_at_once` at a time."""
        placed = [rows.to(states.device) for rows in chunks(len(states), self.rows_at_once)]
        return torch.cat([function(states[rows], images[rows]) for rows in placed])


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator an image, on the CPU: the same numbers on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def columns(name: str, estimate: Estimate, several: bool) -> Features:
    """A statistic's columns, float32 `[B]` each: its value and, where it is the mean of several samples, its standard error."""
    found = {name: estimate.value.float()}
    return found | {f"{name}_se": estimate.error.float()} if several else found
