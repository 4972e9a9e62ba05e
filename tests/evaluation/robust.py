"""Made-up studies of perturbations for the tests of this folder."""

import numpy as np
import pandas as pd

from evaluation.calibration import calibration
from evaluation.comparison.robustness import robustness
from modules.metrics.functional import Threshold
from tests.evaluation.rows import usual_table

STRICT = Threshold(1.6, 0.05, 99)
MANY = (
    *("none", "jpeg_95", "jpeg_75", "jpeg_40", "webp_90", "webp_50", "resize_0.75", "resize_0.5", "blur_0.5", "blur_2.0"),
    *("noise_0.01", "noise_0.05", "crop_half", "crop_half+crop_half", "limit_2048+jpeg_85", "limit_1600+webp_80", "grayscale"),
    *("rotate_30", "color_jitter", "horizontal_flip"),
)


def perturbed(names=("none", "jpeg_90", "jpeg_40"), detectors=("probe",)) -> pd.DataFrame:
    """Scores come nearer to each other from perturbation to perturbation, and rise by a shift of the detector's own."""
    rng, base = np.random.default_rng(0), usual_table()
    parts = []
    for place, detector in enumerate(detectors):
        for number, name in enumerate(names):
            harm = 0.0 if name == "none" else (1 + number % 4) / 4
            noise = harm * 0.6 * rng.normal(size=len(base))
            scores = base["score"] * (1 - 0.5 * harm) + noise + harm * place
            probabilities = 1 / (1 + np.exp(-2 * (scores - 0.5)))
            parts.append(base.assign(detector=detector, perturbation=name, score=scores, probability=probabilities))
    return pd.concat(parts, ignore_index=True)


def measured(names=("none", "jpeg_90", "jpeg_40"), detectors=("probe",), resamples=20):
    """Parts of `metrics.json` by detector, those that the figures and the report of this folder need."""
    table = perturbed(names, detectors)
    found = robustness(table, dict.fromkeys(detectors, STRICT), {"scenes": "faces"}, resamples)
    documents = {}
    for name, document in found.items():
        clean = table[(table["detector"] == name) & (table["perturbation"] == names[0])]
        counts = {"n_real": int((clean["label"] == 0).sum()), "n_fake": int((clean["label"] == 1).sum())}
        documents[name] = {"robustness": document, "overall": counts | calibration(clean, resamples)}
    return documents
