"""Every figure that the project draws, with small data: what draws each of them in a theme."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evaluation import figures
from evaluation.audit import audit
from evaluation.comparison.matched import matched
from evaluation.comparison.paired import compare_detectors
from evaluation.comparison.seeds import seeds
from evaluation.confusion import CONFUSIONS, answers_at
from evaluation.embedding_map import embedding_map
from evaluation.figures import confusion
from evaluation.figures.audit import audit_figure
from evaluation.figures.comparisons import differences_figure, seed_differences_figure
from evaluation.figures.distributions import distributions_figure
from evaluation.figures.matched import matched_figure
from evaluation.figures.reliability import reliability_figure
from evaluation.figures.robustness import curves_figure, robustness_figure
from evaluation.figures.spectra import spectra_figure, spectrum_profile_figure
from evaluation.predictions import make_table
from evaluation.spectra import Spectra
from evaluation.statistics import against_reals
from tests.evaluation.classes import matrix
from tests.evaluation.comparison.test_matched import planted
from tests.evaluation.figures.test_heatmaps import matrix as heat_matrix
from tests.evaluation.report.test_spectra_part import REALS, peak, spectrum
from tests.evaluation.robust import measured
from tests.evaluation.rows import some_rows, usual_table, vectors_of
from tests.evaluation.studies import study_of_left_out, study_of_numbers
from tests.evaluation.test_audit import images, noise
from tests.evaluation.test_audit import planted as fact

Draw = Callable[[figures.Theme], Figure]


def all_figures() -> Iterator[tuple[str, Draw, tuple[figures.Theme, figures.Theme], bool]]:
    """Name, what draws it, its themes, and whether it can be recoloured after it was drawn."""
    table = usual_table()
    tables, plain = against_reals(table), (figures.ON_LIGHT, figures.ON_DARK)
    yield "roc", lambda theme: figures.roc_figure(tables, False, theme), plain, True
    yield "roc_log", lambda theme: figures.roc_figure(tables, True, theme), plain, True
    yield "histogram", lambda theme: figures.histogram_figure(tables, 0.5, theme), plain, True
    yield "distributions", lambda theme: distributions_figure(table, theme), plain, True
    own = (confusion.ON_LIGHT, confusion.ON_DARK)
    yield "confusion", lambda theme: confusion.confusion_figure(matrix(), *CONFUSIONS["families"], theme), own, True
    yield "answers", lambda theme: confusion.confusion_figure(answers_at(table, 0.5), *CONFUSIONS["answers"], theme), own, True
    embedded = embedding_map(table, vectors_of(table), 0.5)
    yield "map", lambda theme: figures.map_figure(embedded, theme), plain, False
    documents = measured(("none", "jpeg_90", "jpeg_40"), ("a", "b"), 10)
    yield "robustness", lambda theme: robustness_figure(documents, theme), plain, False
    yield "curves", lambda theme: curves_figure(documents, theme), plain, True
    yield "reliability", lambda theme: reliability_figure(documents, theme), plain, True
    found = Spectra([REALS, spectrum("gan", peaks=[peak(0.25, 0.1, 9.0)])], 200, {})
    yield "spectra", lambda theme: spectra_figure(found, theme), plain, False
    yield "profiles", lambda theme: spectrum_profile_figure(found, theme), plain, True
    shortcuts = audit(images(30, fact_width=fact, fact_red=noise))
    yield "audit", lambda theme: audit_figure(shortcuts, theme), plain, False
    pairs = matched(planted(40, "content"), resamples=10)
    yield "matched", lambda theme: matched_figure(pairs, theme), plain, True
    study = of_seeds()
    compared, seeded = compare_detectors(study, resamples=60), seeds(study, resamples=60)
    yield "differences", lambda theme: differences_figure(compared, theme=theme), plain, True
    yield "seeds", lambda theme: seed_differences_figure(seeded, theme=theme), plain, True
    numbers, left_out = study_of_numbers()[1], study_of_left_out()[1]
    yield "numbers", lambda theme: figures.number_figure(numbers, theme), plain, True
    yield "left_out", lambda theme: figures.left_out_figure(left_out, theme), plain, True
    heat = heat_matrix(values=[[0.1, None], [0.9, 0.5]], rows=2, columns=2, seen=[("row_0", "column_0")])
    yield "heat", lambda theme: figures.heatmap_figure(heat, theme), plain, False


def of_seeds() -> pd.DataFrame:
    """Rows of two detectors with two seeds each and of a third."""
    clean, rng = make_table(some_rows("a", "r", 0, 120, 40) + some_rows("a", "f", 1, 60, 30)), np.random.default_rng(0)
    shifts = {"plain": 0.0, "better": 0.5, "x@seed_0": 0.2, "x@seed_1": 0.3, "y@seed_0": 0.6, "y@seed_1": 0.7}
    noise = {name: 0.2 * rng.normal(size=len(clean)) for name in shifts}
    rows = [clean.assign(detector=name, score=clean["score"] + shift * clean["label"] + noise[name]) for name, shift in shifts.items()]
    return pd.concat(rows, ignore_index=True)
