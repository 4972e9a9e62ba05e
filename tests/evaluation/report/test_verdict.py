"""What is said of a threshold: a wanted rate, the detector's own boundary, or none."""

from dataclasses import asdict

import pytest

from evaluation.audit import audit
from evaluation.report.verdict import concerns, findings
from evaluation.statistics import metrics_document
from modules.metrics.functional import Threshold
from tests.evaluation.rows import usual_table


def said(threshold):
    document = metrics_document(usual_table(), threshold, resamples=20)
    return " ".join(findings(document, usual_table())), " ".join(concerns(document))


def test_a_threshold_of_a_wanted_rate_is_told_with_it():
    told, worries = said(Threshold(0.5, 0.05, 99))
    assert "The threshold 0.5 was chosen on 99 validation reals for a false positive rate of 5%. Here it calls" in told
    assert "(5% were wanted, 95% interval" in told
    assert "threshold" not in worries


def test_the_own_boundary_claims_no_wanted_rate():
    told, _ = said(Threshold(0.0, None, 12))
    assert "The threshold is the detector's own boundary, a score of 0: no false positive rate was wanted. Here it calls" in told
    assert "were wanted" not in told
    assert "of the real images (95% interval" in told
    assert "None" not in told


def test_without_a_threshold_the_reason_is_told():
    told, worries = said(Threshold(None, None, 0, "nothing was fitted"))
    assert "Here it calls" not in told
    assert "no image is called real or fake: nothing was fitted." in worries


def test_a_flagged_shortcut_is_a_concern_and_an_unflagged_one_is_none():
    table = usual_table().assign(fact_bytes=lambda rows: 100.0 + 50 * rows["label"] + rows.groupby("label").cumcount() % 7)
    document = metrics_document(table, Threshold(0.5, 0.05, 99), resamples=10)
    flagged = audit(table)
    assert flagged["flagged"] > 0
    assert f"Shortcut: {flagged['sentences'][0]}" in concerns(document | {"shortcuts": {"none": flagged}})
    under = concerns(document | {"shortcuts": {"equalise_48": flagged}})
    assert any(sentence.startswith("Shortcut under equalise_48: ") for sentence in under)
    silent = audit(table.assign(fact_bytes=lambda rows: rows.groupby("label").cumcount() % 7 * 1.0))
    assert silent["flagged"] == 0
    assert not any("Shortcut" in sentence for sentence in concerns(document | {"shortcuts": {"none": silent}}))


@pytest.mark.parametrize(
    ("threshold", "origin"),
    [
        (Threshold(0.3, 0.05, 99), "set for a false positive rate of 0.05 on 99 validation reals"),
        (Threshold(0.0, None, 0), "the detector's own boundary, set for no false positive rate"),
    ],
)
def test_a_threshold_says_where_it_comes_from(threshold, origin):
    assert threshold.origin == origin
    assert Threshold(**asdict(threshold)) == threshold


def test_numbers_at_the_own_boundary_are_those_at_zero():
    own = metrics_document(usual_table(), Threshold(0.0, None, 0), resamples=10)
    table = usual_table()
    assert own["threshold"] == {"value": 0.0, "fpr": None, "n": 0, "reason": None}
    assert own["overall"]["accuracy"]["value"] == pytest.approx(((table["score"] > 0) == table["label"]).mean())
