"""Made-up predictions for the tests of this folder."""

import hashlib

import numpy as np
import pandas as pd

from evaluation.predictions import make_table
from modules.metrics.functional import Threshold

THRESHOLD = Threshold(0.5, 0.05, 99)


def some_rows(dataset, generator, label, n, groups=0, shift=None, **fixed):
    """`n` predictions of one generator; of `groups` groups, or of none."""
    rng = np.random.default_rng(int(hashlib.sha256(f"{dataset}{generator}{label}".encode()).hexdigest()[:8], 16))
    scores = rng.normal(size=n) + (1.5 * label if shift is None else shift)
    return [
        {
            "key": hashlib.sha256(f"{dataset}{generator}{label}{i}".encode()).hexdigest()[:32],
            "dataset": dataset,
            "generator": generator,
            "label": label,
            "split": "test",
            "detector": "probe",
            "group": f"{dataset}-{generator}-{i % groups}" if groups else "",
            "score": float(score),
        }
        | fixed
        for i, score in enumerate(scores)
    ]


def usual_table() -> pd.DataFrame:
    """Two data sets, three generators; the second set has few groups."""
    return make_table(
        some_rows("faces", "ffhq", 0, 240, 60)
        + some_rows("faces", "sd", 1, 120, 40)
        + some_rows("faces", "gan", 1, 120, 40, shift=0.0)
        + some_rows("scenes", "photos", 0, 40, 8)
        + some_rows("scenes", "sd", 1, 40, 20)
    )


def vectors_of(frame, dimensions=5, seed=0):
    """Vectors by key, whatever the order, with different spreads along random directions."""
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    made = (rng.normal(size=(len(frame), dimensions)) * np.arange(dimensions, 0, -1) ** 2) @ turned
    known = dict(zip(frame["key"], made, strict=True))
    return lambda keys: np.stack([known[key] for key in keys]).astype(np.float32)
