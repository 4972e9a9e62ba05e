"""What a detector of families says of images besides their scores, in words."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.detectors.base import Detector
from modules.detectors.probe import Probe

UNKNOWN = "unknown"


def answer_columns(detector: Detector) -> list[str]:
    """The columns that `answers` gives of a detector's images."""
    named = ["predicted_family", "family_probability"] if detector.classes is not None else []
    named += ["predicted_generator"] if detector.classes is not None and detector.target == "generator" else []
    return [*named, *(["novelty"] if isinstance(detector, Probe) and detector.unknown != "none" else [])]


def answers(detector: Detector, told: Mapping[str, Tensor], families: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row of columns an image.

    Args:
        detector: Whose classes they are.
        told: Of `Detector.told`, each `[B]`.
        families: Family of each generator that was trained on, for a detector of generators.

    Returns:
        For each image `predicted_family`, `family_probability` (of that answer; None where it is `unknown` or there is none), for a
        detector of generators `predicted_generator`, and `novelty` where it is measured; none at all for a detector that tells nothing.
    """
    if not told:
        return []
    plain = {name: values.tolist() for name, values in told.items()}
    rows: list[dict[str, Any]] = [{} for _ in next(iter(plain.values()))]
    for i, row in enumerate(rows):
        if detector.classes is not None:
            row |= _class(detector, int(plain["class"][i]), float(plain["class_probability"][i]), families)
        if "novelty" in plain:
            row["novelty"] = float(plain["novelty"][i])
    return rows


def _class(detector: Detector, number: int, probability: float, families: Mapping[str, str]) -> dict[str, Any]:
    name = UNKNOWN if number < 0 or detector.classes is None else detector.classes[number]
    likely = None if number < 0 or math.isnan(probability) else probability
    if detector.target != "generator":
        return {"predicted_family": name, "family_probability": likely}
    family = name if number <= 0 else families.get(name, UNKNOWN)
    return {"predicted_family": family, "family_probability": likely, "predicted_generator": name}
