"""The CSV log survives resuming and new columns; W&B runs offline without a key or a server, and no failure of its stops a run."""

import csv
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb

from tests.watching import is_running, wait_until
from tests.workflow.wandb_runs import logged, server
from workflow.tracking import SETTINGS, AppendingCSVLogger, TolerantWandbLogger, code_version, end_service, unsynced, wandb_logger


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


@pytest.fixture(autouse=True)
def fresh_wandb(monkeypatch):
    """W&B reads its environment once a process: what a test changes there must neither be missed nor outlive the test."""
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    end_service()
    yield
    end_service()


def logger_of(folder, **options):
    return wandb_logger(folder, "name", "fakeinversion", "study", **options)


def service():
    """Process of W&B's service that this process started."""
    command = ["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def test_row_38_wandb_without_a_key(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    caplog.set_level(logging.INFO)
    logger = logger_of(tmp_path)
    assert f"wandb sync {tmp_path / 'wandb'}" in caplog.text
    logger.log_metrics({"val/auroc": 0.5}, step=1)
    run = logger.experiment
    assert (run.group, run.job_type, run.name, run.project) == ("study", "fakeinversion", "name", "undertow")
    assert run.settings.mode == "offline"
    logger.finalize("success")
    end_service()
    assert logged(tmp_path)[0]["val/auroc"] == 0.5
    assert unsynced(tmp_path) == list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert logger_of(tmp_path).version == run.id


def test_row_38_wandb_told_to_be_offline_after_it_was_read_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    wandb.setup()
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = logger_of(tmp_path).experiment
    assert run.settings.mode == "offline"


def test_row_38_no_server(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("workflow.tracking.SETTINGS", {"init_timeout": 1.0})
    caplog.set_level(logging.INFO)
    started = time.monotonic()
    logger = logger_of(tmp_path)
    assert time.monotonic() - started < 40
    assert "W&B cannot be reached" in caplog.text
    assert f"wandb sync {tmp_path / 'wandb'}" in caplog.text
    logger.log_metrics({"val/auroc": 0.25}, step=3)
    end_service()
    assert [(row["val/auroc"], row["trainer/global_step"]) for row in logged(tmp_path)] == [(0.25, 3)]


def test_row_38_the_service_is_killed(tmp_path, caplog):
    logger = logger_of(tmp_path)
    logger.log_metrics({"a": 1.0}, step=1)
    killed = service()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not is_running(killed))
    for step in range(20):
        logger.log_metrics({"a": 1.0}, step=step)
        logger.log_hyperparams({"b": 2})
        time.sleep(0.02)
    logger.log_image("picture", [Path(__file__)])
    logger.log_table("table", columns=["a"], data=[[1]])
    logger.finalize("success")
    assert len([record for record in caplog.records if "The run goes on" in record.message]) == 1
    assert str(tmp_path / "log.csv") in caplog.text
    again = logger_of(tmp_path / "next")  # a further run of the same process
    again.log_metrics({"a": 2.0}, step=1)
    end_service()
    assert logged(tmp_path / "next")[0]["a"] == 2.0


def test_row_38_nothing_works(tmp_path, monkeypatch, caplog):
    def refuse(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wandb.init", refuse)
    (tmp_path / "wandb").write_text("a file where W&B's directory should be")
    logger = logger_of(tmp_path)
    for step in range(3):
        logger.experiment.log({"a": 1})  # as a callback would
        logger.log_metrics({"a": 1.0}, step=step)
    assert caplog.text.count("No space left on device") == 1
    assert "another W&B run" in caplog.text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_through(tmp_path, monkeypatch, stop):
    def interrupt(*told, **options):
        raise stop

    logger = logger_of(tmp_path)
    monkeypatch.setattr(logger.experiment, "log", interrupt)
    with pytest.raises(stop):
        logger.log_metrics({"a": 1.0}, step=1)
    monkeypatch.undo()
    end_service()
    monkeypatch.setattr("wandb.init", interrupt)
    with pytest.raises(stop):
        _ = TolerantWandbLogger(tmp_path).experiment


def start(folder, first, end):
    logger = logger_of(folder)
    for step in range(first, end):
        logger.log_metrics({"train/loss": 10.0 * step}, step=step)


def test_row_38_offline_starts_become_one_run_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("workflow.tracking.SETTINGS", SETTINGS | {"x_transaction_log_flush_interval": 0.2})
    start(tmp_path, 0, 4)
    wait_until(lambda: len(logged(tmp_path)) == 4)
    os.kill(service(), signal.SIGKILL)
    end_service()
    (first,) = unsynced(tmp_path)
    empty = tmp_path / "wandb" / "offline-run-19990101_000000-x" / "run-x.wandb"  # as a start leaves it that is killed at once
    empty.parent.mkdir()
    empty.write_bytes(first.read_bytes()[:7])
    start(tmp_path, 2, 6)  # resumed from before the last row
    end_service()
    identifier = (tmp_path / "wandb" / "run_id.txt").read_text()
    assert [path.name for path in unsynced(tmp_path)] == [f"run-{identifier}.wandb"] * 2
    with server() as receiving:
        environment = os.environ | {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": receiving.url}
        environment.pop("WANDB_MODE")
        command = [Path(sys.executable).with_name("wandb"), "sync", tmp_path / "wandb"]
        subprocess.run(command, env=environment, check=True, timeout=300)
        (run,) = receiving.runs.values()
    rows = [row for _, row in sorted(run["rows"].items())]
    assert [row["trainer/global_step"] for row in rows] == [0, 1, 2, 3, 2, 3, 4, 5]
    assert [row["_step"] for row in rows] == list(range(8))
    assert [row["train/loss"] for row in rows[4:]] == [20, 30, 40, 50]
    assert (run["name"], run["groupName"], run["jobType"]) == (identifier, "study", "fakeinversion")
    assert unsynced(tmp_path) == []


def test_the_id_of_a_sweep_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "ofsweep1")
    assert logger_of(tmp_path).version == "ofsweep1"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert logger_of(tmp_path).version == "ofsweep1"


def test_a_second_run_of_a_process_is_a_run_of_its_own(tmp_path):
    first = logger_of(tmp_path / "first")
    first.log_metrics({"a": 1.0}, step=1)
    second = logger_of(tmp_path / "second")
    second.log_metrics({"a": 2.0}, step=1)
    assert first.version != second.version
    end_service()
    assert [row["a"] for name in ("first", "second") for row in logged(tmp_path / name)] == [1.0, 2.0]


def test_a_logger_travels_to_spawned_processes(tmp_path):
    assert pickle.loads(pickle.dumps(logger_of(tmp_path))).folder == tmp_path


def test_configuration_and_versions(tmp_path):
    import torch

    logger = logger_of(tmp_path, config={"data": {"steps": 7}})
    config = dict(logger.experiment.config)
    assert config["data"] == {"steps": 7}
    assert config["versions"]["torch"] == torch.__version__.partition("+")[0] or config["versions"]["torch"] == torch.__version__
    assert config.get("code", {}) == code_version()
    end_service()


def test_settings_of_the_user_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "7")
    settings = logger_of(tmp_path).experiment.settings
    assert (settings.finish_timeout, settings.init_timeout) == (7.0, 30.0)


@pytest.fixture
def checkout(tmp_path):
    def git(*command):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *command], check=True, capture_output=True)

    if not shutil.which("git"):
        pytest.skip("there is no git")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "unpacked").mkdir()
    git("init")
    git("add", "code.py")
    git("commit", "-m", "first")
    return tmp_path


def test_code_version(checkout):
    head = (checkout / ".git" / "refs" / "heads").rglob("*")
    assert code_version(checkout) == {"commit": next(path for path in head if path.is_file()).read_text().strip(), "dirty": False}
    (checkout / "code.py").write_text("2")
    assert code_version(checkout)["dirty"] is True


def test_nothing_is_claimed_outside_of_a_checkout(checkout, monkeypatch):
    assert code_version(checkout / "unpacked") == {}
    assert code_version(checkout / "missing") == {}
    monkeypatch.setenv("PATH", "")
    assert code_version(checkout) == {}
