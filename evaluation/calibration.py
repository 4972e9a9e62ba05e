"""How well a detector's probabilities are calibrated: Brier score, log loss, calibration error, reliability diagram and temperature.

All are of the images that were measured: they hold for their share of fakes, and for no other.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.resampling import LEVEL, RESAMPLES, Interval, group_codes, groups_by_class, interval_of, resample_weights, too_few_groups

BINS = 15
HISTOGRAM_BINS = 20
CELLS = ("brier", "log_loss", "ece", "temperature")
_BIASED = "no interval: the calibration error of a resample is larger than that of the images it was drawn from"
_NORMAL = 1.959963984540054  # the 97.5% quantile of the standard normal distribution
_STEPS = 60  # of the search for a temperature; Newton's method takes about five
_PRECISION = 1e-4  # relative, of the last step: Newton's method then has about the square of it

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def brier(probabilities: Floats, labels: Ints) -> float:
    """Mean of (probability − label)² (Brier 1950), in [0, 1]; 0.25 for a probability of one half throughout.

    Args:
        probabilities: `[N]`, that an image is fake.
        labels: `[N]`, 0 real, 1 fake.
    """
    return float(np.mean((probabilities - labels) ** 2))


def log_loss(probabilities: Floats, labels: Ints) -> float:
    """Mean of −log of the probability of what was true, in nats; log 2 for one half throughout, infinite where 0 or 1 was wrong.

    Args:
        probabilities: `[N]`, that an image is fake.
        labels: `[N]`, 0 real, 1 fake.
    """
    return float(np.mean(_surprise(probabilities, labels)))


def expected_calibration_error(probabilities: Floats, labels: Ints, bins: int = BINS) -> float:
    """Mean over images of |mean probability − share of fakes| of the image's bin, in [0, 1] (Nixon et al. 2019, adaptive binning).

    Bins hold equally many images. Equal probabilities share a bin (that of their mean rank), so the order of the images does not matter.

    Args:
        probabilities: `[N]`, that an image is fake.
        labels: `[N]`, 0 real, 1 fake.
        bins: Number of bins; those that ties leave empty count nothing.
    """
    gaps = np.bincount(_bins(probabilities, bins), weights=probabilities - labels, minlength=bins)
    return float(np.abs(gaps).sum() / probabilities.size)


def reliability(probabilities: Floats, labels: Ints, groups: Ints, bins: int = BINS) -> list[dict[str, float | int]]:
    """The share of fakes among images of like probability: the bins of `expected_calibration_error` that hold any.

    The interval of a share is Wilson's (1927), 95%. Images of a group are not independent: the number that it is made of is Kish's (1965)
    effective one, (Σm)² / Σm² over the numbers m of a bin's images of each group, which is the number of groups where these are equally
    large. It takes the images of a group for one, so the interval is too wide rather than too narrow where they differ.

    Args:
        probabilities: `[N]`, that an image is fake.
        labels: `[N]`, 0 real, 1 fake.
        groups: `[N]`, codes (see `resampling.group_codes`).
        bins: Number of bins.

    Returns:
        For each bin, by rising probability: `n`, `effective_n`, mean `probability`, `share` of fakes, and `low` and `high` of the share.
    """
    places = _bins(probabilities, bins)
    found: list[dict[str, float | int]] = []
    for place in np.unique(places):
        inside = places == place
        sizes = np.unique(groups[inside], return_counts=True)[1].astype(np.float64)
        share, effective = float(labels[inside].mean()), float(sizes.sum() ** 2 / (sizes**2).sum())
        low, high = wilson(share, effective)
        made = {"n": int(inside.sum()), "effective_n": effective, "probability": float(probabilities[inside].mean())}
        found.append(made | {"share": share, "low": low, "high": high})
    return found


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n independent images (1927), in [0, 1].

    Args:
        share: In [0, 1].
        n: Above 0; need not be whole.
    """
    square = _NORMAL**2 / n
    middle = (share + square / 2) / (1 + square)
    half = _NORMAL * float(np.sqrt(share * (1 - share) / n + square / (4 * n))) / (1 + square)
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)


def temperature(log_odds: Tensor, labels: Tensor, weights: Tensor, near: float = 1.0) -> Tensor:
    """The number that log-odds would have to be divided by to fit the labels best (Guo et al. 2017, section 4.2).

    By maximum likelihood: 1/T is the coefficient of a logistic regression without intercept. Above 1 the probabilities are too near 0 and
    1 (overconfident), below 1 too near one half. A step of Halley's method from `near`, then Newton's within a bracket, for all sets of
    weights at once.

    Args:
        log_odds: Double `[N]`, finite.
        labels: `[N]`, 0 real, 1 fake.
        weights: `[r, N]`, not negative.
        near: A temperature above 0 to begin at; it changes the time, not the result.

    Returns:
        Double `[r]`: 0 where all log-odds have the right sign (the smaller T the better), NaN where the best is no positive number.
    """
    counts, truth = weights.t().double(), labels.double()[:, None]
    odds = log_odds[:, None]
    rising = ((truth - 0.5) * odds)[:, 0] @ counts  # of the likelihood at 1/T = 0, where all probabilities are one half
    wrong = (odds.abs() * ((odds > 0) != (truth > 0.5)))[:, 0] @ counts
    result = torch.where(rising > 0, 0.0, torch.nan).double()
    active = ((rising > 0) & (wrong > 0)).nonzero()[:, 0]
    # The derivatives at one place are sums of the images' own: of all resamples in one product.
    likely = torch.sigmoid(odds / near)
    spread = likely * (1 - likely)
    first, second, third = (
        (term[:, 0] @ counts)[active] for term in ((truth - likely) * odds, spread * odds**2, spread * (1 - 2 * likely) * odds**3)
    )
    slopes = 1 / near + 2 * first * second / (2 * second**2 + first * third)
    slopes = torch.where((slopes > 0.5 / near) & (slopes < 2 / near), slopes, 1 / near)
    low, high = torch.zeros_like(slopes), torch.full_like(slopes, torch.inf)
    for _ in range(_STEPS):
        if not active.numel():
            break
        chosen = counts if active.numel() == counts.shape[1] else counts[:, active]
        likely = torch.sigmoid(odds * slopes)
        weighted = chosen * likely
        gradient = log_odds @ (chosen * truth - weighted)
        low, high = torch.where(gradient > 0, slopes, low), torch.where(gradient > 0, high, slopes)
        moved = slopes + gradient / (log_odds.square() @ (weighted * (1 - likely)))
        halved = torch.where(high.isinf(), 2 * slopes, (low + high) / 2)
        moved = torch.where((moved > low) & (moved < high), moved, halved)
        done = (moved - slopes).abs() <= _PRECISION * slopes
        result[active[done]] = 1 / moved[done]
        active, slopes, low, high = active[~done], moved[~done], low[~done], high[~done]
    result[active] = 1 / slopes  # to the precision that so many steps give
    return result


def calibration(frame: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """What `metrics.json` holds of the probabilities of some rows of one detector.

    Intervals are by the bootstrap over groups of `resampling`. The calibration error has none: resampling adds noise to each bin, and the
    error counts noise as miscalibration.

    Args:
        frame: Rows of the predictions table, with `probability`.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Returns:
        Cells `CELLS`; `reliability` (see there); and `histogram`, the numbers of `real` and `fake` images in `HISTOGRAM_BINS` bins of
        equal width from 0 to 1. The last two are null where there are no probabilities, for the reason that the cells give.
    """
    labels, given = frame["label"].to_numpy(np.int64), frame["probability"].to_numpy(np.float64)
    if (reason := _no_value(given)) is not None:
        return {name: Interval(None, reason=reason).cell() for name in CELLS} | {"reliability": None, "histogram": None}
    groups = group_codes(frame["group"].tolist(), frame["key"].tolist())
    few = too_few_groups(groups_by_class(labels, groups), np.unique(labels).tolist())
    losses = {"brier": (given - labels) ** 2, "log_loss": _surprise(given, labels)}
    problems = {"log_loss": _no_log_loss(losses["log_loss"]), "temperature": _no_temperature(given, labels)}
    log_odds = np.zeros_like(given) if problems["temperature"] else np.log(given) - np.log1p(-given)
    measured = [torch.from_numpy(loss) for name, loss in losses.items() if problems.get(name) is None]
    fitted = None if problems["temperature"] else torch.from_numpy(log_odds)

    def count(weights: Tensor, near: float = 1.0) -> Tensor:
        means = [weights.double() @ loss / weights.sum(-1) for loss in measured]
        return torch.stack(means if fitted is None else [*means, temperature(fitted, torch.tensor(labels), weights, near)], dim=-1)

    values = count(torch.ones(1, labels.size, dtype=torch.int64))[0].tolist()
    near = 1.0 if fitted is None else values[-1]
    drawn = [] if few else [count(weights, near) for weights in resample_weights(labels, groups, resamples, seed)]
    samples = list(torch.cat(drawn).unbind(-1)) if drawn else []
    cells = {}
    for name in ("brier", "log_loss", "temperature"):
        if problems.get(name) is None:
            value = values.pop(0)
            cells[name] = interval_of(value, samples.pop(0) if samples else None, LEVEL, few).cell()
        else:
            cells[name] = Interval(None, reason=problems[name]).cell()
    cells["ece"] = Interval(expected_calibration_error(given, labels), reason=_BIASED).cell()
    counts = [np.histogram(given[labels == label], HISTOGRAM_BINS, (0.0, 1.0))[0].tolist() for label in (0, 1)]
    found: dict[str, Any] = {name: cells[name] for name in CELLS}
    return found | {"reliability": reliability(given, labels, groups), "histogram": {"real": counts[0], "fake": counts[1]}}


def _bins(probabilities: Floats, bins: int) -> Ints:
    """The bin of each image, `[N]`."""
    ranks = pd.Series(probabilities).rank(method="average").to_numpy()
    return ((ranks - 0.5) * bins / ranks.size).astype(np.int64)


def _surprise(probabilities: Floats, labels: Ints) -> Floats:
    """−log of the probability of what was true, `[N]`."""
    with np.errstate(divide="ignore"):
        return -np.where(labels == 1, np.log(probabilities), np.log1p(-probabilities))


def _no_value(probabilities: Floats) -> str | None:
    """Why there is nothing to measure."""
    missing = int(np.isnan(probabilities).sum())
    if missing == probabilities.size:
        return "the detector gives no probabilities"
    if missing:
        return f"{missing} of {probabilities.size} probabilities are missing"
    outside = int(((probabilities < 0) | (probabilities > 1)).sum())
    return f"{outside} of {probabilities.size} probabilities are not between 0 and 1" if outside else None


def _no_log_loss(losses: Floats) -> str | None:
    if wrong := int(np.isinf(losses).sum()):
        return f"infinite: {wrong} of {losses.size} probabilities are exactly 0 or 1, and wrong"
    return None


def _no_temperature(probabilities: Floats, labels: Ints) -> str | None:
    """Why no temperature fits best."""
    if np.unique(labels).size < 2:
        return "all images are of one class"
    if certain := int(((probabilities == 0) | (probabilities == 1)).sum()):
        return f"{certain} of {probabilities.size} probabilities are exactly 0 or 1, whose log-odds are infinite"
    if (probabilities == 0.5).all():
        return "all probabilities are one half"
    if ((probabilities > 0.5) == (labels == 1)).all() and (probabilities != 0.5).all():
        return "all probabilities are on the right side of one half: the lower the temperature, the better it fits"
    log_odds = np.log(probabilities) - np.log1p(-probabilities)
    if float(((labels - 0.5) * log_odds).sum()) <= 0:
        return "no positive temperature fits best: fakes do not have the higher log-odds"
    return None
