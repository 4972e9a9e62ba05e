"""The real command on features that lie elsewhere: no extraction, no copy, and a run that goes on where it was stopped."""

import json
import shutil

import pandas as pd
import pytest

import extract
import train
from cli import RunError
from datamodules.errors import DataError
from modules.extractors import InversionExtractor
from tests.commands import options


@pytest.fixture(scope="module")
def elsewhere(place, first, tmp_path_factory):
    """Features of the built-in images in a folder of their own, and a place whose cache lacks them but has the images."""
    assert first.exists()
    remote, here = tmp_path_factory.mktemp("remote"), tmp_path_factory.mktemp("here")
    shutil.copytree(place / "cache", here / "cache")
    for folder in (here / "cache").glob("inversion-*"):
        shutil.move(folder, remote / folder.name)
    return remote, here


def test_training_from_elsewhere(elsewhere, first, monkeypatch):
    remote, here = elsewhere
    monkeypatch.setattr(InversionExtractor, "load", lambda _: pytest.fail("something is extracted"))
    run = train.main(options(here, "streamed", "--trainer.max_epochs=2", f"--data.stream.url={remote}"))
    metrics, local = (json.loads((folder / "metrics.json").read_text()) for folder in (run, first))
    assert metrics["overall"]["n_real"] == local["overall"]["n_real"]
    rows, others = (pd.read_parquet(folder / "predictions.parquet") for folder in (run, first))
    assert sorted(rows.key) == sorted(others.key)
    assert not rows.key.duplicated().any()
    steps = [pd.read_csv(folder / "log.csv")["train/loss"].notna().sum() for folder in (run, first)]
    assert steps[0] == steps[1] > 0
    assert not list((here / "cache").glob("inversion-*"))
    assert (run / "report.html").exists()


def test_features_of_other_settings_are_not_there(elsewhere):
    remote, here = elsewhere
    with pytest.raises(DataError, match=r"there are no features in .*explain"):
        train.main(options(here, "other", f"--data.stream.url={remote}", "--data.extractor.init_args.steps=3"))


def test_extraction_does_not_stream(elsewhere):
    remote, here = elsewhere
    with pytest.raises(RunError, match="leave it out"):
        extract.main([option for option in options(here, "x", f"--data.stream.url={remote}") if "runs_dir" not in option])
