"""Published means over generators, and the shipped numbers of FakeInversion and of others' detectors."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from evaluation.comparison.compared import compare
from evaluation.comparison.targets import Targets, read_targets
from evaluation.predictions import make_table
from evaluation.statistics import metrics_document
from modules.detectors import FakeInversion, LinearProbe
from modules.extractors import EmbeddingExtractor, ImageExtractor, InversionExtractor
from modules.settings import settings_of
from tests.evaluation.comparison.test_compared import one, target
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table


def synris(generators, sizes=(30, 20), collection="synris", others=()):
    """A document of generators of `synris/…` with their mean, as `metrics.json` holds it."""
    by_generator = {}
    for name in (*generators, *others):
        dataset = f"synris/{name}" if name in generators else name
        by_generator[f"{dataset}/{name}"] = {"dataset": dataset, "generator": name, "n_real": sizes[0], "n_fake": sizes[1]}
    cell = {"value": 0.75, "low": 0.7, "high": 0.8}
    return {
        "by_perturbation": {"none": {"n_real": 1, "n_fake": 1}, "jpeg_40": {"n_real": 1, "n_fake": 1}},
        "by_generator": by_generator,
        "by_generator_and_perturbation": {"none": by_generator, "jpeg_40": by_generator},
        "means_over_generators": {collection: {"macro": {"auroc": cell}}},
        "threshold": {},
    }


def published(names=("a", "b"), n=50, **changed):
    mean = {"detector": "probe", "dataset": "synris", "generator": "macro"} | changed
    rows = [target(dataset=f"synris/{name}", generator=name, n=n) for name in names]
    return Targets("a paper", "", "", "", [target(**mean), target(**mean, metric="accuracy"), *rows])


def mean_of(document, targets):
    return compare(targets, {"probe": document}, {})[0]


def test_a_mean_over_generators_is_compared_with_that_of_the_collection():
    found = mean_of(synris("ab", others=["coco"]), published())
    assert (found.difference, found.reasons) == (0.25, ())
    assert (found.measured_on, found.n_real, found.n_fake) == ("mean over 2 generators of synris", 60, 40)
    assert mean_of(synris("ab"), published(n=None)).difference == 0.25
    assert mean_of(synris("ab", collection="all"), published()).difference == 0.25
    shared = mean_of(synris("ab") | {"reals_from": {"synris/a": "x", "synris/b": "x"}}, published())
    assert (shared.n_real, shared.n_fake) == (30, 40)


@pytest.mark.parametrize(
    ("document", "targets", "reason"),
    [
        (synris("a"), published(), "a mean over other data: it lacks synris/b/b"),
        (synris("abc"), published(), "a mean over other data: it has synris/c/c, which the published one has not"),
        (
            synris("ab"),
            published(n=51),
            "a mean over other data: 2 generators have other numbers of images: synris/a/a has 50, published: 51",
        ),
        (synris("ab"), published(()), "which generators the published mean is over is not said"),
        (synris("ab"), published(perturbation="jpeg_40"), "auroc is not measured"),
        (synris("ab", collection="all", others=["coco"]), published(), "auroc is not measured"),
        (synris("ab") | {"means_over_generators": {}}, published(), "auroc is not measured"),
        (synris("", others=["coco"]), published(), "other data: coco/coco; published: synris/macro"),
        (synris("ab"), published(dataset="syn"), "other data: synris/a/a, synris/b/b; published: syn/macro"),
    ],
)
def test_a_mean_over_other_generators_or_sizes_has_no_difference(document, targets, reason):
    found = mean_of(document, targets)
    assert found.difference is None
    assert reason in found.reasons


def test_the_mean_is_that_of_the_rows_of_the_collection():
    rows = [some_rows(f"synris/{name}", name, 1, 40, 20, shift=shift) for name, shift in (("a", 1.0), ("b", 0.2))]
    rows += [some_rows(f"synris/{name}", "web", 0, 40, 20) for name in "ab"] + [
        some_rows("coco", "photos", 0, 30),
        some_rows("coco", "c", 1, 30),
    ]
    clean = make_table(row for part in rows for row in part)
    table = pd.concat([clean, clean.assign(perturbation="jpeg_40", score=clean["score"].round())])
    targets = published(n=80)
    mean = mean_of(metrics_document(table, THRESHOLD, resamples=20), targets)
    parts = [clean[clean["dataset"] == f"synris/{name}"] for name in "ab"]
    value = sum(roc_auc_score(part["label"], part["score"]) for part in parts) / 2
    assert mean.difference == pytest.approx(value - 0.5)
    assert (mean.n_real, mean.n_fake) == (80, 80)
    alone = metrics_document(table[table["dataset"] != "coco"], THRESHOLD, resamples=20)
    assert mean_of(alone, targets).difference == pytest.approx(value - 0.5)
    perturbed = replace(targets, rows=[replace(row, perturbation="jpeg_40") for row in targets.rows])
    value = sum(roc_auc_score(part["label"], part["score"].round()) for part in parts) / 2
    assert mean_of(alone, perturbed).difference == pytest.approx(value - 0.5)


def test_a_generator_may_be_named_macro():
    documents = {"probe": metrics_document(usual_table().replace({"generator": {"sd": "macro"}}), THRESHOLD, resamples=5)}
    found = one(documents, {"generator": "macro"})
    assert found.measured_on == "faces/macro"
    assert found.difference == documents["probe"]["by_generator"]["faces/macro"]["auroc"]["value"] - 0.5


def test_the_shipped_inversions_are_comparable_under_the_published_settings_and_no_others():
    targets = read_targets(Path("targets/synris_reimplementation.json"))
    study = yaml.safe_load(Path("configs/studies/synris.yaml").read_text())
    assert {row.detector for row in targets.rows} <= study["detectors"].keys()
    rows = {row.generator: row for row in targets.rows if row.detector.endswith("_9")}
    document = synris(set(rows) - {"macro"})
    for record in document["by_generator_and_perturbation"]["none"].values():
        record |= {"n_real": 1, "n_fake": rows[record["generator"]].n - 1, "auroc": {"value": 0.5, "low": None, "high": None}}
    inputs = ["image", "noise_map", "reconstruction"]
    model = InversionExtractor("stable-diffusion-v1-5/stable-diffusion-v1-5")
    settings = {
        f"fakeinversion@channels_{channels}": {
            "detector": FakeInversion([*inputs, "residual"][: channels // 3], "resnet18", pretrained=False).settings(),
            "extractor": settings_of(model)["init_args"],
            "training": {},
        }
        for channels in (9, 12)
    }
    found = compare(targets, dict.fromkeys(settings, document), settings)
    assert [row.reasons for row in found] == [()] * 26
    other = {
        name: part | {"extractor": part["extractor"] | {"steps": 20}}
        for name, part in zip(settings, reversed(settings.values()), strict=True)
    }
    for row in compare(targets, dict.fromkeys(settings, document), other):
        assert [reason.partition(" ")[0] for reason in row.reasons] == ["extractor.steps", "detector.inputs"]


def test_others_detectors_are_not_compared_with_those_of_this_project():
    targets = read_targets(Path("targets/aigcdetect_accuracy.json"))
    assert {row.detector for row in targets.rows} == {"cnnspot", "univfd", "npr"} == set(targets.settings) - {"*"}
    counts = {"dataset": "aigcdetectbenchmark", "n_real": 5, "n_fake": 5, "accuracy": {"value": 0.5, "low": None, "high": None}}
    records = {row.generator: counts | {"generator": row.generator} for row in targets.rows}
    document = {"by_perturbation": {"none": counts}, "by_generator_and_perturbation": {"none": records}, "by_generator": records}
    document["threshold"] = {"value": 0, "fpr": None}
    encoder = EmbeddingExtractor("open_clip/ViT-L-14/openai", normalise=False)
    probe = LinearProbe(768, threshold_fpr=None).settings()
    image = {"extractor": settings_of(ImageExtractor())["init_args"]}
    released = {"frozen": True, "weights": "weights/CNNDetection/blur_jpg_prob0.5.pth"}
    corvi = yaml.safe_load(Path("configs/corvi_released.yaml").read_text())["model"]["init_args"] | released
    settings = {
        "cnnspot": image | {"detector": corvi},
        "npr": image | {"detector": corvi | {"weights": "weights/NPR/NPR.pth"}},
        "univfd": {
            "extractor": settings_of(encoder)["init_args"],
            "detector": probe["init_args"] | {"frozen": True, "weights": "weights/UniversalFakeDetect/fc_weights.pth"},
        },
    }
    whys = {row.target.detector: row.reasons for row in compare(targets, dict.fromkeys(settings, document), settings)}
    assert whys["cnnspot"] == ("detector.backbone is resnet50, published: torchvision/resnet50",)
    assert whys["npr"] == ("detector.backbone is resnet50, published: npr",)
    assert whys["univfd"] == tuple(f"it has no setting extractor.{name}, published: False" for name in ("resize", "crop"))
    own = {"cnnspot": image | {"detector": released | {"backbone": "torchvision/resnet50"}}}
    assert {row.reasons for row in compare(targets, {"cnnspot": document}, own) if row.target.detector == "cnnspot"} == {()}
    tuned = document | {"threshold": {"value": 0.3, "fpr": 0.05}}
    for row in compare(targets, {"cnnspot": tuned}, own):
        assert row.difference is None
