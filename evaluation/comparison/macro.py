"""AUROC averaged over generators, with intervals: every resample of the images is counted once for all generators."""

from collections.abc import Mapping

import pandas as pd

from evaluation.means import OfGenerators, measure_generators
from evaluation.resampling import RESAMPLES
from evaluation.statistics import clean_rows

Aurocs = OfGenerators
"""AUROC in [0, 1] of each generator, of one detector."""


def measure_aurocs(frame: pd.DataFrame, reals_from: Mapping[str, str] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Aurocs:
    """AUROC of each generator of a detector against its reals, on the unperturbed images and on resamples of them.

    Equal keys, groups and seed give equal resamples, so that two detectors can be compared by `Aurocs.minus`.

    Args:
        frame: Rows of one detector; of unperturbed images, where there are any.
        reals_from: For a data set, the one whose reals its generators are measured against.
        resamples: Number of resamples R; their cost does not depend on the number of generators.
        seed: Bootstrap seed.
    """
    return measure_generators(clean_rows(frame), reals_from, resamples=resamples, seed=seed, metrics=("auroc",))["auroc"]
