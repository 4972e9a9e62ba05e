"""The audit of images as a command, and when training starts."""

import csv
import json
import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from datamodules.datamodule import FeatureDataModule
from datamodules.errors import DataError
from datamodules.facts import Facts
from datamodules.records import Record
from datamodules.sources import FolderSource
from modules.extractors.image import ImageExtractor
from workflow import audit as command
from workflow.audit import audit_split, frame_of, main

N = 14


def fill(folder, fakes_as="png", seed=0):
    """Folders of real JPEGs and of fakes in another format, of noise alike in both but for it."""
    rng = np.random.default_rng(seed)
    for name, suffix in (("real", "jpg"), ("fake/sd", fakes_as)):
        (folder / name).mkdir(parents=True)
        for i in range(N):
            pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    return fill(folder / "photos")


@pytest.fixture
def run(tmp_path, capsys, caplog, monkeypatch):
    """The command with its cache here; exit code, standard output and error, and what was logged."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            code = main([*map(str, arguments), "--cache_dir", str(tmp_path / "cache")])
        told = capsys.readouterr()
        return code, told.out, told.err, caplog.records

    return run


def warnings_of(records):
    return [record.getMessage() for record in records if record.levelno == logging.WARNING]


def test_a_benchmark_is_read_by_its_layout_as_check_reads_it(run, tmp_path):
    rng = np.random.default_rng(0)
    for generator in ("ADM", "BigGAN"):
        for name, suffix in (("nature", "JPEG"), ("ai", "PNG")):
            (tmp_path / "GenImage" / generator / "val" / name).mkdir(parents=True)
            for i in range(N):
                pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "GenImage" / generator / "val" / name / f"n0_{i}.{suffix}")
    folder = tmp_path / "found"
    code, _, err, _ = run(tmp_path / "GenImage", "--out", folder)
    assert (code, err) == (0, "")
    assert {"genimage/adm/adm", "genimage/biggan/biggan"} <= json.loads((folder / "audit.json").read_text())["audit"]["generators"].keys()
    code, _, err, _ = run(tmp_path / "GenImage", "--layout", "synthbuster")
    assert (code, "do not lie as the layout synthbuster says" in err) == (1, True)
    assert run(tmp_path / "GenImage", "--layout", "folders", "--out", folder)[0] == 1  # another question than the one answered there
    assert run(tmp_path / "GenImage", "--layout", "genimage", "--out", tmp_path / "named")[0] == 0
    assert run(tmp_path / "GenImage", "--out", folder)[0] == 0


def test_a_folder_whose_classes_differ_in_format_is_a_warning_and_no_failure(place, run, tmp_path):
    code, out, err, records = run(place)
    assert code == 0
    assert err == ""
    folder = tmp_path / "runs" / "audit-photos"
    assert f"All results: {folder.relative_to(tmp_path)}" in out
    assert next(line for line in out.splitlines() if line.startswith("format is PNG")).split()[3:] == ["1.000", "!"]
    assert any("`format is PNG` alone reaches AUROC 1.000" in each for each in warnings_of(records))
    with (folder / "shortcuts.csv").open() as file:
        rows = {row["fact"]: row for row in csv.DictReader(file)}
    assert rows["format is PNG"]["flagged"] == "True"
    paths = [*(place / "real").iterdir(), *(place / "fake" / "sd").iterdir()]
    expected = roc_auc_score([path.suffix == ".png" for path in paths], [path.stat().st_size for path in paths])
    assert float(rows["bytes"]["auroc"]) == pytest.approx(expected)
    for suffix in ("png", "svg"):
        assert (folder / "figures" / f"shortcuts.{suffix}").stat().st_size > 1000
    assert json.loads((folder / "audit.json").read_text())["audit"]["flagged"] >= 1


def test_images_alike_are_said_to_be(tmp_path, run):
    code, _, _, records = run(fill(tmp_path / "alike", fakes_as="jpg"), "--out", tmp_path / "out")
    assert code == 0
    assert warnings_of(records) == []
    assert any("No trivial fact tells fakes from real images" in record.getMessage() for record in records)


def test_a_manifest_with_sources_splits_and_limits(place, tmp_path, run):
    rows = [
        {
            "path": str(path),
            "label": int("fake" in path.parts),
            "generator": "sd" if "fake" in path.parts else "camera",
            "split": "test" if i % 2 else "train",
            "source_width": 512 if "fake" in path.parts else 900 + i,
        }
        for i, path in enumerate(sorted(place.rglob("*.*g")))
    ]
    for suffix, write in {
        ".csv": lambda table, path: table.to_csv(path, index=False),
        ".jsonl": lambda table, path: table.to_json(path, orient="records", lines=True),
        ".parquet": lambda table, path: table.to_parquet(path),
    }.items():
        manifest = tmp_path / f"mine{suffix}"
        write(pd.DataFrame(rows), manifest)
        code, _, err, _ = run(manifest, "--out", tmp_path / f"out{suffix}")
        assert code == 1
        assert "leads out of" in err
        options = ("--allow_outside", "--split", "test", "--limit", "12", "--out", tmp_path / f"out{suffix}")
        code, out, err, _ = run(manifest, *options)
        assert (code, err) == (0, "")
        assert out.startswith(f"{N // 2} real and {N // 2} generated images")
        assert "source width" in out
    code, _, err, _ = run(manifest, "--allow_outside", "--split", "val")
    assert code == 1
    assert "no image of" in err
    assert "there are: test, train" in err


def test_under_a_perturbation_the_file_has_no_facts(place, tmp_path, run):
    code, out, _, records = run(place, "--perturbation", "jpeg_40", "--out", tmp_path / "out")
    assert code == 0
    assert "format" not in out
    assert "bytes" not in out
    assert "mean red" in out
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["audit"]["perturbation"] == "jpeg_40"
    assert not any("format" in each for each in warnings_of(records))


def test_results_of_something_else_are_never_replaced(place, tmp_path, run):
    out = tmp_path / "out"
    assert run(place, "--out", out)[0] == 0
    first = (out / "shortcuts.csv").read_bytes()
    assert run(place, "--out", out)[0] == 0  # the same again
    code, _, err, _ = run(place, "--out", out, "--perturbation", "jpeg_40")
    assert code == 1
    assert "choose another --out" in err
    assert (out / "shortcuts.csv").read_bytes() == first
    for name in ("metrics.json", "shortcuts.csv"):
        other = tmp_path / f"of-{name}"
        other.mkdir()
        (other / name).write_text("precious")
        code, _, err, _ = run(place, "--out", other)
        assert code == 1
        assert "choose another --out" in err
        assert (other / name).read_text() == "precious"
        assert len(list(other.iterdir())) == 1
    (out / "audit.json").write_text("[]")
    assert run(place, "--out", out)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing"], "missing does not exist"),
        (["missing.csv"], "missing.csv does not exist"),
        (["note.txt"], "a manifest is one of"),
        (["empty"], "No image lies in"),
        (["PHOTOS", "--perturbation", "jpge_40"], "is not known"),
        (["PHOTOS", "--perturbation", "robustness"], "preset"),
        (["PHOTOS", "--split", "test"], "there are: none"),
        (["PHOTOS", "--limit", "0"], "limit is 0"),
        (["PHOTOS", "--allow_outside"], "is for manifests"),
        (["note.txt", "--reals", "x"], "is for folders"),
        (["PHOTOS", "--out", "note.txt"], "choose another --out"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_one_sentence(place, tmp_path, run, arguments, told):
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    code, out, err, _ = run(*(place if each == "PHOTOS" else each for each in arguments))
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_one_class_is_an_error(place, run):
    code, _, err, _ = run(place / "real", "--reals", "real")
    assert code == 1
    assert err.startswith("error: ")


def test_files_that_cannot_be_read_are_left_out_and_counted(tmp_path, run):
    folder = fill(tmp_path / "broken")
    (folder / "real" / "00.jpg").write_bytes(b"no image")
    code, out, _, records = run(folder)
    assert code == 0
    assert f"{N - 1} real and {N} generated images" in out
    assert any(each.startswith(f"1 of {2 * N} images could not be read") for each in warnings_of(records))


def data_of(place, tmp_path, **options):
    source = FolderSource(str(place))
    return FeatureDataModule(source, ImageExtractor(16), cache_dir=str(tmp_path / "cache"), val_fraction=0.1, test_fraction=0.1, **options)


def test_when_training_starts_its_images_are_looked_at_and_flags_are_told(place, tmp_path, caplog):
    data = data_of(place, tmp_path)
    document, sentences = audit_split(data, ("train",))
    trained = [record for record in data.records() if record.split == "train"]
    assert document["all"]["n_real"] + document["all"]["n_fake"] == len(trained) < 2 * N
    assert any("format is PNG" in each for each in sentences)
    assert all(each.startswith("Among the train images: ") for each in sentences)
    both, _ = audit_split(data, ("train", "val"))
    assert both["all"]["n_real"] > document["all"]["n_real"]


def test_nothing_flagged_is_nothing_to_warn_of(tmp_path, caplog):
    data = data_of(fill(tmp_path / "alike", "jpg"), tmp_path)
    with caplog.at_level(logging.INFO):
        document, sentences = audit_split(data, ("train",))
    assert document["flagged"] == 0
    assert sentences == []
    assert any("o trivial fact tells fakes" in record.getMessage() for record in caplog.records)


def test_the_audit_is_of_what_the_detector_sees(place, tmp_path):
    document, _ = audit_split(data_of(place, tmp_path, perturbation="jpeg_40"), ("train",))
    assert document["perturbation"] == "jpeg_40"
    assert not any("format" in fact for fact in document["facts"])


def test_no_image_that_can_be_read_is_a_sentence(place, tmp_path, monkeypatch):
    monkeypatch.setattr(Facts, "of", lambda *_: {})
    with pytest.raises(DataError, match="no facts of the train images"):
        audit_split(data_of(place, tmp_path), ("train",))


def test_the_table_has_an_image_a_row_and_null_for_what_is_not_known():
    records = [Record(str(i) * 32, i % 2, "set", "real" if i % 2 == 0 else "sd", group=f"g{i}") for i in range(3)]
    facts = {records[0].key: {"fact_width": 3.0, "fact_zeta": 1.0, "fact_format": "PNG"}, records[1].key: {"fact_width": 5.0}}
    table = frame_of(records, facts, "jpeg_40")
    assert list(table.columns) == [
        *("key", "label", "dataset", "generator", "group", "split"),
        *("fact_format", "fact_width", "fact_zeta", "perturbation"),
    ]
    assert table["fact_width"].tolist() == [3, 5]
    assert table["fact_zeta"].isna().tolist() == [False, True]
    assert set(table["perturbation"]) == {"jpeg_40"}


def test_help_is_shown(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.parser().parse_args(["--help"])
    assert stopped.value.code == 0
    assert "shortcuts.csv" in capsys.readouterr().out
