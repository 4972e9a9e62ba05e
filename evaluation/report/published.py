"""What a report says of published numbers beside measured ones."""

from collections.abc import Sequence
from typing import Any

from evaluation.comparison import Targets
from evaluation.comparison.compared import Compared, verdict
from evaluation.report.parts import Cell, Grid, Part, Text


def published_part(targets: Targets, rows: Sequence[Compared]) -> Part:
    """Published numbers beside measured ones, and why others stand alone.

    Args:
        targets: What was published.
        rows: Of `compared.compare`.
    """
    sentences = [verdict(rows), f"Published in {targets.source}."]
    sentences += [f"{name.capitalize()}: {told}" for name in ("status", "setting", "note") if (told := getattr(targets, name))]
    images = list(dict.fromkeys(row.target.images for row in rows))
    several = len(images) > 1
    if len(images) == 1:
        sentences.append(f"Images: {images[0]}.")
    heads = ["published", "measured", "difference", "fakes", "reals"]
    cells: dict[str, Sequence[Cell]] = {}
    left_out: dict[str, int] = {}
    for row in rows:
        if row.measured is None:
            left_out[row.why] = left_out.get(row.why, 0) + 1
            continue
        target = row.target
        plain = f"{', '.join([target.detector, target.perturbation, *([target.images] if several else [])])}: {target.metric}"
        trained = [] if target.train is None else [f"{plain}, trained on {target.train}"]
        names = [plain, *trained, *(f"{plain} ({number})" for number in range(2, len(rows) + 2))]
        cells[next(name for name in names if name not in cells)] = _row(row)
    grids = [Grid("Published and measured numbers", "detector, perturbation: metric", heads, cells)] if cells else []
    small = [f"Without a measured number: {number} × {why}" for why, number in left_out.items()]
    return Part("Beside published numbers", sentences, grids, small_print=small)


def _row(row: Compared) -> list[Cell]:
    cell = row.measured or {"value": None, "low": None}
    value, low = cell["value"], cell["low"]
    interval = "" if low is None else f"{low:.3f}–{cell['high']:.3f}"
    difference: Cell = Text(f"{row.difference:+.4f}", sort=row.difference) if row.difference is not None else _NO | {"reason": row.why}
    measured = Text("–" if value is None else f"{value:.4f}", interval, sort=value)
    return [Text(f"{row.target.value:.4f}", sort=row.target.value), measured, difference, row.n_fake, row.n_real]


_NO: dict[str, Any] = {"value": None, "low": None, "high": None}
