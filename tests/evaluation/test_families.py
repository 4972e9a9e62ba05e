"""What is said of a detector of classes, against scikit-learn and cases by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, precision_score, recall_score, roc_auc_score

from evaluation.families import family_document
from tests.evaluation.classes import answers, random_answers, trained

CLASSES = ["real", "gan", "diffusion", "autoregressive"]


def measured(frame, told=None, resamples=40, **options):
    return family_document(frame, told or trained(*CLASSES[1:]), resamples, **options)


def test_values_are_those_of_scikit_learn():
    frame = random_answers(CLASSES)
    found = measured(frame)
    true, predicted = frame["family"], frame["predicted_family"]
    assert found["multiclass_accuracy"]["value"] == pytest.approx(accuracy_score(true, predicted))
    assert found["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert found["binary_accuracy"]["value"] == pytest.approx(accuracy_score(true == "real", predicted == "real"))
    recalls, precisions = (each(true, predicted, labels=CLASSES, average=None) for each in (recall_score, precision_score))
    for name, recall, precision in zip(CLASSES, recalls, precisions, strict=True):
        assert found["by_class"][name]["recall"]["value"] == pytest.approx(recall)
        assert found["by_class"][name]["precision"]["value"] == pytest.approx(precision)
        assert found["by_class"][name]["n"] == (true == name).sum()
        assert found["by_class"][name]["n_predicted"] == (predicted == name).sum()
    matrix = found["confusion"]["families"]
    assert matrix["true"] == matrix["predicted"] == CLASSES
    assert np.array_equal(matrix["counts"], confusion_matrix(true, predicted, labels=CLASSES))
    assert matrix["right"] == [0, 1, 2, 3]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_intervals_are_those_of_images_drawn_within_each_label():
    frame = random_answers(CLASSES, n=240, right=0.7)
    frame["group"] = ""
    found = measured(frame, resamples=1000)
    rng = np.random.default_rng(1)
    true, right = frame["family"].to_numpy(), (frame["family"] == frame["predicted_family"]).to_numpy()
    real, fake = np.flatnonzero(frame["label"] == 0), np.flatnonzero(frame["label"] == 1)
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([rng.choice(real, real.size), rng.choice(fake, fake.size)])
        drawn.append([right[rows].mean(), np.mean([right[rows][true[rows] == name].mean() for name in CLASSES])])
    wanted = np.quantile(drawn, [0.025, 0.975], axis=0)
    for name, (low, high) in zip(("multiclass_accuracy", "balanced_accuracy"), wanted.T, strict=True):
        assert found[name]["low"] == pytest.approx(low, abs=0.012)
        assert found[name]["high"] == pytest.approx(high, abs=0.012)


def test_images_of_a_group_stay_together():
    one = random_answers(CLASSES, n=200, groups=10_000)
    many = pd.concat([one.assign(key=one["key"] + str(n)) for n in range(5)], ignore_index=True)
    lonely, together = measured(one, resamples=200), measured(many, resamples=200)
    assert together["multiclass_accuracy"] == pytest.approx(lonely["multiclass_accuracy"])
    apart = measured(many.assign(group=""), resamples=200)["multiclass_accuracy"]
    width = lonely["multiclass_accuracy"]["high"] - lonely["multiclass_accuracy"]["low"]
    assert apart["high"] - apart["low"] == pytest.approx(width / np.sqrt(5), rel=0.25)


def test_the_order_of_rows_changes_nothing_and_the_seed_only_intervals():
    frame = random_answers(CLASSES)
    found = measured(frame)
    assert measured(frame.sample(frac=1, random_state=0))["by_class"] == found["by_class"]
    other = measured(frame, seed=1)
    assert other["multiclass_accuracy"]["value"] == found["multiclass_accuracy"]["value"]
    assert other["multiclass_accuracy"]["low"] != found["multiclass_accuracy"]["low"]


def test_fakes_never_trained_on_stand_apart():
    frame = random_answers(CLASSES, never=["flow"], right=0.9)
    known = frame["family"] != "flow"
    frame.loc[~known, "novelty"] += 1.0
    frame.loc[frame["novelty"] > 1.2, "predicted_family"] = "unknown"
    found = measured(frame, resamples=100)
    assert (found["n"], found["n_known"]) == (600, int(known.sum()))
    assert found["multiclass_accuracy"]["value"] == pytest.approx(accuracy_score(frame[known]["family"], frame[known]["predicted_family"]))
    assert found["multiclass_accuracy"] == measured(frame[known], resamples=100)["multiclass_accuracy"]
    fakes = frame[frame["label"] == 1]
    auroc = found["unknown"]["auroc"]
    assert auroc["value"] == pytest.approx(roc_auc_score(fakes["family"] == "flow", fakes["novelty"]))
    assert auroc["low"] < auroc["value"] < auroc["high"]
    kinds = {"known_fakes": known & (frame["label"] == 1), "never_trained_fakes": ~known, "reals": frame["label"] == 0}
    for kind, chosen in kinds.items():
        record, rows = found["unknown"]["images"][kind], frame[chosen]
        assert record["n"] == len(rows)
        assert record["answered_unknown"]["value"] == pytest.approx((rows["predicted_family"] == "unknown").mean())
        assert record["called_fake"]["value"] == pytest.approx((rows["predicted_family"] != "real").mean())
        assert record["called_fake"]["low"] < record["called_fake"]["high"]
    matrix = found["confusion"]["families"]
    assert matrix["true"] == [*CLASSES, "flow"]
    assert matrix["predicted"] == [*CLASSES, "unknown"]
    assert matrix["known"] == [True] * 4 + [False]
    assert matrix["right"] == [0, 1, 2, 3, 4]
    assert np.sum(matrix["counts"]) == 600


def test_every_generator_has_a_row_with_its_family_and_whether_it_was_trained_on():
    frame = random_answers(CLASSES, never=["flow"], generators=2)
    found = measured(frame, trained(*CLASSES[1:], generators=["faces/gan-1", "faces/diffusion-2"]))["confusion"]["generators"]
    assert found["true"] == [f"faces/{family}-{n}" for family in [*CLASSES, "flow"] for n in (1, 2)]
    assert found["predicted"] == CLASSES
    assert found["known"] == [True] * 8 + [False] * 2
    assert found["trained_on"] == [None, None, True, False, False, True, False, False, False, False]
    assert found["right"] == [0, 0, 1, 1, 2, 2, 3, 3, None, None]
    for name, counts in zip(found["true"], found["counts"], strict=True):
        rows = frame[frame["generator"] == name.removeprefix("faces/")]
        assert counts == [(rows["predicted_family"] == each).sum() for each in CLASSES]
    unsaid = measured(frame)["confusion"]["generators"]
    assert unsaid["trained_on"] == [None] * 10
    assert unsaid["counts"] == found["counts"]


def test_reals_and_fakes_of_one_name_have_rows_of_their_own():
    frame = answers(["real", "real", "gan"], ["real", "gan", "gan"], generator="sd")
    found = measured(frame)["confusion"]["generators"]
    assert found["true"] == ["faces/sd (real)", "faces/sd"]
    assert [row[:2] for row in found["counts"]] == [[1, 1], [0, 1]]


def test_a_generator_that_is_called_as_the_reals_of_another_has_a_row_of_its_own():
    frame = answers(["real", "gan", "gan"], ["real", "gan", "real"], generator="sd")
    frame.loc[frame.index[-1], "generator"] = "sd (real)"
    assert measured(frame)["confusion"]["generators"]["true"] == ["faces/sd (real) (real)", "faces/sd", "faces/sd (real)"]


def test_a_head_of_generators_is_measured_by_generator():
    true = ["real"] * 4 + ["gan"] * 3 + ["diffusion"] * 3
    generators = ["ffhq"] * 4 + ["biggan", "biggan", "stylegan"] + ["sd-1.5", "sd-2.1", "sd-2.1"]
    predicted = ["real", "real", "biggan", "unknown", "biggan", "stylegan", "biggan", "sd-1.5", "sd-1.5", "real"]
    families = {"biggan": "gan", "stylegan": "gan", "sd-1.5": "diffusion"}
    frame = answers(true, [families.get(each, each) for each in predicted], generator=generators, predicted_generator=predicted)
    found = measured(frame, trained(*families, target="generator"))
    assert (found["n"], found["n_known"]) == (10, 8)  # sd-2.1 is not one of its classes
    assert found["multiclass_accuracy"]["value"] == 4 / 8
    assert found["family_accuracy"]["value"] == 6 / 8
    assert found["binary_accuracy"]["value"] == 6 / 8
    assert found["balanced_accuracy"]["value"] == pytest.approx((0.5 + 0.5 + 0 + 1) / 4)
    assert found["by_class"]["stylegan"]["recall"]["value"] == 0
    assert found["unknown"]["images"]["never_trained_fakes"]["n"] == 2
    matrix = found["confusion"]["predicted_generators"]
    assert matrix["true"] == ["real", "biggan", "stylegan", "sd-1.5", "sd-2.1"]
    assert matrix["predicted"] == ["real", "biggan", "stylegan", "sd-1.5", "unknown"]
    assert matrix["counts"] == [[2, 1, 0, 0, 1], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 1, 0]]
    assert matrix["right"] == [0, 1, 2, 3, 4]
    assert found["confusion"]["families"]["true"] == ["real", "diffusion", "gan"]
    assert found["confusion"]["families"]["counts"] == [[2, 0, 1, 1], [1, 2, 0, 0], [0, 0, 3, 0]]


def test_what_is_missing_has_a_reason():
    only_reals = measured(answers(["real"] * 20, ["real"] * 15 + ["gan"] * 5))
    assert only_reals["multiclass_accuracy"]["value"] == only_reals["balanced_accuracy"]["value"] == 0.75
    assert only_reals["by_class"]["gan"]["recall"] == {"value": None, "low": None, "high": None, "reason": "there are no images of gan"}
    assert only_reals["by_class"]["gan"]["precision"]["value"] == 0
    assert only_reals["by_class"]["diffusion"]["precision"]["reason"] == "there are no images that it calls diffusion"
    assert only_reals["unknown"]["auroc"]["reason"] == "there are no fakes of classes that it was trained on"
    assert only_reals["unknown"]["images"]["known_fakes"]["called_fake"]["reason"] == "there are no fakes of classes that it was trained on"
    assert only_reals["unknown"]["images"]["reals"]["answered_unknown"]["reason"] == "it measures no novelty and never answers unknown"

    strangers = measured(answers(["flow"] * 20, ["gan"] * 20, novelty=1.0))
    assert strangers["n_known"] == 0
    assert strangers["multiclass_accuracy"]["reason"] == "there are no images of classes that it was trained on"
    assert strangers["balanced_accuracy"]["reason"] == "there are no images of classes that it was trained on"
    assert strangers["unknown"]["images"]["never_trained_fakes"]["called_fake"]["value"] == 1

    known = measured(random_answers(CLASSES))
    assert known["unknown"]["auroc"]["reason"] == "there are no fakes of classes that it was never trained on"


def test_novelty_that_is_missing_is_said():
    frame = random_answers(CLASSES, never=["flow"])
    fakes = frame["label"] == 1
    assert measured(frame.drop(columns="novelty"))["unknown"]["auroc"]["reason"] == "novelty was not measured"
    frame.loc[frame[fakes].index[:3], "novelty"] = np.nan
    assert measured(frame)["unknown"]["auroc"]["reason"] == f"3 of {fakes.sum()} values of novelty are missing"
    frame.loc[~fakes, "novelty"] = np.nan
    assert measured(frame[~frame.index.isin(frame[fakes].index[:3])])["unknown"]["auroc"]["value"] is not None


def test_few_groups_have_no_interval():
    frame = random_answers(CLASSES, groups=60, never=["flow"])
    frame.loc[frame["family"] == "gan", "group"] = "one prompt"
    frame.loc[frame["family"] == "flow", "group"] = "another"
    found = measured(frame)
    assert found["multiclass_accuracy"]["low"] is not None
    reason = "too few groups for an interval: 1 of images of gan; 10 needed"
    assert found["by_class"]["gan"]["recall"]["reason"] == found["balanced_accuracy"]["reason"] == reason
    assert found["by_class"]["diffusion"]["recall"]["low"] is not None
    assert found["unknown"]["auroc"]["reason"] == "too few groups for an interval: 1 of fakes never trained on; 10 needed"
    nine = measured(frame.assign(group=np.where(frame["label"] == 0, "g", frame["group"])))
    assert nine["multiclass_accuracy"]["reason"] == "too few groups for an interval: 1 of real images, 10 needed"


def test_images_without_an_answer_are_said_and_not_counted():
    frame = random_answers(CLASSES)
    frame.loc[0, "predicted_family"] = None
    found = measured(frame)
    assert found["n_without_answer"] == 1
    for cell in (found["multiclass_accuracy"], found["balanced_accuracy"], found["by_class"]["real"]["recall"]):
        assert cell["reason"] == "1 of 600 images have no predicted class"
    assert found["unknown"]["images"]["reals"]["called_fake"]["value"] is None
    assert np.sum(found["confusion"]["families"]["counts"]) == 599


def test_a_fake_of_no_known_family_counts_as_never_trained_on():
    found = measured(answers(["real", "gan", "unknown"], ["real", "gan", "gan"]).assign(family=["real", "real", "unknown"]))
    assert found["n_known"] == 1
    assert found["unknown"]["n_family_unknown"] == 2
    assert found["confusion"]["families"]["true"] == [*CLASSES, "unknown"]


def test_only_clean_images_are_counted_and_only_detectors_of_classes():
    frame = random_answers(CLASSES)
    perturbed = pd.concat([frame, frame.assign(perturbation="jpeg_40", predicted_family="gan")])
    assert measured(perturbed) == measured(frame)
    assert measured(frame.assign(predicted_family=None)) is None
    for told in (None, {}, {"target": "binary", "classes": None}, {"target": "family", "classes": None}):
        assert family_document(frame, told) is None
