"""What the commands of `python -m datamodules.generate` have in common: types of options, and words."""

import argparse
import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from datamodules.hashing import hash_tree

STOPPED = 130


def at_least(least: int, text: str) -> int:
    """A whole number of at least `least`.

    Raises:
        argparse.ArgumentTypeError: The text is none.
    """
    if not text.isdecimal() or len(text) > 15 or (number := int(text)) < least:
        msg = f"{text!r} is not a whole number of at least {least}"
        raise argparse.ArgumentTypeError(msg)
    return number


def guidance(text: str) -> float:
    """A scale of guidance, from 0 to 100.

    Raises:
        argparse.ArgumentTypeError: The text is none.
    """
    number = _number(text)
    if not 0 <= number <= 100:
        msg = f"{text!r} is not a number from 0 to 100"
        raise argparse.ArgumentTypeError(msg)
    return number


def share(text: str) -> float:
    """A number above 0 and at most 1.

    Raises:
        argparse.ArgumentTypeError: The text is none.
    """
    number = _number(text)
    if not 0 < number <= 1:
        msg = f"{text!r} is not a number above 0 and at most 1"
        raise argparse.ArgumentTypeError(msg)
    return number


def fraction_name(fraction: float) -> str:
    """A share as a part of a file's name: in ten thousandths, five digits."""
    return f"{round(10_000 * fraction):05d}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_model_options(built: argparse.ArgumentParser, model: str) -> None:
    """The options of the model and of where it runs.

    Args:
        built: Gets them.
        model: Help on `--model`.
    """
    add = built.add_argument
    add("--model", required=True, help=model)
    add("--revision", help="branch, tag or commit of a hub model")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where everything goes")
    add("--batch_size", type=partial(at_least, 1), default=4, help="fakes at a time (default: 4)")
    add("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"), help="auto: float32 on a CPU, else float16")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where the networks run (default: auto)")
    add("--dataset", help="name of the data set; by default the output folder's")


def model_name(model: str) -> str:
    """What a generator is called by default: the last part of its path or id."""
    return Path(model).name.lower() or "unknown"


def identity(model: str) -> str:
    """A local model by its content, a hub model by its id."""
    return hash_tree(model)[:16] if Path(model).is_dir() else model


def left_out(skipped: Mapping[str, str]) -> list[str]:
    """Lines on the photographs that are left out, with the commonest reasons; none where there are none."""
    if not skipped:
        return []
    example, reason = next(iter(skipped.items()))
    lines = [f"{len(skipped)} photographs are left out, for example {example[:80]!r}: {reason}"]
    return lines + [f"    {count} × {kind}" for kind, count in Counter(map(_kind, skipped.values())).most_common(5)]


def _kind(reason: str) -> str:
    """A reason without what is of one photograph only."""
    return reason.partition(":")[0].partition("(")[0].strip()
