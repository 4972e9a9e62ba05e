"""What all benchmarks share: alternating rounds, rows of one table, the machine that they belong to, the command line."""

import argparse
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

ROUNDS = 5  # that count; one more goes before them

Call = Callable[[], Any]


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(calls: Mapping[str, Call], rounds: int = ROUNDS, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each call in each round; one after the other within a round, so that what else the machine does meets all of them.

    Args:
        calls: What is compared.
        rounds: Rounds that count.
        warm: Rounds before them that do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm + rounds):
        for name, call in calls.items():
            synchronize()
            started = time.perf_counter()
            call()
            synchronize()
            if number >= warm:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """`median`, `low` and `high` of some values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: what was measured, and what came out.

    Attributes:
        what: The question.
        ours: This project's figure, as text.
        against: What it is compared with, and its figure.
        ratio: How many times quicker (or, where `target` begins with ≤, how many times slower): the median of the rounds' ratios, and
            the range.
        target: What the ratio should be; empty where there is no target.
        difference: How far the numbers of both lie from each other, in words.
        figures: All of it as numbers.
    """

    what: str
    ours: str
    against: str
    ratio: str = ""
    target: str = ""
    difference: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def compared(
    what: str,
    unit: str,
    count: int,
    ours: Sequence[float],
    against: tuple[str, Sequence[float]],
    target: str = "",
    difference: str = "",
    **figures: Any,
) -> Row:
    """A row of two ways to do the same.

    Args:
        what: The question.
        unit: Of what is done, as `images`.
        count: Units a round.
        ours: Seconds of each round.
        against: Name of the other way, and its seconds of the same rounds.
        target: As in `Row`.
        difference: As in `Row`.
        **figures: More numbers for the file.
    """
    name, theirs = against
    slower = target.startswith("≤")
    ratios = spread([mine / other if slower else other / mine for mine, other in zip(ours, theirs, strict=True)])
    figures |= {"unit": unit, "count": count, "seconds": list(ours), "against_seconds": list(theirs), "ratio": ratios}
    told = [_rate(unit, count, seconds) for seconds in (ours, theirs)]
    ratio = f"{_short(ratios['median'])}× ({_short(ratios['low'])} to {_short(ratios['high'])})"
    return Row(what, told[0], f"{name}: {told[1]}", ratio, target, difference, figures)


def _rate(unit: str, count: int, seconds: Sequence[float]) -> str:
    """Units a second, or seconds where there is but one."""
    found = spread(seconds if count == 1 else [count / each for each in seconds])
    return f"{_short(found['median'])} {'s' if count == 1 else unit + '/s'} ({_short(found['low'])} to {_short(found['high'])})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | here | against | ratio | target | difference |", "|---|---|---|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {row.what} | {row.ours} | {row.against} | {row.ratio} | {row.target} | {row.difference} |" for row in rows)]
    )


def machine() -> dict[str, Any]:
    """Device, versions and load that the figures belong to."""
    import diffusers
    import transformers

    on_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    """Its name, as Linux tells it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def told_machine(told: Mapping[str, Any]) -> str:
    """The machine in one sentence."""
    return (
        f"{told['processor']}, {told['cores']} cores, {told['threads']} threads, load {told['load']} at the start; "
        f"Python {told['python']}, torch {told['torch']}, diffusers {told['diffusers']}"
    )


def parser(text: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all of these commands have.

    Args:
        text: Documentation of the benchmark's module.
        name: Of the benchmark.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(text or "").partition("\n")[0])
    made.add_argument("--rounds", type=int, default=ROUNDS, help="that count; one more goes before them")
    made.add_argument("--json", type=Path, help="file for the figures")
    return made


def quiet() -> None:
    """Leave out what Lightning says of itself; each trainer of a benchmark would say it again."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", module="torch.utils.data")
    for name in ("lightning.pytorch", "datamodules"):
        logging.getLogger(name).setLevel(logging.ERROR)


def finish(name: str, options: argparse.Namespace, rows: list[Row], started: Mapping[str, Any]) -> list[Row]:
    """Print the table and, where it is wanted, write the file.

    Args:
        name: Of the benchmark.
        options: The command line.
        rows: What came out.
        started: `machine()`, from before the first round.
    """
    if options.json is not None:
        chosen = {option: str(value) if isinstance(value, Path) else value for option, value in vars(options).items()}
        told = {"benchmark": name, "machine": dict(started), "options": chosen, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(told, indent=1))
    print(f"{told_machine(started)}\n\n{table(rows)}")
    return rows
