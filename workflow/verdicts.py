"""The steps of predict.py: from what a person names to rows with verdicts."""

import logging
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from datamodules.paths import ImageList, NamedImage
from datamodules.scoring import Scored, Scorer
from evaluation.decision import ERROR, Rule, Tally, spread
from evaluation.rows import Row, RowWriter, one_line
from modules.detectors.answers import answer_columns
from modules.detectors.base import Detector
from modules.metrics.functional import Threshold

log = logging.getLogger("undertow")

COLUMNS = ["key", "path", "score", "probability", "verdict", "reason"]


def columns_of(detector: Detector, spread: bool) -> list[str]:
    """The columns of the rows that a detector's images get.

    Args:
        detector: One of families has columns of its own.
        spread: Whether re-encodings are scored besides.
    """
    return [*COLUMNS, *(answer_columns(detector)), *(["spread"] if spread else [])]


def find_rule(scorer: Scorer, threshold: float | None, abstains: bool) -> tuple[Rule, list[str]]:
    """How the detector's scores become verdicts, and what to warn of.

    Args:
        scorer: Whose scores.
        threshold: The user's own, before the checkpoint's.
        abstains: Whether there is no verdict on what the detector was not calibrated on.
    """
    stored, warnings = scorer.detector.threshold, []
    if threshold is not None:
        stored = Threshold(threshold, stored.fpr, 0)
    elif stored.value is None:
        warnings.append(
            f"The checkpoint has no threshold ({stored.reason}): there are scores, but no verdicts. --threshold VALUE sets one."
        )
    else:
        log.info("threshold %.4g, %s", stored.value, stored.origin)
    ranges = scorer.described.get("calibrated_on") or {}
    if not ranges and abstains:
        warnings.append("The checkpoint does not say what it was calibrated on: images unlike that get a verdict like all others.")
    return Rule(stored, ranges, abstains), warnings


def write_verdicts(scorer: Scorer, images: ImageList, rule: Rule, writer: RowWriter, resume: bool, quiet: bool) -> Tally:
    """Score the images, write a row for each, and say what came of it, also of a run that is stopped.

    Args:
        scorer: Its weights are loaded here, where there is something to score.
        images: Which images.
        rule: Makes verdicts.
        writer: Where rows go; it is closed.
        resume: Whether images that have a row already are left out.
        quiet: No progress bar.

    Returns:
        Counts of what was written.
    """
    tally, started = Tally(), time.monotonic()
    try:
        written = leave_out_written(images, writer) if resume else None
        if len(images):
            scorer.load()
            if written:
                scorer.check_same(*written)
            started = time.monotonic()
            write_rows(scorer, images, rule, writer, tally, quiet)
    finally:
        writer.close()
        seconds = time.monotonic() - started
        speed = f"{seconds:.1f} s ({tally.verdicts.total() / max(seconds, 1e-9):.1f} images/s)"
        log.info("%s", "\n".join([*tally.lines(), f"{speed}; rows: {writer.name}"]))
    return tally


def leave_out_written(images: ImageList, writer: RowWriter) -> tuple[NamedImage, float] | None:
    """Remove the images that have a row already.

    Returns:
        One of them with its score, to score again, or none.
    """
    checked: list[tuple[NamedImage, float]] = []

    def paths() -> Iterator[str]:
        for row in writer.written():
            if not checked and row["score"] not in (None, "") and (image := images.get(row["path"])):
                checked.append((image, float(row["score"])))
            yield row["path"]

    before = len(images)
    images.leave_out(paths(), one_line)
    log.info("%d of %d images have a row already", before - len(images), before)
    return checked[0] if checked else None


def write_rows(scorer: Scorer, images: ImageList, rule: Rule, writer: RowWriter, tally: Tally, quiet: bool) -> None:
    """Score the images and write a row for each, a batch at a time.

    Args:
        scorer: Loaded.
        images: Which images.
        rule: Makes verdicts.
        writer: Where rows go.
        tally: Counts them.
        quiet: No progress bar; there is none either where standard error is not a terminal.
    """
    with tqdm(total=len(images), unit="image", file=sys.stderr, disable=True if quiet else None) as bar:
        for batch in scorer.score(images.chunks(scorer.chunk_size)):
            rows = [row_of(scored, rule) for scored in batch]
            writer.write(rows)
            for row in rows:
                tally.add(row["path"], row["verdict"], row["reason"], row.get("predicted_family"))
            bar.update(len(rows))


def row_of(scored: Scored, rule: Rule) -> Row:
    """The row of one image: all columns that there may be."""
    told: dict[str, object] = {"key": scored.key or None, "path": scored.path, "probability": scored.probability} | scored.answers
    if not scored.scores:
        return told | {"score": None, "spread": None, "verdict": ERROR, "reason": scored.reason}
    verdict, reason = rule.decide(scored.scores, scored.diagnostics)
    return told | {"score": scored.scores[0], "spread": spread(scored.scores), "verdict": verdict, "reason": reason}
