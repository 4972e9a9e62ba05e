"""What extractors share whose features depend on a text prompt."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from modules.diffusion.captioner import Captioner
from modules.extractors.base import Extractor

PROMPT_SOURCES = ("records", "empty", "captioner")
PromptSource = Literal["records", "empty", "captioner"]


class PromptedExtractor(Extractor):
    """An extractor whose model is conditioned on a prompt an image.

    Args:
        prompt_source: `records` (the records' captions), `empty` (unconditional), or `captioner`.
        captioner: BLIP or BLIP-2 model that describes the images where `prompt_source` is `captioner`.
        captioner_revision: Branch, tag or commit of a hub captioner.
    """

    def __init__(
        self,
        prompt_source: PromptSource = "records",
        captioner: str = "Salesforce/blip2-opt-2.7b",
        captioner_revision: str | None = None,
    ) -> None:
        super().__init__()
        if prompt_source not in PROMPT_SOURCES:
            msg = f"prompt_source is {prompt_source!r}; it must be one of {PROMPT_SOURCES}"
            raise ValueError(msg)
        self.prompt_source = prompt_source
        self.captioner = captioner
        self.captioner_revision = captioner_revision
        self.describe: Captioner | None = None

    @property
    def weights(self) -> dict[str, str | None]:
        """The captioner, where one is used."""
        return {self.captioner: self.captioner_revision} if self.prompt_source == "captioner" else {}

    @property
    def uses_record_captions(self) -> bool:
        """True where the records' captions are the prompts."""
        return self.prompt_source == "records"

    def load_captioner(self, dtype: torch.dtype) -> None:
        """Load the captioner, where one is used."""
        if self.prompt_source == "captioner":
            self.describe = Captioner.from_pretrained(self.captioner, dtype, self.captioner_revision)

    def unload(self) -> None:
        """Let go of the captioner."""
        self.describe = None

    def prompts_for(self, images: Tensor, captions: Sequence[str | None]) -> list[str]:
        """The prompt of each image by `prompt_source`."""
        if self.prompt_source == "empty":
            return [""] * len(captions)
        if self.prompt_source == "records":
            return super().prompts_for(images, captions)
        if self.describe is None:
            msg = "load() was not called"
            raise RuntimeError(msg)
        return self.describe(images)
