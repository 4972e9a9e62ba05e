"""What the numbers of `metrics.json` say, in sentences that claim no more than the numbers do."""

from collections.abc import Mapping
from typing import Any

import pandas as pd


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage of two figures or so."""
    digits = 0 if share >= 0.1 else 1 if share >= 0.001 else 2
    text = f"{100 * share:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"


def findings(document: Mapping[str, Any], frame: pd.DataFrame) -> list[str]:
    """What was measured, and the verdict, in a few sentences.

    Args:
        document: One detector's part of `metrics.json`.
        frame: The rows that `overall` was made of.
    """
    return [_what(document, frame), *_ranking(document), *_weakest(document), *_at_threshold(document)]


def concerns(document: Mapping[str, Any]) -> list[str]:
    """What a reader must know before trusting the numbers: what is missing, and why."""
    found = []
    if document["threshold"]["value"] is None:
        found.append(f"There is no threshold, so no image is called real or fake: {document['threshold']['reason']}.")
    for under, audited in document.get("shortcuts", {}).items():
        if audited["flagged"]:
            after = "" if under == "none" else f" under {under}"
            found.append(f"Shortcut{after}: {audited['sentences'][0]}")
    without: dict[tuple[bool, str], list[str]] = {}
    for name, record in {"all images": document["overall"], **document["by_generator"]}.items():
        cell = record["auroc"]
        if cell.get("reason"):
            without.setdefault((cell["value"] is None, cell["reason"]), []).append(name)
    for (no_value, reason), names in without.items():
        found.append(f"{'No numbers' if no_value else 'No intervals'} for {_listed(names)}: {reason}.")
    return found


def _what(document: Mapping[str, Any], frame: pd.DataFrame) -> str:
    overall = document["overall"]
    sets = ", ".join(sorted(frame["dataset"].unique()))
    names = sorted(set(frame["perturbation"]) - {"none"})
    perturbed = f"; perturbation: {', '.join(names)}" if names else ""
    count = len(document["by_generator"])
    return (
        f"Measured on {overall['n_fake']:,} fakes of {count} generator{'s' * (count != 1)} ({overall['n_groups_fake']:,} groups) "
        f"against {overall['n_real']:,} real images ({overall['n_groups_real']:,} groups); data: {sets}{perturbed}."
    )


def _ranking(document: Mapping[str, Any]) -> list[str]:
    cell = document["overall"]["auroc"]
    if cell["value"] is None:
        return []
    interval = "no interval" if cell["low"] is None else f"95% interval {cell['low']:.3f} to {cell['high']:.3f}"
    pairs = percent(cell["value"])
    return [f"AUROC over all images {cell['value']:.3f} ({interval}): a fake scores above a real image in {pairs} of pairs."]


def _weakest(document: Mapping[str, Any]) -> list[str]:
    """Best and worst generator, and those where the detector is not shown to work."""
    cells = {name: record["auroc"] for name, record in document["by_generator"].items() if record["auroc"]["value"] is not None}
    sentences = []
    if len(cells) > 1:
        worst, best = (choose(cells, key=lambda name: cells[name]["value"]) for choose in (min, max))
        sentences.append(f"Weakest on {worst} ({cells[worst]['value']:.3f}), strongest on {best} ({cells[best]['value']:.3f}).")
    chance = [name for name, cell in cells.items() if cell["low"] is not None and cell["low"] <= 0.5 <= cell["high"]]
    if chance:
        sentences.append(f"Not shown to do better than chance on {_listed(chance)}: the interval includes 0.5.")
    reverse = [name for name, cell in cells.items() if cell["value"] < 0.5 and name not in chance]
    if reverse:
        sentences.append(f"Below 0.5 on {_listed(reverse)}: fakes score lower than real images there.")
    return sentences


def _at_threshold(document: Mapping[str, Any]) -> list[str]:
    threshold, overall = document["threshold"], document["overall"]
    found, alarms = overall["tpr_at_threshold"], overall["fpr_at_threshold"]
    if threshold["value"] is None or found["value"] is None or alarms["value"] is None:
        return []
    interval = "" if alarms["low"] is None else f"95% interval {percent(alarms['low'])} to {percent(alarms['high'])}"
    if threshold["fpr"] is None:
        origin = f"The threshold is the detector's own boundary, a score of {threshold['value']:.4g}: no false positive rate was wanted."
        told = [interval] if interval else []
    else:
        wanted = percent(threshold["fpr"])
        chosen = f"was chosen on {threshold['n']:,} validation reals for a false positive rate of {wanted}"
        origin = f"The threshold {threshold['value']:.4g} {chosen}."
        told = [f"{wanted} were wanted", *([interval] if interval else [])]
    sentences = [
        f"{origin} Here it calls {percent(found['value'])} of the fakes fake, and {percent(alarms['value'])} of the real images"
        f"{' (' + ', '.join(told) + ')' if told else ''}."
    ]
    precisions = {share: cell["value"] for share, cell in overall["precision_at_prevalence"].items() if cell["value"] is not None}
    if precisions:
        parts = [f"{percent(value)} where {percent(float(share))} of all images are fakes" for share, value in precisions.items()]
        sentences.append(f"Of what it calls fake, this much would be fake: {' and '.join(parts)}.")
    return sentences


def _listed(names: list[str], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"
