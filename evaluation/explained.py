"""How much of a detector's score is another number of the same image, such as its compressed size.

python -m evaluation.explained runs/NAME/predictions.parquet --by complexity

`--by` names a detector of the table, or a column of numbers. Of each other detector and each generator, on the real images of its data
set and its fakes: the AUROC of the score, of the explaining score alone, and of what is left of the score after a regression on the
explaining score, which is fitted on real images only. Where little is left of the AUROC, the detector sees that the fakes are simpler or
more complex than the real images, and not that they are fakes.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.predictions import PredictionsError, read_predictions
from evaluation.resampling import RESAMPLES, Interval, bootstrap_interval, group_codes
from evaluation.statistics import CLEAN, against_reals
from evaluation.tables import short, write_csv
from modules.metrics.functional import auroc

KEY = ["key", "dataset", "perturbation"]
FOLDS = 5
KNOTS = 5
_EXPLAINING = "explaining score"
_AUROCS = tuple(f"{name}{end}" for name in ("auroc", "auroc_by", "auroc_left") for end in ("", "_low", "_high"))
_OTHERS = ("spearman_real", "spearman_fake", "r2_real", "beyond")

Numbers = NDArray[np.float64]


class ExplainedError(ValueError):
    """What was asked is not in the table; the message says what is."""


def explained(
    frame: pd.DataFrame,
    by: str,
    perturbation: str = CLEAN,
    reals_from: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of each detector's score another score explains.

    The regression is cross-fitted: `FOLDS` parts of the groups, and the images of each part are predicted by a fit to the real images of
    the others. It is continuous and linear between quantiles of the explaining score, and beyond them. The intervals are those of
    `resampling`, over groups; they take the regression as given.

    Args:
        frame: A predictions table, the rows of one split.
        by: Name of the detector, or else of the column, whose numbers explain the others.
        perturbation: The rows of which perturbation.
        reals_from: For a data set, the one whose reals its generators are measured against; its own by default.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        A row a detector and generator. `detector`, `dataset`, `generator`, `n_real`, `n_fake`; `auroc`, `auroc_by` (of the explaining
        score) and `auroc_left` (of the residual), each with `_low` and `_high`; `spearman_real` and `spearman_fake` (rank correlation of
        the two scores, in [-1, 1]); `r2_real` (share of the score's variance among real images that the regression predicts, at most 1,
        below 0 where it is worse than their mean); `beyond` (share of the fakes outside the range of the explaining score among the
        reals, where the regression is extrapolated); `reason`, why something is null.

    Raises:
        ExplainedError: There is no such detector, column or perturbation, or nothing else to explain.
    """
    rows = frame[frame["perturbation"] == perturbation]
    if rows.empty:
        there = ", ".join(sorted(frame["perturbation"].unique()))
        msg = f"no row has the perturbation {perturbation!r}; there are {there or 'no rows'}"
        raise ExplainedError(msg)
    joined = _with_explaining(rows, by)
    found = []
    for detector, scored in joined.groupby("detector", sort=True):
        for table in against_reals(scored, reals_from).values():
            found.append({"detector": detector, **_one(table, resamples, seed)})
    if not found:
        msg = f"the table has no fakes of a detector besides {by!r}: there is nothing to explain"
        raise ExplainedError(msg)
    numbers = dict.fromkeys([*_AUROCS, *_OTHERS], float)
    return pd.DataFrame(found).astype(numbers)  # nulls are NaN


def _with_explaining(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """The rows of the detectors to explain, with the explaining score of each image."""
    if (rows["detector"] == by).any():
        explaining = rows.loc[rows["detector"] == by, [*KEY, "score"]].rename(columns={"score": _EXPLAINING})
        return rows[rows["detector"] != by].merge(explaining, on=KEY, how="left", validate="many_to_one")
    numbers = [str(name) for name in rows.columns if pd.api.types.is_numeric_dtype(rows[name]) and name not in ("label", "score")]
    if by not in numbers:
        msg = (
            f"{by!r} is neither a detector ({', '.join(sorted(rows['detector'].unique()))}) nor a column of numbers ({', '.join(numbers)})"
        )
        raise ExplainedError(msg)
    return rows.assign(**{_EXPLAINING: rows[by].astype(float)})


def _one(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """One detector on one generator's fakes and their reals."""
    labels, scores = table["label"].to_numpy(np.int64), table["score"].to_numpy(np.float64)
    by = table[_EXPLAINING].to_numpy(np.float64)
    fakes = labels == 1
    fake = table[fakes].iloc[0]
    result: dict[str, Any] = {"dataset": fake["dataset"], "generator": fake["generator"], "n_real": int((~fakes).sum())}
    result |= {"n_fake": int(fakes.sum())}
    result |= dict.fromkeys([*_AUROCS, *_OTHERS])
    groups = group_codes(table["group"].tolist(), table["key"].tolist())
    if (reason := _nothing(scores, by, fakes, groups)) is not None:
        return result | {"reason": reason}
    predicted = cross_fitted(by, scores, groups, ~fakes)
    left = scores - predicted
    units = [f"{code:012d}" for code in groups]  # in the order of the codes: the resamples are those of metrics.json
    intervals = {
        name: bootstrap_interval(labels, values, units, auroc, resamples, seed=seed)
        for name, values in (("auroc", scores), ("auroc_by", by), ("auroc_left", left))
    }
    for name, interval in intervals.items():
        result |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    variance = float(np.sum((scores[~fakes] - scores[~fakes].mean()) ** 2))
    result |= {f"spearman_{name}": _rank_correlation(scores[rows], by[rows]) for name, rows in (("real", ~fakes), ("fake", fakes))}
    result["r2_real"] = 1 - float(np.sum(left[~fakes] ** 2)) / variance if variance > 0 else None
    result["beyond"] = float(np.mean((by[fakes] < by[~fakes].min()) | (by[fakes] > by[~fakes].max())))
    return result | {"reason": _reason(intervals)}


def _nothing(scores: Numbers, by: Numbers, fakes: NDArray[np.bool_], groups: NDArray[np.int64]) -> str | None:
    """Why nothing can be said."""
    for values, name in ((scores, "scores"), (by, "explaining scores")):
        if missing := int((~np.isfinite(values)).sum()):
            return f"{missing} of {values.size} {name} are missing or not finite"
    if (found := np.unique(groups[~fakes]).size) < FOLDS:
        return f"{found} groups of real images are too few for a regression, {FOLDS} needed"
    return None


def _reason(intervals: Mapping[str, Interval]) -> str | None:
    reasons = dict.fromkeys(f"{name}: {each.reason}" for name, each in intervals.items() if each.reason)
    return "; ".join(reasons) or None


def cross_fitted(by: Numbers, scores: Numbers, groups: NDArray[np.int64], fitted: NDArray[np.bool_]) -> Numbers:
    """The score that an explaining score predicts, each image's by a fit that saw no image of its group.

    Args:
        by: `[N]`, the explaining score, finite.
        scores: `[N]`, the score to predict, finite.
        groups: `[N]`, codes (see `resampling.group_codes`).
        fitted: `[N]`, which images may be fitted to, of at least `FOLDS` groups.

    Returns:
        `[N]`.
    """
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer

    predicted = np.empty_like(scores)
    fold = groups % FOLDS  # of groups that nothing is fitted to; the others are shared out by their number of images
    places = np.flatnonzero(fitted)
    for number, (_, part) in enumerate(GroupKFold(FOLDS).split(places[:, None], groups=groups[places])):
        fold[np.isin(groups, groups[places[part]])] = number
    for number in range(FOLDS):
        train, part = np.flatnonzero(fitted & (fold != number)), np.flatnonzero(fold == number)
        if not part.size:
            continue
        knots = np.unique(np.quantile(by[train], np.linspace(0, 1, KNOTS)))
        if knots.size < 2:
            predicted[part] = scores[train].mean()
            continue
        spline = SplineTransformer(degree=1, knots=knots[:, None], extrapolation="linear", include_bias=True)
        model = make_pipeline(spline, LinearRegression(fit_intercept=False))
        predicted[part] = model.fit(by[train, None], scores[train]).predict(by[part, None])
    return predicted


def _rank_correlation(first: Numbers, second: Numbers) -> float | None:
    """Spearman's, None where one of them is constant."""
    if np.unique(first).size < 2 or np.unique(second).size < 2:
        return None
    return float(pd.Series(first).rank().corr(pd.Series(second).rank()))


def told(table: pd.DataFrame, by: str) -> str:
    """The result of `explained` for a terminal."""
    heads = ["detector", "images", "AUROC", f"of {short(by, 16)}", "of what is left", "ρ reals", "ρ fakes", "R² reals", "beyond"]
    lines, notes = [heads], dict[str, int]()
    for row in table.replace({np.nan: None}).to_dict("records"):
        mark = f" ({notes.setdefault(row['reason'], len(notes) + 1)})" if row["reason"] else ""
        cells = [_shown(row, name) for name in ("auroc", "auroc_by", "auroc_left")]
        numbers = ["-" if row[name] is None else f"{row[name]:.2f}" for name in _OTHERS]
        lines.append([short(str(row["detector"])) + mark, short(f"{row['dataset']}/{row['generator']}", 32), *cells, *numbers])
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *(f"({number}) {note}" for note, number in notes.items())])


def _shown(row: Mapping[Any, Any], name: str) -> str:
    if row[name] is None:
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3f}" if low is None else f"{row[name]:.3f} ({low:.3f} to {high:.3f})"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    about, _, details = (__doc__ or "").partition("\n")
    built = argparse.ArgumentParser("python -m evaluation.explained", description=about, epilog=details.strip())
    built.add_argument("predictions", type=Path, help="predictions.parquet of a run or study")
    built.add_argument("--by", required=True, help="detector or column of the table that explains the others, for example complexity")
    built.add_argument("--perturbation", default=CLEAN, help="of which perturbation (default: none, the images as they are)")
    built.add_argument("--split", default="test", help="of which split (default: test); all for every row")
    built.add_argument("--output", type=Path, default=None, help="also write the table as this CSV file")
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    options = parser().parse_args(arguments)
    try:
        frame = read_predictions(options.predictions)
        rows = frame if options.split == "all" else frame[frame["split"] == options.split]
        if rows.empty:
            there = ", ".join(sorted(frame["split"].fillna("none").unique()))
            msg = f"no row of {options.predictions} is of the split {options.split!r}; there are: {there or 'no rows'}"
            raise ExplainedError(msg)
        table = explained(rows, options.by, options.perturbation)
        if options.output is not None:
            records = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
            write_csv(options.output, records, list(table.columns))
    except (OSError, PredictionsError, ExplainedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(told(table, options.by))
    return 0


if __name__ == "__main__":
    sys.exit(main())
