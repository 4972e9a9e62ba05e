"""Run directories, resuming, and a command line that starts quickly."""

import subprocess
import sys

import pytest
import torch

from cli import RunError, find_run, hold


def test_a_new_run_has_its_own_directory(tmp_path):
    assert find_run(tmp_path, "a", "never").folder == tmp_path / "a"


def test_a_taken_name_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.csv").touch()
    with pytest.raises(RunError, match="choose another --name"):
        find_run(tmp_path, "a", "never")


def test_a_run_that_failed_before_training_does_not_take_the_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").touch()
    assert find_run(tmp_path, "a", "never").checkpoint is None


def test_row_30_resume_last_needs_a_checkpoint(tmp_path):
    with pytest.raises(RunError, match=r"--resume last: .*last\.ckpt does not exist"):
        find_run(tmp_path, "a", "last")
    assert find_run(tmp_path, "a", "auto").checkpoint is None
    checkpoint = tmp_path / "a" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({}, checkpoint)
    assert find_run(tmp_path, "a", "last").checkpoint == find_run(tmp_path, "a", "auto").checkpoint == checkpoint
    assert find_run(tmp_path, "b", str(checkpoint)).checkpoint == checkpoint
    with pytest.raises(RunError, match="there is no such checkpoint"):
        find_run(tmp_path, "b", "nowhere.ckpt")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("train.py", ["--data.source", "--model", "--resume", "--name", "--trainer.max_epochs"]),
        ("extract.py", ["Fill the feature cache", "--data.source", "--trainer.devices"]),
        ("evaluate.py", ["--checkpoint", "--detectors", "--perturbations", "--data.source", "--trainer.logger"]),
    ],
)
def test_help_imports_nothing_heavy(command, told):
    """Start-up is bound by imports: what a command uses later is imported when it is used."""
    code = """
import runpy, sys
from lightning.pytorch.cli import LightningCLI
baseline = set(sys.modules)  # torchmetrics brings some of these along
command = sys.argv[1]
sys.argv = [command, "--help"]
try:
    runpy.run_path(command, run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0
heavy = {"diffusers", "transformers", "open_clip", "timm", "matplotlib", "wandb", "webdataset", "skimage", "sklearn", "pandas", "pyarrow"}
print("imported:", sorted(heavy & sys.modules.keys() - baseline))
"""
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "imported: []"
    for text in told:
        assert text in done.stdout


def test_a_run_directory_has_one_writer(tmp_path):
    hold(tmp_path / "a")
    hold(tmp_path / "a")  # the same process may go on with its own
    code = "import sys; from pathlib import Path; from cli import hold; hold(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True)
    assert "is being written by another process" in done.stderr


def test_resuming_from_a_path_does_not_write_into_another_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        torch.save({}, tmp_path / name / "checkpoints" / "best.ckpt")
    with pytest.raises(RunError, match="holds another run"):
        find_run(tmp_path, "b", str(tmp_path / "a/checkpoints/best.ckpt"))
    assert find_run(tmp_path, "a", str(tmp_path / "a/checkpoints/best.ckpt")).folder == tmp_path / "a"
