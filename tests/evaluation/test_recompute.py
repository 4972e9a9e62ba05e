"""Every number of metrics.json follows from the predictions table, the stored threshold and the seed."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from evaluation.predictions import make_table, read_predictions, write_predictions
from evaluation.recompute import differences, leaves, main, recompute
from evaluation.results import write_results
from tests.embeddings import undrawn
from tests.evaluation.rows import THRESHOLD, some_rows


def nothing(key, _):
    return {}


def a_study():
    """Two detectors with two seeds, three perturbations, facts, pairs, probabilities: every part of the document is there."""
    rows = some_rows("faces", "photos", 0, 60, 30)
    rows += some_rows("faces", "gan", 1, 40, 20, shift=1.0) + some_rows("faces", "sd", 1, 40, 20, shift=0.5)
    clean = make_table(rows)
    drawn = np.random.default_rng(3)
    clean["fact_bytes"] = drawn.integers(1000, 9000, len(clean)).astype(float) + 2000 * clean["label"]
    clean["fact_format"] = np.where(drawn.random(len(clean)) < 0.2, "PNG", "JPEG")
    reals = clean["key"][clean["label"] == 0].tolist()
    clean["pair"] = [f"pair {i % len(reals)}" for i in range(len(clean))]
    clean["pair_similarity"] = np.where(clean["label"] == 1, drawn.random(len(clean)), np.nan)
    parts = []
    for number, name in enumerate(("svm@seed_0", "svm@seed_1", "mlp@seed_0", "mlp@seed_1", "plain", "other")):
        for step, perturbation in enumerate(("none", "jpeg_90", "jpeg_40")):
            noise = drawn.normal(0, 0.2 + 0.2 * step + 0.1 * number, len(clean))
            score = clean["score"] + noise
            parts.append(clean.assign(detector=name, perturbation=perturbation, score=score, probability=1 / (1 + np.exp(-score))))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recompute") / "study"
    frame = a_study()
    thresholds = dict.fromkeys(frame["detector"].unique(), THRESHOLD)
    with undrawn():
        write_results(folder, frame, thresholds, nothing, split=None, choose_by="auroc", baseline="plain", resamples=40, seed=5)
    return folder


@pytest.fixture
def copy(study, tmp_path):
    for name in ("metrics.json", "predictions.parquet"):
        shutil.copy(study / name, tmp_path)
    return tmp_path


def test_all_numbers_of_a_study_follow_from_its_table(study):
    document = json.loads((study / "metrics.json").read_text())
    parts = {"families", "shortcuts", "matched", "robustness", "means_over_generators"}
    assert parts - set(document["detectors"]["plain"]) <= {"families"}
    assert {"comparison", "seeds", "selection", "settings"} <= set(document)
    numbers, found = recompute(study)
    assert found == []
    assert numbers > 1000


def test_of_one_detector_as_well(tmp_path):
    with undrawn():
        write_results(tmp_path, make_table(some_rows("s", "r", 0, 20, 20) + some_rows("s", "f", 1, 20, 20)), THRESHOLD, nothing, split=None)
    assert recompute(tmp_path)[1] == []


def test_a_changed_number_is_named(copy, capsys):
    path = copy / "metrics.json"
    document = json.loads(path.read_text())
    document["detectors"]["plain"]["overall"]["auroc"]["low"] += 1e-4
    path.write_text(json.dumps(document))
    assert main([str(copy)]) == 1
    printed = capsys.readouterr().out
    assert "detectors.plain.overall.auroc.low: " in printed
    assert printed.splitlines()[-1].startswith("1 of the values in")


def test_a_changed_score_is_found(copy):
    table = read_predictions(copy / "predictions.parquet")
    table.loc[0, "score"] += 100.0
    write_predictions(copy / "predictions.parquet", table)
    assert any(".overall.auroc.value" in each for each in recompute(copy)[1])


def test_what_is_missing_is_said(copy, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "name a directory that train.py or evaluate.py wrote" in capsys.readouterr().err
    (copy / "predictions.parquet").unlink()
    assert main([str(copy)]) == 2
    assert "is missing" in capsys.readouterr().err
    (copy / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="missing"):
        recompute(copy)


def test_a_document_of_an_older_version_is_refused(copy):
    document = json.loads((copy / "metrics.json").read_text())
    del document["settings"]
    (copy / "metrics.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="older version"):
        recompute(copy)


@pytest.mark.parametrize("hostile", ["[]", '{"settings": {}, "detectors": []}', '{"settings": {"later": 1}, "threshold": {}}'])
def test_what_is_no_document_is_refused_in_a_sentence(copy, hostile, capsys):
    (copy / "metrics.json").write_text(hostile)
    assert main([str(copy)]) == 2
    assert "error: " in capsys.readouterr().err


def test_leaves_and_their_differences():
    before = {"a": [1, {"b": None}], "c": {}, "d": 0.1 + 0.2, "e": True}
    assert dict(leaves(before)) == {("a", 0): 1, ("a", 1, "b"): None, ("c",): {}, ("d",): 0.1 + 0.2, ("e",): True}
    assert differences(before, before | {"d": 0.3}) == []
    assert differences(before, before | {"d": 0.3001, "e": 1}) == [
        "d: 0.30000000000000004 stored, 0.3001 computed",
        "e: True stored, 1 computed",
    ]
    dotted = {"a.b": 1, "a": {"b": 2}}
    assert differences(dotted, {"a.b": 7, "a": {"b": 2}}) == ["a.b: 1 stored, 7 computed"]
    assert differences({"a": 1}, {"b": 1}) == ["a is stored, and is not computed", "b is computed, and is not stored"]
