"""What a report says of robustness and of probabilities."""

import pytest

from evaluation.report.reliability import reliability_part
from evaluation.report.robustness import robustness_part
from evaluation.report.verdict import percent
from tests.evaluation.robust import measured


@pytest.fixture(scope="module")
def documents():
    return measured(detectors=("a", "b", "c"))


def test_the_worst_perturbations_are_named_with_their_numbers(documents):
    part = robustness_part(documents)
    perturbations = documents["c"]["robustness"]["perturbations"]
    broken = {name: each["all"]["fpr"]["value"]["value"] for name, each in perturbations.items() if "threshold" in each["verdict"]}
    worst = max(broken, key=broken.get)
    (sentence,) = [each for each in part.sentences if each.startswith("c ")]
    expected = (
        f"Its threshold does not hold under {len(broken)} of them, worst under {worst}: {100 * broken[worst]:.0f}% of the real images"
    )
    assert expected in sentence
    assert "5% were wanted" in sentence
    assert len(part.grids) == 3
    assert part.grids[0].rows["none"][-1] == "as they are"
    assert part.grids[0].rows["none"][1] == ""
    assert part.grids[0].rows["jpeg_40"][1] == documents["a"]["robustness"]["perturbations"]["jpeg_40"]["all"]["auroc"]["change"]
    assert all(len(row) == len(part.grids[0].heads) for row in part.grids[0].rows.values())
    assert len(part.charts) == 2


def test_without_images_as_they_are_the_part_says_so():
    part = robustness_part(measured(("jpeg_90", "jpeg_40")))
    assert part.sentences[0].startswith("It was not measured on images as they are (none)")
    assert robustness_part(measured(("none",))) is None
    assert robustness_part({"probe": {}}) is None


def test_one_perturbation_has_no_curve():
    documents = measured(("none", "jpeg_90"))
    part = robustness_part(documents)
    assert len(part.charts) == 1
    record = documents["probe"]["robustness"]["perturbations"]["jpeg_90"]
    auroc, fpr = record["all"]["auroc"], record["all"]["fpr"]
    assert part.sentences[0] == (
        f"Under jpeg_90: {record['verdict']}. AUROC is {auroc['value']['value']:.3f} instead of {auroc['clean']['value']:.3f} on the same "
        f"images, and {percent(fpr['value']['value'])} of the real images are called fake; 5% were wanted."
    )
    assert robustness_part(documents | {"other": {}}).sentences[0].startswith("probe under jpeg_90: ")


def test_probabilities_that_say_too_much_are_said_to(documents):
    overall = documents["a"]["overall"]
    part = reliability_part(documents)
    fitted = overall["temperature"]
    assert fitted["low"] > 1
    assert part.sentences[0].startswith(f"a is overconfident: dividing its log-odds by {fitted['value']:.2f} ")
    assert "share of fakes of 50%" in part.sentences[-1]
    assert part.grids[0].rows["a"] == [overall[name] for name in ("brier", "log_loss", "ece", "temperature")]
    assert len(part.charts) == 1


def changed(documents, **cells):
    return {"a": {"overall": documents["a"]["overall"] | cells}}


def test_other_verdicts_of_probabilities(documents):
    def cell(value, low=None, high=None, reason=None):
        return {"value": value, "low": low, "high": high} | ({"reason": reason} if reason else {})

    def first(**cells):
        return reliability_part(changed(documents, **cells)).sentences[0]

    assert first(temperature=cell(0.5, 0.4, 0.7)).startswith("It is underconfident: dividing its log-odds by 0.50")
    assert "not shown to be over- or underconfident" in first(temperature=cell(1.1, 0.9, 1.3))
    assert first(temperature=cell(None, reason="all are one half")).endswith("no temperature that fits best: all are one half.")
    assert "how sure that is is not known: too few groups" in first(temperature=cell(1.5, reason="too few groups"))
    bins = [
        {"n": 50, "effective_n": 50.0, "probability": 0.2, "share": 0.22, "low": 0.1, "high": 0.4},
        {"n": 1234, "effective_n": 40.0, "probability": 0.95, "share": 0.71, "low": 0.55, "high": 0.83},
    ]
    told = first(temperature=cell(2.3, 2.0, 2.6), reliability=bins)
    assert told.endswith("Of the 1,234 images given 0.95 on average, 71% are fake (95% interval 55% to 83%).")
    assert first(temperature=cell(2.3, 2.0, 2.6), reliability=bins[:1]).endswith("leave out the mean probability.")
    assert reliability_part(changed(documents, reliability=None)) is None
