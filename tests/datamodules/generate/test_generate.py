"""The fakes of a study, made from captions by the built-in model."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from datamodules.errors import DataError
from datamodules.generate import study
from datamodules.generate.__main__ import main
from datamodules.generate.sampling import BLACK, UNSAFE, Loading, Sampler, noise_seed
from datamodules.records import FAKE, REAL
from datamodules.sources.manifest import ManifestSource
from datamodules.splits import assign_splits, check_leaks
from modules.errors import ModelError
from tests.datamodules.generate.studies import MODEL, files, options, rows


@pytest.fixture
def calls(monkeypatch):
    """Ids of the batches that are sampled."""
    made, original = [], Sampler.sample

    def sample(self, ids, prompts):
        made.append(list(ids))
        return original(self, ids, prompts)

    monkeypatch.setattr(Sampler, "sample", sample)
    return made


def test_a_study_is_a_manifest_of_photographs_and_their_fakes(place, capsys):
    assert main(options(place)) == 0
    out = place / "out"
    records = ManifestSource(str(out / "manifest.csv")).records(place / "cache")
    assert Counter((record.split, record.label) for record in records) == {
        **{("test", REAL): 5, ("test", FAKE): 5},
        **{("train", REAL): 1, ("train", FAKE): 1, ("val", REAL): 2, ("val", FAKE): 2},
    }
    for real, fake in zip(records[::2], records[1::2], strict=True):
        assert (real.label, fake.label) == (REAL, FAKE)
        assert (real.group, real.pair, real.split) == (fake.group, fake.pair, fake.split)
        assert real.caption == fake.caption == f"A photo of {int(Path(real.path).stem)} coins"
        assert real.caption_source == fake.caption_source == "human"
        assert (real.dataset, real.generator) == ("out", "photos")
        assert (fake.dataset, fake.generator) == ("out", "tiny-diffusion")
        assert Path(real.path).read_bytes() == (place / "photos" / f"{int(Path(real.path).stem)}.jpg").read_bytes()
        with Image.open(fake.path) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (64, 64), "RGB")
    assert len({record.group for record in records}) == 8
    said = capsys.readouterr().out
    assert "8 photographs with a fake each, of 8 wanted; 8 fakes are new." in said
    assert f"--data.source.path {out / 'manifest.csv'}" in said
    assert not [path for path in out.rglob("*") if path.name.startswith(".writing")]


def test_its_splits_are_free_of_leaks(place):
    main(options(place))
    records = ManifestSource(str(place / "out" / "manifest.csv")).records(place / "cache")
    assert check_leaks(assign_splits(records)) == records


def test_two_studies_of_the_same_photographs_share_their_pairs(place):
    main(options(place))
    main(options(place, "other", guidance=3))
    assert [row["pair"] for row in rows(place / "out")] == [row["pair"] for row in rows(place / "other")]


def test_a_stopped_run_goes_on_with_the_same_bytes(place, monkeypatch, calls):
    main(options(place, "whole"))
    made, write = [], study.write_atomically

    def stopping(path, content):
        if path.suffix == ".png" and len(made) == 4:  # in the middle of the second batch
            raise KeyboardInterrupt
        made.extend([path] if path.suffix == ".png" else [])
        write(path, content)

    monkeypatch.setattr(study, "write_atomically", stopping)
    assert main(options(place, dataset="whole")) == 130
    assert len(list((place / "out" / "fakes").iterdir())) == 4
    assert not (place / "out" / "manifest.csv").exists()
    monkeypatch.setattr(study, "write_atomically", write)
    before = {path: path.stat().st_mtime_ns for path in (place / "out" / "fakes").iterdir()}
    del calls[:]
    assert main(options(place, dataset="whole")) == 0
    assert len(calls) == 2  # the second batch, and the last
    assert files(place / "out") == files(place / "whole")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_is_there_is_not_made_again_and_what_was_lost_is(place, calls, capsys):
    main(options(place))
    whole = files(place / "out")
    del calls[:]
    assert main(options(place)) == 0
    assert not calls
    assert "0 fakes are new" in capsys.readouterr().out
    lost = next((place / "out" / "fakes").iterdir())
    lost.unlink()
    next((place / "out" / "reals").iterdir()).write_bytes(b"damaged")
    assert main(options(place)) == 0
    assert len(calls) == 1
    assert "1 fakes are new" in capsys.readouterr().out
    assert files(place / "out") == whole


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("steps", 3, "steps is 2 there and 3 now"),
        ("seed", 1, "seed is 0 there and 1 now"),
        ("test", 4, "test is 5 there and 4 now"),
        ("guidance", 1, "guidance is 7.5 there and 1.0 now"),
        ("size", 32, "size is null there and 32 now"),
        ("dtype", "bfloat16", 'dtype is "float32" there and "bfloat16" now'),
    ],
)
def test_other_settings_need_another_folder(place, name, value, told):
    main(options(place))
    before = files(place / "out")
    with pytest.raises(DataError, match=re.escape(told)):
        main(options(place, **{name: value}))
    assert files(place / "out") == before


def test_a_branch_that_moved_is_refused_and_its_old_commit_is_not(place, commits, monkeypatch):
    first = "1" * 40
    main(options(place))
    assert json.loads((place / "out" / "settings.json").read_text())["commit"] == first
    whole = files(place / "out")
    commits[0] = "2" * 40
    assert main(options(place)) == 0  # nothing is missing, so that no model is loaded
    next((place / "out" / "fakes").iterdir()).unlink()
    there = files(place / "out")
    with pytest.raises(
        DataError, match=f"was begun with the commit {first} of the model, which is now at {commits[0]}: go on with --revis"
    ):
        main(options(place))
    assert files(place / "out") == there
    with pytest.raises(DataError, match="revision is null there and"):
        main(options(place, revision=commits[0]))
    assert main(options(place, revision=first)) == 0
    assert files(place / "out") == whole


def test_the_commit_is_that_of_the_hubs_cache(tmp_path, monkeypatch):
    folder = tmp_path / "models--owner--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("3" * 40)
    for commit, name in (("3" * 40, "model_index.json"), ("4" * 40, "config.json")):
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / name).write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert Loading("owner/model").commit() == "3" * 40
    assert Loading("owner/model", "4" * 40).commit() == "4" * 40
    assert Loading("owner/other").commit() == Loading(str(tmp_path)).commit() == ""


def test_another_captions_file_needs_another_folder(place, rewrite):
    main(options(place))
    rewrite(lambda content: content["annotations"].pop(0))
    with pytest.raises(DataError, match=r"captions is .* there and .* now"):
        main(options(place))


def test_another_batch_size_changes_rounding_only(place):
    main(options(place))
    main(options(place, "other", batch_size=8))
    for path in sorted((place / "out" / "fakes").iterdir()):
        images = [np.asarray(Image.open(place / folder / "fakes" / path.name)).astype(int) for folder in ("out", "other")]
        assert np.abs(images[0] - images[1]).max() <= 2


def test_a_folder_of_something_else_is_left_alone(place):
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"is not empty, and has no settings\.json"):
        main(options(place))
    assert list(files(place / "out")) == ["thesis.tex"]


def test_settings_that_the_pipeline_refuses_do_not_claim_the_folder(place):
    with pytest.raises(DataError, match=r"refuses --steps 2, --guidance 7\.5, --size 30: .*divisible by 8"):
        main(options(place, size=30))
    assert main(options(place)) == 0


def test_damaged_settings_are_told(place):
    (place / "out").mkdir()
    (place / "out" / "settings.json").write_text("{")
    with pytest.raises(DataError, match=r"settings\.json cannot be read as JSON"):
        main(options(place))


def test_noise_depends_on_the_id_and_not_on_the_batch(sampler):
    prompts = ["old coins", "old coins", "a rocket"]
    together = [np.asarray(image).astype(int) for image in sampler.sample(["a", "b", "c"], prompts)]
    alone = np.asarray(sampler.sample(["b"], ["old coins"])[0]).astype(int)
    assert np.abs(together[1] - alone).max() <= 2  # rounding
    assert np.abs(together[0] - together[1]).mean() > 5
    assert noise_seed(0, "b") != noise_seed(1, "b")


def test_a_fake_is_diffusers_own_image(sampler):
    generator = torch.Generator().manual_seed(noise_seed(0, "a"))
    expected = sampler.pipeline("old coins", num_inference_steps=2, guidance_scale=7.5, generator=generator).images[0]
    assert np.array_equal(np.asarray(sampler.sample(["a"], ["old coins"])[0]), np.asarray(expected))


def flag(monkeypatch, flagged):
    """Black out, as a safety checker does, the images whose number (over all batches) is flagged."""
    count = iter(range(1000))

    def check(self, image, device, dtype):
        unsafe = [next(count) in flagged for _ in image]
        return torch.where(torch.tensor(unsafe)[:, None, None, None], -1, image), unsafe

    monkeypatch.setattr(StableDiffusionPipeline, "run_safety_checker", check)


def test_what_the_safety_checker_blacks_out_is_left_out_and_replaced(place, monkeypatch, calls, capsys):
    flag(monkeypatch, {1, 2, 7})
    assert main(options(place)) == 0
    refused = json.loads((place / "out" / "skipped.json").read_text())["refused"]
    assert list(refused.values()) == [UNSAFE] * 3
    assert list(refused) == [calls[0][1], calls[0][2], calls[2][1]]
    assert len(rows(place / "out")) == 16
    assert not refused.keys() & {Path(row["path"]).stem for row in rows(place / "out")}
    assert all(np.asarray(Image.open(path)).any() for path in (place / "out" / "fakes").iterdir())
    assert len(list((place / "out" / "fakes").iterdir())) == 8
    assert f"3 × {UNSAFE}" in capsys.readouterr().out
    del calls[:]
    whole = files(place / "out")
    assert main(options(place)) == 0
    assert not calls
    assert files(place / "out") == whole


def test_too_few_photographs_are_told_and_tests_go_first(place, monkeypatch, capsys):
    flag(monkeypatch, {0, 1, 2, 3, 4, 5})
    assert main(options(place)) == 3
    assert "6 photographs with a fake each, of 8 wanted" in capsys.readouterr().out
    assert Counter(row["split"] for row in rows(place / "out")) == {"test": 10, "train": 2}


def test_an_overflow_is_no_image(monkeypatch, sampler):
    bias = sampler.pipeline.vae.decoder.conv_out.bias
    monkeypatch.setattr(bias, "data", torch.full_like(bias, torch.nan))
    with pytest.warns(RuntimeWarning, match="invalid value"):
        assert sampler.sample(["a"], ["old coins"]) == [BLACK]


def test_photographs_that_cannot_be_used_are_replaced_and_recorded(place):
    (place / "photos" / "0.jpg").unlink()
    (place / "photos" / "1.jpg").write_bytes(b"\xff\xd8\xff damaged")
    (place / "photos" / "2.jpg").write_bytes((place / "photos" / "3.jpg").read_bytes())
    assert main(options(place, test=7, calibration=3)) == 3  # one too many: all are tried
    skipped = json.loads((place / "out" / "skipped.json").read_text())["skipped"]
    assert skipped["000000000000"] == "its file cannot be read: no such file or directory"
    assert "JPEG" in skipped["000000000001"]
    assert len(skipped) == 3
    assert "another photograph has its content" in skipped.values()
    used = {Path(row["path"]).stem for row in rows(place / "out")}
    assert len(used) == 9
    assert not used & skipped.keys()
    assert not {"000000000002", "000000000003"} <= used


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"images": None}, "name the folder of its photographs with --images"),
        ({"images": "nowhere"}, "--images nowhere is not a folder"),
        ({"captions": "nowhere.json"}, "the annotation file nowhere.json cannot be read"),
        ({"captions": "mine.csv"}, "leave it out"),
        ({"test": 12, "calibration": 2}, "14 photographs are wanted, and only 12 have a usable caption"),
    ],
)
def test_what_cannot_go_well_is_told_before_a_model_is_loaded(place, changed, told, monkeypatch):
    monkeypatch.setattr(Sampler, "__init__", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(DataError, match=re.escape(told)):
        main(options(place, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"test": 0},
        {"calibration": 1},
        {"steps": 0},
        {"guidance": "nan"},
        {"size": -8},
        {"seed": "-1"},
        {"dtype": "int8"},
        {"batch_size": "1e3"},
    ],
)
def test_wrong_numbers_are_wrong_usage(place, changed, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(options(place, **changed))
    assert stopped.value.code == 2
    assert f"--{next(iter(changed))}" in capsys.readouterr().err


def test_no_usable_photograph_is_an_error(place):
    for path in (place / "photos").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="no photograph could be used: check --images"):
        main(options(place))
    assert not (place / "out" / "manifest.csv").exists()


def test_a_pipeline_is_loaded_by_name(monkeypatch, tmp_path):
    monkeypatch.undo()
    pipeline = Sampler(Loading(MODEL, dtype=torch.bfloat16)).pipeline
    assert isinstance(pipeline, StableDiffusionPipeline)
    assert pipeline.unet.dtype == torch.bfloat16
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    for model in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=re.escape(str(model))):
            Sampler(Loading(str(model)))


def test_help_is_quick_and_errors_have_no_traceback(place):
    code = "import runpy, sys; sys.argv = ['g', '--help']; runpy.run_module('datamodules.generate', run_name='__main__')"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert "--calibration" in done.stdout
    assert not re.search(r"\| +(torch|diffusers|transformers|lightning)$", done.stderr, re.MULTILINE)
    command = [sys.executable, "-m", "datamodules.generate", *options(place, captions="nowhere.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the annotation file nowhere.json cannot be read")
    assert "Traceback" not in done.stderr
