"""From a detector's score to a probability: a line through the log-odds, fitted on the validation split (Platt 1999; Guo et al. 2017)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Method = Literal["none", "sigmoid", "temperature", "logistic"]
METHODS: tuple[Method, ...] = ("none", "sigmoid", "temperature", "logistic")
FITTED = ("temperature", "logistic")


@dataclass(frozen=True)
class Fit:
    """What a calibration came to: the log-odds of a score are `slope · (score − centre)`.

    Attributes:
        slope: Above 0; 0 where there is no calibration.
        centre: The score at which real and generated are equally likely.
        n: Number of images that it was fitted on.
        reason: Why there is none.
    """

    slope: float
    centre: float
    n: int
    reason: str | None = None


def fit_line(scores: Tensor, labels: Tensor, method: str) -> Fit:
    """Fit the log-odds by logistic regression, real and generated images weighted alike.

    So a probability is that of an image which is as likely real as generated before it is looked at, whatever the numbers of the two
    in the validation split. A slight L2 penalty keeps the slope finite where the scores separate the classes.

    Args:
        scores: `[n]`, raw.
        labels: `[n]`, 0 real, 1 fake.
        method: `temperature` (a slope, 1/T; the centre stays 0) or `logistic` (slope and centre).
    """
    from sklearn.linear_model import LogisticRegression

    values, truth = scores.double().cpu(), labels.long().cpu()
    n = len(values)
    if not bool(values.isfinite().all()) or truth.unique().numel() < 2:
        return Fit(0.0, 0.0, n, "validation has one class only, or scores that are not finite")
    # At a deviation of 1, so that the penalty means the same for every score.
    shift = values.mean() if method == "logistic" else values.new_zeros(())
    scale = (values - shift).square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    line = LogisticRegression(C=1e3, fit_intercept=method == "logistic", class_weight="balanced")
    line.fit(((values - shift) / scale)[:, None].numpy(), truth.numpy())
    slope = float(line.coef_[0, 0] / scale)
    if not slope > 0:
        return Fit(0.0, 0.0, n, "on the validation images a higher score does not mean more likely fake")
    centre = float(shift - line.intercept_[0] / slope) if method == "logistic" else 0.0
    return Fit(slope, centre, n)


class Calibrator(nn.Module):
    """A fitted line as part of a detector's weights, so that whatever holds the detector holds it too.

    Args:
        method: `none`; `sigmoid` (the score is the log-odds already, as a network trained by cross-entropy gives them); `temperature`
            or `logistic` (see `fit_line`).

    Raises:
        ValueError: There is no such method.
    """

    slope: Tensor
    centre: Tensor

    def __init__(self, method: Method) -> None:
        super().__init__()
        if method not in METHODS:
            msg = f"calibration is {method!r}; it must be one of {', '.join(METHODS)}"
            raise ValueError(msg)
        self.method = method
        self.n = 0
        self.reason: str | None = None if method in ("none", "sigmoid") else "no validation yet"
        fixed = (1.0, 0.0) if method == "sigmoid" else (0.0, 0.0)
        for name, value in zip(("slope", "centre"), fixed, strict=True):
            self.register_buffer(name, torch.tensor(value))

    def fit(self, scores: Tensor, labels: Tensor) -> None:
        """Fit to validation scores, `[n]` each, where the method has anything to fit."""
        if self.method not in FITTED:
            return
        fit = fit_line(scores, labels, self.method)
        self.slope.fill_(fit.slope)
        self.centre.fill_(fit.centre)
        self.n, self.reason = fit.n, fit.reason

    @property
    def fitted(self) -> bool:
        """Whether it can tell log-odds."""
        return bool(self.slope > 0)

    def forward(self, scores: Tensor) -> Tensor:
        """Log-odds of raw scores, any shape."""
        return self.slope.to(scores) * (scores - self.centre.to(scores))
