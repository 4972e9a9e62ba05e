"""What a report says of detectors under perturbations."""

from collections.abc import Mapping
from typing import Any

from evaluation.comparison.robustness import DOES_NOT_HOLD, METRICS, NO_LONGER_HOLDS, RANKING_LOST, UNCHANGED, with_robustness
from evaluation.figures.robustness import curves_figure, robustness_figure
from evaluation.figures.theme import ON_LIGHT, Theme
from evaluation.report.parts import Chart, Grid, Part, drawn, drawn_twice
from evaluation.report.verdict import percent
from evaluation.statistics import CLEAN
from evaluation.tables import Documents

_HEADS = ("AUROC", "its change", "TPR at the stored threshold", "its change", "FPR at the stored threshold", "its change", "")


def robustness_part(documents: Documents) -> Part | None:
    """What ranking and threshold of each detector do under perturbations.

    Args:
        documents: Parts of `metrics.json` by detector; those without `robustness` are left out.

    Returns:
        None where no detector was measured under perturbations.
    """
    found = {name: document for name, document in with_robustness(documents).items() if set(document["perturbations"]) != {CLEAN}}
    if not found:
        return None
    several = len(documents) > 1
    sentences = [sentence for name, document in found.items() for sentence in _sentences(name if several else "It", document)]
    sentences.append(
        "Changes are against the same images as they are, with paired 95% intervals; a verdict goes by whether its interval leaves out 0, "
        "which it does by chance once in 20. TPR alone says little: a detector that calls everything fake has a high one, so FPR at the "
        "same threshold stands beside it."
    )
    grids = []
    for name, document in found.items():
        rows = {each: _row(record, each == CLEAN) for each, record in document["perturbations"].items()}
        grids.append(Grid(f"{name} under perturbations", f"perturbation ({name})" if several else "perturbation", _HEADS, rows))
    return Part("Robustness", sentences, grids, _charts(documents, found))


def _row(record: Mapping[str, Any], is_clean: bool) -> list[Any]:
    sides = ("value",) if is_clean else ("value", "change")
    cells = [record["all"][metric][side] if side in sides else "" for metric in METRICS for side in ("value", "change")]
    return [*cells, record["verdict"]]


def _sentences(name: str, document: Mapping[str, Any]) -> list[str]:
    """How many perturbations cost ranking, and under how many the threshold does not hold, each with the worst."""
    perturbed = {each: record for each, record in document["perturbations"].items() if each != CLEAN}
    if not document["has_clean"]:
        return [f"{name} was not measured on images as they are ({CLEAN}), so there is no change to be told."]
    if len(perturbed) == 1:
        return _of_one(name, document, *next(iter(perturbed.items())))
    count = f"{len(perturbed)} perturbations"
    lost = {each: record["all"]["auroc"] for each, record in perturbed.items() if RANKING_LOST in record["verdict"]}
    said = []
    if lost:
        worst = min(lost, key=lambda each: lost[each]["change"]["value"])
        cells = lost[worst]
        numbers = f"AUROC {cells['value']['value']:.3f} instead of {cells['clean']['value']:.3f} on the same images"
        said.append(f"{name} ranks worse under {len(lost)} of {count}, worst under {worst}: {numbers}.")
    elif all(record["all"]["auroc"]["change"]["low"] is not None for record in perturbed.values()):
        said.append(f"{name} is not shown to rank worse under any of {count}.")
    broken = {
        each: record["all"]["fpr"]
        for each, record in perturbed.items()
        if NO_LONGER_HOLDS in record["verdict"] or DOES_NOT_HOLD in record["verdict"]
    }
    if broken:
        worst = max(broken, key=lambda each: broken[each]["value"]["value"])
        wanted = "" if document["wanted_fpr"] is None else f", {percent(document['wanted_fpr'])} were wanted"
        alarms = percent(broken[worst]["value"]["value"])
        said.append(
            f"Its threshold does not hold under {len(broken)} of them, worst under {worst}: {alarms} of the real images are called "
            f"fake{wanted}."
        )
    if unchanged := sum(record["verdict"] == UNCHANGED for record in perturbed.values()):
        said.append(f"Nothing is shown to change under {unchanged}.")
    if left_out := {each: record["n_left_out"] for each, record in perturbed.items() if record["n_left_out"]}:
        most = max(left_out, key=lambda each: left_out[each])
        said.append(f"Images that were not scored both ways are left out: {left_out[most]:,} under {most}, which lacks most.")
    told = " ".join(said)
    return [told if name == "It" or told.startswith(name) else f"{name}: {told}"] if said else []


def _of_one(name: str, document: Mapping[str, Any], under: str, record: Mapping[str, Any]) -> list[str]:
    """The verdict and the numbers behind it, where there is only one perturbation."""
    ranked, alarms = record["all"]["auroc"], record["all"]["fpr"]
    said = f"{f'{name} under' if name != 'It' else 'Under'} {under}: {record['verdict']}"
    if ranked["value"]["value"] is not None and ranked["clean"]["value"] is not None:
        said += f". AUROC is {ranked['value']['value']:.3f} instead of {ranked['clean']['value']:.3f} on the same images"
    if alarms["value"]["value"] is not None:
        wanted = "" if document["wanted_fpr"] is None else f"; {percent(document['wanted_fpr'])} were wanted"
        said += f", and {percent(alarms['value']['value'])} of the real images are called fake{wanted}"
    left_out = f" Images that were not scored both ways are left out: {record['n_left_out']:,}." if record["n_left_out"] else ""
    return [f"{said}.{left_out}"]


def _charts(documents: Documents, found: Mapping[str, Any]) -> list[Chart]:
    shown = {name: documents[name] for name in found}
    names = ", ".join(dict.fromkeys(each for document in found.values() for each in document["perturbations"]))

    def heat_maps(theme: Theme) -> Any:
        return robustness_figure(shown, theme)

    charts = [drawn_twice(heat_maps, f"Heat maps of AUROC, TPR and FPR of {', '.join(found)} under {names}")]
    curves = curves_figure(shown, ON_LIGHT)
    caption = "By strength, from none or mild to strong"
    return (
        charts if curves is None else [*charts, drawn(curves, f"AUROC, TPR and FPR by the strength of each perturbation: {names}", caption)]
    )
