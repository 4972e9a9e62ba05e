"""The CSV log survives resuming and new columns; W&B runs offline without a key."""

import csv
import logging

import pytest
import wandb

from tracking import AppendingCSVLogger, wandb_logger


def rows(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_widens_and_appends(tmp_path):
    log = AppendingCSVLogger(tmp_path)
    log.log_metrics({"a": 1.0}, step=1)
    log.log_metrics({"b": 2.0, "a": 3.0}, step=2)
    AppendingCSVLogger(tmp_path).log_metrics({"b": 4.0, "c": 5.0}, step=3)  # a resumed run
    found = [{name: value for name, value in row.items() if name != "time"} for row in rows(tmp_path)]
    assert found == [
        {"step": "1", "a": "1.0", "b": "", "c": ""},
        {"step": "2", "a": "3.0", "b": "2.0", "c": ""},
        {"step": "3", "a": "", "b": "4.0", "c": "5.0"},
    ]


@pytest.fixture
def fresh_wandb():
    """W&B reads its environment once a process: what a test changes there must neither be missed nor outlive the test."""
    wandb.teardown()
    yield
    wandb.teardown()


def test_row_38_wandb_without_a_key(tmp_path, monkeypatch, caplog, fresh_wandb):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    caplog.set_level(logging.INFO)
    logger = wandb_logger(tmp_path, "name", "fakeinversion", "study")
    assert f"wandb sync {tmp_path}" in caplog.text
    logger.log_metrics({"val/auroc": 0.5}, step=1)
    run = logger.experiment
    assert (run.group, run.job_type, run.name) == ("study", "fakeinversion", "name")
    assert run.settings.mode == "offline"
    logger.finalize("success")
    run.finish()
    assert list(tmp_path.glob("wandb/offline-run-*"))
    assert wandb_logger(tmp_path, "name", "fakeinversion", "study").version == run.id


def test_row_38_wandb_told_to_be_offline_after_it_was_read_otherwise(tmp_path, monkeypatch, fresh_wandb):
    monkeypatch.delenv("WANDB_MODE")
    wandb.setup()
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = wandb_logger(tmp_path, "name", "fakeinversion", "study").experiment
    assert run.settings.mode == "offline"
    run.finish()
