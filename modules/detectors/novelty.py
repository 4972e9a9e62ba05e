"""How little an image is like those that a head was trained on, and from where on the answer is `unknown`."""

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import torch
from torch import Tensor

from modules.detectors.exact import Exact, double
from modules.detectors.samples import ROWS_AT_ONCE
from modules.errors import ModelError


def energy(logits: Tensor) -> Tensor:
    """The free energy -log Σ exp(logit) of logits `[B, C]`, `[B]`, doubles: larger for less like any class (Liu et al. 2020)."""
    return -double(logits).logsumexp(1)


class Mahalanobis(Exact):
    """Least Mahalanobis distance to the mean of a class, with one covariance for all classes (Lee et al. 2018).

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004): there may be fewer images than numbers in a vector.

    Args:
        dimension: Numbers in a vector.
        classes: Number of classes.
    """

    means: Tensor
    whitening: Tensor

    def __init__(self, dimension: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.full((classes, dimension), torch.nan, dtype=torch.float64))
        self.register_buffer("whitening", torch.full((dimension, dimension), torch.nan, dtype=torch.float64))

    def fit(self, vectors: Tensor, targets: Tensor, prepare: Callable[[Tensor], Tensor] = double) -> None:
        """Measure the classes' means and their covariance, some rows at a time: there may be many.

        Args:
            vectors: `[N, D]`.
            targets: int `[N]`, numbers of the classes, each at least once; -1 is left out.
            prepare: What vectors go through first, `[B, D]` to `[B, D]`.

        Raises:
            ModelError: If all images of a class are the same, for every class: there is no covariance.
        """
        rows = (targets >= 0).nonzero()[:, 0].split(ROWS_AT_ONCE)
        means = torch.zeros_like(self.means)
        for part in rows:
            means.index_add_(0, targets[part], prepare(vectors[part]).double())
        means /= torch.stack([(targets == number).sum() for number in range(len(means))])[:, None]
        covariance = shrunk_covariance(prepare(vectors[part]).double() - means[targets[part]] for part in rows)
        variances, directions = torch.linalg.eigh(covariance)
        largest = float(variances[-1])
        if not largest > 0:
            msg = "model.unknown is distance, but the training images of each class all have the same features: set it to energy or none"
            raise ModelError(msg)
        scales = variances.clamp(min=largest * torch.finfo(torch.float64).eps).rsqrt()
        self.means.copy_(means)
        self.whitening.copy_(directions * scales)

    def forward(self, vectors: Tensor) -> Tensor:
        """Distances of vectors `[B, D]`, `[B]`, doubles, not negative."""
        values = double(vectors)
        means, whitening = self.means.to(values.device), self.whitening.to(values.device)
        # The means are taken out first: far from the origin their whitened coordinates would cancel.
        each = [((values - mean) @ whitening).square().sum(1) for mean in means]
        return torch.stack(each).amin(0).sqrt()


def shrunk_covariance(parts: Iterable[Tensor]) -> Tensor:
    """Ledoit and Wolf's estimate (2004) of the covariance of rows whose mean is 0.

    It is that of scikit-learn's `LedoitWolf`, which would hold several copies of all rows.

    Args:
        parts: The rows, doubles `[n, D]` each, at least one row in all.

    Returns:
        `[D, D]`: (1 − s) S + s μ I, with S the mean outer product, μ the mean variance and s in [0, 1] the shrinkage of least expected
        squared error.
    """
    count, products, fourth = 0, torch.zeros((), dtype=torch.float64), 0.0
    for part in parts:
        count += len(part)
        products = products + part.T @ part
        fourth += float(part.square().sum(1).square().sum())
    raw = products / count
    dimension, mean = len(raw), raw.diagonal().mean()
    identity = torch.eye(dimension, dtype=raw.dtype)
    apart = (raw - mean * identity).square().sum()
    noise = (fourth / count - raw.square().sum()) / count
    shrinkage = (noise / apart).clamp(0, 1) if float(apart) > 0 else 0.0
    return (1 - shrinkage) * raw + shrinkage * mean * identity


def unknown_above(novelty: Tensor, share: float) -> float:
    """Novelty from which on an image is called unknown: the ⌈(n + 1)(1 − share)⌉-th smallest of n validation images.

    So a further image of the known classes is called unknown with probability at most `share` (split conformal prediction, Vovk et al.
    2005).

    Args:
        novelty: `[n]`, of images of known classes that nothing was fitted on.
        share: Of these that may be called unknown, in (0, 1).

    Returns:
        Infinity where n < 1/share − 1: then nothing is unknown.
    """
    values = novelty.double().flatten()
    rank = math.ceil((values.numel() + 1) * (1 - Fraction(str(float(share)))))  # the decimal that was meant
    return math.inf if rank > values.numel() else float(values.sort().values[rank - 1])
