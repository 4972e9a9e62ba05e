"""The contract of extractors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modules.settings import settings_of

Features = dict[str, Tensor]

# Constructor arguments that say how numbers are computed, not which: no part of a fingerprint.
EXECUTION_ONLY = ("rows_at_once", "cuda_graphs", "compile_after")


class Extractor(nn.Module, ABC):
    """A frozen function of an image whose results are cached.

    A subclass keeps every constructor argument as an attribute of the same name, and loads no weights before `load`: building
    one must stay cheap, since a warm cache never needs them.

    Attributes:
        name: Short name, part of the cache directory's.
        warn_below: Diagnostics (see there) whose median below this value is worth a warning, with what it may mean.
    """

    name: ClassVar[str] = "extractor"
    warn_below: ClassVar[dict[str, tuple[float, str]]] = {}

    def settings(self) -> dict[str, Any]:
        """Class and constructor arguments in plain types."""
        return settings_of(self)

    @property
    def idle(self) -> set[str]:
        """Names of constructor arguments that change no number as the others are set; left out of the fingerprint."""
        return set()

    def identity(self) -> dict[str, Any]:
        """The settings that change a number: what the cache's fingerprint covers."""
        return settings_of(self, skip=EXECUTION_ONLY, with_idle=False)

    @property
    def weights(self) -> dict[str, str | None]:
        """Model directories or hub ids that the features depend on, each with its revision."""
        return {}

    @property
    def uses_record_captions(self) -> bool:
        """Whether a record's caption changes its features."""
        return False

    @abstractmethod
    def load(self) -> None:
        """Load the weights; called once, before the first batch."""

    def unload(self) -> None:
        """Let go of the weights after the last batch; nothing by default."""

    @abstractmethod
    def prepare(self, image: Tensor) -> Tensor:
        """Bring one decoded image to the form that `forward` stacks: uint8 `[3, H, W]` to uint8 `[3, h, w]`. Runs in loader workers.

        Raises:
            UnusableImageError: If this image cannot be brought to it; it is skipped with this reason.
        """

    def prompts_for(self, images: Tensor, captions: Sequence[str | None]) -> list[str]:
        """The prompt of each image; the records' captions, or none, unless a subclass captions them."""
        return [caption or "" for caption in captions]

    @abstractmethod
    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Features of a batch.

        Args:
            images: `[B, 3, h, w]`, uint8 or float in [0, 1].
            prompts: One string an image.
            seeds: One integer an image, from its content, for extractors that draw random numbers: an image's features do not
                depend on the batch that it came in.

        Returns:
            Tensors whose first dimension is B.
        """

    def extract(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Features, dict[int, str]]:
        """Features of a batch, and those of its images that have none: the network overflowed for them.

        A subclass whose overflow does not show in its features (uint8 hides it), or which knows a remedy, overrides this.

        Args:
            images: As in `forward`.
            prompts: As in `forward`.
            seeds: As in `forward`.

        Returns:
            The features of all images, and the reason of each one, by its position, whose features mean nothing.
        """
        features = self(images, prompts, seeds)
        floating = [tensor for tensor in features.values() if tensor.is_floating_point()]
        finite = finite_images(*floating).tolist() if floating else []
        return features, {i: "the extractor gave values that are not finite" for i, fine in enumerate(finite) if not fine}

    def diagnostics(self, features: Features) -> dict[str, Tensor]:
        """Figures of each image, `[B]`, that tell whether the extraction went well; none by default."""
        return {}


def finite_images(*tensors: Tensor) -> Tensor:
    """Which images of a batch have nothing but finite values: tensors `[B, …]` to bool `[B]`, on their device."""
    return torch.stack([tensor.isfinite().reshape(len(tensor), -1).all(1) for tensor in tensors]).all(0)
