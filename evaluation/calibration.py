"""How well a detector's probabilities are calibrated: Brier score and expected calibration error.

Both are of the images that were measured: they hold for their share of fakes, and for no other.
"""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from evaluation.resampling import LEVEL, RESAMPLES, Interval, group_codes, groups_by_class, interval_of, resample_weights, too_few_groups

BINS = 15
_BIASED = "no interval: the calibration error of a resample is larger than that of the images it was drawn from"


def brier(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean of (probability − label)² (Brier 1950), in [0, 1]; 0.25 for a probability of one half throughout.

    Args:
        probabilities: `[N]`, that an image is fake.
        labels: `[N]`, 0 real, 1 fake.
    """
    return float(np.mean((probabilities - labels) ** 2))


def expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = BINS) -> float:
    """Mean over images of |mean probability − share of fakes| of the image's bin, in [0, 1] (Nixon et al. 2019, adaptive binning).

    Bins hold equally many images. Equal probabilities share a bin (that of their mean rank), so the order of the images does not matter.

    Args:
        probabilities: `[N]`, that an image is fake.
        labels: `[N]`, 0 real, 1 fake.
        bins: Number of bins; those that ties leave empty count nothing.
    """
    ranks = pd.Series(probabilities).rank(method="average").to_numpy()
    places = ((ranks - 0.5) * bins / ranks.size).astype(np.int64)
    gaps = np.bincount(places, weights=probabilities - labels, minlength=bins)
    return float(np.abs(gaps).sum() / ranks.size)


def calibration(frame: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, dict[str, float | str | None]]:
    """`brier` and `ece` of some rows of one detector, as they stand in `metrics.json`.

    The interval of the Brier score is by the bootstrap over groups of `resampling`. The calibration error has none: resampling adds
    noise to each bin, and the error counts noise as miscalibration.

    Args:
        frame: Rows of the predictions table, with `probability`.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
    """
    labels, given = frame["label"].to_numpy(np.int64), frame["probability"].to_numpy(np.float64)
    if (reason := _no_value(given)) is not None:
        return {name: Interval(None, reason=reason).cell() for name in ("brier", "ece")}
    groups = group_codes(frame["group"].tolist(), frame["key"].tolist())
    few = too_few_groups(groups_by_class(labels, groups), np.unique(labels).tolist())
    samples = None
    if few is None:
        squares = torch.from_numpy((given - labels) ** 2)
        drawn = (weights.double() for weights in resample_weights(labels, groups, resamples, seed))
        samples = torch.cat([weights @ squares / weights.sum(-1) for weights in drawn])
    error = Interval(expected_calibration_error(given, labels), reason=_BIASED)
    return {"brier": interval_of(brier(given, labels), samples, LEVEL, few).cell(), "ece": error.cell()}


def _no_value(probabilities: NDArray[np.float64]) -> str | None:
    """Why there is nothing to measure."""
    missing = int(np.isnan(probabilities).sum())
    if missing == probabilities.size:
        return "the detector gives no probabilities"
    if missing:
        return f"{missing} of {probabilities.size} probabilities are missing"
    outside = int(((probabilities < 0) | (probabilities > 1)).sum())
    return f"{outside} of {probabilities.size} probabilities are not between 0 and 1" if outside else None
