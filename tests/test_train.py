"""The main job through the real commands, small: images to a report, resumed, evaluated, killed."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import train
from cli import RunError
from datamodules.shards import ShardReader
from modules.extractors import InversionExtractor
from tests.commands import options


def test_the_run_directory_is_complete(first):
    for part in (
        "config.yaml",
        "predictions.parquet",
        "metrics.json",
        "report.html",
        "log.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.safetensors",
        "figures",
        "wandb",
    ):
        assert (first / part).exists(), part
    assert list(first.glob("figures/*.png"))
    assert list(first.glob("figures/*.svg"))
    assert yaml.safe_load((first / "config.yaml").read_text())["data"]["extractor"]["init_args"]["steps"] == 2


def test_predictions_and_metrics_agree(first):
    rows = pd.read_parquet(first / "predictions.parquet")
    tested = rows[rows.split == "test"]
    assert not tested.key.duplicated().any()
    metrics = json.loads((first / "metrics.json").read_text())
    assert metrics["overall"]["auroc"]["value"] == pytest.approx(roc_auc_score(tested.label, tested.score), abs=1e-12)
    assert set(metrics["by_generator"]) == {"builtin/builtin-img2img", "builtin/builtin-txt2img", "builtin/builtin-autoencoder"}
    for name, part in metrics["by_generator"].items():
        against = tested[(tested.label == 0) | (tested.generator == name.split("/")[1])]
        assert part["auroc"]["value"] == pytest.approx(roc_auc_score(against.label, against.score), abs=1e-12)
        assert part["auroc"]["low"] is None
        assert "groups" in part["auroc"]["reason"]
    assert set(rows.split) == {"val", "test"}


def test_the_built_in_splits_share_no_photograph(first):
    rows = pd.read_parquet(first / "predictions.parquet")
    groups = {split: set(part.group) for split, part in rows.groupby("split")}
    assert not groups["val"] & groups["test"]
    assert "builtin-autoencoder" not in set(rows[rows.split == "val"].generator)


def test_the_log_has_the_agreed_names(first):
    log = pd.read_csv(first / "log.csv")
    assert {
        "train/loss",
        "train/loss_epoch",
        "val/loss",
        "val/auroc",
        "val/average_precision",
        "test/auroc",
        "test/builtin/builtin-img2img/auroc",
    } <= set(log)
    assert log["val/auroc"].notna().sum() == 2


def test_the_checkpoint_says_all_that_scoring_needs(first):
    told = torch.load(first / "checkpoints/last.ckpt", weights_only=True)["undertow"]
    assert told["data"]["extractor"]["init_args"]["steps"] == 2
    assert told["data"]["perturbation"] == "none"
    assert told["data"]["families"]
    assert told["threshold"]["fpr"] == 0.05
    assert told["detector"]["class_path"].endswith("FakeInversion")


def test_a_second_run_makes_no_forward_pass(place, first, monkeypatch):
    def fail(*args):
        pytest.fail("the diffusion model was loaded although all features are there")

    monkeypatch.setattr(InversionExtractor, "load", fail)
    second = train.main(options(place, "second", "--trainer.max_epochs=1", "--model.init_args.inputs=[image]"))
    assert (second / "report.html").exists()


def test_a_taken_name_is_refused_and_nothing_is_overwritten(place, first):
    before = (first / "metrics.json").read_bytes()
    with pytest.raises(RunError, match="choose another --name"):
        train.main(options(place, "first", "--trainer.max_epochs=2"))
    assert (first / "metrics.json").read_bytes() == before


def test_row_29_resuming_with_a_changed_config(place, first):
    with pytest.raises(RunError, match=r"(?s)--force.*-trainer.max_epochs: 2.*\+trainer.max_epochs: 3"):
        train.main(options(place, "first", "--trainer.max_epochs=3", "--resume=auto"))


def test_resuming_goes_on_and_appends(place, first):
    longer = place / "runs" / "longer"
    shutil.copytree(first, longer)  # other tests measure themselves against the first run, which stays as it is
    run_id = (longer / "wandb" / "run_id.txt").read_text()
    epochs = pd.read_csv(longer / "log.csv")["val/auroc"].notna().sum()
    train.main(options(place, "longer", "--trainer.max_epochs=3", "--resume=last", "--force"))
    log = pd.read_csv(longer / "log.csv")
    assert log["val/auroc"].notna().sum() == epochs + 1
    assert torch.load(longer / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2
    assert (longer / "wandb" / "run_id.txt").read_text() == run_id


def test_a_missing_manifest_is_one_sentence(place):
    command = [
        sys.executable,
        "train.py",
        *options(place, "none", "--data.source=datamodules.sources.ManifestSource", "--data.source.path=nowhere.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nowhere.csv" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(900)
def test_row_13_the_killed_command_loses_and_doubles_nothing(place, first, built_in):
    """SIGKILL in the middle of the real extraction, twice; then to the end, against the undisturbed run's features."""
    cache = shutil.copytree(built_in, place / "killed")
    small = ["--data.extract_batch_size=4", "--data.shard_samples=8"]
    command = [*options(place, "killed", "--trainer.max_epochs=1", *small), f"--data.cache_dir={cache}"]
    rng = random.Random(0)
    for attempt in range(2):
        process = subprocess.Popen([sys.executable, "train.py", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while len(list(cache.glob("inversion-*/*/*.index.json"))) < 2 * (attempt + 1) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        [partial] = cache.glob("inversion-*/builtin-none-*")
        assert 0 < len(ShardReader(partial)) < len(ShardReader(next(place.glob("cache/inversion-*/builtin-none-*"))))
    train.main(command)
    [disturbed], [whole] = (list(root.glob("inversion-*/builtin-none-*")) for root in (cache, place / "cache"))
    rows = [key for path in disturbed.glob("*.index.json") for key in json.loads(path.read_text())["rows"]["key"]]
    assert len(rows) == len(set(rows))
    ours, theirs = ShardReader(disturbed), ShardReader(whole)
    whole_keys = theirs.keys()
    assert set(ours.keys()) == set(whole_keys)
    for key, caption in whole_keys:
        for name, array in theirs.read(key, caption).items():
            difference = np.abs(array.astype(int) - ours.read(key, caption)[name].astype(int))
            assert difference.max() <= 1
            assert (difference > 0).mean() <= 1e-3


@pytest.mark.timeout(900)
def test_two_processes_extract_and_train_as_one(place, first, built_in):
    """Real DDP subprocesses: the same features, each image scored once, and no rank that waits for the other for ever."""
    cache = shutil.copytree(built_in, place / "two")
    more = ["--trainer.max_epochs=2", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.enable_progress_bar=true"]
    command = [*options(place, "two", *more), f"--data.cache_dir={cache}"]
    done = subprocess.run([sys.executable, "train.py", *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    [parallel], [alone] = (list(root.glob("inversion-*/builtin-none-*")) for root in (cache, place / "cache"))
    assert {path.name[:10] for path in parallel.glob("shard-*.tar")} == {"shard-0000", "shard-0001"}
    rows = [key for path in parallel.glob("*.index.json") for key in json.loads(path.read_text())["rows"]["key"]]
    assert len(rows) == len(set(rows)) == len(ShardReader(alone))
    assert set(rows) == {key for key, _ in ShardReader(alone).keys()}  # noqa: SIM118 - not a dictionary
    predictions = pd.read_parquet(place / "runs/two/predictions.parquet")
    assert sorted(predictions.key) == sorted(pd.read_parquet(first / "predictions.parquet").key)
    assert pd.read_csv(place / "runs/two/log.csv")["val/auroc"].notna().sum() == 2
