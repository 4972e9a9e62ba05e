"""What a command prints last."""

import pandas as pd

from evaluation.statistics import metrics_document
from tests.evaluation.rows import THRESHOLD, usual_table
from workflow.last_words import last_words


def test_one_detector_has_its_generators_and_no_table_of_perturbations(tmp_path):
    document = metrics_document(usual_table(), THRESHOLD, resamples=5)
    lines = last_words(document, {"probe": THRESHOLD}, tmp_path).splitlines()
    assert [line.split()[-1] for line in lines[1:5]] == ["faces/gan", "faces/sd", "scenes/sd", "all"]
    assert "all generators together" not in "".join(lines)
    assert lines[-1] == f"All results: {tmp_path}"


def test_several_perturbations_have_a_table_with_a_line_a_detector(tmp_path):
    clean = usual_table()
    table = pd.concat([clean, clean.assign(perturbation="jpeg_40")])
    alone = last_words(metrics_document(table, THRESHOLD, resamples=5), {"probe": THRESHOLD}, tmp_path).splitlines()
    heads = next(place for place, line in enumerate(alone) if line.startswith("detector"))
    assert alone[heads].split() == ["detector", "none", "jpeg_40"]
    document = metrics_document(pd.concat([table, table.assign(detector="other")]), {"probe": THRESHOLD, "other": THRESHOLD}, resamples=5)
    words = last_words(document, {"probe": THRESHOLD, "other": THRESHOLD}, tmp_path).splitlines()
    heads = next(place for place, line in enumerate(words) if line.startswith("detector"))
    value = document["detectors"]["probe"]["by_perturbation"]["jpeg_40"]["auroc"]["value"]
    assert [line.split()[0] for line in words[heads + 1 : heads + 3]] == ["probe", "other"]
    assert f"{value:.3f}" in words[heads + 1]
