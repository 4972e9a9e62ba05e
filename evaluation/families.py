"""What a detector of classes answers: how often the right class, which it takes for which, and whether it knows what it does not know.

A fake is *known* to a detector that was trained on its family (a head of generators: on its generator), wherever it comes from. Right
and wrong answers are counted over the known fakes and the reals; `unknown` is a wrong answer there. What it answers for other fakes
stands apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.confusion import REAL, UNKNOWN, confusion, source_names
from evaluation.resampling import (
    LEVEL,
    MIN_GROUPS,
    RESAMPLES,
    Interval,
    bootstrap,
    group_codes,
    groups_by_class,
    interval_of,
    resample_weights,
    too_few_groups,
)
from evaluation.statistics import clean_rows
from modules.metrics.functional import Curve, curve

Trained = Mapping[str, Any]
"""What a detector was trained on: `target` (`binary`, `family` or `generator`), `classes` (names of its outputs, the first is `real`;
None of a binary detector) and `generators` (`dataset/generator` of its training fakes; None where that is not known)."""
Names = NDArray[np.object_]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Answers:
    """True and predicted classes, each `[N]`; a prediction is None where there is none."""

    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    places: Names  # dataset/generator
    generators: Names
    families: Names
    predicted_families: Names
    predicted_generators: Names
    by_generator: bool

    @property
    def true(self) -> Names:
        return self.generators if self.by_generator else self.families

    @property
    def predicted(self) -> Names:
        return self.predicted_generators if self.by_generator else self.predicted_families


@dataclass(frozen=True)
class _Share:
    """How many of some images something is true of: `hits` and `among`, `[N]`."""

    hits: Mask
    among: Mask
    what: str


def family_document(frame: pd.DataFrame, trained: Trained | None, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any] | None:
    """The part `families` of a detector in `metrics.json`.

    Args:
        frame: Rows of one detector and one split; those of unperturbed images are measured, where there are any.
        trained: What the detector was trained on.
        resamples: Bootstrap resamples for each interval.
        seed: Bootstrap seed.

    Returns:
        Counts, numbers as `{"value", "low", "high"}` with `"reason"` where one is null, and confusion matrices; None where the detector has
        no classes or named none.
    """
    clean = clean_rows(frame)
    target, classes = (trained or {}).get("target"), (trained or {}).get("classes")
    if trained is None or target not in ("family", "generator") or not classes or clean["predicted_family"].isna().all():
        return None
    answers = _answers(clean, by_generator=target == "generator")
    known: Mask = np.isin(answers.true.astype(str), list(classes))
    missing = sum(name is None for name in answers.predicted)
    result: dict[str, Any] = {"target": target, "classes": list(classes), "generators": trained.get("generators")}
    result |= {"n": known.size, "n_known": int(known.sum()), "n_without_answer": missing}
    problem = f"{missing} of {known.size} images have no predicted class" if missing else None
    result |= _right_answers(answers, known, classes, problem, resamples, seed)
    novelty = np.array(clean.get("novelty", np.full(known.size, np.nan)), dtype=np.float64)
    result["unknown"] = _unknown(answers, known, novelty, problem, resamples, seed)
    result["confusion"] = _confusions(answers, known, classes, trained.get("generators"))
    return result


def _answers(frame: pd.DataFrame, by_generator: bool) -> _Answers:
    labels = frame["label"].to_numpy(np.int64)

    def true(name: str) -> Names:
        values = frame[name].to_numpy(object, copy=True)
        values[(labels == 1) & (values == REAL)] = UNKNOWN  # the label says what is real
        values[labels == 0] = REAL
        return values

    def predicted(name: str) -> Names:
        column = frame[name].astype(object) if name in frame else pd.Series(None, index=frame.index, dtype=object)
        return column.where(column.notna(), None).to_numpy(object)

    return _Answers(
        labels,
        group_codes(frame["group"].tolist(), frame["key"].tolist()),
        source_names(frame).to_numpy(object),
        true("generator"),
        true("family"),
        predicted("predicted_family"),
        predicted("predicted_generator"),
        by_generator,
    )


def _right_answers(
    answers: _Answers, known: Mask, classes: Sequence[str], problem: str | None, resamples: int, seed: int
) -> dict[str, Any]:
    """Accuracies over the images of known classes, and recall and precision of each class."""
    true, predicted = answers.true[known], answers.predicted[known]
    labels, groups = answers.labels[known], answers.groups[known]
    every, what = np.ones(true.size, dtype=bool), "images of classes that it was trained on"
    shares = {
        "multiclass_accuracy": _Share(true == predicted, every, what),
        "binary_accuracy": _Share((predicted == REAL) == (labels == 0), every, what),
    }
    if answers.by_generator:
        shares["family_accuracy"] = _Share((answers.families == answers.predicted_families)[known], every, what)
    recalls = {name: _Share(predicted == name, true == name, f"images of {name}") for name in classes}
    precisions = {name: _Share(true == name, predicted == name, f"images that it calls {name}") for name in classes}
    asked = [*shares.values(), *recalls.values(), *precisions.values()]
    samples = _resampled(labels, groups, asked, resamples, seed)
    doubt = too_few_groups(groups_by_class(labels, groups), [int(each) for each in np.unique(labels)])

    cells = {name: _interval(each, groups, samples[:, n], problem, doubt).cell() for n, (name, each) in enumerate(shares.items())}
    first = len(shares)
    balanced = _balanced(list(recalls.values()), groups, samples[:, first : first + len(recalls)], problem)
    by_class = {}
    for n, name in enumerate(classes, first):
        by_class[name] = {
            "n": int(recalls[name].among.sum()),
            "n_groups": np.unique(groups[recalls[name].among]).size,
            "n_predicted": int(precisions[name].among.sum()),
            "recall": _interval(recalls[name], groups, samples[:, n], problem).cell(),
            "precision": _interval(precisions[name], groups, samples[:, n + len(classes)], problem).cell(),
        }
    return {"multiclass_accuracy": cells.pop("multiclass_accuracy"), "balanced_accuracy": balanced.cell(), **cells, "by_class": by_class}


def _resampled(labels: NDArray[np.int64], groups: NDArray[np.int64], shares: Sequence[_Share], resamples: int, seed: int) -> Tensor:
    """All shares of every resample, double `[R, S]`; NaN where a resample has no image that a share is of."""
    columns = np.stack([*(each.hits & each.among for each in shares), *(each.among for each in shares)], axis=1)
    codes, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    sums = np.zeros((codes.size, columns.shape[1]))
    np.add.at(sums, group_of, columns)  # the images of a group are drawn together
    totals = torch.cat([weights[:, first].double() @ torch.tensor(sums) for weights in resample_weights(labels, groups, resamples, seed)])
    return totals[:, : len(shares)] / totals[:, len(shares) :]


def _interval(share: _Share, groups: NDArray[np.int64], samples: Tensor, problem: str | None, doubt: str | None = None) -> Interval:
    """A share with its interval; `problem` says why it has no value, `doubt` why it has no interval."""
    if not share.among.any() or problem:
        return Interval(None, reason=f"there are no {share.what}" if not share.among.any() else problem)
    return interval_of(float(share.hits[share.among].mean()), samples, LEVEL, doubt or _few(groups, [share]))


def _balanced(recalls: Sequence[_Share], groups: NDArray[np.int64], samples: Tensor, problem: str | None) -> Interval:
    """Mean recall over the classes that have images: in a resample, over those that it has images of."""
    present = [n for n, each in enumerate(recalls) if each.among.any()]
    if not present or problem:
        return Interval(None, reason=problem or "there are no images of classes that it was trained on")
    value = float(np.mean([recalls[n].hits[recalls[n].among].mean() for n in present]))
    return interval_of(value, samples[:, present].nanmean(dim=1), LEVEL, _few(groups, [recalls[n] for n in present]))


def _few(groups: NDArray[np.int64], shares: Sequence[_Share]) -> str | None:
    """Why there is no interval, where the images of one of `shares` are of fewer than 10 groups."""
    few = [f"{count} of {each.what}" for each in shares if (count := np.unique(groups[each.among]).size) < MIN_GROUPS]
    more = f" and {len(few) - 3} more" if len(few) > 3 else ""
    return f"too few groups for an interval: {', '.join(few[:3])}{more}; {MIN_GROUPS} needed" if few else None


def _unknown(
    answers: _Answers, known: Mask, novelty: NDArray[np.float64], problem: str | None, resamples: int, seed: int
) -> dict[str, Any]:
    """Whether fakes of classes that it was never trained on are told from the others."""
    fake = answers.labels == 1
    kinds = {"known_fakes": fake & known, "never_trained_fakes": fake & ~known, "reals": ~fake}
    named = {
        "known_fakes": "fakes of classes that it was trained on",
        "never_trained_fakes": "fakes of classes that it was never trained on",
    }
    silent = not (answers.predicted == UNKNOWN).any() and np.isnan(novelty).all()
    images = {}
    for kind, chosen in kinds.items():
        predicted, groups = answers.predicted[chosen], answers.groups[chosen]
        every = np.ones(predicted.size, dtype=bool)
        asked = [_Share(each, every, named.get(kind, "real images")) for each in (predicted == UNKNOWN, predicted != REAL)]
        samples = _resampled(answers.labels[chosen], groups, asked, resamples, seed)
        unknown, called = (_interval(each, groups, samples[:, n], problem) for n, each in enumerate(asked))
        if silent:
            unknown = Interval(None, reason="it measures no novelty and never answers unknown")
        images[kind] = {
            "n": predicted.size,
            "n_groups": np.unique(groups).size,
            "answered_unknown": unknown.cell(),
            "called_fake": called.cell(),
        }
    return {
        "auroc": _novelty_auroc(answers.groups, kinds["known_fakes"], kinds["never_trained_fakes"], novelty, resamples, seed).cell(),
        "images": images,
        "n_family_unknown": int((answers.families == UNKNOWN).sum()),
    }


def _novelty_auroc(
    groups: NDArray[np.int64], known: Mask, never: Mask, novelty: NDArray[np.float64], resamples: int, seed: int
) -> Interval:
    """AUROC of novelty: how often a fake of a class never trained on is more novel than one of a known class."""
    for chosen, what in ((known, "was trained on"), (never, "was never trained on")):
        if not chosen.any():
            return Interval(None, reason=f"there are no fakes of classes that it {what}")
    fakes = known | never
    values, labels, codes = novelty[fakes], never[fakes].astype(np.int64), groups[fakes]
    if missing := int(np.isnan(values).sum()):
        reason = "novelty was not measured" if missing == values.size else f"{missing} of {values.size} values of novelty are missing"
        return Interval(None, reason=reason)
    value = float(curve(torch.tensor(values), torch.tensor(labels)).auroc())
    shares = [_Share(labels == each, labels == each, what) for each, what in enumerate(("known fakes", "fakes never trained on"))]
    doubt = _few(codes, shares)
    samples = None if doubt else bootstrap(labels, values, codes, Curve.auroc, resamples, seed)
    return interval_of(value, samples, LEVEL, doubt)


def _confusions(answers: _Answers, known: Mask, classes: Sequence[str], trained_on: Sequence[str] | None) -> dict[str, Any]:
    """The matrices that `confusion.CONFUSIONS` names; rows of classes that the detector was never trained on come last."""
    families = list(classes)
    if answers.by_generator:  # the families of its classes, as far as these images show them
        shown = {*answers.families[known], *answers.predicted_families} - {REAL, UNKNOWN, None}
        families = [REAL, *sorted(shown)]
    order = [*families, *sorted(set(answers.families) - set(families))]
    found = {
        "families": confusion(
            answers.families.tolist(), answers.predicted_families.tolist(), dict(zip(order, order, strict=True)), families
        )
    }

    family_of = dict(zip(answers.places.tolist(), answers.families.tolist(), strict=True))
    known_places = set(answers.places[known])
    places = sorted(family_of, key=lambda place: (place not in known_places, order.index(family_of[place]), place))
    rows = {place: family_of[place] for place in places}
    found["generators"] = confusion(answers.places.tolist(), answers.predicted_families.tolist(), rows, families) | {
        "known": [place in known_places for place in places],
        "trained_on": [None if trained_on is None or family_of[place] == REAL else place in trained_on for place in places],
    }
    if answers.by_generator:
        names = [*classes, *sorted(set(answers.generators) - set(classes))]
        rows = dict(zip(names, names, strict=True))
        found["predicted_generators"] = confusion(answers.generators.tolist(), answers.predicted_generators.tolist(), rows, classes)
    return found
