"""What a report says of scores by generated fraction."""

from evaluation.fractions import by_fraction, sentence
from evaluation.report.fraction import HEADING, fraction_part
from modules.metrics.functional import Threshold
from tests.evaluation.fractions import partly_generated
from tests.evaluation.rows import THRESHOLD


def test_a_detector_has_a_sentence_a_table_and_a_chart():
    found = by_fraction(partly_generated(), THRESHOLD, resamples=50)
    (record,) = found.values()
    part = fraction_part({"probe": found})
    assert part.heading == HEADING
    assert part.sentences[1] == sentence(record)
    (grid,) = part.grids
    assert list(grid.rows) == ["real images", "10%", "50%", "100%"]
    assert grid.rows["50%"][2] == record["points"][1]["tpr_at_threshold"]
    assert grid.rows["50%"][1].text == f"{record['points'][1]['mean_score']['value']:.4g}"
    assert all(len(row) == len(grid.heads) for row in grid.rows.values())
    assert "called fake: 10%: " in part.charts[0].svg


def test_several_are_named_and_those_without_fractions_left_out():
    found = by_fraction(partly_generated(4), Threshold(None, 0.05, 3, "too few reals"), resamples=10)
    part = fraction_part({"a": found, "b": found, "c": {}})
    assert [sentence.partition(":")[0] for sentence in part.sentences[1:]] == ["a", "b"]
    assert "too few reals" in part.grids[0].notes
    assert fraction_part({"c": {}}) is None
    assert fraction_part({}) is None


def test_bins_say_what_they_hold():
    found = by_fraction(partly_generated(4, tuple(i / 20 for i in range(1, 21))), THRESHOLD, resamples=10)
    assert list(fraction_part({"a": found}).grids[0].rows)[1] == "7.5% (5 to 10%)"
