"""Learning from pairs: a fake scores above the photograph that it was made from."""

from torch import Tensor
from torch.nn.functional import softplus


def pair_ranking_loss(scores: Tensor, labels: Tensor, pairs: Tensor) -> Tensor:
    """Mean over all (real, fake) of one pair of log(1 + exp(-(s_fake - s_real))), RankNet's loss (Burges et al. 2005).

    Args:
        scores: `[B]`, larger means more likely fake.
        labels: `[B]`, 0 real, 1 fake.
        pairs: int `[B]`; images of one photograph share a number, -1 stands for none.

    Returns:
        A scalar; 0, with a gradient of zeros, where no fake has its real in the batch.
    """
    fake, real = labels == 1, labels == 0
    together = (pairs[:, None] == pairs[None, :]) & (pairs >= 0)[:, None] & fake[:, None] & real[None, :]
    margins = (scores[:, None] - scores[None, :])[together]
    return softplus(-margins).sum() / max(1, margins.numel())
