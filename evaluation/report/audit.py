"""What a report says of trivial facts of the files beside a detector."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from evaluation.audit import ALL, parts_of
from evaluation.figures.audit import audit_figure
from evaluation.report.parts import Grid, Part, drawn_twice
from evaluation.rows import one_line

_FLAGGED = "flagged"
_MEANING = (
    "A flag does not say that the detector uses the fact, but that these images cannot tell: measure it under a perturbation that makes "
    "the fact alike for all (such as equalise), or on images where it is alike."
)


def audit_part(document: Mapping[str, Any]) -> Part:
    """Which facts come near the detector, and AUROC of all of them by generator.

    Args:
        document: Of `audit.audit` or `audit.audit_data`.
    """
    detector, parts = document["detector"], parts_of(document)
    under = "" if document["perturbation"] == "none" else f", under {one_line(document['perturbation'])}"
    heading = f"Shortcuts in the data{under}" if detector is None else f"Shortcuts that {one_line(detector)} may have taken{under}"
    sentences = [one_line(each) for each in (*document["sentences"], *([_MEANING] if document["flagged"] else []), *document["notes"])]
    if document["constant"]:
        held = ", ".join(f"{one_line(name)} ({one_line(value)})" for name, value in document["constant"].items())
        sentences.append(f"The same on all images: {held}.")
    if not document["facts"] or not parts:
        return Part(heading, sentences)
    rows = {fact: [_cell(record["facts"][fact]) for record in parts.values()] for fact in document["facts"]}
    if detector is not None:
        rows[f"detector: {detector}"] = [record["detector"] for record in parts.values()]
    heads = ["all generators" if name == ALL else name for name in parts]
    title = "AUROC of facts of the files alone, by generator"
    chart = drawn_twice(partial(_figure, document), title, title)
    return Part(heading, sentences, [Grid(title, "fact", heads, rows)], [chart])


def _figure(document: Mapping[str, Any], theme: Any) -> Any:
    return cast("Any", audit_figure(document, theme))


def _cell(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The AUROC, with the flag among the notes."""
    cell = dict(entry["auroc"])
    notes = [_FLAGGED] * entry["flagged"] + ([cell["reason"]] if "reason" in cell else [])
    return cell | ({"reason": "; ".join(notes)} if notes else {})
