"""Published numbers beside measured ones: a difference only where it means something."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from evaluation.comparison.compared import COLUMNS, compare, lookup, text, training_of, verdict, write_compared
from evaluation.comparison.targets import Target, Targets, read_targets
from evaluation.statistics import metrics_document
from evaluation.tables import documents_of
from modules.detectors import MLPProbe, ScoreDetector, SVMProbe
from modules.diffusion import LatentDenoiser
from modules.extractors import Divergence, EmbeddingExtractor, ImageExtractor, ReconstructionError
from modules.metrics.functional import Threshold
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


@pytest.mark.parametrize("perturbation", ["none", "crop_half"])
@pytest.mark.parametrize("metric", ["accuracy", "auroc"])
def test_without_a_generator_it_is_all_of_the_data_set_together(documents, perturbation, metric):
    found = one(documents, {"generator": None, "perturbation": perturbation, "metric": metric})
    record = documents["probe"]["by_dataset_and_perturbation"][perturbation]["faces"]
    assert (found.difference, found.measured_on) == (record[metric]["value"] - 0.5, "faces")
    assert (found.n_real, found.n_fake) == (240, 240)
    assert record[metric] != documents["probe"]["by_perturbation"][perturbation][metric]


def test_the_only_data_set_has_all_metrics():
    table = usual_table().query("dataset == 'faces'")
    documents = documents_of(metrics_document(table, THRESHOLD, resamples=20), "probe")
    assert one(documents, {"generator": None, "metric": "average_precision"}).difference is not None


def trained(generators, views, images=None):
    return {"probe": SETTINGS["probe"] | {"training": training_of(generators, views, images)}}


@pytest.mark.parametrize(
    ("published", "generators", "views", "reason"),
    [
        ("elsa/jpeg_40", ["elsa/a", "elsa/b"], ["jpeg_40"], None),
        ("elsa", ["elsa/a"], ["none"], None),
        ("elsa/jpeg_40", ["elsa/a"], ["none"], "trained on elsa, published: elsa/jpeg_40"),
        ("elsa", ["elsa/a"], ["jpeg_40"], "trained on elsa/jpeg_40, published: elsa"),
        ("elsa/jpeg_40", ["elsa/a", "faces/b"], ["jpeg_40"], "trained on elsa+faces/jpeg_40, published: elsa/jpeg_40"),
        ("elsa/jpeg_40", ["elsa/a"], ["jpeg_40", "none"], "trained on elsa/jpeg_40+none, published: elsa/jpeg_40"),
        ("elsa", [], ["none"], "trained on no fakes, published: elsa"),
    ],
)
def test_training_data_and_condition_must_be_the_published_ones(documents, published, generators, views, reason):
    targets = Targets("a paper", "", "", "", [target(train=published)])
    [found] = compare(targets, documents, trained(generators, views))
    assert found.reasons == (() if reason is None else (reason,))
    assert (found.difference is None) is (reason is not None)


def test_real_images_of_another_data_set_are_training_data_too():
    made = training_of(["elsa/a", "elsa/b"], ["none"], 10, ["faces", "elsa"])
    assert made == {"name": "elsa+faces", "dataset": "elsa+faces", "perturbation": "none", "generators": 2, "images": 10}


def test_training_data_is_a_setting_too(documents):
    required = {
        "probe": {"training.images": (100,), "training.generators": (2,), "detector.class_path": ("x.SVM",), "detector.deep": (True,)}
    }
    targets = Targets("a paper", "", "", "", [target(train="elsa")], settings=required)
    known = trained(["elsa/a", "elsa/b"], ["none"], 100)
    known["probe"]["detector"] = {"class_path": "x.SVM", "init_args": {"deep": True}}
    [found] = compare(targets, documents, known)
    assert found.difference is not None
    [other] = compare(targets, documents, trained(["elsa/a", "elsa/b"], ["none"], 99))
    assert other.reasons == ("training.images is 99, published: 100", "it has no setting detector.class_path, published: x.SVM")


def test_answers_of_a_head_of_classes(documents):
    cell = {"value": 0.75, "low": 0.7, "high": 0.8}
    families = {"multiclass_accuracy": cell, "binary_accuracy": cell, "n": 560, "n_known": 560}
    table = usual_table().query("dataset == 'faces'")
    alone = metrics_document(table, THRESHOLD, resamples=20) | {"families": families}
    changed = {"generator": None, "metric": "multiclass_accuracy"}
    assert one({"probe": alone}, changed).difference == 0.25
    assert one({"probe": alone}, changed | {"metric": "binary_accuracy"}).difference == 0.25
    several = one({"probe": documents["probe"] | {"families": families}}, changed)
    assert several.reasons == ("multiclass_accuracy is of all unperturbed images",)
    some = one({"probe": alone | {"families": families | {"n_known": 500}}}, changed)
    assert some.reasons == ("multiclass_accuracy leaves out 60 images of classes that were not trained on",)


@pytest.mark.parametrize("name", ["clip_svm_jpeg", "clip_family"])
def test_the_shipped_probes_are_comparable_under_the_published_settings_and_no_others(name):
    targets = read_targets(Path(f"targets/{name}.json"))
    table, none = usual_table().query("dataset == 'faces'"), Threshold(0.0, None, 0)
    own = metrics_document(table, none, resamples=5)
    heads = {"svm": SVMProbe, "mlp": MLPProbe}
    encoder = {"extractor": settings_of(EmbeddingExtractor("open_clip/ViT-L-14/datacomp_xl_s13b_b90k"))["init_args"]}
    for row in targets.rows:
        many = row.metric == "multiclass_accuracy"
        counts = {"n_real": 3400, "n_fake": 3400}
        cells = {name: own["overall"][name] for name in ("auroc", "accuracy", "balanced_accuracy")}
        document = own | {"overall": own["overall"] | counts, "by_perturbation": {row.perturbation: own["overall"] | counts}}
        document |= {
            "by_generator_and_perturbation": {row.perturbation: {}},
            "families": {"n": 1, "n_known": 1, row.metric: cells["accuracy"]},
        }
        document["by_dataset_and_perturbation"] = {row.perturbation: {row.dataset: cells | counts}}
        target = "generator" if many else "binary"
        head = heads[row.detector.partition("@")[0]](target=target, threshold_fpr=None)
        dataset, _, view = row.train.partition("/")
        training = training_of([f"{dataset}/{n}" for n in range(17)], [view or "none"], 27200 if dataset == "aid" else 10000)
        settings = {"detector": head.settings(), **encoder, "training": training}
        one_row = replace(targets, rows=[row])
        [found] = compare(one_row, {row.detector: document}, {row.detector: settings})
        assert found.reasons == ()
        assert found.difference is not None
        tuned = document | {"threshold": {"value": 0.1, "fpr": 0.05, "n": 99, "reason": None}}
        other = settings | {"extractor": encoder["extractor"] | {"pretrained": False}, "training": training | {"images": 5}}
        [found] = compare(one_row, {row.detector: tuned}, {row.detector: other})
        told = [reason.partition(" ")[0] for reason in found.reasons]
        assert set(told) == {"extractor.pretrained", "training.images"} | (set() if many else {"threshold.fpr", "threshold.value"})
        swapped = settings | {"detector": heads["mlp" if row.detector.startswith("svm") else "svm"](target=target).settings()}
        [found] = compare(one_row, {row.detector: document}, {row.detector: swapped})
        assert any(reason.startswith("detector.class_path") for reason in found.reasons)


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
        ({"metric": "average_precision", "perturbation": "crop_half"}, {}, "average_precision is not measured", False),
        ({"generator": None, "dataset": "coco"}, {}, "other data: faces/gan, faces/sd, scenes/sd; published: coco", True),
        ({"generator": None, "metric": "average_precision"}, {}, "average_precision is not measured", False),
        ({"metric": "multiclass_accuracy"}, {}, "multiclass_accuracy is not measured", False),
        ({}, {"settings": {"*": {"threshold.fpr": (None,)}}}, "threshold.fpr is 0.05, published: None", True),
        ({}, {"settings": {"*": {"test.images": (1000,)}}}, "test.images is 360, published: 1000", True),
        ({}, {"settings": {"*": {"training.images": (1000,)}}}, "it has no setting training.images, published: 1000", True),
        ({"metric": "tpr_at_fpr_0.001"}, {}, "fewer than 1000 real images", True),
        ({"train": "coco/ldm"}, {}, "published after training on coco/ldm; what this detector was trained on is not recorded", True),
        ({}, {"n_real": 500, "n_fake": 500}, "240 + 120 images (real + fake), published: 500 + 500", True),
        ({}, {"n_fake": 121}, "240 + 120 images (real + fake), published: any + 121", True),
        ({"n": 361}, {}, "360 images, published: 361", True),
        ({}, {"settings": {"probe": {"extractor.names": (("b", "a"), ("a",))}}}, "extractor.names is a + b, published: b + a or a", True),
        ({}, {"settings": {"probe": {"extractor.names": ("a",)}}}, "extractor.names is a + b, published: a", True),
        ({}, {"settings": {"probe": {"detector.backbone": (("resnet50",),)}}}, "detector.backbone is resnet50, published: resnet50", True),
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


def test_a_list_is_compared_as_one_value_and_a_number_of_images_with_all_of_them(documents):
    inputs = {"probe": {"extractor.names": (("a", "b"),)}}
    assert one(documents, {"n": 360}, settings=inputs).difference is not None


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
