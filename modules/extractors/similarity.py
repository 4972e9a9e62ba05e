"""How much an embedding moves when the image is perturbed: RIGID (He, Chen and Ho 2024) and MINDER (Tsai et al. 2024)."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.v2 import functional as transforms

from modules.extractors.base import Features
from modules.extractors.embedding import EncoderExtractor
from modules.images import to_unit

REDUCTIONS = ("mean", "min", "max")
SPACES = ("normalised", "unit")
PERTURBATION = re.compile(r"(noise|blur)_(\d+(?:\.\d+)?)")


class PerturbationSimilarity(EncoderExtractor):
    """Cosine similarity of an encoder's embeddings of an image and of perturbed copies of it.

    The hypothesis of both papers: a generated image's embedding moves more, so its similarity is smaller and the score is minus the
    similarity. RIGID is `perturbations: [noise_0.05]` (x + λδ, δ standard Gaussian, λ = 0.05); MINDER is the smallest distance,
    1 - similarity, over noise and blur: `perturbations: [noise_…, blur_…]` with `reduce: min`.

    `forward` gives float32 `[B]` features: `similarity`, with `similarity_se` where it is an estimate from several draws; and one each
    perturbation, `similarity_noise_0.05`, with `similarity_noise_0.05_se`. A standard error is that of the draws' mean; where a minimum
    or maximum was taken, that of the perturbation which it came to.

    The range of RIGID's x is not certain. By default noise is added to what the network sees, after the encoder's normalisation: that
    is the x of the formula, and a λ of 0.05 there is 0.011 of the pixels' range with ImageNet's deviation, near the 0.009 that
    re-implementations of MINDER use on pixels. Perturbed images are not clamped, so that the noise stays Gaussian.

    Args:
        encoder: `open_clip/ARCHITECTURE/TAG`, `timm/NAME` or `torchvision/NAME/WEIGHTS`; a file may stand for the weights (see
            `parse_name`).
        pretrained: Load the encoder's weights; without, they are random numbers, for tests.
        projection: Embed in the space that images share with texts; otherwise before the projection to it (open_clip only).
        size: Side in pixels of the square that the encoder sees; the encoder's own by default.
        perturbations: `noise_λ` (λ the deviation) and `blur_σ` (Gaussian, σ in pixels of the encoder's image), each once.
        noise_draws: Noise images for each image and noise; all noises of an image share them.
        reduce: What becomes of several perturbations: the `mean` of the similarities, or the similarity that belongs to the `min` or
            `max` of 1 - similarity.
        noise_space: `normalised` (λ in units of the encoder's deviation of each channel) or `unit` (of pixels in [0, 1]).
        rows_at_once: Images and perturbed copies that go through the network together; changes no number.
        mean: Of each channel in [0, 1], which is taken off before the encoder; the encoder's own by default.
        std: Of each channel in [0, 1], by which is divided; the encoder's own by default. The unit of λ where the noise is `normalised`.
    """

    name: ClassVar[str] = "similarity"

    def __init__(
        self,
        encoder: str,
        pretrained: bool = True,
        projection: bool = True,
        size: int | None = None,
        perturbations: list[str] | None = None,
        noise_draws: int = 1,
        reduce: Literal["mean", "min", "max"] = "mean",
        noise_space: Literal["normalised", "unit"] = "normalised",
        rows_at_once: int = 64,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__(encoder, pretrained, projection, size, mean, std)
        self.perturbations = ["noise_0.05"] if perturbations is None else perturbations
        if not self.perturbations or len(set(self.perturbations)) != len(self.perturbations):
            msg = f"perturbations is {perturbations!r}; it must name one or more, each once"
            raise ValueError(msg)
        self._parsed = [parse_perturbation(each) for each in self.perturbations]
        if reduce not in REDUCTIONS or noise_space not in SPACES:
            msg = f"reduce is {reduce!r} and noise_space {noise_space!r}; they must be of {REDUCTIONS} and {SPACES}"
            raise ValueError(msg)
        if noise_draws < 1 or rows_at_once < 1:
            msg = f"noise_draws is {noise_draws} and rows_at_once {rows_at_once}; at least one is needed of each"
            raise ValueError(msg)
        if noise_draws > 1 and all(kind == "blur" for kind, _ in self._parsed):
            msg = f"noise_draws is {noise_draws}, but nothing in {self.perturbations} is random; add a noise_… or leave it at 1"
            raise ValueError(msg)
        self.noise_draws = noise_draws
        self.reduce = reduce
        self.noise_space = noise_space
        self.rows_at_once = rows_at_once

    @property
    def idle(self) -> set[str]:
        """Also `noise_space` where there is no noise, and `reduce` where there is one perturbation only."""
        return super().idle | (set() if self._noisy else {"noise_space"}) | ({"reduce"} if len(self.perturbations) == 1 else set())

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Similarities of images; see the class for the features. `prompts` are not used."""
        rows, waiting, found = self._rows(to_unit(images).float(), seeds), [], []
        for row in rows:
            waiting.append(row)
            if len(waiting) == self.rows_at_once:
                found.append(self.embed(torch.stack(waiting)))
                waiting = []
        if waiting:
            found.append(self.embed(torch.stack(waiting)))
        directions = normalize(torch.cat(found), dim=1).unflatten(0, (len(images), -1))
        # 1 - cosine of unit vectors, with the digits that their product would lose near 1.
        distances = (directions[:, 1:] - directions[:, :1]).square().sum(-1) / 2
        counts = [self.noise_draws if kind == "noise" else 1 for kind, _ in self._parsed]
        return self._features([part.expand(-1, self.noise_draws) for part in distances.split(counts, dim=1)])

    def _rows(self, images: Tensor, seeds: Sequence[int]) -> Iterator[Tensor]:
        """Each image and its perturbed copies in turn, `[3, h, w]` each."""
        deviation = torch.tensor(self.network.std if self.network and self.noise_space == "normalised" else (1.0, 1.0, 1.0))
        scale = deviation[:, None, None].to(images.device)
        for image, seed in zip(images, seeds, strict=True):
            yield image
            generator = torch.Generator().manual_seed(seed)
            # Drawn on the CPU, so that they are the same on every device; one by one, so that the first do not depend on their number.
            drawn = [torch.randn(image.shape, generator=generator).to(image.device) for _ in range(self.noise_draws)] if self._noisy else []
            for kind, amount in self._parsed:
                if kind == "blur":
                    side = 2 * math.ceil(3 * amount) + 1
                    yield transforms.gaussian_blur(image, [side, side], [amount, amount])
                else:
                    yield from (image + amount * scale * noise for noise in drawn)

    def _features(self, parts: list[Tensor]) -> Features:
        """The columns of distances `[B, draws]`, one tensor a perturbation."""
        features: Features = {}
        for name, part, (kind, _) in zip(self.perturbations, parts, self._parsed, strict=True):
            features[f"similarity_{name}"] = 1 - part.mean(1)
            if self.noise_draws > 1 and kind == "noise":
                features[f"similarity_{name}_se"] = self._error(part)
        stacked = torch.stack(parts, dim=1)
        if self.reduce == "mean":
            chosen = stacked.mean(1)
        else:
            means = stacked.mean(2)
            best = means.argmin(1) if self.reduce == "min" else means.argmax(1)
            chosen = stacked[torch.arange(len(best), device=best.device), best]
        whole = {"similarity": 1 - chosen.mean(1)} | ({"similarity_se": self._error(chosen)} if self.noise_draws > 1 else {})
        return whole | features

    def _error(self, values: Tensor) -> Tensor:
        """Standard error of the mean of each row of `[B, draws]`."""
        return values.std(1) / math.sqrt(self.noise_draws)

    @property
    def _noisy(self) -> bool:
        return any(kind == "noise" for kind, _ in self._parsed)


def parse_perturbation(name: str) -> tuple[str, float]:
    """`noise_0.05` as `("noise", 0.05)`, likewise `blur_1.0`.

    Raises:
        ValueError: If it is neither, or by nothing.
    """
    match = PERTURBATION.fullmatch(name)
    if match is None or not float(match[2]) > 0:
        msg = f"perturbation {name!r} is not noise_LAMBDA or blur_SIGMA with a number above 0, like noise_0.05 or blur_1.0"
        raise ValueError(msg)
    return match[1], float(match[2])
