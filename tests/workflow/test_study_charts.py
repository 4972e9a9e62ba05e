"""What W&B is sent of a study, read back from the files that W&B wrote: a run of each detector, and one of all."""

import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from evaluation.predictions import make_table
from evaluation.statistics import metrics_document
from tests.evaluation.rows import THRESHOLD, some_rows
from tests.workflow.wandb_runs import draw, server, starts
from workflow.pipeline import flat_metrics
from workflow.study_charts import Runs, log_study, runs_of
from workflow.tracking import end_service, unsynced

PERTURBATIONS = ("none", "resize_0.5+jpeg_75")
DETECTORS = {
    "svm@!scenes/progan": {"model": {"class_path": "SVM"}, "checkpoint": "a.ckpt", "data": {"extractor": {"class_path": "CLIP"}}},
    "mlp": {"model": {"class_path": "MLP"}, "checkpoint": "b.ckpt", "data": {"extractor": {"class_path": "DINO"}}},
}
CONFIG = {"split": "test", "data": {"batch_size": 8}, "detectors": {"mlp": {"checkpoint": "b.ckpt"}}}
SVM = "figures/svm@_scenes_progan"


@pytest.fixture(autouse=True)
def fresh_wandb(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_DATA_DIR", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    end_service()
    yield
    end_service()


def table(*detectors):
    """A generator whose name is a perturbation's, under two perturbations; the last detector is worse."""
    rows = []
    for number, detector in enumerate(detectors):
        for shift, perturbation in enumerate(PERTURBATIONS):
            where = {"detector": detector, "perturbation": perturbation}
            rows += some_rows("faces", "ffhq", 0, 30, 30, **where)
            rows += some_rows("faces", "resize_0.5+jpeg_75", 1, 20, 20, shift=2.0 - shift - number / 2, **where)
    return make_table(rows)


def measured(frame):
    return metrics_document(frame, dict.fromkeys(frame["detector"].unique(), THRESHOLD), resamples=20)


def unread(key, *_):
    raise FileNotFoundError(key)


def logs(folder, *detectors, warnings=("Few images.",), group="study"):
    """Log the table of some detectors; gives what `metrics.json` would hold."""
    frame = table(*detectors)
    metrics = measured(frame)
    runs = Runs(folder, group, CONFIG, {name: DETECTORS[name] for name in detectors})
    log_study(folder, lambda: runs, frame, metrics, unread, warnings)
    return metrics


@pytest.fixture
def study(tmp_path):
    return tmp_path / "study"


def test_each_detector_is_a_run_under_the_names_of_training(study):
    draw(study, f"{SVM}/roc.png", f"{SVM}/resize_0.5+jpeg_75/shortcuts.png", "figures/mlp/roc.png", "figures/robustness.png")
    metrics = logs(study, *DETECTORS)["detectors"]
    svm, mlp, _ = starts(study)
    for run, name in ((svm, "svm@!scenes/progan"), (mlp, "mlp")):
        assert (run.name, run.group, run.job_type) == (f"study/{name}", "study", f"evaluation/{name}")
        assert run.tags == ["evaluation"]
        (row,) = run.rows
        for logged_name, value in flat_metrics(metrics[name]).items():
            assert row[logged_name] == pytest.approx(value), logged_name
        assert row["test/faces/resize_0.5+jpeg_75/auroc"] == metrics[name]["by_generator"]["faces/resize_0.5+jpeg_75"]["auroc"]["value"]
        for perturbation in PERTURBATIONS:
            told = metrics[name]["by_perturbation"][perturbation]
            assert row[f"test/{perturbation}/auroc"] == told["auroc"]["value"]
            assert row[f"test/{perturbation}/tpr_at_fpr_0.1"] == told["tpr_at_fpr"]["0.1"]["value"]
        assert {"test/roc_table", "test/precision_recall_table", "test/scores/real", "test/by_generator", "test/mistakes"} <= row.keys()
        assert sum(row["test/scores/fake"]["values"]) == 20  # of the images as they are
    assert svm.figures().keys() == {"roc", "resize_0.5+jpeg_75/shortcuts"}
    assert mlp.figures() == {"roc": (study / "figures/mlp/roc.png").read_bytes()}
    assert svm.rows[0]["test/auroc"] > mlp.rows[0]["test/auroc"]


def test_the_study_is_a_run_of_its_own(study):
    draw(study, f"{SVM}/roc.png", "figures/mlp/roc.png", "figures/robustness.png", "figures/roc_of_detectors.png")
    metrics = logs(study, *DETECTORS)["detectors"]
    run = starts(study)[-1]
    assert (run.name, run.group, run.job_type, run.tags) == ("study", "study", "study", [])
    assert run.figures().keys() == {"robustness", "roc_of_detectors"}
    rows = run.table("test/by_perturbation").set_index(["detector", "perturbation"])
    assert list(rows.index) == [(name, perturbation) for name in DETECTORS for perturbation in PERTURBATIONS]
    for (name, perturbation), row in rows.iterrows():
        cell = metrics[name]["by_perturbation"][perturbation]["auroc"]
        assert (row["auroc"], row["auroc_low"], row["auroc_high"]) == (cell["value"], cell["low"], cell["high"])
    assert run.table("test/warnings")["warning"].tolist() == ["Few images."]
    assert not [name for name in run.rows[0] if name.startswith("test/auroc")]


def test_configurations_can_be_compared_with_those_of_training(study):
    logs(study, *DETECTORS)
    svm, mlp, run = starts(study)
    assert (svm.config["model"], svm.config["checkpoint"]) == ({"class_path": "SVM"}, "a.ckpt")
    assert mlp.config["data"] == {"batch_size": 8, "extractor": {"class_path": "DINO"}}
    assert run.config["data"] == {"batch_size": 8}
    assert all(each.config["split"] == "test" and "torch" in each.config["versions"] for each in (svm, mlp, run))


def test_a_study_that_goes_on_goes_on_with_its_runs(study, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "ofsweep1")
    logs(study, *DETECTORS)
    monkeypatch.delenv("WANDB_RUN_ID")
    logs(study, *DETECTORS)
    before, after = [[run.id for run in part] for part in (starts(study)[:3], starts(study)[3:])]
    assert before == after
    assert len(set(before)) == 3
    assert before[-1] == "ofsweep1"


def test_one_detector_is_one_run_with_all(study):
    draw(study, "figures/roc.png", "figures/robustness.png", "figures/jpeg_40/shortcuts.png")
    metrics = logs(study, "mlp", group="mlp")
    (run,) = starts(study)
    assert (run.name, run.group, run.job_type) == ("study", "mlp", "evaluation/mlp")
    assert run.id == (study / "wandb" / "run_id.txt").read_text()
    assert run.rows[0]["test/auroc"] == metrics["overall"]["auroc"]["value"]
    assert run.rows[0]["test/none/auroc"] == metrics["by_perturbation"]["none"]["auroc"]["value"]
    assert run.figures().keys() == {"roc", "robustness", "jpeg_40/shortcuts"}
    assert list(run.table("test/by_perturbation")["perturbation"]) == list(PERTURBATIONS)
    assert len(run.table("test/warnings")) == 1


def test_only_the_test_split_is_measured(study):
    frame = table("mlp")
    others = table("mlp").assign(split="val", key=lambda rows: "v" + rows["key"])
    log_study(study, lambda: Runs(study, "mlp", {}, {"mlp": {}}), pd.concat([frame, others], ignore_index=True), measured(frame), unread)
    (run,) = starts(study)
    assert sum(run.rows[0]["test/scores/real"]["values"]) == 30
    assert "test/warnings" not in run.rows[0]


def test_one_that_fails_is_a_warning(study, monkeypatch, caplog):
    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr("workflow.charts.results", broken)
    logs(study, *DETECTORS)
    assert "not all of study/mlp is in W&B (MemoryError" in caplog.text
    assert [run.job_type for run in starts(study) if run.rows] == ["study"]


def test_nothing_of_wandb_works(study, monkeypatch, caplog):
    calls = []

    def refuse(**options):
        calls.append(options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wandb.init", refuse)
    logs(study, *DETECTORS)
    assert len(calls) == 1
    assert caplog.text.count("No space left on device") == 1
    assert str(study / "metrics.json") in caplog.text


def test_a_study_that_cannot_be_told_to_wandb_is_a_warning(study, caplog):
    frame = table("mlp")
    log_study(study, partial(runs_of, None, None, study, CONFIG), frame, measured(frame), unread)
    assert "W&B failed (AttributeError" in caplog.text
    assert str(study) in caplog.text


def test_without_a_server_only_the_first_run_waits_for_it(study, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("workflow.tracking.SETTINGS", {"init_timeout": 1.0})
    caplog.set_level(logging.INFO)
    logs(study, *DETECTORS)
    assert caplog.text.count("W&B cannot be reached") == 1
    assert len(starts(study)) == 3
    assert f"W&B: 3 log(s) of this run are only on this machine. Send it with: wandb sync {study / 'wandb'}" in caplog.text
    assert os.environ["WANDB_MODE"] == "online"


def test_pictures_can_be_kept_here(study, monkeypatch):
    monkeypatch.setenv("UNDERTOW_WANDB_PICTURES", "false")
    draw(study, "figures/roc.png")
    frame = table("mlp")
    log_study(study, lambda: Runs(study, "mlp", {}, {"mlp": {}}), frame, measured(frame), lambda *_: pytest.fail("a picture was read"))
    (run,) = starts(study)
    assert list(run.table("test/mistakes").columns) == ["generator", "label", "score", "verdict", "key"]
    assert run.figures().keys() == {"roc"}


def test_one_command_sends_all_runs_of_a_study(study, monkeypatch):
    monkeypatch.setattr("workflow.charts.made", lambda charts: {})  # tables need more of a server than the stand-in is
    metrics = logs(study, *DETECTORS)["detectors"]
    logs(study, *DETECTORS)
    with server() as receiving:
        environment = os.environ | {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": receiving.url}
        environment.pop("WANDB_MODE")
        command = [Path(sys.executable).with_name("wandb"), "sync", study / "wandb"]
        subprocess.run(command, env=environment, check=True, timeout=300)
    assert unsynced(study) == []
    found = {run["displayName"]: run for run in receiving.runs.values()}
    assert found.keys() == {"study", *(f"study/{name}" for name in DETECTORS)}
    for name in DETECTORS:
        rows = [row for _, row in sorted(found[f"study/{name}"]["rows"].items())]
        assert [row["test/auroc"] for row in rows] == [pytest.approx(metrics[name]["overall"]["auroc"]["value"])] * 2
