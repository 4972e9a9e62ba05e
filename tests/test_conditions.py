"""Studies by training condition: which detectors they fit, what they measure, and the matrices that come of it."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.metrics import roc_auc_score

import evaluate
from cli import RunError
from datamodules.sources import ManifestSource
from evaluation.comparison.matrices import condition_of, matrices
from evaluation.figures.heatmaps import save_heatmaps
from evaluation.recompute import recompute
from modules.detectors.checkpoint import load_detector
from modules.errors import UserError
from tests.embeddings import DATA, TRAINED, data_set, fitted_here, options, run, undrawn
from workflow import fitting
from workflow.conditions import expanded, generators_of, overrides_of
from workflow.fitting import FittedDetector, folder_name
from workflow.study import chosen_baseline, seen_in_training

GENERATORS = ["faces/sdxl", "faces/stylegan2", "scenes/progan"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditions")
    data_set(folder / "images")
    return folder


@pytest.fixture(scope="module")
def written(place):
    """A study of one head on the data set, without training conditions."""
    manifest = {"class_path": "ManifestSource", "init_args": {"path": str(place / "images" / "manifest.csv")}}
    (place / "head.yaml").write_text("model: SVMProbe\n")
    overrides = dict(option.removeprefix("--").split("=", 1) for option in [*DATA, *TRAINED])
    overrides["data.source.path"] = str(place / "images" / "manifest.csv")
    told = {
        "detectors": {"svm": {"config": str(place / "head.yaml"), "overrides": overrides}},
        "datasets": {"own": manifest},
        "data": {"cache_dir": str(place / "cache")},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
        "runs_dir": str(place / "runs"),
    }
    (place / "study.yaml").write_text(yaml.safe_dump(told))
    return place / "study.yaml"


def studied(written, name, *more):
    with fitted_here():
        return evaluate.main([f"--config={written}", f"--name={name}", *more])


@pytest.fixture(scope="module")
def jpeg(written):
    return studied(written, "jpeg", "--train_conditions=[none, jpeg_40]", "--perturbations=[none, jpeg_40]")


@pytest.fixture(scope="module")
def generators(written):
    return studied(written, "generators", "--train_conditions=[all, leave_one_out, generators_1, generators_2]", "--split=heldout")


def test_conditions_become_detectors():
    detectors = {"head": FittedDetector(config="x.yaml", overrides={"a": 1}), "ready": FittedDetector(checkpoint="y.ckpt")}
    found = expanded(detectors, ["all", "jpeg_40", "each_generator", "leave_one_out", "generators_2_seed_5"], GENERATORS[:2])
    assert {name: each.overrides for name, each in found.items()} == {
        "head@all": {"a": 1},
        "head@jpeg_40": {"a": 1, "data.perturbation": "jpeg_40", "data.views": None},
        "head@faces/sdxl": {"a": 1, "data.train_generators": ["faces/sdxl"]},
        "head@faces/stylegan2": {"a": 1, "data.train_generators": ["faces/stylegan2"]},
        "head@!faces/sdxl": {"a": 1, "data.train_generators": ["!faces/sdxl"]},
        "head@!faces/stylegan2": {"a": 1, "data.train_generators": ["!faces/stylegan2"]},
        "head@generators_2_seed_5": {"a": 1, "data.max_generators": 2, "data.generator_seed": 5},
        "ready": {},
    }
    assert found["head@all"].config == "x.yaml"
    assert detectors["head"].overrides == {"a": 1}
    assert len(expanded(detectors, ["each_generator", "faces/sdxl"], GENERATORS)) == 3 + 1
    assert expanded(detectors, [], GENERATORS) == detectors


def test_each_seed_is_a_detector_of_its_own():
    detectors = {"head": FittedDetector(config="x.yaml", overrides={"a": 1}), "ready": FittedDetector(checkpoint="y.ckpt")}
    found = expanded(detectors, ["jpeg_40", "all"], GENERATORS, [0, 7])
    assert list(found) == ["head@jpeg_40@seed_0", "head@jpeg_40@seed_7", "head@all@seed_0", "head@all@seed_7", "ready"]
    assert found["head@jpeg_40@seed_7"].overrides == {"a": 1, "data.perturbation": "jpeg_40", "data.views": None, "seed_everything": 7}
    assert list(expanded(detectors, [], GENERATORS, [3])) == ["head@seed_3", "ready"]


@pytest.mark.parametrize("seeds", ["[0, 0]", "[-1]"])
def test_a_seed_is_named_once_and_not_negative(written, seeds):
    with pytest.raises(RunError, match="--seeds"):
        evaluate.main([f"--config={written}", "--name=seeds-wrong", f"--seeds={seeds}"])


def test_a_baseline_is_one_of_the_detectors_or_what_its_seeds_have_in_common():
    assert chosen_baseline("head", ["head@seed_0", "head@seed_1", "other"]) == "head"
    assert chosen_baseline("head", ["head@seed_0", "other"]) == "head@seed_0"
    assert chosen_baseline("other", ["head@seed_0", "other"]) == "other"
    assert chosen_baseline(None, ["a"]) is None
    with pytest.raises(RunError, match=r"--baseline haed: the detectors are head@seed_0, other, head"):
        chosen_baseline("haed", ["head@seed_0", "other"])


def test_a_matrix_is_of_one_seed():
    assert [condition_of(name) for name in ("svm", "svm@seed_1", "svm@jpeg_40", "svm@jpeg_40@seed_12", "svm@generators_1_seed_2")] == [
        ("svm", ""),
        ("svm@seed_1", ""),
        ("svm", "jpeg_40"),
        ("svm@seed_12", "jpeg_40"),
        ("svm", "generators_1_seed_2"),
    ]


def test_their_folders_have_names_of_their_own():
    names = [*GENERATORS, *(f"!{name}" for name in GENERATORS), "jpeg_40", "blur_2.0", "generators_1", "all"]
    folders = [folder_name(f"head@{name}") for name in names]
    assert len(set(folders)) == len(names)
    assert not any("/" in folder or folder.startswith(".") for folder in folders)
    assert folders[3].startswith("head@all_but_faces_sdxl")
    assert folder_name("a@b/c") != folder_name("a@b_c")


@pytest.mark.parametrize("wrong", ["jpeg_banana", "generators_0", "generators_2_seed", "leave_two_out", ""])
def test_a_wrong_condition_is_named(wrong):
    with pytest.raises(UserError, match=rf"train_conditions: '{wrong}' is no generator pattern"):
        overrides_of(wrong)


def test_a_wrong_condition_ends_the_study_before_any_detector_is_fitted(written, monkeypatch):
    monkeypatch.setattr(evaluate, "fit", lambda *_: pytest.fail("a detector was fitted"))
    with pytest.raises(RunError, match="jpeg_banana"):
        evaluate.main([f"--config={written}", "--name=wrong", "--train_conditions=[none, jpeg_banana]"])


@pytest.mark.parametrize("wrong", ["faces/nowhere", "!scenes/nowhere"])
def test_a_pattern_that_matches_no_generator_is_named(written, wrong):
    with pytest.raises(UserError, match=rf"train_generators names '{wrong}', which matches no generator\. There are .*faces/sdxl"):
        studied(written, f"nowhere-{wrong[0]}", f"--train_conditions=['{wrong}']")


def test_a_matrix_of_perturbations_holds_what_the_predictions_say(jpeg):
    rows = pd.read_parquet(jpeg / "predictions.parquet")
    names = ["none", "jpeg_40"]
    assert set(rows.groupby(["detector", "perturbation"]).size().index) == {(f"svm@{each}", other) for each in names for other in names}
    matrix = pd.read_csv(jpeg / "tables" / "matrices" / "svm-by_perturbation-auroc.csv", index_col="train_condition")
    assert list(matrix.index) == list(matrix.columns) == names
    for (detector, perturbation), cell in rows.groupby(["detector", "perturbation"]):
        expected = roc_auc_score(cell.label, cell.score)
        assert matrix.loc[detector.removeprefix("svm@"), perturbation] == pytest.approx(expected)
    long = pd.read_csv(jpeg / "tables" / "matrices.csv")
    assert set(long.train_condition) == set(names)
    for name in ("svm-by_perturbation-auroc", "svm-by_perturbation-accuracy", "svm-by_generator-auroc"):
        assert (jpeg / "figures" / f"matrix-{name}.png").exists()
    assert "Training condition against test condition" in (jpeg / "report.html").read_text()
    trained = [load_detector(str(jpeg / "detectors" / f"svm@{name}" / "checkpoints" / "best.ckpt"))[1] for name in names]
    assert [each["perturbation"] for each in trained] == names


def test_every_number_of_a_study_follows_from_its_predictions(jpeg):
    numbers, found = recompute(jpeg)
    assert numbers > 500
    assert found == []
    document = json.loads((jpeg / "metrics.json").read_text())
    assert {"comparison", "settings"} <= set(document)
    for part in document["detectors"].values():
        assert part["shortcuts"]["none"]["facts"]
        assert set(part["robustness"]["perturbations"]) == {"none", "jpeg_40"}
    for name in ("shortcuts.csv", "robustness.csv", "comparison.csv", "distributions.csv"):
        assert (jpeg / "tables" / name).exists()


def test_heat_maps_are_drawn(jpeg, tmp_path):
    documents = json.loads((jpeg / "metrics.json").read_text())["detectors"]
    for path in save_heatmaps(tmp_path, matrices(documents, metrics=["auroc"])):
        if path.suffix == ".png":
            with Image.open(path) as drawn:
                assert min(drawn.size) > 100


def test_a_matrix_of_generators_knows_what_each_row_was_trained_on(generators):
    matrix = pd.read_csv(generators / "tables" / "matrices" / "svm-by_generator-auroc.csv", index_col="train_condition")
    assert set(matrix.index) == {"all", "generators_1", "generators_2", *(f"!{name}" for name in GENERATORS)}
    assert set(matrix.columns) == set(GENERATORS)
    rows = pd.read_parquet(generators / "predictions.parquet")
    for name in GENERATORS:
        detector = rows[rows.detector == f"svm@!{name}"]
        dataset, generator = name.split("/")
        cell = detector[(detector.dataset == dataset) & ((detector.label == 0) | (detector.generator == generator))]
        assert matrix.loc[f"!{name}", name] == pytest.approx(roc_auc_score(cell.label, cell.score))
        trained = load_detector(str(generators / "detectors" / folder_name(f"svm@!{name}") / "checkpoints" / "best.ckpt"))[1]
        assert trained["trained_generators"] == [other for other in GENERATORS if other != name]
    drawn = [load_detector(str(generators / f"detectors/svm@generators_{n}/checkpoints/best.ckpt"))[1] for n in (1, 2)]
    one, two = (set(each["trained_generators"]) for each in drawn)
    assert (len(one), len(two)) == (1, 2)
    assert one < two < set(GENERATORS)


def test_what_is_left_out_and_how_many_were_trained_on_is_told(generators):
    found = json.loads((generators / "metrics.json").read_text())["generalisation"]
    assert {row["left_out"] for row in found["left_out"]} == set(GENERATORS)
    assert {row["training_generators"] for row in found["number"]} == {1, 2}
    matrix = pd.read_csv(generators / "tables" / "matrices" / "svm-by_generator-auroc.csv", index_col="train_condition")
    for row in found["left_out"]:
        assert row["without"]["value"] == pytest.approx(matrix.loc[f"!{row['left_out']}", row["left_out"]])
        assert row["with"]["value"] == pytest.approx(matrix.loc["all", row["left_out"]])
    for name in ("training_generators", "left_out"):
        assert (generators / "figures" / f"{name}.png").exists()


def test_heldout_measures_no_image_that_any_detector_saw_and_no_fellow_of_one(generators, place):
    rows = pd.read_parquet(generators / "predictions.parquet")
    images = pd.read_csv(place / "images" / "manifest.csv").set_index("path")
    measured = {path.removeprefix(f"{place / 'images'}/") for path in rows.path}
    everything = pd.read_parquet(next((generators / "detectors").glob("svm@all/predictions.parquet")))
    held = {path.removeprefix(f"{place / 'images'}/") for path in everything.path[everything.split == "test"]}
    assert measured == held
    assert not set(images.group[[*measured]]) & set(images.group[[path for path in images.index if path not in measured]])
    assert "are among those that the detector was trained or validated on" not in (generators / "report.html").read_text()


def test_heldout_of_one_checkpoint_is_what_its_own_run_tested(place):
    trained = run(place, "plain", "--model=SVMProbe")
    given = [option for option in options(place, "x") if option.startswith(("--data.source", "--data.cache_dir", "--runs_dir"))]
    command = [f"--checkpoint={trained / 'checkpoints' / 'best.ckpt'}", *given, "--trainer.accelerator=cpu"]
    command += ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    own = pd.read_parquet(trained / "predictions.parquet").query("split == 'test'").set_index("key").score
    found = {}
    for split in ("heldout", "all"):
        with fitted_here():
            folder = evaluate.main([*command, f"--name={split}", f"--split={split}"])
        found[split] = pd.read_parquet(folder / "predictions.parquet").set_index("key").score
    assert len(found["all"]) == 88
    pd.testing.assert_series_equal(found["heldout"].sort_index(), own.sort_index())


def test_a_study_that_goes_on_fits_nothing_again(generators, written, monkeypatch):
    monkeypatch.setattr(fitting, "subprocess", SimpleNamespace(run=lambda *_, **__: pytest.fail("a detector was fitted again")))
    before = (generators / "metrics.json").read_bytes()
    more = ["--train_conditions=[all, leave_one_out, generators_1, generators_2]", "--split=heldout", "--resume=auto"]
    with undrawn():
        evaluate.main([f"--config={written}", "--name=generators", *more])
    assert (generators / "metrics.json").read_bytes() == before


def test_generators_for_the_test_alone_are_no_condition(tmp_path):
    lines = ["path,label,dataset,generator,split"]
    for i, (generator, split) in enumerate([("a", "train"), ("a", "test"), ("b", "test"), ("c", "")]):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
        lines.append(f"{i}.png,1,d,{generator},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    assert generators_of({"m": ManifestSource(str(tmp_path / "manifest.csv"))}, tmp_path / "cache") == ["d/a", "d/c"]


def test_heldout_needs_a_checkpoint_that_says_what_it_was_trained_on(monkeypatch):
    monkeypatch.setattr("workflow.study.load_detector", lambda path: (None, {}))
    with pytest.raises(RunError, match="does not say which images"):
        seen_in_training(["old.ckpt"])
