"""What is said of one image that nobody has labelled: generated, real, or nothing."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modules.metrics.functional import Threshold

GENERATED, REAL, ABSTAIN, ERROR = VERDICTS = ("generated", "real", "abstain", "error")

SIZE = "short_side"
SIZE_FACTOR = 1.5
"""Images may be so many times larger or smaller than those of the calibration: beyond it a resize has taken or made other frequencies."""
WIDENING = 0.1
"""Share of a range by which it is widened at both ends: by its making, one in a hundred images of the calibration lies outside of it."""

_SHOWN_REASONS = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """How scores become verdicts.

    Attributes:
        threshold: Scores greater than its value are called generated; without one there are no verdicts.
        calibrated_on: Lowest and highest value of each diagnostic on the images that the detector was calibrated on.
        abstains: Whether there is no verdict outside of these, and where slight re-encoding changes it.
    """

    threshold: Threshold
    calibrated_on: Mapping[str, Sequence[float]] = field(default_factory=dict)
    abstains: bool = True

    def decide(self, scores: Sequence[float], diagnostics: Mapping[str, float]) -> tuple[str, str]:
        """Verdict and reason of one image.

        Args:
            scores: Of the image as it is, then of its re-encodings.
            diagnostics: Figures of the image as it is.

        Returns:
            One of `VERDICTS`, and what there is to say of it, often nothing. A reason to abstain is given even where the rule does not.
        """
        if not all(math.isfinite(score) for score in scores):
            return ERROR, f"The detector's score is not a number ({', '.join(map(str, scores))})."
        limit = self.threshold.value
        if limit is None:
            return ABSTAIN, f"The detector has no threshold: {self.threshold.reason}."
        reasons = self.outside(diagnostics)
        generated = [score > limit for score in scores]
        if len(set(generated)) > 1:
            said = GENERATED if generated[0] else REAL
            other = sum(value != generated[0] for value in generated)
            reasons.append(f"the verdict is {said}, but changes in {other} of {len(scores) - 1} slight re-encodings")
        verdict = GENERATED if generated[0] else REAL
        return ABSTAIN if reasons and self.abstains else verdict, "; ".join(reasons)

    def outside(self, diagnostics: Mapping[str, float]) -> list[str]:
        """A sentence for each diagnostic that lies outside of what the detector was calibrated on."""
        found = []
        for name, value in diagnostics.items():
            if name not in self.calibrated_on:
                continue
            low, high = self.calibrated_on[name]
            lowest, highest = _widened(name, low, high)
            if not lowest <= value <= highest:
                side, end, bound = ("above", "highest", high) if value > highest else ("below", "lowest", low)
                found.append(f"{name} {_told(name, value)} is {side} {bound:.4g}, the {end} that the detector was calibrated on")
        return found


def _widened(name: str, low: float, high: float) -> tuple[float, float]:
    if name == SIZE:
        return low / SIZE_FACTOR, high * SIZE_FACTOR
    margin = WIDENING * (high - low) + 1e-3 * max(abs(low), abs(high))
    return low - margin, high + margin


def _told(name: str, value: float) -> str:
    unit = " pixels" if name == SIZE else " dB" if name.endswith("psnr") else ""
    return f"{value:.4g}{unit}"


def spread(scores: Sequence[float]) -> float | None:
    """Standard deviation of an image's scores, as it is and re-encoded; None where one is not a number."""
    return statistics.pstdev(scores) if all(math.isfinite(score) for score in scores) else None


@dataclass(slots=True)
class Tally:
    """Counts of verdicts, and of what went wrong with the first example of each kind."""

    verdicts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    families: Counter[str] = field(default_factory=Counter)

    def add(self, path: str, verdict: str, reason: str, family: str | None = None) -> None:
        """Count one image; `family` is what a detector of families calls it."""
        if family is not None:
            self.families[family] += 1
        self.verdicts[verdict] += 1
        if verdict == ERROR:
            # Many different reasons (each with numbers of its own) would otherwise be kept one by one.
            kind = reason if reason in self.errors or len(self.errors) < 100 else "other reasons"
            self.errors[kind] += 1
            self.examples.setdefault(kind, path)

    def lines(self) -> list[str]:
        """The counts in one line, those of families in another, then the commonest errors in one line each."""
        total = self.verdicts.total()
        counted = ", ".join(f"{self.verdicts[name]} {name}" for name in VERDICTS)
        lines = [f"{total} image{'' if total == 1 else 's'}: {counted}"]
        if self.families:
            lines.append("families: " + ", ".join(f"{count} {name}" for name, count in self.families.most_common()))
        for reason, count in self.errors.most_common(_SHOWN_REASONS):
            lines.append(f"  {count} × {reason} ({'first: ' if count > 1 else ''}{self.examples[reason]})")
        rest = self.verdicts[ERROR] - sum(count for _, count in self.errors.most_common(_SHOWN_REASONS))
        return [*lines, f"  {rest} × other reasons: see the rows"] if rest else lines
