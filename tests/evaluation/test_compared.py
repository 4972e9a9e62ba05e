"""Published numbers beside measured ones: a difference only where it means something."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from evaluation.compared import COLUMNS, compare, lookup, text, verdict, write_compared
from evaluation.statistics import metrics_document
from evaluation.tables import documents_of
from evaluation.targets import Target, Targets, read_targets
from modules.detectors import ScoreDetector
from modules.diffusion import LatentDenoiser
from modules.extractors import Divergence, ImageExtractor, ReconstructionError
from modules.settings import settings_of
from tests.evaluation.rows import THRESHOLD, usual_table

SETTINGS = {
    "probe": {
        "detector": {"backbone": "resnet50", "deep": True},
        "extractor": {"steps": 10, "denoiser": {"class_path": "x.Y", "init_args": {"path": "assets/tiny-diffusion"}}, "names": ["a", "b"]},
    }
}


@pytest.fixture(scope="module")
def documents():
    clean = usual_table()
    cropped = clean.assign(perturbation="crop_half", score=clean["score"] - 0.5 * clean["label"])
    return documents_of(metrics_document(pd.concat([clean, cropped]), THRESHOLD, resamples=20), "probe")


def target(**changed):
    given = {"detector": "probe", "train": None, "dataset": "faces", "generator": "sd", "perturbation": "none", "metric": "auroc"}
    return Target(**given | {"value": 0.5} | changed)


def one(documents, changed=None, **required):
    targets = Targets("a paper", "by its authors", "", "", [target(**changed or {})], **required)
    return compare(targets, documents, SETTINGS)[0]


def test_same_images_settings_and_size_have_a_difference(documents):
    required = {"n_real": 240, "n_fake": 120, "settings": {"*": {"extractor.denoiser.path": ("x", "assets/tiny-diffusion")}}}
    found = one(documents, **required)
    value = documents["probe"]["by_generator"]["faces/sd"]["auroc"]["value"]
    assert found.difference == value - 0.5
    assert (found.why, found.measured["value"], found.measured_on, found.n_real, found.n_fake) == ("", value, "faces/sd", 240, 120)


@pytest.mark.parametrize("metric", ["auroc", "tpr_at_fpr_0.1"])
def test_under_a_perturbation_it_is_that_generator_under_that_perturbation(documents, metric):
    found = one(documents, {"perturbation": "crop_half", "metric": metric})
    record = documents["probe"]["by_generator_and_perturbation"]["crop_half"]["faces/sd"]
    value = (record["auroc"] if metric == "auroc" else record["tpr_at_fpr"]["0.1"])["value"]
    assert found.difference == value - 0.5
    assert value != documents["probe"]["by_perturbation"]["crop_half"]["auroc"]["value"]


@pytest.mark.parametrize("metric", ["average_precision", "balanced_accuracy", "tpr_at_fpr_0.05", "precision_at_prevalence_0.01"])
def test_clean_images_have_all_metrics(documents, metric):
    assert one(documents, {"metric": metric}).difference is not None


@pytest.mark.parametrize(
    ("changed", "required", "reason", "measured"),
    [
        ({"detector": "other"}, {}, "no detector is named other here, but probe", False),
        ({"perturbation": "rotate_30"}, {}, "perturbation rotate_30 was not measured", False),
        ({"perturbation": "crop_256"}, {}, "perturbation crop_256 was not measured; crop_half is another perturbation", False),
        ({"dataset": "coco"}, {}, "other data: faces/gan, faces/sd, scenes/sd; published: coco/sd", True),
        ({"generator": "sd3"}, {}, "other data: faces/gan, faces/sd, scenes/sd; published: faces/sd3", True),
        ({"metric": "f1"}, {}, "f1 is not measured", False),
        ({"metric": "auroc_x"}, {}, "auroc_x is not measured", False),
        ({"metric": "accuracy", "perturbation": "crop_half"}, {}, "accuracy is not measured", False),
        ({"metric": "tpr_at_fpr_0.001"}, {}, "fewer than 1000 real images", True),
        ({"train": "coco/ldm"}, {}, "published after training on coco/ldm; what this detector was trained on is not recorded", True),
        ({}, {"n_real": 500, "n_fake": 500}, "240 + 120 images (real + fake), published: 500 + 500", True),
        ({}, {"n_fake": 121}, "240 + 120 images (real + fake), published: any + 121", True),
        (
            {},
            {"settings": {"probe": {"extractor.denoiser.path": ("CompVis/stable-diffusion-v1-4",)}}},
            "extractor.denoiser.path is assets/tiny-diffusion, published: CompVis/stable-diffusion-v1-4",
            True,
        ),
        ({}, {"settings": {"*": {"extractor.nothing": (1, 2)}}}, "it has no setting extractor.nothing, published: 1 or 2", True),
        ({}, {"settings": {"*": {"detector.deep": (1,)}}}, "detector.deep is True, published: 1", True),
    ],
)
def test_a_row_that_is_not_the_same_says_why_and_has_no_difference(documents, changed, required, reason, measured):
    found = one(documents, changed, **required)
    assert found.difference is None
    assert found.why.startswith("not comparable: ")
    assert reason in found.why
    assert (found.measured is not None) is measured


def test_requirements_of_another_detector_do_not_matter(documents):
    assert one(documents, settings={"other": {"detector.deep": (False,)}, "probe": {"extractor.steps": (10.0,)}}).difference is not None


def test_all_reasons_are_said(documents):
    found = one(documents, {"dataset": "coco", "train": "x"}, n_real=1, settings={"*": {"extractor.steps": (50,)}})
    assert len(found.reasons) == 4


def test_settings_by_dotted_path():
    settings = SETTINGS["probe"]
    assert lookup(settings, "extractor.denoiser.path") == lookup(settings, "extractor.denoiser.init_args.path") == "assets/tiny-diffusion"
    assert lookup(settings, "extractor.denoiser.class_path") == "x.Y"
    assert lookup(settings, "extractor.names.1") == "b"
    for path in ("extractor.names.2", "extractor.names.-1", "extractor.steps.x", "extractor.denoiser.path.0", "detector.x", "x"):
        with pytest.raises(KeyError):
            lookup(settings, path)


def test_the_shipped_requirements_are_settings_that_there_are(documents):
    model = LatentDenoiser("CompVis/stable-diffusion-v1-4")
    divergence = Divergence(model, estimator="coordinate", samples=10, step=0.1, step_unit="absolute")
    made = {"divergence": divergence, "reconstruction": ReconstructionError(model, draws=10), "corvi_resnet": ImageExtractor()}
    detectors = {
        "divergence": ScoreDetector("divergence", "smaller_is_fake").settings()["init_args"],
        "reconstruction": ScoreDetector("latent_l2", "smaller_is_fake").settings()["init_args"],
        "corvi_resnet": yaml.safe_load(Path("configs/corvi_released.yaml").read_text())["model"]["init_args"],
    }
    settings = {name: {"detector": detectors[name], "extractor": settings_of(each)["init_args"]} for name, each in made.items()}
    targets = read_targets(Path("targets/zero_shot_blog.json"))
    rows = compare(targets, dict.fromkeys(made, documents["probe"]), settings)
    clean = [row for row in rows if row.target.perturbation == "none" and row.target.detector in made]
    assert len(clean) == 6
    for row in clean:
        assert [reason.partition(":")[0] for reason in row.reasons] == ["other data", "280 + 280 images (real + fake), published"]
    tiny = {"divergence": {"detector": {}, "extractor": settings_of(Divergence(LatentDenoiser()))["init_args"]}}
    whys = compare(targets, {"divergence": documents["probe"]}, tiny)[0].reasons
    assert "extractor.denoiser.path is assets/tiny-diffusion, published: CompVis/stable-diffusion-v1-4" in whys
    assert "extractor.estimator is hutchinson, published: coordinate" in whys


def test_printed_side_by_side_with_the_words(documents):
    rows = [target(), target(metric="tpr_at_fpr_0.1", value=0.25), target(perturbation="crop_256"), target(detector="other")]
    targets = Targets("a paper\x1b", "by its authors", "500 images", "", rows, n_real=500)
    said = text(targets, compare(targets, documents, SETTINGS))
    value = documents["probe"]["by_generator"]["faces/sd"]["auroc"]["value"]
    assert "\x1b" not in said
    assert f"0.5000     {value:.4f}" in said
    assert said.count("not comparable (1)") == 2
    assert "(1) not comparable: 240 + 120 images (real + fake), published: 500 + any" in said
    assert "1 of 4 not comparable: perturbation crop_256 was not measured; crop_half is another perturbation" in said
    assert "1 of 4 not comparable: no detector is named other here, but probe" in said
    assert said.endswith("None of the 4 published numbers can be compared with a measured one: the differences are left out.")
    comparable = Targets("a paper", "", "", "", rows)
    found = compare(comparable, documents, SETTINGS)
    assert f"{value - 0.5:+.4f}" in text(comparable, found)
    assert verdict(found).startswith("2 of 4 published numbers can be compared")


def test_written_as_csv(documents, tmp_path):
    targets = Targets("x", "", "", "", [target(), target(detector="other\n")])
    table = pd.read_csv(write_compared(tmp_path / "tables" / "compared.csv", compare(targets, documents, SETTINGS)))
    assert tuple(table.columns) == COLUMNS
    first, second = table.to_dict("records")
    assert first["difference"] == pytest.approx(first["measured"] - 0.5)
    assert first["low"] < first["measured"] < first["high"]
    assert math.isnan(first["not_comparable"])
    assert math.isnan(second["difference"])
    assert second["detector"] == "other\\x0a"
    assert "no detector is named" in second["not_comparable"]


@pytest.mark.parametrize("path", ["configs/studies/zero_shot.yaml", "docs/zero_shot.md"])
def test_the_documented_command_makes_the_images_that_were_published_by_their_names(path):
    text = Path(path).read_text()
    [dataset], [generator] = (set(re.findall(rf"--{option} (\S+)", text)) for option in ("dataset", "generator"))
    rows = read_targets(Path("targets/zero_shot_blog.json")).rows
    assert {(row.dataset, row.generator) for row in rows} == {(dataset, generator)}
    study = yaml.safe_load(Path("configs/studies/zero_shot.yaml").read_text())
    assert {row.detector for row in rows} <= study["detectors"].keys()
    assert {row.perturbation for row in rows} == set(study["perturbations"])
