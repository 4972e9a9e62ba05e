"""Verdicts through the real command, on the checkpoint of a real, tiny training."""

import csv
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import predict
import train
from datamodules.errors import DataError
from datamodules.perturbations import perturbation
from datamodules.scoring import Scorer, find_device
from evaluation.rows import RowsError
from modules.errors import CheckpointError, UserError
from modules.extractors import InversionExtractor

SMALL = [
    "--config=configs/quickstart.yaml",
    "--data.source.init_args.crops=2",
    "--data.source.init_args.sampling_steps=1",
    "--data.extractor.init_args.steps=2",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--name=tiny",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def tested(place):
    """The rows of the trained run's own test, with captions."""
    folder = train.main([*SMALL, f"--data.cache_dir={place / 'cache'}", f"--runs_dir={place / 'runs'}"])
    rows = pd.read_parquet(folder / "predictions.parquet")
    rows = rows[rows.split == "test"]
    captions = {item["path"]: item["caption"] for item in json.loads(next(place.glob("cache/builtin-*/records.json")).read_text())}
    return rows.assign(caption=[captions["/".join(Path(path).parts[-2:])] for path in rows.path])


@pytest.fixture(scope="module")
def checkpoint(place, tested):
    return place / "runs/tiny/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def images(place, tested):
    """Six of the test images in a folder of their own."""
    folder = place / "images"
    folder.mkdir()
    for i, path in enumerate(tested.path[:6]):
        shutil.copy(path, folder / f"{i}.png")
    return folder


def run(checkpoint, *paths, code=0, **options):
    """Run the command; gives its rows."""
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    assert predict.main([f"--checkpoint={checkpoint}", "--accelerator=cpu", "--cache_dir=none", *given, *map(str, paths)]) == code
    if (output := options.get("output")) is None:
        return None
    return {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda p: pd.read_json(p, lines=True)}[Path(output).suffix](output)


def changed(checkpoint, path, threshold=None, **data):
    """The checkpoint with other settings."""
    content = torch.load(checkpoint, weights_only=True)
    content["undertow"]["data"] |= data
    content["undertow"]["threshold"] |= threshold or {}
    torch.save(content, path)
    return path


def test_the_scores_are_those_of_the_trainings_own_test(tested, checkpoint, tmp_path):
    tested = tested[::3]
    tested[["path", "caption"]].to_csv(tmp_path / "captions.csv", index=False)
    middle = float(tested.score.median())
    stored = changed(checkpoint, tmp_path / "stored.ckpt", threshold={"value": middle, "reason": None})
    rows = run(stored, *tested.path, captions=tmp_path / "captions.csv", output=tmp_path / "rows.csv", batch_size=5, no_abstain=True)
    assert list(rows.path) == list(tested.path)
    assert list(rows.key) == [key.partition("-")[0] for key in tested.key]
    np.testing.assert_allclose(rows.score, tested.score, atol=1e-4)
    assert list(rows) == ["key", "path", "score", "probability", "verdict", "reason"]
    assert rows.probability.isna().all()
    assert list(rows.verdict) == ["generated" if score > middle else "real" for score in rows.score]
    assert set(rows.verdict) == {"generated", "real"}


def test_captions_that_are_missing_are_said_once(checkpoint, images, tmp_path, caplog):
    rows = run(checkpoint, images, output=tmp_path / "rows.csv", batch_size=2)
    assert len(rows) == 6
    [said] = [record.message for record in caplog.records if "caption" in record.message]
    assert "6 of 6 images have none" in said
    assert "trained with captions (" in said


def test_all_forms_say_the_same(checkpoint, images, tmp_path):
    tables = [
        run(checkpoint, images, output=tmp_path / f"rows.{form}", threshold=0, no_abstain=True) for form in ("csv", "jsonl", "parquet")
    ]
    for table in tables[1:]:
        assert list(table) == list(tables[0])
        assert list(table.verdict) == list(tables[0].verdict)
        np.testing.assert_allclose(table.score, tables[0].score, atol=1e-9)
    assert list(tables[0].verdict) == ["generated" if score > 0 else "real" for score in tables[0].score]


def test_bad_images_are_rows_in_their_place(checkpoint, images, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(b"text!")
    (tmp_path / "c.png").write_bytes((images / "0.png").read_bytes()[:2000])
    (tmp_path / "d.heic").touch()
    shutil.copy(images / "0.png", tmp_path / "e\n.png")
    os.mkfifo(tmp_path / "f.png")
    rows = run(checkpoint, tmp_path, tmp_path / "gone.png", output=tmp_path / "rows.csv", code=3)
    names = ["a.jpg", "b.png", "c.png", "d.heic", r"e\x0a.png", "f.png", "gone.png"]
    assert [Path(path).name for path in rows.path] == names
    assert list(rows.score.isna()) == [True, False, True, True, False, True, True]
    assert set(rows.verdict[rows.score.isna()]) == {"error"}
    for name, reason in [
        ("a.jpg", "none of JPEG"),
        ("c.png", "damaged"),
        ("d.heic", "not read"),
        ("f.png", "regular"),
        ("gone.png", "no such"),
    ]:
        assert reason in rows.reason[names.index(name)]
    assert "7 images: " in caplog.text
    assert "5 error" in caplog.text
    assert f"({tmp_path / 'gone.png'})" in caplog.text


def test_a_run_that_is_stopped_keeps_its_rows_and_goes_on(checkpoint, images, tmp_path, monkeypatch):
    output = tmp_path / "rows.csv"
    through, looked_at = Scorer._through, []

    def stopped(self, batch):
        if len(looked_at) == 4:
            raise KeyboardInterrupt
        looked_at.extend(record.path for record in batch.records)
        assert len(output.read_text().splitlines()) == max(0, len(looked_at) - 2) + (len(looked_at) > 2)  # what came before is there
        return through(self, batch)

    monkeypatch.setattr(Scorer, "_through", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, images, output=output, batch_size=2)
    assert list(pd.read_csv(output).path) == looked_at
    output.write_bytes(output.read_bytes()[:-4])  # and the machine went down
    looked_at.clear()
    monkeypatch.setattr(Scorer, "_through", lambda self, batch: looked_at.extend(r.path for r in batch.records) or through(self, batch))
    rows = run(checkpoint, images, output=output, resume=True)
    assert list(rows.path) == sorted(map(str, images.iterdir()))
    assert len(looked_at) == 1 + 3  # one is looked at again, to see that the rows are this detector's
    monkeypatch.setattr(InversionExtractor, "load", lambda self: pytest.fail("nothing is left to do"))
    assert len(run(checkpoint, images, output=output, resume=True)) == 6


def test_rows_of_another_detector_are_not_gone_on_with(checkpoint, images, tmp_path):
    output = tmp_path / "rows.csv"
    run(checkpoint, images / "0.png", output=output)
    content = torch.load(checkpoint, weights_only=True)
    name = next(name for name in reversed(content["state_dict"]) if name.startswith("network.") and name.endswith("bias"))
    content["state_dict"][name] += 1
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match="another detector"):
        run(tmp_path / "other.ckpt", images, output=output, resume=True)
    assert len(pd.read_csv(output)) == 1
    with pytest.raises(RowsError, match=r"columns .*spread: name another --output"):
        run(checkpoint, images, output=output, resume=True, reencodings=1)


def test_an_output_that_exists_is_refused(checkpoint, images, tmp_path):
    (tmp_path / "rows.csv").write_text("mine")
    with pytest.raises(RowsError, match="exists: --resume"):
        run(checkpoint, images, output=tmp_path / "rows.csv")
    assert len(run(checkpoint, images / "0.png", output=tmp_path / "rows.csv", overwrite=True)) == 1


def test_without_a_threshold_there_are_scores_only(checkpoint, images, tmp_path, caplog):
    none = changed(checkpoint, tmp_path / "none.ckpt", threshold={"value": None, "reason": "too few validation reals"})
    rows = run(none, images, output=tmp_path / "a.csv")
    assert set(rows.verdict) == {"abstain"}
    assert rows.score.notna().all()
    assert "too few validation reals" in rows.reason[0]
    assert "--threshold VALUE sets one" in caplog.text
    assert set(run(none, images, output=tmp_path / "b.csv", threshold=-1e6, no_abstain=True, fail_on_generated=True, code=4).verdict) == {
        "generated"
    }


def test_no_verdict_on_what_the_detector_was_not_calibrated_on(checkpoint, images, tmp_path, caplog):
    ranges = {"round_trip_psnr": [90.0, 99.0], "not_measured": [0, 1]}
    odd = changed(checkpoint, tmp_path / "odd.ckpt", calibrated_on=ranges)
    held, given = (run(odd, images, output=tmp_path / f"{i}.csv", threshold=0, **more) for i, more in enumerate([{}, {"no_abstain": True}]))
    assert set(held.verdict) == {"abstain"}
    assert held.reason.str.fullmatch(r"round_trip_psnr [\d.]+ dB is below 90, the lowest that the detector was calibrated on").all()
    assert list(given.verdict) == ["generated" if score > 0 else "real" for score in given.score]
    assert list(held.score) == list(given.score)
    wide = changed(checkpoint, tmp_path / "wide.ckpt", calibrated_on={"round_trip_psnr": [0.0, 99.0]})
    assert "abstain" not in set(run(wide, images, output=tmp_path / "wide.csv", threshold=0).verdict)


def reencoded(image, quality, path):
    Image.fromarray(perturbation(f"jpeg_{quality}")(np.asarray(Image.open(image).convert("RGB")), 0)).save(path)
    return path


def test_reencodings_give_a_spread_and_withhold_a_verdict_that_they_change(checkpoint, images, tmp_path):
    image = images / "1.png"
    views = [image, *(reencoded(image, quality, tmp_path / f"{quality}.png") for quality in (95, 90))]
    scores = run(checkpoint, *views, output=tmp_path / "views.csv").score
    between = (scores.min() + scores.max()) / 2
    [row] = run(
        changed(checkpoint, tmp_path / "free.ckpt", calibrated_on={}), image, output=tmp_path / "a.csv", reencodings=2, threshold=between
    ).itertuples()
    assert row.spread == pytest.approx(np.std(scores), rel=1e-3)
    assert row.score == pytest.approx(scores[0], abs=1e-4)
    assert row.verdict == "abstain"
    assert "of 2 slight re-encodings" in row.reason


def test_a_detector_of_jpegs_sees_jpegs(checkpoint, images, tmp_path, caplog):
    jpeg = changed(checkpoint, tmp_path / "jpeg.ckpt", perturbation="jpeg_40")
    [score] = run(jpeg, images / "2.png", output=tmp_path / "a.csv").score
    [expected] = run(checkpoint, reencoded(images / "2.png", 40, tmp_path / "40.png"), output=tmp_path / "b.csv").score
    [unchanged] = run(checkpoint, images / "2.png", output=tmp_path / "c.csv").score
    assert score == pytest.approx(expected, abs=1e-4)
    assert abs(score - unchanged) > 1e-4
    assert "went through jpeg_40" in caplog.text
    with pytest.raises(DataError, match="--reencodings needs a detector of images as they are"):
        run(jpeg, images, reencodings=1)


def test_other_weights_than_in_training_are_told(checkpoint, images, tmp_path, caplog):
    run(checkpoint, images / "0.png", output=tmp_path / "a.csv")
    assert "weights or settings" not in caplog.text
    run(changed(checkpoint, tmp_path / "x.ckpt", extractor_fingerprint="0"), images / "0.png", output=tmp_path / "b.csv")
    assert "weights or settings are not those" in caplog.text


def test_row_39_an_image_that_overflows_is_a_row_of_its_own(checkpoint, images, tmp_path, monkeypatch):
    expected = run(checkpoint, images, output=tmp_path / "a.csv").score
    bad = np.asarray(Image.open(images / "3.png").convert("RGB"))
    extract = InversionExtractor.extract

    def fail(self, batch, prompts, seeds):
        features, _ = extract(self, batch, prompts, seeds)
        return features, {i: "too much" for i, image in enumerate(batch) if np.array_equal(image.permute(1, 2, 0).numpy(), bad)}

    monkeypatch.setattr(InversionExtractor, "extract", fail)
    rows = run(checkpoint, images, output=tmp_path / "b.csv", code=3)
    assert list(rows.verdict == "error") == [False, False, False, True, False, False]
    assert rows.reason[3] == "too much"
    good = rows.score.notna()
    np.testing.assert_allclose(rows.score[good], expected[good], atol=1e-4)


def test_workers_give_the_same_rows(checkpoint, images, tmp_path):
    alone, helped = (run(checkpoint, images, output=tmp_path / f"{n}.csv", workers=n, batch_size=2) for n in (0, 2))
    pd.testing.assert_frame_equal(alone, helped)


def test_a_list_on_standard_input(checkpoint, images, tmp_path, monkeypatch):
    names = b"\0".join(os.fsencode(images / name) for name in ("1.png", "0.png", "1.png"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(names)))
    rows = run(checkpoint, "-", output=tmp_path / "a.jsonl", null=True)
    assert [Path(path).name for path in rows.path] == ["1.png", "0.png"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--output=a.xyz", "x"], "none of .csv"),
        (["--format=parquet", "x"], "needs --output"),
        (["--output=a.parquet", "--resume", "x"], "cannot --resume"),
        (["--resume", "x"], "--resume needs --output"),
        (["--resume", "--overwrite", "--output=a.csv", "x"], "not allowed with"),
        (["--threshold=nan", "x"], "is not a finite number"),
        (["--batch_size=0", "x"], "whole number of at least 1"),
        (["--workers=-1", "x"], "whole number of at least 0"),
        (["--reencodings=6", "x"], "invalid choice"),
        ([], "required"),
    ],
)
def test_wrong_usage_exits_with_two(args, words, capsys):
    with pytest.raises(SystemExit) as caught:
        predict.main(["--checkpoint=x.ckpt", *args])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_nothing_to_look_at(checkpoint, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no image found \(the paths name none; 1 files"):
        run(checkpoint, tmp_path)
    with pytest.raises(DataError, match=r"gone\.png: There is no such file"):
        run(checkpoint, tmp_path / "gone.png")


def test_checkpoints_that_cannot_be_used(checkpoint, images, tmp_path):
    (tmp_path / "text.ckpt").write_text("text")
    for path in (tmp_path / "none.ckpt", tmp_path, tmp_path / "text.ckpt"):
        with pytest.raises(CheckpointError, match="checkpoint"):
            run(path, images)
    elsewhere = {"class_path": "os.system", "init_args": {}}
    for bad in ({"extractor": elsewhere}, {"extractor": {}}, {"perturbation": "blur_9"}):
        with pytest.raises(UserError):
            run(changed(checkpoint, tmp_path / "bad.ckpt", **bad), images)
    content = torch.load(checkpoint, weights_only=True)
    for damage in ({"undertow": content["undertow"] | {"data": None}}, {"state_dict": {}}):
        torch.save(content | damage, tmp_path / "bad.ckpt")
        with pytest.raises(CheckpointError):
            run(tmp_path / "bad.ckpt", images)


def test_a_device_that_is_not_there():
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(DataError, match=f"--accelerator {absent}"):
        find_device(absent)
    assert find_device("cpu") == torch.device("cpu")


def test_the_command_in_a_pipe(checkpoint, images, tmp_path):
    """Rows on standard output and nothing else; no file's name commands the terminal; exit codes."""
    shutil.copy(images / "0.png", tmp_path / "\x1b[2Jfine.png")
    (tmp_path / "\x1b[2Jbad.png").touch()
    command = [sys.executable, "predict.py", f"--checkpoint={checkpoint}", "--accelerator=cpu", "--cache_dir=none", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [Path(row["path"]).name for row in rows] == [r"\x1b[2Jbad.png", r"\x1b[2Jfine.png"]
    assert "\x1b" not in done.stdout + done.stderr
    assert f"The file is empty. ({tmp_path}/\\x1b[2Jbad.png)" in done.stderr
    done = subprocess.run([*command[:-1], str(tmp_path / "\x1b[2Jgone")], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: no image found (")
    assert "\x1b" not in done.stderr


def test_help_is_quick():
    done = subprocess.run([sys.executable, "-X", "importtime", "predict.py", "--help"], capture_output=True, text=True)
    assert "exit   0" in done.stdout
    assert " torch" not in done.stderr
