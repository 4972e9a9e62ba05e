"""Every number of a run's `metrics.json` computed again from its `predictions.parquet`.

python -m evaluation.recompute runs/NAME
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.document import recomputed
from evaluation.predictions import read_predictions

TOLERANCE = 1e-9  # relative; another version of a library may sum in another order
_SHOWN = 10

Leaf = tuple[tuple[str | int, ...], Any]
INPUTS = ("threshold", "settings")
"""Parts of a document that are given, not computed."""


def leaves(document: Any, place: tuple[str | int, ...] = ()) -> Iterator[Leaf]:
    """All values of a document with their places, such as `("overall", "auroc", "low")`; an empty list or object is a value, too."""
    if isinstance(document, Mapping) and document:
        for name, part in document.items():
            yield from leaves(part, (*place, str(name)))
    elif isinstance(document, list) and document:
        for number, part in enumerate(document):
            yield from leaves(part, (*place, number))
    else:
        yield place, document


def shown(place: Sequence[str | int]) -> str:
    """A place in words: `overall.auroc.low`, `seeds.bases[0].n_images`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")


def differences(stored: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Where two documents differ, a sentence each; numbers may differ by rounding.

    Args:
        stored: What `metrics.json` holds.
        again: What was computed anew.
    """
    before, after = dict(leaves(stored)), dict(leaves(again))
    found = [f"{shown(place)} is stored, and is not computed" for place in before.keys() - after.keys()]
    found += [f"{shown(place)} is computed, and is not stored" for place in after.keys() - before.keys()]
    found += [
        f"{shown(place)}: {value!r} stored, {after[place]!r} computed" for place, value in before.items() if _differ(place, value, after)
    ]
    return sorted(found)


def _differ(place: tuple[str | int, ...], value: Any, after: Mapping[tuple[str | int, ...], Any]) -> bool:
    if place not in after:
        return False
    other = after[place]
    if isinstance(value, float) and isinstance(other, float):
        return not math.isclose(value, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(value != other or isinstance(value, bool) != isinstance(other, bool))


def recompute(run: Path) -> tuple[int, list[str]]:
    """How many numbers the metrics of a run hold, and where they are not those of its predictions.

    Args:
        run: The run directory.

    Raises:
        ValueError: A file is missing or not what it should be.
    """
    path = run / "metrics.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path} cannot be read ({type(error).__name__}): name a directory that train.py or evaluate.py wrote"
        raise ValueError(message) from error
    table = run / "predictions.parquet"
    if not table.is_file():
        message = f"{table} is missing: without it nothing can be computed again"
        raise ValueError(message)
    # As JSON has it: a tuple is a list, a key is text.
    try:
        again = json.loads(json.dumps(recomputed(read_predictions(table), stored), allow_nan=False))
    except (AttributeError, KeyError, TypeError) as error:
        message = f"{path} is not what this version writes ({type(error).__name__}: {error}): evaluate again"
        raise ValueError(message) from error
    computed = [value for place, value in leaves(stored) if not set(INPUTS) & set(place[:3])]
    numbers = sum(isinstance(value, int | float) and not isinstance(value, bool) for value in computed)
    return numbers, differences(stored, again)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute again and say what differs; the exit status is 1 where anything does."""
    parser = argparse.ArgumentParser(description="Compute every number of metrics.json again from predictions.parquet.")
    parser.add_argument("run", type=Path, help="run directory")
    run: Path = parser.parse_args(arguments).run
    try:
        numbers, found = recompute(run)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in found[:_SHOWN]:
        print(line)
    if found:
        print(f"{len(found)} of the values in {run / 'metrics.json'} are not those of {run / 'predictions.parquet'}.")
        return 1
    print(f"All {numbers:,} numbers of {run / 'metrics.json'} follow from {run / 'predictions.parquet'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
