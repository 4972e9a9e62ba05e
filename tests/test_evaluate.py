"""evaluate.py: a trained detector on other data, and studies of several."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from lightning.pytorch import Trainer
from sklearn.metrics import roc_auc_score

import evaluate
from cli import RunError
from modules.errors import UserError
from tests.commands import SMALL
from tests.workflow.wandb_runs import starts
from workflow import fitting
from workflow.fitting import FittedDetector


def test_evaluate_scores_as_training_did(place, first):
    """The same images through a manifest and evaluate.py get the scores of training's own test."""
    rows = pd.read_parquet(first / "predictions.parquet")
    tested = rows[rows.split == "test"]
    manifest = tested[["path", "label", "generator", "group"]].assign(caption="x", caption_source="template")
    captions = {item["path"]: item["caption"] for item in json.loads(next(place.glob("cache/builtin-*/records.json")).read_text())}
    manifest["caption"] = [captions["/".join(Path(path).parts[-2:])] for path in tested.path]
    manifest.to_csv(place / "manifest.csv", index=False)
    metrics = json.loads((first / "metrics.json").read_text())
    command = ["--data.source=ManifestSource", f"--data.source.path={place / 'manifest.csv'}", "--data.source.allow_outside=true"]
    command += [f"--data.cache_dir={place / 'cache'}", f"--runs_dir={place / 'runs'}", "--trainer.accelerator=cpu"]
    folder = evaluate.main([f"--checkpoint={first / 'checkpoints/best.ckpt'}", *command])
    (logged,) = starts(folder)
    assert (logged.name, logged.group, logged.job_type) == (folder.name, "fakeinversion", "evaluation/fakeinversion")
    again = pd.read_parquet(folder / "predictions.parquet").set_index("key").score
    expected = tested.set_index("key").score
    np.testing.assert_allclose(again[expected.index], expected, atol=1e-4)
    assert json.loads((folder / "metrics.json").read_text())["overall"]["auroc"]["value"] == pytest.approx(
        metrics["overall"]["auroc"]["value"], abs=0.01
    )


@pytest.fixture(scope="module")
def manifest(place, first):
    """The real images and two kinds of fakes of the built-in test images, as a manifest without captions."""
    rows = pd.read_parquet(first / "predictions.parquet")
    rows = rows[(rows.split == "test") & (rows.generator != "builtin-txt2img")]
    rows[["path", "label", "generator", "group"]].to_csv(place / "others.csv", index=False)
    return place / "others.csv"


def published(place):
    """Numbers that were made up, of two detectors; the settings are those of the first one only."""
    row = {"train": None, "dataset": "builtin", "generator": "builtin-img2img", "metric": "auroc", "value": 0.5}
    rows = [row | {"detector": name, "perturbation": each} for name in ("fitted", "rgb") for each in ("jpeg_40", "jpeg_41")]
    requires = {"settings": {"*": {"extractor.model": "assets/tiny-diffusion"}, "rgb": {"detector.inputs.0": "noise_map"}}}
    path = place / "published.json"
    path.write_text(json.dumps({"source": "nowhere", "requires": requires, "rows": rows}))
    return path


@pytest.fixture(scope="module")
def written(place, first, manifest):
    """A study of two detectors, one of them not fitted yet, on two data sets, under two perturbations; its YAML."""
    builtin = {"class_path": "datamodules.sources.BuiltInSource", "init_args": {"crops": 4, "sampling_steps": 2}}
    others = {"class_path": "datamodules.sources.ManifestSource", "init_args": {"path": str(manifest), "allow_outside": True}}
    small = dict(option.removeprefix("--").split("=", 1) for option in SMALL[1:])
    overrides = small | {"trainer.max_epochs": 1}
    told = {
        "detectors": {
            "fitted": {"checkpoint": str(first / "checkpoints/best.ckpt")},
            "rgb": {"config": ["configs/quickstart.yaml", "configs/ablations/rgb.yaml"], "overrides": overrides},
        },
        "datasets": {"builtin": builtin, "others": others},
        "perturbations": ["none", "jpeg_40"],
        "reals_from": {"others": "builtin"},
        "compare_to": str(published(place)),
        "data": {"cache_dir": str(place / "cache")},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
        "runs_dir": str(place / "runs"),
    }
    path = place / "small.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


@pytest.fixture(scope="module")
def studied(written):
    return evaluate.main([f"--config={written}"])


def test_a_study_has_every_cell(studied, first):
    assert studied.name == "small"
    rows = pd.read_parquet(studied / "predictions.parquet")
    cells = rows.groupby(["detector", "dataset", "perturbation"]).size()
    assert set(cells.index) == {(d, s, p) for d in ("fitted", "rgb") for s in ("builtin", "others") for p in ("none", "jpeg_40")}
    assert cells.groupby("dataset").nunique().max() == 1
    metrics = json.loads((studied / "metrics.json").read_text())["detectors"]
    clean = rows[(rows.detector == "fitted") & (rows.dataset == "builtin") & (rows.perturbation == "none")]
    trained = json.loads((first / "metrics.json").read_text())["by_generator"]
    for name, part in trained.items():
        assert metrics["fitted"]["by_generator"][name]["auroc"]["value"] == pytest.approx(part["auroc"]["value"], abs=1e-4)
    stored = rows[(rows.detector == "rgb") & (rows.perturbation == "jpeg_40")]
    assert metrics["rgb"]["by_perturbation"]["jpeg_40"]["auroc"]["value"] == pytest.approx(roc_auc_score(stored.label, stored.score))
    expected = pd.read_parquet(first / "predictions.parquet").set_index("key").score
    np.testing.assert_allclose(clean.set_index("key").score, expected[clean.key], atol=1e-4)


def test_the_fitted_detector_is_a_run_of_its_own(studied):
    assert (studied / "detectors/rgb/report.html").exists()
    told = yaml.safe_load((studied / "detectors/rgb/config.yaml").read_text())
    assert told["model"]["init_args"]["inputs"] == ["image"]
    assert told["group"] == "small"
    assert told["trainer"]["logger"] is False
    assert not list(studied.rglob("wandb"))


def test_a_study_stands_beside_published_numbers(studied):
    rows = pd.read_csv(studied / "tables" / "compared.csv").set_index(["detector", "perturbation"])
    measured = pd.read_csv(studied / "tables" / "table.csv").set_index(["detector", "dataset", "generator", "perturbation", "metric"])
    expected = measured.loc[("fitted", "builtin", "builtin-img2img", "jpeg_40", "auroc"), "value"]
    assert rows.loc[("fitted", "jpeg_40"), "difference"] == pytest.approx(expected - 0.5)
    assert rows.loc[("rgb", "jpeg_40"), "not_comparable"] == "detector.inputs.0 is image, published: noise_map"
    assert rows.loc[("rgb", "jpeg_41"), "not_comparable"] == "perturbation jpeg_41 was not measured; jpeg_40 is another perturbation"
    assert rows.difference.notna().sum() == 1
    assert "Beside published numbers" in (studied / "report.html").read_text()
    assert (studied / "figures/rgb/roc_by_perturbation.png").exists()
    assert (studied / "figures/roc_of_detectors.svg").exists()


@pytest.mark.parametrize("option", ["--compare_to", "--compare-to"])
def test_published_numbers_are_checked_before_anything_is_made(option, tmp_path):
    (tmp_path / "x.json").write_text('{"source": "x", "rows": [{"value": 2}]}')
    command = ["--checkpoint=README.md", "--data.source=BuiltInSource", f"--runs_dir={tmp_path / 'runs'}"]
    for name, message in (
        ("x.json", r"--compare_to: published numbers .*x\.json': rows\[0\] lacks detector"),
        ("y.json", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate.main([*command, f"{option}={tmp_path / name}"])
    assert not (tmp_path / "runs").exists()


def test_a_study_goes_on_and_does_nothing_twice(studied, written, monkeypatch):
    before = (studied / "metrics.json").read_bytes()
    (studied / "metrics.json").unlink()
    cells = sorted((studied / "cells").iterdir())
    cells[0].unlink()
    predictions = []
    predict = Trainer.predict

    def counted(self, *args, **kwargs):
        predictions.append(args)
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "predict", counted)
    monkeypatch.setattr(fitting, "subprocess", SimpleNamespace(run=lambda *args, **kwargs: pytest.fail("a detector was fitted again")))
    with pytest.raises(RunError, match="choose another --name"):
        evaluate.main([f"--config={written}"])
    evaluate.main([f"--config={written}", "--resume=auto", "--trainer.logger=true"])
    assert len(predictions) == 1
    check_wandb(starts(studied), studied)
    assert (studied / "metrics.json").read_bytes() == before
    assert sorted((studied / "cells").iterdir()) == cells


def check_wandb(runs, studied):
    """The runs of the study have the numbers of `metrics.json` and all figures."""
    assert [(run.name, run.group, run.job_type) for run in runs] == [
        ("small/fitted", "small", "evaluation/fitted"),
        ("small/rgb", "small", "evaluation/rgb"),
        ("small", "small", "study"),
    ]
    metrics = json.loads((studied / "metrics.json").read_text())["detectors"]
    for run, name in zip(runs, metrics, strict=False):
        assert run.rows[0]["test/jpeg_40/auroc"] == metrics[name]["by_perturbation"]["jpeg_40"]["auroc"]["value"]
        assert run.rows[0]["test/others/builtin-img2img/auroc"] == metrics[name]["by_generator"]["others/builtin-img2img"]["auroc"]["value"]
        assert "image" in run.table("test/mistakes").columns
        assert run.config["data"]["extractor"]["class_path"] == "modules.extractors.inversion.InversionExtractor"
        assert run.config["perturbations"] == ["none", "jpeg_40"]
    drawn = {path.relative_to(studied / "figures").with_suffix("").as_posix() for path in (studied / "figures").rglob("*.png")}
    assert drawn == {f"{each}{name}" for run, each in zip(runs, ("fitted/", "rgb/", ""), strict=True) for name in run.figures()}


def single(place, first, path, *more):
    command = [f"--checkpoint={first / 'checkpoints/best.ckpt'}", "--data.source=ManifestSource", f"--data.source.path={path}"]
    command += ["--data.source.allow_outside=true", f"--data.cache_dir={place / 'cache'}", f"--runs_dir={place / 'runs'}"]
    return [*command, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.logger=false", *more]


def test_corrected_labels_are_measured_anew(place, first, manifest):
    rows = pd.read_csv(manifest)
    path = place / "corrected.csv"
    rows.to_csv(path, index=False)
    before = evaluate.main(single(place, first, path, "--name=corrected"))
    old = json.loads((before / "metrics.json").read_text())["overall"]["auroc"]["value"]
    rows.assign(label=1 - rows.label).to_csv(path, index=False)
    evaluate.main(single(place, first, path, "--name=corrected", "--resume=auto"))
    new = json.loads((before / "metrics.json").read_text())["overall"]["auroc"]["value"]
    assert new == pytest.approx(1 - old)


def test_names_that_would_mix_data_sets(place, first, manifest):
    with pytest.raises(RunError, match=r"reals_from names the data set 'x'; there are others"):
        evaluate.main(single(place, first, manifest, "--name=names", "--reals_from={x: others}"))
    source = {"class_path": "datamodules.sources.ManifestSource", "init_args": {"path": str(manifest), "allow_outside": True}}
    told = {"datasets": {"a": source, "b": source}, "checkpoint": str(first / "checkpoints/best.ckpt"), "runs_dir": str(place / "runs")}
    path = place / "mixed.yaml"
    path.write_text(yaml.safe_dump(told | {"data": {"cache_dir": str(place / "cache")}}))
    with pytest.raises(RunError, match=r"datasets\.a and datasets\.b both hold images of a data set named 'others'"):
        evaluate.main([f"--config={path}", "--name=mixed", "--trainer.accelerator=cpu"])


def test_a_training_run_is_not_written_over(place, first, manifest):
    before = (first / "config.yaml").read_bytes()
    with pytest.raises(RunError, match="holds a training run"):
        evaluate.main(single(place, first, manifest, "--name=first", "--resume=auto"))
    assert (first / "config.yaml").read_bytes() == before


def test_two_processes_measure_what_one_does(place, first, manifest):
    """A real launch: an odd number of images over two ranks, each counted once."""
    rows = pd.read_csv(manifest)
    rows.iloc[:-1].to_csv(place / "odd.csv", index=False)
    command = single(place, first, place / "odd.csv")
    alone = evaluate.main([*command, "--name=alone"])
    two = [*command, "--name=together", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.logger=true"]
    done = subprocess.run([sys.executable, "evaluate.py", *two], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [len(run.rows) for run in starts(alone.with_name("together"))] == [1]  # rank 0 alone logs
    tables = [pd.read_parquet(folder / "predictions.parquet").set_index("key").score for folder in (alone, alone.with_name("together"))]
    assert len(tables[0]) == len(tables[1]) == len(rows) - 1
    np.testing.assert_allclose(tables[0], tables[1][tables[0].index], atol=1e-5)
    documents = [json.loads((folder / "metrics.json").read_text()) for folder in (alone, alone.with_name("together"))]
    for name in ("auroc", "average_precision"):
        assert documents[0]["overall"][name]["value"] == pytest.approx(documents[1]["overall"][name]["value"], abs=1e-9)


def test_the_report_shows_detectors_beside_each_other(studied):
    page = (studied / "report.html").read_text()
    assert "<h2>Comparison</h2>" in page
    for name in ("fitted", "rgb", "jpeg_40"):
        assert name in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.source=BuiltInSource"], "either --checkpoint"),
        (["--checkpoint=x.ckpt"], "either --data.source"),
        (["--checkpoint=nowhere.ckpt", "--data.source=BuiltInSource"], "nowhere.ckpt does not exist"),
        (["--detectors={a: {config: nope.yaml}}", "--data.source=BuiltInSource"], r"detectors\.a: nope\.yaml does not exist"),
        (["--checkpoint=README.md", "--data.source=BuiltInSource", "--perturbations=[blur_3]"], "'blur_3': write blur_3.0"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        evaluate.main([*arguments, f"--runs_dir={tmp_path / 'runs'}", f"--data.cache_dir={tmp_path / 'cache'}"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"config": "configs/complexity.yaml", "overrides": {"data.extractor.sise": 32}}, "detectors.second: train.py does not take"),
        ({"config": "configs/corvi_released.yaml"}, "detectors.second: there is no file weights/"),
        ({"config": "configs/fusion_released.yaml"}, "detectors.second: there is no file weights/"),
    ],
)
def test_what_is_wrong_with_a_later_detector_is_found_before_the_first_is_fitted(second, message, place, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a detector was fitted"))
    detectors = {"first": {"config": "configs/complexity.yaml"}, "second": second}
    arguments = [
        f"--detectors={json.dumps(detectors)}",
        "--datasets={b: {class_path: BuiltInSource, init_args: {crops: 4, sampling_steps: 2}}}",
    ]
    with pytest.raises(RunError, match=message):
        evaluate.main([*arguments, "--name=x", f"--runs_dir={tmp_path}", f"--data.cache_dir={place / 'cache'}"])


def test_a_detector_is_a_checkpoint_or_a_config():
    with pytest.raises(ValueError, match="either a checkpoint or a config"):
        FittedDetector()


def test_a_failed_fit_names_the_detector(tmp_path):
    broken = FittedDetector(config="configs/quickstart.yaml", overrides={"data.source.init_args.crops": -1})
    with pytest.raises(RunError, match=r"detectors\.rgb: train\.py ended with status"):
        fitting.fit("rgb", broken, tmp_path, [f"--data.cache_dir={tmp_path}"])
    with pytest.raises(RunError, match="cannot be that of a folder"):
        fitting.fit("../rgb", broken, tmp_path)


@pytest.mark.parametrize("path", sorted(str(path) for path in Path("configs/studies").glob("*.yaml")))
def test_shipped_studies_are_accepted(path):
    options = evaluate.parser().instantiate(evaluate.parser().parse_args([f"--config={path}"]))
    evaluate.check(options)
    for detector in options.detectors.values():
        configs = [detector.config] if isinstance(detector.config, str) else detector.config
        assert all(Path(config).is_file() for config in configs)
