"""What SECURITY.md promises of checkpoints, models, manifests and images; of shards see `datamodules/test_hostile_shards.py`."""

import copy
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.cache import FeatureCache
from datamodules.errors import DataError
from datamodules.hashing import ContentHashes
from datamodules.reader import ImageError, read_image
from datamodules.sources import ManifestSource
from modules.detectors import FakeInversion
from modules.detectors.checkpoint import load_detector
from modules.diffusion.latent_diffusion import LatentDiffusion
from modules.errors import CheckpointError
from modules.extractors import InversionExtractor
from tests.evil import Evil

MODEL = Path(__file__).parents[1] / "assets" / "tiny-diffusion"


@pytest.fixture
def mark(tmp_path):
    path = tmp_path / "mark"
    yield path
    assert not path.exists(), "something was executed"


@pytest.fixture(scope="module")
def checkpoint():
    """What a good checkpoint holds."""
    detector = FakeInversion(backbone="resnet18", pretrained=False)
    threshold = {"value": 0.1, "fpr": 0.05, "n": 3, "reason": ""}
    return {"state_dict": detector.state_dict(), "undertow": {"detector": detector.settings(), "data": None, "threshold": threshold}}


def test_a_good_checkpoint_loads(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "x.ckpt")
    detector, _ = load_detector(str(tmp_path / "x.ckpt"))
    assert isinstance(detector, FakeInversion)


@pytest.mark.parametrize("where", ["alone", "beside", "settings"])
def test_row_26_a_checkpoint_runs_nothing(checkpoint, tmp_path, mark, where):
    hostile = copy.deepcopy(checkpoint)
    if where == "alone":
        hostile = Evil(mark)
    elif where == "beside":
        hostile["callbacks"] = Evil(mark)
    else:
        hostile["undertow"]["detector"]["init_args"]["backbone"] = Evil(mark)
    torch.save(hostile, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        load_detector(str(tmp_path / "x.ckpt"))


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "builtins.exec",
        "subprocess.Popen",
        "modules.detectors.base.torch.load",
        "modules.detectors.checkpoint.load_detector",
        "modules.detectors.base.AdamW",
        "modules.settings.importlib.import_module",
        "modules.extractors.InversionExtractor",
        "modules..os.system",
        "modulesx.Detector",
        "",
    ],
)
def test_a_checkpoint_names_nothing_but_detectors(checkpoint, tmp_path, class_path):
    hostile = copy.deepcopy(checkpoint)
    hostile["undertow"]["detector"]["class_path"] = class_path
    torch.save(hostile, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="class_path"):
        load_detector(str(tmp_path / "x.ckpt"))


@pytest.mark.parametrize("backbone", ["hf_hub:evil/model", "hf-hub:evil/model", "local-dir:/tmp", "/etc/passwd", "torchvision/../x"])
def test_a_checkpoint_names_no_network_elsewhere(checkpoint, tmp_path, backbone):
    hostile = copy.deepcopy(checkpoint)
    hostile["undertow"]["detector"]["init_args"]["backbone"] = backbone
    torch.save(hostile, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="has no"):
        load_detector(str(tmp_path / "x.ckpt"))


@pytest.mark.parametrize(
    ("part", "good", "bad"),
    [
        ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_a_model_directory_runs_nothing(tmp_path, mark, part, good, bad):
    """A checkpoint may name any model directory or hub model as its extractor's."""
    model = shutil.copytree(MODEL, tmp_path / "model")
    (model / part / good).unlink()
    torch.save({"weight": Evil(mark)}, model / part / bad)
    with pytest.raises((OSError, pickle.UnpicklingError)):
        LatentDiffusion.from_pretrained(str(model))


def test_a_model_directory_is_not_the_whole_disk(tmp_path):
    with pytest.raises(DataError, match="no model directory"):
        FeatureCache(tmp_path, InversionExtractor("/"), "none", "x", ContentHashes(None))


@pytest.fixture
def photos(tmp_path):
    """A data set's folder with one good image, and a secret beside the folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in (folder / "good.png", tmp_path / "secret.png"):
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    return folder


def records(folder: Path, *paths: str):
    lines = [json.dumps({"path": path, "label": 0}) for path in paths]
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    source = ManifestSource(str(folder / "manifest.jsonl"))
    return source.records(folder / "cache"), source.failures


@pytest.mark.parametrize("kind", ["parent", "absolute", "link", "linked folder", "null byte", "hidden parent"])
def test_a_manifest_does_not_leave_its_folder(photos, kind):
    (photos / "link.png").symlink_to(photos.parent / "secret.png")
    (photos / "linked").symlink_to(photos.parent)
    path = {
        "parent": "../secret.png",
        "absolute": str(photos.parent / "secret.png"),
        "link": "link.png",
        "linked folder": "linked/secret.png",
        "null byte": "good.png\0",
        "hidden parent": "a/b/../../../secret.png",
    }[kind]
    with pytest.raises(DataError, match=r"leads out of|null byte") as error:
        records(photos, "good.png", path)
    assert "line 2" in str(error.value)


def test_a_manifest_that_names_a_pipe_or_a_command_blocks_and_runs_nothing(photos, mark):
    os.mkfifo(photos / "fifo.png")
    found, failures = records(photos, "good.png", "fifo.png", f"pipe:mkdir {mark}", f"|mkdir {mark}", "http://127.0.0.1:1/x.png")
    assert [Path(record.path).name for record in found] == ["good.png"]
    assert len(failures) == 4
    assert any("not a regular file" in failure.reason for failure in failures)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_manifest_of_one_long_line(tmp_path, suffix):
    path = tmp_path / f"manifest{suffix}"
    with path.open("w") as file:
        file.write("path,label\n" if suffix == ".csv" else "")
        for _ in range(64):
            file.write("x" * 2**20)
    with pytest.raises(DataError, match=r"longer than|not a row"):
        ManifestSource(str(path)).records(tmp_path / "cache")


@pytest.mark.parametrize("content", [b"\0" * 1000, b"[" * 10**5, b'{"path": {"a": 1}, "label": 0}', b"\xff\xfe\xff"])
def test_a_manifest_that_is_none(tmp_path, content):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError):
        ManifestSource(str(path)).records(tmp_path / "cache")


def test_a_manifest_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "manifest.csv")
    with pytest.raises(DataError, match="not a regular file"):
        ManifestSource(str(tmp_path / "manifest.csv")).records(tmp_path / "cache")


def test_images_that_would_start_another_program_or_decoder(tmp_path, mark):
    contents = {
        "postscript": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%mkdir {mark}) (r) file".encode(),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "pickle": b"\x80\x04cos\nsystem\n",
        "pdf": b"%PDF-1.7\n",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
        with pytest.raises(ImageError):
            read_image(tmp_path / f"{name}.jpg")
