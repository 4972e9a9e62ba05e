"""Error of denoising an image after a little noise (Li and Wang 2023)."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.divergence import mean_and_error
from modules.extractors.base import Features, finite_images
from modules.extractors.statistic import StatisticExtractor, columns, generators_of
from modules.images import to_unit

Space = Literal["latent", "pixel"]


def squared(differences: Tensor) -> Tensor:
    """‖·‖², `[N, C, h, w]` to `[N]`."""
    return differences.square().flatten(1).sum(1)


def squared_per_dimension(differences: Tensor) -> Tensor:
    """‖·‖² over the number of dimensions, `[N, C, h, w]` to `[N]`."""
    return differences.square().flatten(1).mean(1)


def spectral(differences: Tensor) -> Tensor:
    """Largest singular value with the channels one above the other, `[C · h, w]`, over the root of the number of dimensions."""
    matrices = differences.flatten(1, 2).float()
    found: Tensor = torch.linalg.matrix_norm(matrices.nan_to_num(), ord=2) / matrices[0].numel() ** 0.5
    return found.masked_fill(~finite_images(matrices), torch.nan)  # the decomposition refuses what is not finite


NORMS: dict[str, Callable[[Tensor], Tensor]] = {"l2": squared, "l2_per_dimension": squared_per_dimension, "spectral": spectral}


class ReconstructionError(StatisticExtractor):
    """Mean of ‖x − f(x̃)‖ over noisy versions x̃ of an image, f the denoiser's clean prediction; columns `<space>_<norm>`.

    The hypothesis: a model finds its own images again, so smaller is fake. Model evaluations an image: `draws`.

    Args:
        denoiser: The diffusion model or other denoiser.
        draws: Noisy versions of an image; ten in the post.
        noised_to: Timestep of a diffusion model, standard deviation of an image denoiser. The post's one step of 25 inference steps is
            timestep 41 of Stable Diffusion's 1,000.
        spaces: `latent` (the states that the model sees) and `pixel` (decoded, and compared with the image).
        norms: `l2` (‖·‖², the post's), `l2_per_dimension`, and `spectral` (the largest singular value over the root of the dimension, the
            post's remedy for errors that grow with the image).
        **options: Of `StatisticExtractor`.
    """

    name: ClassVar[str] = "reconstruction"

    def __init__(
        self,
        denoiser: Denoiser,
        draws: int = 10,
        noised_to: float = 41,
        spaces: Sequence[Space] = ("latent",),
        norms: Sequence[Literal["l2", "l2_per_dimension", "spectral"]] = ("l2", "l2_per_dimension", "spectral"),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for told, given, known in (("spaces", spaces, ("latent", "pixel")), ("norms", norms, tuple(NORMS))):
            if not given or len(set(given)) != len(given) or any(each not in known for each in given):
                msg = f"data.extractor.{told} is {list(given)}; it must name one or more of {list(known)}, each once"
                raise ValueError(msg)
        if draws < 1:
            msg = f"data.extractor.draws is {draws}; at least one noisy version is needed"
            raise ValueError(msg)
        self.denoiser = denoiser
        self.draws = draws
        self.noised_to = noised_to
        self.spaces = spaces
        self.norms = norms

    @property
    def denoisers(self) -> list[Denoiser]:
        """The one."""
        return [self.denoiser]

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """`<space>_<norm>` and, with several draws, `<space>_<norm>_se`; `[B]` each."""
        conditioned = self.conditioned(self.denoiser, prompts)
        level = self.denoiser.level(self.noised_to)
        clean = self.denoiser.encode(images)
        noisy = self.noised(clean, level, self.draws, generators_of(seeds)).flatten(0, 1)
        position = torch.arange(len(clean), device=clean.device).repeat_interleave(self.draws)
        truth = {"latent": clean, "pixel": to_unit(images).to(clean)} if "pixel" in self.spaces else {"latent": clean}

        def errors(rows: Tensor, of: Tensor) -> Tensor:
            found = conditioned.clean(rows, level, of)
            seen = {"latent": found} | ({"pixel": self.denoiser.decode(found)} if "pixel" in self.spaces else {})
            return torch.stack([NORMS[norm](truth[space][of] - seen[space]) for space in self.spaces for norm in self.norms], dim=1)

        samples = self.in_rows(errors, noisy, position).reshape(len(clean), self.draws, -1)
        names = [f"{space}_{norm}" for space in self.spaces for norm in self.norms]
        features: Features = {}
        for i, name in enumerate(names):
            features |= columns(name, mean_and_error(samples[:, :, i]), self.draws > 1)
        return features
