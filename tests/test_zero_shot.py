"""Training-free detectors through the real commands: the same train, evaluate and predict as any other."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import evaluate
import predict
import train
from datamodules.shards import ShardReader
from modules.detectors.checkpoint import load_detector
from modules.errors import UserError

TINY = [
    "--config=configs/divergence.yaml",
    "--data.source=BuiltInSource",
    "--data.source.crops=4",
    "--data.source.sampling_steps=2",
    "--data.extractor.denoiser.path=assets/tiny-diffusion",
    "--data.extractor.samples=1",
    "--data.extract_workers=0",
    "--data.extract_batch_size=32",
    "--model.threshold_fpr=0.2",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
]


def options(place, name, *more):
    return [*TINY, f"--data.cache_dir={place / 'cache'}", f"--runs_dir={place / 'runs'}", f"--name=zero-shot-{name}", *more]


@pytest.fixture(scope="module")
def run(place):
    """A run whose calibration holds whichever way the few validation scores lie."""
    return train.main(options(place, "divergence", "--model.orientation=learned"))


def direction_of(folder):
    return float(load_detector(str(folder / "checkpoints" / "best.ckpt"))[0].direction)


def rows_of(folder, split="test"):
    rows = pd.read_parquet(folder / "predictions.parquet")
    return rows[rows.split == split]


def test_a_run_without_training_is_as_complete_as_any_other(run):
    for part in ("config.yaml", "predictions.parquet", "metrics.json", "report.html", "log.csv", "checkpoints/best.ckpt", "figures"):
        assert (run / part).exists(), part
    tested = rows_of(run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["overall"]["auroc"]["value"] == pytest.approx(roc_auc_score(tested.label, tested.score), abs=1e-12)
    logged = pd.read_csv(run / "log.csv")
    validated = rows_of(run, "val")
    assert logged["val/auroc"].dropna().iloc[-1] == pytest.approx(roc_auc_score(validated.label, validated.score), abs=1e-6)
    assert "val/loss" not in logged


def test_the_report_shows_the_images_that_the_numbers_were_made_of(run):
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert "no pictures" not in page.lower()


def test_the_threshold_comes_from_the_validation_reals(run):
    reals = np.sort(rows_of(run, "val").query("label == 0").score.to_numpy())
    threshold = json.loads((run / "metrics.json").read_text())["threshold"]
    assert threshold["value"] == pytest.approx(reals[int(np.ceil((len(reals) + 1) * 0.8)) - 1])


def test_a_learned_orientation_is_that_of_the_training_split(run, place):
    given = train.main(options(place, "given", "--model.orientation=smaller_is_fake"))
    detector, _ = load_detector(str(run / "checkpoints" / "best.ckpt"))
    sign = float(detector.direction)
    np.testing.assert_allclose(rows_of(run).set_index("key").score * sign, -rows_of(given).set_index("key").score)
    reader = ShardReader(next(place.glob("cache/divergence-*/builtin-none-*")))
    records = json.loads(next(place.glob("cache/builtin-*/records.json")).read_text())
    by_path = {record["path"]: record for record in records}
    folder = next(place.glob("cache/builtin-*/records.json")).parent
    values, labels = [], []
    for path, record in by_path.items():
        if record["split"] == "train":
            key = hashlib.sha256((folder / path).read_bytes()).hexdigest()[:32]
            values.append(float(reader.read(key, "")["divergence"].item()))
            labels.append(record["label"])
    assert (roc_auc_score(labels, values) >= 0.5) == (sign > 0)


def test_the_second_run_extracts_nothing(run, place, monkeypatch):
    from modules.extractors import Divergence

    monkeypatch.setattr(Divergence, "load", lambda self: pytest.fail("the model was loaded"))
    again = train.main(options(place, "again", "--model.orientation=learned"))
    assert rows_of(again).score.tolist() == rows_of(run).score.tolist()


def test_evaluate_and_predict_need_not_know_that_nothing_was_trained(run, place, tmp_path):
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    shared = [f"--data.cache_dir={place / 'cache'}", f"--runs_dir={tmp_path}", "--trainer.accelerator=cpu"]
    source = ["--data.source=BuiltInSource", "--data.source.crops=4", "--data.source.sampling_steps=2"]
    folder = evaluate.main(
        [f"--checkpoint={checkpoint}", *source, *shared, "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    )
    expected = rows_of(run).set_index("key")
    found = rows_of(folder).set_index("key")
    np.testing.assert_allclose(found.score[expected.index], expected.score, rtol=1e-6)
    output = tmp_path / "verdicts.csv"
    images = expected.path.tolist()[:6]
    predict.main([f"--checkpoint={run / 'checkpoints' / 'best.safetensors'}", *images, f"--output={output}", "--batch_size=4"])
    verdicts = pd.read_csv(output).set_index("key")
    np.testing.assert_allclose(verdicts.score, expected.score[verdicts.index], rtol=1e-5)


def test_probabilities_are_in_the_table_and_in_the_verdicts(run, place, tmp_path):
    if rows_of(run).probability.isna().any():  # the validation split lies the other way than the training split's few crops
        run = train.main(options(place, "turned", f"--model.orientation={('smaller', 'larger')[direction_of(run) < 0]}_is_fake"))
    detector, _ = load_detector(str(run / "checkpoints" / "best.ckpt"))
    tested = rows_of(run)
    expected = detector.probability(torch.tensor(tested.score.to_numpy()))
    np.testing.assert_allclose(tested.probability, expected)
    output = tmp_path / "verdicts.csv"
    predict.main([f"--checkpoint={run / 'checkpoints' / 'best.ckpt'}", tested.path.iloc[0], f"--output={output}"])
    assert pd.read_csv(output).probability[0] == pytest.approx(float(expected[0]), abs=1e-4)


def test_a_statistic_that_the_extractor_does_not_give_is_named(run, place):
    with pytest.raises(UserError, match=r"the detector reads entropy.*divergence"):
        train.main(options(place, "wrong", "--model.statistic=entropy"))


def test_and_on_a_cold_cache_after_the_first_batch_of_the_extraction(place, tmp_path):
    from modules.extractors import Complexity

    calls, forward = [], Complexity.forward
    cold = ["--data.extractor=Complexity", "--model.statistic=entropy", "--data.extract_batch_size=8", f"--data.cache_dir={tmp_path}"]
    manifest = tmp_path / "manifest.csv"
    records = json.loads(next(place.glob("cache/builtin-*/records.json")).read_text())
    folder = next(place.glob("cache/builtin-*/records.json")).parent
    frame = pd.DataFrame(records)[["path", "label", "generator", "group", "split"]]
    frame.assign(path=[str(folder / path) for path in frame.path]).to_csv(manifest, index=False)
    source = ["--data.source=ManifestSource", f"--data.source.path={manifest}", "--data.source.allow_outside=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Complexity, "forward", lambda *given: calls.append(1) or forward(*given))
        with pytest.raises(UserError, match=r"the detector reads entropy.*jpeg_bits_per_pixel"):
            train.main([*options(place, "cold", "--config=configs/complexity.yaml"), *source, *cold])
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--data.extractor.noise_level=5000", "a whole number from 0 to 999"),
        ("--data.extractor.size=62", "multiples of 8"),
        ("--data.extractor.denoiser.path=nowhere/none", "cannot be had from the hub"),
        ("--data.extractor.prompt_source=guess", "prompt_source"),
    ],
)
def test_wrong_values_end_in_a_sentence(place, wrong, message, capsys):
    with pytest.raises((UserError, SystemExit)) as stop:
        train.main(options(place, "wrong-value", "--data.perturbation=jpeg_50", wrong))
    assert message in str(stop.value) + capsys.readouterr().err


def test_a_smoke_test_leaves_no_results(place):
    folder = train.main(options(place, "smoke", "--trainer.fast_dev_run=true"))
    assert not (folder / "checkpoints").exists()
    assert not (folder / "metrics.json").exists()


def test_a_calibration_that_cannot_be_fitted_is_told(place, caplog):
    """Calibrated in the direction that the validation split contradicts."""
    folders = [train.main(options(place, name, f"--model.orientation={name}")) for name in ("smaller_is_fake", "larger_is_fake")]
    without = [folder for folder in folders if rows_of(folder).probability.isna().all()]
    fitted = [folder for folder in folders if rows_of(folder).probability.notna().all()]
    assert len(without) == len(fitted) == 1
    assert "There are no probabilities" in (without[0] / "report.html").read_text()
    assert "There are no probabilities" in caplog.text
    assert "There are no probabilities" not in (fitted[0] / "report.html").read_text()


def test_it_can_be_done_again_by_resume_auto_and_not_by_accident(run, place):
    with pytest.raises(UserError, match="holds a run already"):
        train.main(options(place, "divergence", "--model.orientation=learned"))
    before = rows_of(run).score.tolist()
    train.main(options(place, "divergence", "--model.orientation=learned", "--resume=auto"))
    assert rows_of(run).score.tolist() == before


def test_images_of_any_size_keep_it(place, tmp_path):
    """Perturbed to another size, images are extracted at that size, each in a stack of its own shape."""
    folder = train.main(options(place, "half", "--data.perturbation=crop_half"))
    assert not rows_of(folder).score.isna().any()
    manifest = json.loads(next(place.glob("cache/divergence-*/builtin-crop_half-*/manifest.json")).read_text())
    assert manifest["counts"]["failures"] == 0


def test_the_config_says_what_the_run_used(run):
    told = yaml.safe_load((run / "config.yaml").read_text())["data"]["extractor"]
    assert told["init_args"]["denoiser"]["init_args"]["path"] == "assets/tiny-diffusion"
    detector, data = load_detector(str(run / "checkpoints" / "best.safetensors"))
    assert data["extractor"]["init_args"]["denoiser"]["class_path"].endswith("LatentDenoiser")
    assert detector.orientation == "learned"


def test_two_processes_measure_what_one_does(run, place, built_in, tmp_path):
    """An odd number of images a rank, repeated to fill it up: scores, threshold and orientation are those of one process."""
    shutil.copytree(built_in, tmp_path / "cache")
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [*options(place, "two", "--model.orientation=learned", *two), f"--data.cache_dir={tmp_path / 'cache'}"]
    status = subprocess.run([sys.executable, "train.py", *command], check=False, capture_output=True, text=True)
    assert status.returncode == 0, status.stderr[-2000:]
    folder = place / "runs" / "zero-shot-two"
    for split in ("val", "test"):
        expected, found = (rows_of(each, split).set_index("key").score for each in (run, folder))
        assert len(found) == len(expected)
        np.testing.assert_allclose(found[expected.index], expected, rtol=1e-5)
    expected, found = (json.loads((each / "metrics.json").read_text()) for each in (run, folder))
    assert found["threshold"]["value"] == pytest.approx(expected["threshold"]["value"], rel=1e-5)
    assert found["threshold"]["n"] == expected["threshold"]["n"]
