"""Made-up answers of detectors of classes for the tests of this folder."""

import hashlib

import numpy as np

from evaluation.predictions import make_table


def answers(true, predicted, **columns):
    """A row for each pair of true and predicted family; further columns are lists as long, or one value for all."""
    rows = []
    for n, (family, answer) in enumerate(zip(true, predicted, strict=True)):
        row = {"key": hashlib.sha256(str(n).encode()).hexdigest()[:32], "dataset": "faces", "split": "test", "detector": "probe"}
        row |= {"label": int(family != "real"), "generator": f"{family}-1", "family": family, "predicted_family": answer}
        row["score"] = float(answer != "real") if answer else None
        rows.append(row | {name: value[n] if isinstance(value, list | np.ndarray) else value for name, value in columns.items()})
    return make_table(rows)


def random_answers(classes, n=600, groups=60, right=0.6, never=(), generators=1, seed=0, **columns):
    """Answers of a head of families that is right with probability `right`; families of `never` are answered at random."""
    rng = np.random.default_rng(seed)
    true = rng.choice([*classes, *never], n)
    chosen = rng.choice(classes, n)
    predicted = np.where((rng.random(n) < right) & np.isin(true, classes), true, chosen)
    names = [f"{family}-{rng.integers(generators) + 1}" for family in true]
    told = {"generator": names, "group": [f"g{n}" for n in rng.integers(groups, size=n)], "novelty": rng.normal(size=n)}
    return answers(true.tolist(), predicted.tolist(), **told | columns)


def trained(*classes, target="family", generators=None):
    return {"target": target, "classes": ["real", *classes], "generators": generators}


def matrix(counts=((8, 2, 0), (0, 0, 0), (1, 1, 2)), **changed):
    made = {
        "true": ["real", "gan", "flow"],
        "predicted": ["real", "gan", "unknown"],
        "right": [0, 1, 2],
        "counts": [list(row) for row in counts],
    }
    return made | {"known": [True, True, False], "trained_on": [None, True, False]} | changed
