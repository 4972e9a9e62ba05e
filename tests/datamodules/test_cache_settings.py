"""Which cache directory a configuration uses, what differs from the others, and which of them may be deleted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from datamodules.cache import FeatureCache, differences
from datamodules.cache.__main__ import main
from datamodules.errors import DataError
from datamodules.hashing import ContentHashes
from datamodules.shards import ShardReader
from modules.diffusion import FFDNet
from modules.extractors import Divergence, EmbeddingExtractor, InversionExtractor
from tests.datamodules.filled import fill


def other_cache(tmp_path, steps: int, source: str = "photos", model: str = "hub/model", **options) -> FeatureCache:
    extractor = InversionExtractor(model, size=64, steps=steps, **options)
    return FeatureCache(tmp_path / "cache", extractor, "none", source, ContentHashes(None))


def test_row_18_which_setting_differs(tmp_path):
    nearest, far = other_cache(tmp_path, 20), other_cache(tmp_path, 7, guidance=2.0)
    for there in (nearest, far, other_cache(tmp_path, 20, "others")):
        fill(there.folder)
        there.write_manifest({}, [])
    wanted = other_cache(tmp_path, 50)
    first = other_cache(tmp_path, 20, "others").folder  # of two data sets that differ alike, one is told
    assert differences(wanted, tmp_path / "cache") == [f"extractor.init_args.steps: 50 here, 20 in {first}"]
    assert differences(other_cache(tmp_path, 50, guidance=2.0), tmp_path / "cache") == [
        f"extractor.init_args.steps: 50 here, 7 in {far.folder}"
    ]
    [line] = differences(other_cache(tmp_path, 20, "new"), tmp_path / "cache")
    assert "the same settings in" in line
    assert differences(wanted, tmp_path / "nowhere") == []


def test_row_18_weights_count_by_content(tmp_path):
    for name, content in (("a", "1"), ("moved", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_text(content)
    there = other_cache(tmp_path, 20, model=str(tmp_path / "a"))
    fill(there.folder)
    there.write_manifest({}, [])
    [line] = differences(other_cache(tmp_path, 21, model=str(tmp_path / "moved")), tmp_path / "cache")
    assert "steps: 21 here, 20 in" in line
    [line] = differences(other_cache(tmp_path, 20, model=str(tmp_path / "b")), tmp_path / "cache")
    assert "init_args.model: " in line
    assert line.count("sha256:") == 2


def test_differences_from_hostile_manifests(cache):
    wanted = other_cache(cache.parents[2], 20)
    for text in ("[" * 10**5, "{}", '{"settings": 3}', '{"settings": {"weights": [1]}}', '{"settings": {"a": [[1]], "extractor": 3}}'):
        (cache / "manifest.json").write_text(text)
        differences(wanted, cache.parents[1])
    (cache / "manifest.json").unlink()
    os.mkfifo(cache / "manifest.json")
    assert differences(wanted, cache.parents[1]) == []
    main(["list"])


def config(tmp_path, steps: int = 7, path: str = "photos.csv", name: str = "config.yaml") -> Path:
    written = tmp_path / name
    written.parent.mkdir(parents=True, exist_ok=True)
    extractor = {"class_path": "InversionExtractor", "init_args": {"model": "hub/model", "size": 64, "steps": steps}}
    data = {"source": {"class_path": "ManifestSource", "init_args": {"path": path}}, "extractor": extractor}
    model = {"class_path": "modules.detectors.FakeInversion", "init_args": {"backbone": "no such network"}}  # is not built
    written.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": {"max_epochs": 1}, "monitor": "val/loss"}))
    return written


def test_row_18_explain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = other_cache(tmp_path, 7)
    assert main(["explain", "--config", str(config(tmp_path))]) == 0
    assert "No other cache is there" in capsys.readouterr().out
    fill(there.folder)
    there.write_manifest({}, [])
    arguments = ["explain", "--config", str(config(tmp_path))]
    main(arguments)
    told = capsys.readouterr().out
    assert str(Path("cache") / there.folder.relative_to(tmp_path / "cache")) in told
    assert "features of 10 images" in told
    main([*arguments, "--data.extractor.steps", "50", "--trainer.devices", "4", "--data.source", "FolderSource", "--data.source.root", "x"])
    told = capsys.readouterr().out
    assert "extractor.init_args.steps: 50 here, 7 in" in told
    main([*arguments, "--config", str(config(tmp_path, 8, name="second.yaml"))])
    assert "extractor.init_args.steps: 8 here, 7 in" in capsys.readouterr().out
    with pytest.raises(DataError, match="stepz"):
        main([*arguments, "--data.extractor.stepz", "50"])
    with pytest.raises(DataError, match=r"nope\.yaml"):
        main(["explain", "--config", "nope.yaml"])


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Caches of 7, 8 and 9 steps; a run uses the first."""
    monkeypatch.chdir(tmp_path)
    config(tmp_path, 7, name="runs/a/config.yaml")
    return {steps: fill(other_cache(tmp_path, steps).folder) for steps in (7, 8, 9)}


def test_delete_what_no_configuration_needs(three, tmp_path, capsys):
    assert main(["delete"]) == 0
    told = capsys.readouterr().out
    assert "2 directories" in told
    assert "Nothing was deleted" in told
    assert all(folder.exists() for folder in three.values())
    main(["delete", "--keep", str(config(tmp_path, 9)), "--yes"])
    assert {steps for steps, folder in three.items() if folder.exists()} == {7, 9}
    assert not three[8].parent.exists()
    main(["delete", "--yes", str(three[9])])
    assert {steps for steps, folder in three.items() if folder.exists()} == {7}
    capsys.readouterr()
    main(["delete"])
    assert "Nothing to delete" in capsys.readouterr().out


def test_delete_needs_to_know_what_is_needed(three, tmp_path):
    with pytest.raises(DataError, match="all features would go"):
        main(["delete", "--yes", "--runs_dir", "elsewhere"])
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "config.yaml").write_text("data: {extractor: {class_path: modules.extractors.Gone}}")
    with pytest.raises(DataError, match=r"runs/b/config\.yaml"):
        main(["delete", "--yes"])
    assert all(folder.exists() for folder in three.values())


def test_delete_keeps_the_extractor_of_an_evaluated_checkpoint(three, tmp_path):
    fingerprint = three[8].parent.name.rpartition("-")[2]
    other = fill(three[8].parent / "more-jpeg_40-0123456789ab")
    torch.save({"undertow": {"data": {"extractor_fingerprint": fingerprint}}}, tmp_path / "best.ckpt")
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "config.yaml").write_text("checkpoint: best.ckpt\ndata: {batch_size: 3}")
    main(["delete", "--yes"])
    assert {steps for steps, folder in three.items() if folder.exists()} == {7, 8}
    assert other.exists()


def test_delete_keeps_what_a_study_fits(three, tmp_path):
    laid_over = tmp_path / "more.yaml"
    laid_over.write_text(yaml.safe_dump({"data": {"extractor": {"init_args": {"steps": 9}}}}))
    study = tmp_path / "study.yaml"
    detector = {"config": [str(config(tmp_path)), str(laid_over)], "overrides": {"trainer.max_epochs": 1}}
    study.write_text(yaml.safe_dump({"detectors": {"a": detector}}))
    main(["delete", "--yes", "--keep", str(study)])
    assert {steps for steps, folder in three.items() if folder.exists()} == {7, 9}
    detector["overrides"] = {"data.extractor.steps": 8}
    study.write_text(yaml.safe_dump({"detectors": {"a": detector}}))
    with pytest.raises(DataError, match="overrides change an extractor"):
        main(["delete", "--yes", "--keep", str(study)])


@pytest.mark.parametrize("kind", ["link", "linked extractor", "outside", "foreign file", "foreign directory", "name"])
def test_delete_touches_nothing_else(cache, tmp_path, kind):
    precious = tmp_path / "precious" / "photos-none-0123456789ab"
    fill(precious)
    target = cache.parent / "linked-none-0123456789ab"
    if kind == "link":
        target.symlink_to(precious)
    elif kind == "linked extractor":
        (cache.parents[1] / "linked-0123456789ab").symlink_to(precious.parent)
        target = cache.parents[1] / "linked-0123456789ab" / precious.name
    elif kind == "outside":
        target = precious
    elif kind == "name":
        target = fill(cache.parent / "mine")
    else:
        target = cache
        (cache / "thesis.tex").mkdir() if kind == "foreign directory" else (cache / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match=r"not deleted|nothing in it is deleted"):
        main(["delete", "--yes", str(target)])
    assert len(ShardReader(precious)) == len(ShardReader(cache)) == 10


def test_delete_removes_a_link_and_not_its_target(cache, tmp_path):
    (tmp_path / "precious").write_text("years")
    (cache / "shard-0007-000000.tar").symlink_to(tmp_path / "precious")
    main(["delete", "--yes", str(cache)])
    assert not cache.exists()
    assert (tmp_path / "precious").read_text() == "years"


def test_a_directory_of_many_files_is_no_model(tmp_path):
    for i in range(1001):
        (tmp_path / f"{i}.bin").touch()
    with pytest.raises(DataError, match="no model directory"):
        other_cache(tmp_path, 7, model=str(tmp_path))


def test_an_error_is_one_sentence(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-m", "datamodules.cache", "verify", "nowhere"], cwd=tmp_path, env=environment, capture_output=True
    )
    assert ended.returncode == 1
    assert ended.stderr.decode().startswith("error: there is no directory 'nowhere'")
    assert b"Traceback" not in ended.stderr


def test_a_file_of_an_encoders_weights_counts_by_content_wherever_it_lies(tmp_path):
    def folder(path):
        extractor = EmbeddingExtractor(f"open_clip/ViT-B-32/{path}")
        return FeatureCache(tmp_path / "cache", extractor, "none", "photos", ContentHashes(None)).folder

    first, moved = tmp_path / "w.safetensors", tmp_path / "moved.safetensors"
    first.write_bytes(b"one")
    before = folder(first)
    first.rename(moved)
    first.write_bytes(b"two")
    assert folder(first) != before
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "w.safetensors"
    again.write_bytes(b"one")
    assert folder(again) == before
    again.write_bytes(b"three")
    assert folder(again) != before


def test_a_file_of_a_denoisers_weights_counts_by_content(tmp_path):
    def folder(path):
        return FeatureCache(tmp_path / "cache", Divergence(FFDNet(str(path))), "none", "photos", ContentHashes(None)).folder

    path = tmp_path / "ffdnet.pth"
    path.write_bytes(b"one")
    before = folder(path)
    path.write_bytes(b"other")
    assert folder(path) != before
