"""Published numbers in a report: each beside its measured one, or counted with the reason why it stands alone."""

from evaluation.comparison.compared import Compared
from evaluation.comparison.targets import Target, Targets
from evaluation.report.published import published_part

MEASURED = {"value": 0.875, "low": 0.8, "high": 0.9125}


def row(value=0.75, measured=MEASURED, reasons=(), **changed):
    told = {"detector": "probe", "train": None, "dataset": "a", "generator": "sd", "perturbation": "none", "metric": "auroc"}
    counts = (None, None) if measured is None else (120, 1340)
    return Compared(Target(**told | changed, value=value), measured, "a/sd", *counts, tuple(reasons))


def part_of(*rows, status="", setting="", note=""):
    return published_part(Targets("a paper", status, setting, note, [each.target for each in rows]), rows)


def shown(part):
    [grid] = part.grids
    return {name: [cell["text"] for cell in cells] for name, cells in grid.shown().items()}


def test_numbers_stand_beside_each_other_with_difference_and_counts():
    part = part_of(row(), row(0.9, metric="accuracy", measured={"value": 0.5, "low": None, "high": None}))
    assert shown(part) == {
        "probe, none: auroc": ["0.7500", "0.8750", "+0.1250", "1,340", "120"],
        "probe, none: accuracy": ["0.9000", "0.5000", "-0.4000", "1,340", "120"],
    }
    cells = part.grids[0].shown()["probe, none: auroc"]
    assert cells[1]["small"] == "0.800–0.912"
    assert [cell["sort"] for cell in cells] == [0.75, 0.875, 0.125, 1340, 120]
    assert part.sentences[0] == "2 of 2 published numbers can be compared with a measured one; largest difference: -0.4000."
    assert part.sentences[1:] == ["Published in a paper.", "Images: a/sd."]
    assert not part.small_print


def test_what_cannot_be_compared_has_no_difference_and_the_reason_as_a_note():
    part = part_of(row(), row(reasons=("other steps", "other data"), metric="accuracy"), row(measured=None, reasons=("not measured",)))
    assert list(shown(part)) == ["probe, none: auroc", "probe, none: accuracy"]
    cells = part.grids[0].shown()["probe, none: accuracy"]
    assert [cell["text"] for cell in cells] == ["0.7500", "0.8750", "–", "1,340", "120"]
    assert cells[2]["note"] == 1
    assert part.grids[0].notes == ["not comparable: other steps; other data"]
    assert part.small_print == ["Without a measured number: 1 × not comparable: not measured"]


def test_reasons_are_counted():
    alone = [row(measured=None, reasons=(why,), metric=f"m{n}") for n, why in enumerate(["x", "y", "x", "x"])]
    part = part_of(*alone)
    assert part.grids == []
    assert part.small_print == ["Without a measured number: 3 × not comparable: x", "Without a measured number: 1 × not comparable: y"]


def test_images_are_named_in_the_rows_where_there_are_several():
    part = part_of(row(), row(generator=None, dataset="b"))
    assert list(shown(part)) == ["probe, none, a/sd: auroc", "probe, none, b: auroc"]
    assert not any(sentence.startswith("Images:") for sentence in part.sentences)


def test_numbers_that_are_called_alike_all_have_a_row():
    trained = [row(0.1 * n, train=train) for n, train in enumerate([None, "a", "b", None, "a", None])]
    assert list(shown(part_of(*trained))) == [
        "probe, none: auroc",
        "probe, none: auroc, trained on a",
        "probe, none: auroc, trained on b",
        "probe, none: auroc (2)",
        "probe, none: auroc (3)",
        "probe, none: auroc (4)",
    ]
    assert [cells[0] for cells in shown(part_of(*trained)).values()] == [f"{0.1 * n:.4f}" for n in range(6)]


def test_what_the_source_says_is_told_and_nothing_at_all_is_no_error():
    part = part_of(row(), status="by its authors", note="of 2023")
    assert part.sentences[1:4] == ["Published in a paper.", "Status: by its authors", "Note: of 2023"]
    assert part_of().grids == []
