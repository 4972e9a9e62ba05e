"""`python -m datamodules.check`, in this process: what it counts, what it warns of, and how it refuses."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from datamodules import hashing
from datamodules.check import __main__ as command
from datamodules.check import images
from datamodules.check.shortcuts import auroc
from datamodules.reader import ImageError, read_header, read_image


def picture(path, seed, size=(40, 32), form=None, **options):
    """A smooth random picture: what looks the same is the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, form, **options)
    return path


@pytest.fixture
def check(tmp_path, capsys):
    """Runs the command, and gives exit code, what it printed, its errors, and its JSON."""

    def run(path, *options):
        out = tmp_path / "found.json"
        out.unlink(missing_ok=True)
        code = command.main([str(path), "--cache_dir", str(tmp_path / "cache"), "--json", str(out), *options])
        said = capsys.readouterr()
        return code, said.out, said.err, json.loads(out.read_text()) if out.exists() else None

    return run


@pytest.fixture
def benchmark(tmp_path):
    """A tree of GenImage's: reals are JPEGs of one size, fakes are PNGs of another."""
    root = tmp_path / "GenImage"
    for i in range(30):
        picture(root / f"ADM/train/nature/n01440764_{i}.JPEG", i, (64, 48), "JPEG")
        picture(root / f"ADM/train/ai/{i}_adm.PNG", 100 + i, (40, 40), "PNG")
        picture(root / f"ADM/val/ai/{i}_adm.PNG", 200 + i, (40, 40), "PNG")
        picture(root / f"ADM/val/nature/n01440764_v{i}.JPEG", 300 + i, (64, 48), "JPEG")
    return root


def said(document, part):
    return [sentence for sentence in document["warnings"] if part in sentence]


def test_a_benchmark(check, benchmark):
    code, out, err, found = check(benchmark)
    assert code == 0, err
    assert found["source"]["kind"] == "layout genimage (GenImage)"
    assert (found["images"], found["real"], found["generated"]) == (120, 60, 60)
    assert (found["datasets"], found["generators"], found["unknown_families"]) == (["genimage/adm"], ["adm"], [])
    real, fake = found["parts"]
    assert (real["kind"], real["generator"], real["formats"], real["width"], real["height"]) == (
        "real",
        "imagenet",
        {"JPEG": 60},
        [64, 64, 64],
        [48, 48, 48],
    )
    assert (fake["family"], fake["formats"], fake["most_common"]) == ("pixel-diffusion", {"PNG": 60}, [40, 40, 60])
    assert fake["splits"]["test"] == 30
    assert fake["splits"]["train"] + fake["splits"]["val"] == 30
    assert found["left_out"] == found["unreadable"] == []
    assert found["near_duplicates"]["across_classes"] == found["near_duplicates"]["across_splits"] == 0
    facts = {each["fact"]: each["auroc"] for each in found["shortcuts"]}
    assert facts["fact_width"] == facts["fact_height"] == 0.0
    assert facts["fact_format JPEG"] == 0.0
    assert len(said(found, "equalise_192")) == 1
    assert "120 images: 60 real, 60 generated, of 1 generators in 1 data sets" in out
    assert "genimage/adm  real: imagenet  -" in out


def test_what_is_wrong_with_files(check, benchmark):
    spoilt = benchmark / "ADM/train/ai"
    (spoilt / "0_adm.PNG").write_bytes((spoilt / "0_adm.PNG").read_bytes()[:-40])
    (spoilt / "1_adm.PNG").write_bytes(b"no picture")
    (spoilt / "2_adm.PNG").write_bytes(b"")
    shutil.copy(benchmark / "ADM/train/nature/n01440764_3.JPEG", spoilt / "copy.jpg")  # a real image among the fakes
    shutil.copy(benchmark / "ADM/train/ai/4_adm.PNG", benchmark / "ADM/val/ai/copy.png")  # a training image in the test
    picture(benchmark / "ADM/val/ai/near.jpg", 105, (40, 40), "JPEG", quality=90)  # 5_adm.PNG once more
    code, out, _, found = check(benchmark)
    assert code == 0
    assert [(each["images"], each["reason"]) for each in found["left_out"]] == [(1, "the file is empty")]
    assert sum(each["images"] for each in found["unreadable"]) == 2
    assert {each["example"].rpartition("/")[2] for each in found["unreadable"]} == {"0_adm.PNG", "1_adm.PNG"}
    duplicates = found["duplicates"]
    assert (duplicates["copies"], duplicates["across_classes"]) == (2, 1)
    assert duplicates["across_splits"] >= 1
    assert len(duplicates["examples"]) == 2
    assert found["near_duplicates"]["across_splits"] == 1
    assert len(said(found, "one of the labels is wrong")) == len(said(found, "2 images are unreadable")) == 1
    assert len(said(found, "on_leak drop")) == 2
    assert "2 unreadable" in out
    assert "1 left out by the source" in out
    assert found == check(benchmark)[3]  # the same from what is remembered


def test_fast_reads_headers_only(check, benchmark, monkeypatch):
    spoilt = benchmark / "ADM/train/ai"
    (spoilt / "0_adm.PNG").write_bytes((spoilt / "0_adm.PNG").read_bytes()[:-40])
    (spoilt / "1_adm.PNG").write_bytes(b"no picture")
    (spoilt / "2_adm.PNG").write_bytes(b"")
    (spoilt / "3_adm.PNG").unlink()
    (spoilt / "3_adm.PNG").symlink_to("nowhere.PNG")
    shutil.copy(benchmark / "ADM/train/nature/n01440764_3.JPEG", spoilt / "copy.jpg")
    monkeypatch.setattr(images, "read_image", lambda path: pytest.fail("a picture was decoded"))
    monkeypatch.setattr(hashing, "_hash_one", lambda name: pytest.fail("a file was read as a whole"))
    code, out, _, found = check(benchmark, "--fast")
    assert code == 0
    assert found["near_duplicates"] is found["duplicates"] is None
    assert [each["example"].rpartition("/")[2] for each in found["unreadable"]] == ["1_adm.PNG"]
    assert {each["reason"] for each in found["left_out"]} == {"the file is empty", "no such file or directory"}
    assert (found["images"], found["leaks"]["groups"]) == (119, 0)
    assert found["parts"][1]["width"] == [40, 40, 64]
    assert "copies of files and near-duplicates were not looked for (--fast)" in out
    assert not said(found, "one of the labels is wrong")
    assert not (benchmark.parent / "cache").exists()


def test_goes_on_where_it_was_stopped(check, benchmark, monkeypatch, capsys):
    monkeypatch.setattr(images, "_SLICE", 20)
    seen = []

    def stopping(path):
        seen.append(path)
        if len(seen) > 50:
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(images, "read_image", stopping)
    assert check(benchmark)[0] == 130
    again = []
    monkeypatch.setattr(images, "read_image", lambda path: again.append(path) or read_image(path))
    assert check(benchmark)[0] == 0
    assert len(again) <= 120 - 40


def test_manifest_groups_captions_and_families(check, tmp_path):
    lines = ["path,label,generator,group,pair,split,caption,caption_source,dataset"]
    for i in range(6):
        picture(tmp_path / f"set/{i}.png", i)
        kind = ("1,someones-model", "0,camera")[i % 2]
        lines.append(f"{i}.png,{kind},g{i // 2},p{i // 2},{'train' if i < 3 else 'test'},text,{('prompt', 'human')[i % 2]},a")
    picture(tmp_path / "set/6.png", 6)
    lines.append("6.png,1,dalle3,,,test,,,b")
    (tmp_path / "set" / "manifest.csv").write_text("\n".join(lines) + "\n")
    code, _, _, found = check(tmp_path / "set" / "manifest.csv")
    assert code == 0
    assert found["source"]["kind"] == "a manifest"
    assert [(part["generator"], part["captions"], part["groups"], part["pairs"]) for part in found["parts"]] == [
        ("camera", 3, 3, 3),
        ("someones-model", 3, 3, 3),
        ("dalle3", 0, 1, 0),
    ]
    assert found["unknown_families"] == ["someones-model"]
    assert found["leaks"]["groups"] == 2  # g1 and p1
    assert said(found, "no family is known for someones-model")
    assert said(found, "human on real images and prompt on generated images")
    assert said(found, "b has no real images")
    assert said(found, "no images of the split val")
    assert check(tmp_path / "set")[3]["source"] == found["source"]  # the folder of a manifest is read by it
    own = tmp_path / "families.yaml"
    own.write_text("gan: [someones-model]\n")
    assert check(tmp_path / "set", "--families", str(own))[3]["unknown_families"] == []


def test_folders_without_a_layout(check, tmp_path):
    for i in range(4):
        picture(tmp_path / f"pets/real/{i}.png", i)
        picture(tmp_path / f"pets/fake/sdxl/{i}.png", 10 + i)
    code, out, _, found = check(tmp_path / "pets")
    assert code == 0
    assert found["source"]["kind"] == "folders named after classes or generators"
    assert found["parts"][1]["family"] == "latent-diffusion"
    assert "splits as they would be cut by default" in out


def test_wrong_paths_and_options(check, tmp_path, benchmark):
    def refused(*arguments):
        code, out, err, found = check(*arguments)
        assert (code, out, found) == (1, "", None)
        assert len(err.splitlines()) == 1
        assert err.startswith("error: ")
        return err

    assert "nowhere does not exist: name a folder of images or a manifest" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "No image lies in" in refused(tmp_path / "empty")
    picture(tmp_path / "odd/cats/1.png", 1)
    assert "No layout is known for" in refused(tmp_path / "odd")
    assert "There is no layout 'imagenet'" in refused(benchmark, "--layout", "imagenet")
    assert "do not lie as the layout synthbuster says" in refused(benchmark, "--layout", "synthbuster")
    assert "--layout is for folders" in refused(picture(tmp_path / "a.csv", 1, form="PNG"), "--layout", "genimage")
    assert "--allow_outside is for manifests" in refused(benchmark, "--allow_outside")
    assert "is binary" in refused(tmp_path / "a.csv")
    hostile = tmp_path / "x\x1b[31m\n"
    assert "\x1b" not in refused(hostile)
    with pytest.raises(SystemExit) as error:
        command.main(["--no-such-option"])
    assert error.value.code == 2


def test_the_command_ends_as_it_says(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "datamodules.check", str(tmp_path / "nowhere")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_auroc_against_all_pairs():
    random = np.random.default_rng(0)
    fake, real = random.integers(0, 5, 40).astype(float), random.integers(1, 6, 30).astype(float)
    pairs = fake[:, None] - real
    assert auroc(fake, real) == pytest.approx(((pairs > 0).sum() + 0.5 * (pairs == 0).sum()) / pairs.size)
    assert auroc(np.ones(3), np.zeros(2)) == 1.0
    assert auroc(np.ones(3), np.ones(2)) == 0.5


@pytest.mark.parametrize(
    ("form", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")]
)
def test_headers_agree_with_decoding(tmp_path, form, suffix):
    path = picture(tmp_path / f"a.{suffix}", 1, form=form)
    decoded = read_image(path)
    assert read_header(path) == (decoded.format, decoded.width, decoded.height, decoded.bytes)
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(ImageError):
        read_header(path)
