"""What a report says of a detector's classes, and its map of embeddings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluation.confusion import CONFUSIONS
from evaluation.embedding_map import EmbeddingMap
from evaluation.figures import map_figure
from evaluation.figures.confusion import ON_DARK, ON_LIGHT, confusion_figure
from evaluation.report.parts import Chart, Grid, Part, drawn, drawn_twice
from evaluation.report.verdict import percent

_KINDS = {
    "known_fakes": "fakes of classes that it was trained on",
    "never_trained_fakes": "fakes of classes that it was never trained on",
    "reals": "real images",
}
_CAPTIONS = {
    "families": "What it takes each family for",
    "generators": "What it takes the images of each generator for",
    "predicted_generators": "Which generator it takes each generator for",
}
_LISTED = 12


def family_part(document: Mapping[str, Any]) -> Part:
    """How often a detector of classes gives the right one, class by class, and what it takes for what.

    Args:
        document: Of `families.family_document`.
    """
    return Part("Classes", _sentences(document), _grids(document), _charts(document["confusion"]))


def map_part(found: EmbeddingMap | str) -> Part:
    """The map of the vectors that a detector sees.

    Args:
        found: The map, or why there is none.
    """
    heading = "Map of the embeddings"
    if isinstance(found, str):
        return Part(heading, [f"There is no map: {found}."])
    shown = len(found.points)
    chosen = (
        ""
        if shown + found.left_out == found.images
        else f" of {found.images:,}, as many reals as fakes and as many of each generator as there are"
    )
    sentences = [
        f"{shown:,} images{chosen}, at the first two principal components of what the detector sees of each, {found.dimensions:,} numbers: "
        f"{percent(sum(found.explained))} of their variance. What lies together here may still lie apart in other directions."
    ]
    if found.left_out:
        sentences.append(f"Left out because their vectors hold numbers that are not finite: {found.left_out:,}.")
    alt = f"Two principal components of the embeddings of {shown:,} images, by generator and by right or wrong"
    return Part(heading, sentences, charts=[drawn_twice(lambda theme: map_figure(found, theme), alt)])


def _sentences(document: Mapping[str, Any]) -> list[str]:
    kind = "generators" if document["target"] == "generator" else "families"
    names = document["classes"][1:]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    said = [f"Trained to tell real images and {len(names)} {kind} apart: {', '.join(names[:_LISTED])}{more}."]
    right, binary = document["multiclass_accuracy"], document["binary_accuracy"]
    if right["value"] is not None and binary["value"] is not None:
        said.append(
            f"Of {document['n_known']:,} images that are real or of these {kind}, {percent(right['value'])} get the right class"
            f"{_between(right)}. "
            f"Taken as real or not, {percent(binary['value'])} of the answers are right: by the likeliest class, not by the threshold, "
            "which may be set for fewer false alarms."
        )
    unknown, auroc = document["unknown"], document["unknown"]["auroc"]
    never = unknown["images"]["never_trained_fakes"]
    if never["n"] and never["called_fake"]["value"] is not None:
        said.append(
            f"It calls {percent(never['called_fake']['value'])} of the {never['n']:,} fakes of other {kind} something else than real."
        )
    if auroc["value"] is not None:
        said.append(
            f"Novelty tells those from fakes of known {kind} with an AUROC of {auroc['value']:.3f}{_between(auroc, '{:.3f}'.format)}."
        )
    elif never["n"]:
        said.append(f"Whether it can tell those from fakes of known {kind} is not measured: {auroc['reason']}.")
    if count := unknown["n_family_unknown"]:
        said.append(f"Fakes of no known family: {count:,}. They count as never trained on; a file of families of your own can name theirs.")
    if count := document["n_without_answer"]:
        said.append(f"Images without a predicted class: {count:,}. So no share of right answers is given.")
    return said


def _between(cell: Mapping[str, Any], written: Callable[[float], str] = percent) -> str:
    return "" if cell["low"] is None else f" (95% interval {written(cell['low'])} to {written(cell['high'])})"


def _grids(document: Mapping[str, Any]) -> Sequence[Grid]:
    totals = {"right class": "multiclass_accuracy", "right class, mean over the classes": "balanced_accuracy"}
    totals |= {"right family": "family_accuracy", "real or not": "binary_accuracy"}
    accuracies = {name: [document[key], document["n_known"]] for name, key in totals.items() if key in document}
    classes = {
        name: [each["recall"], each["precision"], _counted(each), each["n_predicted"]] for name, each in document["by_class"].items()
    }
    unknown = document["unknown"]
    rows = {_KINDS[kind]: [each["answered_unknown"], each["called_fake"], _counted(each)] for kind, each in unknown["images"].items()}
    grids = [
        Grid("Right answers", "right answers", ["share", "images"], accuracies),
        Grid("Recall and precision of each class", "class", ["recall", "precision", "images (groups)", "called so"], classes),
    ]
    if unknown["images"]["never_trained_fakes"]["n"] or unknown["images"]["known_fakes"]["answered_unknown"]["value"] is not None:
        grids.append(Grid("Answers for classes never trained on", "images", ["called unknown", "not called real", "images (groups)"], rows))
    return grids


def _counted(record: Mapping[str, Any]) -> str:
    return f"{record['n']:,} ({record['n_groups']:,})"


def _charts(matrices: Mapping[str, Any]) -> list[Chart]:
    charts = []
    for name, matrix in matrices.items():
        rows, columns = CONFUSIONS[name]
        figure = confusion_figure(matrix, rows, columns, ON_LIGHT)
        alt = f"Confusion matrix, {rows} by {columns}: {', '.join(matrix['true'])}"
        charts.append(drawn(figure, alt, _CAPTIONS[name], ON_LIGHT, ON_DARK))
    return charts
