import math

import pytest

from evaluation.decision import Rule, Tally, spread
from modules.metrics.functional import Threshold

RANGES = {"round_trip_psnr": [17.2, 30.0], "short_side": [256, 512]}


def rule(value=0.5, **options):
    return Rule(Threshold(value, 0.05, 100, "too few reals"), **options)


@pytest.mark.parametrize(("score", "verdict"), [(0.6, "generated"), (0.5, "real"), (-3.0, "real")])
def test_a_score_above_the_threshold_is_called_generated(score, verdict):
    assert rule().decide([score], {}) == (verdict, "")


def test_no_threshold_no_verdict():
    assert rule(None, abstains=False).decide([9.0], {}) == ("abstain", "The detector has no threshold: too few reals.")


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_row_35_a_score_that_is_no_number_is_no_verdict(score):
    verdict, reason = rule().decide([score], {})
    assert verdict == "error"
    assert str(score) in reason
    assert spread([0.0, score]) is None


def test_outside_of_the_calibration():
    verdict, reason = rule(calibrated_on=RANGES).decide([0.9], {"round_trip_psnr": 9.31, "short_side": 300.0})
    assert verdict == "abstain"
    assert reason == "round_trip_psnr 9.31 dB is below 17.2, the lowest that the detector was calibrated on"
    assert rule(calibrated_on=RANGES, abstains=False).decide([0.9], {"round_trip_psnr": 9.31}) == ("generated", reason)


@pytest.mark.parametrize(
    ("name", "value", "inside"),
    [
        ("round_trip_psnr", 16.0, True),  # a tenth of the range is allowed
        ("round_trip_psnr", 15.8, False),
        ("round_trip_psnr", 31.2, True),
        ("round_trip_psnr", math.inf, False),
        ("round_trip_psnr", math.nan, False),
        ("short_side", 171.0, True),
        ("short_side", 170.0, False),
        ("short_side", 768.0, True),
        ("short_side", 769.0, False),
        ("unknown", 1e9, True),
    ],
)
def test_how_far_outside_is_outside(name, value, inside):
    assert (rule(calibrated_on=RANGES).outside({name: value}) == []) is inside


def test_a_range_of_one_value_holds_it():
    ranges = {"round_trip_psnr": [17.2, 17.2]}
    assert rule(calibrated_on=ranges).outside({"round_trip_psnr": 17.2000001}) == []
    assert "above 17.2, the highest" in rule(calibrated_on=ranges).outside({"round_trip_psnr": 18.0})[0]


def test_a_verdict_that_re_encoding_changes_is_none():
    assert rule().decide([0.6, 0.7, 0.8], {}) == ("generated", "")
    verdict, reason = rule().decide([0.6, 0.4, 0.7], {})
    assert verdict == "abstain"
    assert reason == "the verdict is generated, but changes in 1 of 2 slight re-encodings"
    assert rule(abstains=False).decide([0.4, 0.6, 0.7], {})[0] == "real"
    assert spread([1.0, 3.0]) == 1.0


def test_the_tally_counts_and_names_the_first():
    tally = Tally()
    for path, verdict, reason in [("a", "real", ""), ("b", "error", "empty"), ("c", "error", "empty"), ("d", "error", "cut")]:
        tally.add(path, verdict, reason)
    assert tally.lines() == ["4 images: 0 generated, 1 real, 0 abstain, 3 error", "  2 × empty (first: b)", "  1 × cut (d)"]


def test_the_tally_does_not_grow_with_the_reasons():
    tally = Tally()
    for number in range(1000):
        tally.add(str(number), "error", f"reason {number}")
    assert len(tally.errors) <= 101
    assert sum(int(line.split("×")[0]) for line in tally.lines()[1:]) == 1000


def test_a_tally_counts_families_where_there_are_some():
    tally = Tally()
    for family in ("gan", "real", "gan", None):
        tally.add("x", "generated", "", family)
    assert tally.lines() == ["4 images: 4 generated, 0 real, 0 abstain, 0 error", "families: 2 gan, 1 real"]
