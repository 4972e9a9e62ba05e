"""The first sentences about several detectors say what `metrics.json` holds, and no more."""

import numpy as np
import pandas as pd
import pytest

from evaluation.comparison.paired import compare_detectors
from evaluation.predictions import make_table
from evaluation.report.summary import study_findings
from evaluation.statistics import metrics_document
from evaluation.tables import documents_of
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table


@pytest.fixture(scope="module")
def study():
    clean, rng = usual_table(), np.random.default_rng(0)
    parts = [
        clean.assign(detector=name, perturbation=under, score=clean["score"] + shift * clean["label"] + 0.1 * rng.normal(size=len(clean)))
        for name, shift in (("base", 0.0), ("worse", -1.0), ("better", 1.5))
        for under in ("none", "jpeg_40")
    ]
    table = pd.concat(parts, ignore_index=True)
    metrics = metrics_document(table, dict.fromkeys(table["detector"].unique(), THRESHOLD), resamples=40)
    return metrics | {"comparison": compare_detectors(table, resamples=40)}


def number(cell):
    return f"{cell['value']:.3f} ({cell['low']:.3f}–{cell['high']:.3f})"


def test_what_was_measured_and_in_which_order_detectors_stand(study):
    documents = documents_of(study, "base")
    what, order, differences, weakest = study_findings(documents, study)
    assert what == (
        "3 detectors on 280 fakes of 3 generators (100 groups) against 280 real images (68 groups), as they are, and under jpeg_40."
    )
    auroc = {name: document["overall"]["auroc"] for name, document in documents.items()}
    assert order == f"AUROC over all images: {', '.join(f'{name} {number(auroc[name])}' for name in ('better', 'base', 'worse'))}."
    rows = {each["detector"]: each["rows"][0]["auroc"] for each in study["comparison"]["detectors"]}
    told = []
    for name in ("worse", "better"):
        cell = rows[name]["difference"]
        told.append(f"{name}: {name} ({cell['value']:+.3f}, interval {cell['low']:.3f} to {cell['high']:.3f})")
    assert differences == f"Against base on the same images, by AUROC – {'; '.join(told)}."
    by = {name: {each: part["auroc"]["value"] for each, part in document["by_generator"].items()} for name, document in documents.items()}
    worst = {name: min(values, key=values.get) for name, values in by.items()}
    assert weakest == f"Weakest: {', '.join(f'{name} on {worst[name]} ({by[name][worst[name]]:.3f})' for name in by)}."


def test_without_comparison_one_generator_and_no_values_less_is_said():
    table = make_table(some_rows("a", "photos", 0, 30, 8) + some_rows("a", "sd", 1, 30, 8))
    both = pd.concat([table.assign(detector=name) for name in "xy"], ignore_index=True)
    thresholds = dict.fromkeys("xy", THRESHOLD)
    metrics = metrics_document(both, thresholds, resamples=10)
    what, order = study_findings(documents_of(metrics, "x"), metrics)
    assert what.startswith("2 detectors on 30 fakes of 1 generator (8 groups)")
    assert what.endswith("as they are.")
    value = metrics["detectors"]["x"]["overall"]["auroc"]["value"]
    assert order == f"AUROC over all images: x {value:.3f}, y {value:.3f}."  # too few groups for an interval
    metrics = metrics_document(both.assign(score=np.nan), thresholds, resamples=10)
    assert len(study_findings(documents_of(metrics, "x"), metrics)) == 1


def test_many_detectors_are_cut_and_counted():
    table = make_table(some_rows("a", "photos", 0, 12) + some_rows("a", "sd", 1, 12))
    names = [f"d{n}" for n in range(9)]
    metrics = metrics_document(
        pd.concat([table.assign(detector=name) for name in names], ignore_index=True), dict.fromkeys(names, THRESHOLD), resamples=10
    )
    order = study_findings(documents_of(metrics, "d0"), metrics)[1]
    assert order.endswith(" and 3 more.")
    assert order.count("d") - order.count("and") == 6
