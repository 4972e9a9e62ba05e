"""Made-up studies of training generators for the tests of this folder."""

import numpy as np
import pandas as pd

from evaluation.comparison.generalisation import generalisation
from evaluation.predictions import make_table
from tests.evaluation.rows import some_rows

GENERATORS = {"a": "gan", "b": "gan", "c": "diffusion", "d": "diffusion"}
ALL = [f"set/{name}" for name in GENERATORS]


def images():
    rows = some_rows("set", "photos", 0, 60, 30)
    for name, family in GENERATORS.items():
        rows += some_rows("set", name, 1, 40, 20, shift=0.3, family=family)
    return make_table(rows)


def study(trained):
    """A detector raises the scores of the fakes that it was trained on by 1.5."""
    clean = images()
    parts = []
    for detector, generators in trained.items():
        known = (clean["dataset"] + "/" + clean["generator"]).isin(generators)
        parts.append(clean.assign(detector=detector, score=clean["score"] + 1.5 * known * clean["label"]))
    return pd.concat(parts, ignore_index=True), {name: {"target": "binary", "generators": list(names)} for name, names in trained.items()}


def study_of_numbers():
    """Rows and what is found: one and two training generators, each drawn twice, and all of them."""
    trained = {f"svm@generators_{k}_seed_{s}": np.roll(ALL, s)[:k].tolist() for k in (1, 2) for s in (0, 1)} | {"svm@all": ALL}
    table, told = study(trained)
    return table, generalisation(table, told, resamples=50)


def study_of_left_out():
    """Rows and what is found: all training generators, and all but each."""
    table, told = study({"svm@all": ALL} | {f"svm@!{name}": [each for each in ALL if each != name] for name in ALL})
    return table, generalisation(table, told, resamples=100)
