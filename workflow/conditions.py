"""Training conditions of a study: one detector of its list becomes one for each of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

from cli import RunError
from datamodules.errors import DataError
from datamodules.perturbations import perturbation
from datamodules.records import FAKE
from datamodules.sources.base import Source
from workflow.fitting import FittedDetector

SEED = "seed_"
EACH, LEAVE_OUT, ALL = "each_generator", "leave_one_out", "all"
_SEVERAL = re.compile(r"generators_(?P<most>[1-9]\d*)(?:_seed_(?P<seed>\d+))?")

CONDITIONS_HELP = (
    "of a study: train each detector that has no checkpoint yet once under each of these: a perturbation (jpeg_40); a generator's pattern "
    "(DATASET/GENERATOR; !DATASET/GENERATOR for all but that one); generators_N or generators_N_seed_S (N of them); all; or, for every "
    "generator of the data sets that is not for the test alone, each_generator and leave_one_out"
)


def expanded(
    detectors: Mapping[str, FittedDetector], conditions: Sequence[str], generators: Sequence[str], seeds: Sequence[int] = ()
) -> dict[str, FittedDetector]:
    """The detectors under every training condition, named `detector@condition`, and with every seed, named `…@seed_0`.

    Those that have a checkpoint stay as they are.

    Args:
        detectors: Of the study, by name.
        conditions: As in `CONDITIONS_HELP`; none leaves the detectors as they are.
        generators: `dataset/generator` of the fakes of the study's data sets that can be trained on.
        seeds: Of training; none leaves the configuration's own.

    Raises:
        RunError: A condition is none.
    """
    conditioned = _conditioned(detectors, conditions, generators) if conditions else dict(detectors)
    if not seeds:
        return conditioned
    found: dict[str, FittedDetector] = {}
    for name, detector in conditioned.items():
        if detector.checkpoint is not None:
            found[name] = detector
            continue
        for seed in seeds:
            found[f"{name}@{SEED}{seed}"] = replace(detector, overrides=detector.overrides | {"seed_everything": seed})
    return found


def _conditioned(
    detectors: Mapping[str, FittedDetector], conditions: Sequence[str], generators: Sequence[str]
) -> dict[str, FittedDetector]:
    names = [name for condition in conditions for name in _named(condition, generators)]
    found: dict[str, FittedDetector] = {}
    for name, detector in detectors.items():
        if detector.checkpoint is not None:
            found[name] = detector
            continue
        for condition in dict.fromkeys(names):
            found[f"{name}@{condition}"] = replace(detector, overrides=detector.overrides | overrides_of(condition))
    return found


def _named(condition: str, generators: Sequence[str]) -> list[str]:
    if condition == EACH:
        return [escape(generator) for generator in generators]
    if condition == LEAVE_OUT:
        return [f"!{escape(generator)}" for generator in generators]
    return [condition]


def overrides_of(condition: str) -> dict[str, Any]:
    """Options of train.py that a condition stands for.

    Raises:
        RunError: It is none of `CONDITIONS_HELP`.
    """
    if condition == ALL:
        return {}
    if several := _SEVERAL.fullmatch(condition):
        return {"data.max_generators": int(several["most"]), "data.generator_seed": int(several["seed"] or 0)}
    if "/" in condition or condition.startswith("!"):
        return {"data.train_generators": [condition]}
    try:
        perturbation(condition)
    except DataError as error:
        msg = f"train_conditions: {condition!r} is no generator pattern (DATASET/GENERATOR), generators_N or perturbation ({error})"
        raise RunError(msg) from error
    return {"data.perturbation": condition, "data.views": None}


def generators_of(sources: Mapping[str, Source], cache_dir: Path) -> list[str]:
    """`dataset/generator` of the fakes of some sources, by name; without those that a source has for the test alone."""
    return sorted(
        {
            f"{record.dataset}/{record.generator}"
            for source in sources.values()
            for record in source.records(cache_dir)
            if record.label == FAKE and record.split != "test"
        }
    )
