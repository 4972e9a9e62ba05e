"""What a report says of probabilities: whether they mean what they say."""

from collections.abc import Mapping
from typing import Any

from evaluation.figures.reliability import reliability_figure, with_reliability
from evaluation.figures.theme import ON_LIGHT
from evaluation.report.parts import Grid, Part, drawn
from evaluation.report.verdict import percent

_HEADS = {"Brier score": "brier", "log loss": "log_loss", "calibration error": "ece", "temperature": "temperature"}


def reliability_part(documents: Mapping[str, Mapping[str, Any]]) -> Part | None:
    """Whether probabilities mean what they say, of all images as they are.

    Args:
        documents: Parts of `metrics.json` by detector; those without probabilities are left out.

    Returns:
        None where no detector gives probabilities.
    """
    records = with_reliability(documents)
    if not records:
        return None
    several = len(documents) > 1
    sentences = [_sentence(name if several else "It", record) for name, record in records.items()]
    shares = {record["n_fake"] / (record["n_fake"] + record["n_real"]) for record in records.values()}
    share = f" of {percent(shares.pop())}" if len(shares) == 1 else ""
    sentences.append(
        f"All this holds for the share of fakes{share} among these images only: where fakes are rarer, fewer of the images with a given "
        "probability are fake."
    )
    rows = {name: [record[key] for key in _HEADS.values()] for name, record in records.items()}
    grid = Grid("Calibration of the probabilities", "detector", list(_HEADS), rows)
    alt = f"Reliability diagram with a histogram of the probabilities: {', '.join(records)}"
    figure = reliability_figure(documents, ON_LIGHT)
    return Part("Do probabilities mean what they say?", sentences, [grid], [] if figure is None else [drawn(figure, alt)])


def _sentence(name: str, record: Mapping[str, Any]) -> str:
    fitted = record["temperature"]
    if fitted["value"] is None:
        return (
            f"{name} has a calibration error of {record['ece']['value']:.3f}; there is no temperature that fits best: {fitted['reason']}."
        )
    divided = f"dividing its log-odds by {fitted['value']:.2f}"
    if fitted["low"] is None:
        return f"{name} would fit these images best by {divided}; how sure that is is not known: {fitted['reason']}."
    sure = f"95% interval {fitted['low']:.2f} to {fitted['high']:.2f}"
    if fitted["low"] <= 1 <= fitted["high"]:
        return f"{name} is not shown to be over- or underconfident: {divided} ({sure}) would fit best.{_example(record)}"
    kind = "overconfident" if fitted["low"] > 1 else "underconfident"
    return f"{name} is {kind}: {divided} ({sure}) would mend it as far as one number can.{_example(record)}"


def _example(record: Mapping[str, Any]) -> str:
    """The bin that is furthest from what its probabilities say, where its interval leaves that out."""
    off = [each for each in record["reliability"] if not each["low"] <= each["probability"] <= each["high"]]
    if not off:
        return " In no bin does the interval of the share of fakes leave out the mean probability."
    worst = max(off, key=lambda each: abs(each["share"] - each["probability"]))
    return (
        f" Of the {worst['n']:,} images given {worst['probability']:.2f} on average, {percent(worst['share'])} are fake "
        f"(95% interval {percent(worst['low'])} to {percent(worst['high'])})."
    )
