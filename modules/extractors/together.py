"""Several extractors' features of one image in one pass."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from modules.extractors.base import Extractor, Features
from modules.images import to_uint8, to_unit


class Together(Extractor):
    """Extractors side by side, for a detector that fuses several: their features are named `<name>.<feature>`.

    Each member sees an image exactly as it would alone: the whole image, brought to the member's form by its own `prepare`. A prompt is
    likewise each member's own: what comes with the images are the records' captions, and a member that captions images does so itself.
    An image that fails in one member has no features at all.

    Args:
        extractors: By name; a name stands before the dot of each feature's, and so has none itself.
        checkpoints: Further members by name: the extractors of these checkpoints of train.py, as `Fusion` takes their detectors.
    """

    name: ClassVar[str] = "together"

    def __init__(self, extractors: dict[str, Extractor] | None = None, checkpoints: dict[str, str] | None = None) -> None:
        super().__init__()
        names = [*(extractors or {}), *(checkpoints or {})]
        if not names or len(set(names)) != len(names) or any(not name or "." in name for name in names):
            msg = f"the members are named {names}; there must be one or more, each once, with names without dots"
            raise ValueError(msg)
        members = {**(extractors or {}), **({} if checkpoints is None else _extractors_of(checkpoints))}
        self.extractors = nn.ModuleDict(members)
        self.checkpoints = None  # what they named is among the extractors now
        # Those of the members, under the features' names: an instance's own in place of the class's.
        self.__dict__["warn_below"] = {
            f"{name}.{figure}": limit for name, member in members.items() for figure, limit in member.warn_below.items()
        }

    @property
    def weights(self) -> dict[str, str | None]:
        """Those of all members."""
        return {name: revision for _, member in self._members() for name, revision in member.weights.items()}

    @property
    def uses_record_captions(self) -> bool:
        """Whether any member does."""
        return any(member.uses_record_captions for _, member in self._members())

    def load(self) -> None:
        """Load all members."""
        for _, member in self._members():
            member.load()

    def unload(self) -> None:
        """Let go of all members' weights."""
        for _, member in self._members():
            member.unload()

    def prepare(self, image: Tensor) -> Tensor:
        """The whole image, as the members' own preparation needs it: uint8 `[3, H, W]`.

        Raises:
            UnusableImageError: If a member cannot use it; found out here, where one image can still be skipped.
        """
        for _, member in self._members():
            member.prepare(image)
        return image

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """All members' features; `prompts` are the records' captions."""
        features: Features = {}
        for name, member in self._members():
            prepared, own = self._for_member(member, images, prompts)
            features |= _prefixed(name, member(prepared, own, seeds))
        return features

    def extract(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Features, dict[int, str]]:
        """As in the base class; the reason of a failed image names the members that it failed in."""
        features: Features = {}
        reasons: dict[int, list[str]] = {}
        for name, member in self._members():
            prepared, own = self._for_member(member, images, prompts)
            found, failed = member.extract(prepared, own, seeds)
            features |= _prefixed(name, found)
            for i, reason in failed.items():
                reasons.setdefault(i, []).append(f"{name}: {reason}")
        return features, {i: "; ".join(each) for i, each in sorted(reasons.items())}

    def diagnostics(self, features: Features) -> dict[str, Tensor]:
        """All members' figures, `<name>.<figure>`."""
        figures: dict[str, Tensor] = {}
        for name, member in self._members():
            own = {feature.removeprefix(f"{name}."): tensor for feature, tensor in features.items() if feature.startswith(f"{name}.")}
            figures |= _prefixed(name, member.diagnostics(own))
        return figures

    def _members(self) -> list[tuple[str, Extractor]]:
        return [(name, member) for name, member in self.extractors.items() if isinstance(member, Extractor)]

    def _for_member(self, member: Extractor, images: Tensor, captions: Sequence[str]) -> tuple[Tensor, list[str]]:
        """What a member would get alone: images prepared on the CPU, where `prepare` runs otherwise, and its prompts."""
        levels = images if images.dtype == torch.uint8 else to_uint8(to_unit(images))
        prepared = torch.stack([member.prepare(image) for image in levels.cpu()]).to(images.device)
        return prepared, member.prompts_for(prepared, [caption or None for caption in captions])


def _extractors_of(checkpoints: dict[str, str]) -> dict[str, Extractor]:
    from modules.detectors.checkpoint import load_extractor  # detectors know extractors, and here one asks back

    return {name: load_extractor(path) for name, path in checkpoints.items()}


def _prefixed(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{each}": tensor for each, tensor in tensors.items()}
