"""Content-matched fakes of a user's own real images, made by the built-in model."""

import csv
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.errors import DataError
from datamodules.generate import matched, sampling
from datamodules.generate.__main__ import main
from datamodules.generate.editing import OVERFLOW, AutoencoderEditor, PipelineEditor, native_size
from datamodules.generate.reals import Real, read_square
from datamodules.generate.sampling import UNSAFE, Loading, load_pipeline, noise_seed
from datamodules.records import FAKE, REAL
from datamodules.sources import ManifestSource
from datamodules.splits import assign_splits, check_leaks
from modules.errors import ModelError
from tests.datamodules.generate.studies import MODEL, files, rows
from tests.watching import wait_until

COUNT = 6


def photo(path, seed, size=(80, 96), **options):
    """Smooth noise: what a model does to it is more than rounding."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC).save(path, **options)


@pytest.fixture
def place(tmp_path):
    for i in range(COUNT):
        photo(tmp_path / "photos" / f"{i}.jpg", i, quality=92)
    return tmp_path


@pytest.fixture(scope="module")
def pipelines():
    return {}


@pytest.fixture(autouse=True)
def loaded_once(pipelines, monkeypatch):
    def load(auto, task, model, revision, dtype):
        if auto not in pipelines:
            pipelines[auto] = load_pipeline(auto, task, MODEL, None, dtype)
        return pipelines[auto]

    monkeypatch.setattr(sampling, "load_pipeline", load)


@pytest.fixture
def calls(monkeypatch):
    """How many images each call of the image-to-image editor gets."""
    made, original = [], PipelineEditor.edit

    def edit(self, images, prompts, seeds, masks):
        made.append(len(images))
        return original(self, images, prompts, seeds, masks)

    monkeypatch.setattr(PipelineEditor, "edit", edit)
    return made


def options(place, output="out", **changed):
    given = {"images": place / "photos", "model": MODEL, "output": place / output, "device": "cpu", "batch_size": 4} | changed
    if given.get("kind") != "autoencoder":
        given = {"steps": 4, "guidance": 1} | given
    words = ["match"]
    for name, value in given.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [] if value is True else [value])]
    return words


def pixels_of(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize("kind", ["img2img", "autoencoder"])
def test_real_and_fake_went_through_the_same_chain(place, kind, form, capsys):
    assert main(options(place, kind=kind, format=form)) == 0
    out = place / "out"
    records = ManifestSource(str(out / "manifest.csv")).records(place / "cache")
    assert [record.label for record in records] == [REAL, FAKE] * COUNT
    for real, fake in zip(records[::2], records[1::2], strict=True):
        assert real.pair == fake.pair == real.group == fake.group
        assert (real.generator, fake.generator) == ("photos", f"tiny-diffusion-{kind}")
        assert real.generated_fraction is None is fake.generated_fraction
        images = [Image.open(record.path) for record in (real, fake)]
        assert {(image.format, image.size, image.mode) for image in images} == {(form.upper(), (64, 64), "RGB")}
        assert set(images[0].info) == set(images[1].info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        if form == "png":
            assert Path(real.path).stat().st_size == Path(fake.path).stat().st_size
        else:
            assert images[0].quantization == images[1].quantization
        assert 0 < np.abs(pixels_of(real.path) - pixels_of(fake.path)).mean() < 60
    assert len({record.pair for record in records}) == COUNT
    assert check_leaks(assign_splits(records))
    said = capsys.readouterr().out
    assert f"{COUNT} real images with {COUNT} fakes, of {COUNT} wanted; {COUNT} fakes are new." in said
    assert f"Manifest: {out / 'manifest.csv'}" in said
    assert f"workflow.audit {out / 'manifest.csv'}" in said


def test_the_real_is_the_square_that_the_fake_was_made_of(place):
    main(options(place, kind="autoencoder"))
    row = rows(place / "out")[0]
    square = read_square(Real(row["source"], place / "photos" / row["source"], "photos"), 64)
    assert np.array_equal(pixels_of(place / "out" / row["path"]), square.pixels)
    (fake,) = AutoencoderEditor(Loading(MODEL)).edit([square.pixels], [""], [0], [None])
    assert np.abs(pixels_of(place / "out" / rows(place / "out")[1]["path"]) - fake).max() <= 1
    assert row["source_sha256"] == square.digest
    assert row["pair"] == f"photograph/{square.digest[:16]}"


def test_the_manifest_says_where_each_fake_comes_from(place):
    main(options(place, strength=0.75, seed=3, prompt="old coins"))
    real, fake = rows(place / "out")[:2]
    told = {"kind": "img2img", "model": MODEL, "strength": "0.75", "steps": "4", "guidance": "1.0", "scheduler": "DDIMScheduler"}
    assert told.items() <= fake.items()
    assert fake["seed"] == str(noise_seed(3, fake["source_sha256"]))
    assert fake["prompt"] == "old coins"
    assert len(fake["model_revision"]) == 16
    assert not any(real[name] for name in ("kind", "model", "seed", "prompt"))
    for name in ("source", "source_sha256", "source_format", "source_width", "source_height", "source_bytes", "pair"):
        assert real[name] == fake[name] != ""
    settings = json.loads((place / "out" / "settings.json").read_text())
    assert settings["settings"]["strength"] == 0.75
    assert settings["settings"]["size"] == 64
    assert {"diffusers", "torch", "pillow"} <= settings["versions"].keys()


def test_captions_groups_and_splits_of_a_manifest_are_carried(place):
    table = [["path", "label", "generator", "group", "split", "caption", "caption_source"]]
    table += [[f"photos/{i}.jpg", i == 5, "mine", f"g{i // 2}", "train" if i < 2 else "test", f"coin {i}", "human"] for i in range(COUNT)]
    with (place / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[int(cell) if isinstance(cell, bool) else cell for cell in row] for row in table])
    assert main(options(place, images=place / "m.csv")) == 0
    made = rows(place / "out")
    assert Counter((row["label"], row["generator"]) for row in made) == {("0", "mine"): 5, ("1", "tiny-diffusion-img2img"): 5}
    for row in made:
        number = int(Path(row["source"]).stem)
        expected = (f"g{number // 2}", "train" if number < 2 else "test", f"coin {number}", "human")
        assert (row["group"], row["split"], row["caption"], row["caption_source"]) == expected
        assert row["prompt"] == (f"coin {number}" if row["label"] == "1" else "")


def test_the_same_image_gives_the_same_fake_in_any_batch(place):
    main(options(place))
    main(options(place, "other", batch_size=1, limit=3))
    fakes = {path.name: path for path in (place / "out" / "fakes").iterdir()}
    for path in (place / "other" / "fakes").iterdir():
        difference = np.abs(pixels_of(path) - pixels_of(fakes[path.name]))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.001
    main(options(place, "seeded", seed=1))
    path = next((place / "seeded" / "fakes").iterdir())
    assert np.abs(pixels_of(path) - pixels_of(fakes[path.name])).mean() > 1


@pytest.mark.parametrize("mask", ["box", "freeform"])
def test_outside_of_the_mask_an_inpainted_image_is_the_original(place, mask):
    fractions = [0.1, 0.5, 1.0]
    assert main(options(place, kind="inpaint", mask=mask, fractions=fractions, limit=3)) == 0
    out = place / "out"
    made = rows(out)
    assert [row["label"] for row in made] == ["0", "1", "1", "1"] * 3
    for i in range(0, len(made), 4):
        original = pixels_of(out / made[i]["path"])
        assert made[i]["generated_fraction"] == "0.0"
        for row, fraction in zip(made[i + 1 : i + 4], fractions, strict=True):
            inside = pixels_of(out / row["mask"]) == 255
            assert set(np.unique(pixels_of(out / row["mask"]))) <= {0, 255}
            assert float(row["generated_fraction"]) == inside.mean() == pytest.approx(fraction, abs=1e-3)
            assert row["mask_kind"] == mask
            fake = pixels_of(out / row["path"])
            assert np.array_equal(fake[~inside], original[~inside])
            assert np.abs(fake - original)[inside].mean() > 3
    records = ManifestSource(str(out / "manifest.csv")).records(place / "cache")
    assert Counter(record.generated_fraction for record in records)[0.5] == 3
    assert len({record.pair for record in records}) == 3


def test_a_users_masks_are_cut_as_their_images(place):
    left = np.zeros((80, 96), np.uint8)
    left[:, :48] = 255
    for i in range(3):
        (place / "masks").mkdir(exist_ok=True)
        Image.fromarray(left if i else 255 - left.T).save(place / "masks" / f"{i}.png")
    assert main(options(place, kind="inpaint", masks=place / "masks")) == 3
    made = rows(place / "out")
    assert [row["source"] for row in made if row["label"] == "1"] == sorted(("1.jpg", "2.jpg"), key=[r["source"] for r in made].index)
    for row in made:
        if row["label"] == "1":
            assert row["generated_fraction"] == "0.5"
            assert row["mask_kind"] == "given"
            assert (pixels_of(place / "out" / row["mask"])[:, :32] == 255).all()
    skipped = json.loads((place / "out" / "skipped.json").read_text())["skipped"]
    assert skipped["0.jpg"] == "its mask has another size (80x96 pixels, the image 96x80)"
    assert skipped["3.jpg"] == "it has no mask"
    Image.fromarray(255 - left).save(place / "masks" / "1.png")
    with pytest.raises(DataError, match=r"masks is .* there and .* now"):
        main(options(place, kind="inpaint", masks=place / "masks"))


def test_a_stopped_run_goes_on_with_the_same_bytes(place, monkeypatch, calls):
    main(options(place, "whole"))
    made, write = [], matched.write_atomically

    def stopping(path, content):
        if path.parent.name == "fakes" and len(made) == 2:
            raise KeyboardInterrupt
        made.extend([path] if path.parent.name == "fakes" else [])
        write(path, content)

    monkeypatch.setattr(matched, "write_atomically", stopping)
    assert main(options(place, dataset="whole")) == 130
    assert not (place / "out" / "manifest.csv").exists()
    monkeypatch.setattr(matched, "write_atomically", write)
    before = {path: path.stat().st_mtime_ns for path in (place / "out" / "fakes").iterdir()}
    assert len(before) == 2
    assert main(options(place, dataset="whole")) == 0
    assert files(place / "out") == files(place / "whole")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    del calls[:]
    assert main(options(place, dataset="whole")) == 0  # nothing is made twice, and the manifest is the same
    assert not calls
    assert files(place / "out") == files(place / "whole")


def test_a_killed_run_goes_on_with_the_same_bytes(place):
    words = options(place, dataset="one", batch_size=1)
    process = subprocess.Popen([sys.executable, "-m", "datamodules.generate", *words], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: process.poll() is not None or len(list((place / "out" / "fakes").glob("*.png"))) >= 2, every=0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    there = files(place / "out")
    assert main(words) == 0
    assert main(options(place, "whole", dataset="one", batch_size=1)) == 0
    assert files(place / "out") == files(place / "whole")
    assert all(files(place / "out")[name] == content for name, content in there.items() if name.endswith(".png") and "writing" not in name)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"strength": 0.75}, "strength is 0.5 there and 0.75 now"),
        ({"limit": 3}, "limit is null there and 3 now"),
        ({"format": "jpeg"}, 'format is "png" there and "jpeg" now'),
        ({"prompt": "a cat"}, 'prompt is null there and "a cat" now'),
        ({"kind": "autoencoder"}, 'kind is "img2img" there and "autoencoder" now'),
    ],
)
def test_other_settings_need_another_folder(place, changed, told):
    main(options(place, limit=None))
    before = files(place / "out")
    with pytest.raises(DataError, match=re.escape(told)):
        main(options(place, **changed))
    assert files(place / "out") == before


def test_a_branch_that_moved_is_refused_and_its_old_commit_is_not(place, commits):
    first = "1" * 40
    main(options(place))
    whole = files(place / "out")
    assert {row["model_revision"] for row in rows(place / "out") if row["label"] == "1"} == {first}
    commits[0] = "2" * 40
    next((place / "out" / "fakes").iterdir()).unlink()
    there = files(place / "out")
    with pytest.raises(
        DataError, match=f"was begun with the commit {first} of the model, which is now at {commits[0]}: go on with --revis"
    ):
        main(options(place))
    assert files(place / "out") == there
    assert main(options(place, revision=first)) == 0
    assert files(place / "out") == whole


@pytest.mark.parametrize("output", ["photos/out", "photos", "link/deep/out"])
def test_an_output_inside_the_images_is_refused(place, output, capsys):
    (place / "link").symlink_to(place / "photos")
    before = files(place / "photos")
    with pytest.raises(SystemExit):
        main(options(place, output))
    assert "lies in --images" in capsys.readouterr().err
    assert files(place / "photos") == before


def test_an_output_inside_the_masks_is_refused_and_beside_a_manifest_is_not(place, capsys):
    (place / "masks").mkdir()
    with pytest.raises(SystemExit):
        main(options(place, "masks/out", kind="inpaint", masks=place / "masks"))
    assert "lies in --masks" in capsys.readouterr().err
    (place / "photos" / "m.csv").write_text("path,label\n0.jpg,0\n")
    assert main(options(place, "photos/out", images=place / "photos" / "m.csv", kind="autoencoder")) == 0


def test_what_cannot_be_used_is_recorded(place, capsys):
    photos = place / "photos"
    (photos / "1.jpg").write_bytes(b"\xff\xd8\xff damaged")
    (photos / "2.jpg").write_bytes((photos / "3.jpg").read_bytes())
    (photos / "empty.png").touch()
    (photos / "loop.png").symlink_to(photos / "loop.png")
    photo(photos / "small.png", 9, (40, 90))
    photo(photos / "fakes" / "x.png", 10)
    assert main(options(place)) == 3
    skipped = json.loads((place / "out" / "skipped.json").read_text())["skipped"]
    assert skipped["small.png"].startswith("it is too small (its shorter side has 40 pixels, the model's size is 64")
    assert skipped["fakes/x.png"] == "it lies in a folder of generated images"
    assert "JPEG" in skipped["1.jpg"]
    assert {"empty.png"} < skipped.keys()
    assert ({"2.jpg", "3.jpg"} & skipped.keys()) != set()
    used = {row["source"] for row in rows(place / "out")}
    assert len(used) == 4
    assert not used & skipped.keys()
    assert "photographs are left out" in capsys.readouterr().out


def test_a_limit_is_filled_from_what_is_good(place):
    (place / "photos" / "1.jpg").write_bytes(b"\xff\xd8\xff damaged")
    assert main(options(place, kind="autoencoder", limit=5)) == 0
    assert len(rows(place / "out")) == 10


def test_what_the_model_refuses_to_show_is_replaced_and_not_asked_again(place, monkeypatch, calls):
    edit = PipelineEditor.edit

    def refusing(self, *given):
        return [UNSAFE, *edit(self, *given)[1:]] if len(calls) == 0 else edit(self, *given)

    monkeypatch.setattr(PipelineEditor, "edit", refusing)
    assert main(options(place, limit=5)) == 0
    refused = json.loads((place / "out" / "skipped.json").read_text())["refused"]
    assert list(refused.values()) == [UNSAFE]
    assert len(rows(place / "out")) == 10
    whole = files(place / "out")
    del calls[:]
    assert main(options(place, limit=5)) == 0
    assert not calls
    assert files(place / "out") == whole


def test_an_overflow_is_no_image(monkeypatch):
    editor = AutoencoderEditor(Loading(MODEL))
    bias = editor.vae.decoder.conv_out.bias
    monkeypatch.setattr(bias, "data", torch.full_like(bias, torch.nan))
    assert editor.edit([np.full((64, 64, 3), 90, np.uint8)], [""], [0], [None]) == [OVERFLOW]


def test_an_autoencoder_alone_will_do():
    alone = str(Path(MODEL) / "vae")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    fakes = [AutoencoderEditor(Loading(model)).edit([image], [""], [0], [None])[0] for model in (alone, MODEL)]
    assert np.array_equal(*fakes)
    assert native_size("autoencoder", alone) == native_size("img2img", MODEL) == 64


def test_models_that_are_none_are_told(place, tmp_path):
    (tmp_path / "empty").mkdir()
    for kind in ("img2img", "autoencoder", "inpaint"):
        with pytest.raises(ModelError, match="is not a directory with a model_index"):
            main(options(place, model=tmp_path / "empty", kind=kind))
    (tmp_path / "empty" / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}))
    with pytest.raises(ModelError, match="name it with --size"):
        main(options(place, model=tmp_path / "empty", kind="autoencoder"))
    with pytest.raises(ModelError, match="has no autoencoder"):
        main(options(place, model=tmp_path / "empty", kind="autoencoder", size=32))


def test_a_size_that_does_not_fit_is_told_and_claims_nothing(place):
    with pytest.raises(DataError, match=r"size 30|refuses|makes"):
        main(options(place, size=30))
    assert not (place / "out" / "settings.json").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"images": "nowhere"}, "--images nowhere does not exist"),
        ({"allow_outside": True}, "--allow_outside is for manifests"),
    ],
)
def test_what_cannot_go_well_is_told_before_a_model_is_loaded(place, changed, told, monkeypatch):
    monkeypatch.setattr(PipelineEditor, "__init__", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(DataError, match=re.escape(told)):
        main(options(place, **changed))


def test_no_usable_image_is_an_error(place):
    for path in (place / "photos").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="no photograph could be used: check --images"):
        main(options(place))
    for path in (place / "photos").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="names no real image"):
        main(options(place))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"kind": "autoencoder", "strength": 0.5}, "--strength changes nothing with --kind autoencoder"),
        ({"mask": "box"}, "--mask changes nothing with --kind img2img"),
        ({"kind": "inpaint", "mask": "box", "masks": "m"}, "leave one out"),
        ({"quality": 90}, "--quality 90 is of --format jpeg"),
        ({"strength": 0.1}, "less than one step"),
        ({"strength": 0}, "'0' is not a number above 0"),
        ({"fractions": ["0.5", "2"], "kind": "inpaint"}, "'2' is not a number above 0"),
        ({"fractions": ["0.25001", "1", "0.25002"], "kind": "inpaint"}, "--fractions 0.25001 and 0.25002 are the same to four decimals"),
        ({"kind": "outpaint"}, "invalid choice"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_wrong_usage_is_told(place, changed, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(options(place, **changed))
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_help_is_quick_and_the_old_usage_has_a_name(capsys):
    code = "import runpy, sys; sys.argv = ['g', 'match', '--help']; runpy.run_module('datamodules.generate', run_name='__main__')"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert "--fractions" in done.stdout
    assert not re.search(r"\| +(torch|diffusers|transformers|lightning)$", done.stderr, re.MULTILINE)
    with pytest.raises(SystemExit):
        main(["captions", "--help"])
    assert "--captions" in capsys.readouterr().out
