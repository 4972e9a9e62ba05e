"""What a report says of a detector before and after it was adapted."""

from collections.abc import Mapping
from typing import Any

from evaluation.comparison.changes import METRICS
from evaluation.report.parts import Grid, Part

_SIDES = ("before", "after", "difference")


def changes_part(found: Mapping[str, Any]) -> Part:
    """What was won and what was forgotten, number by number.

    Args:
        found: Of `comparison.changes.changes`.
    """
    rows = [*found["generators"], *found["means"], *found["reals"]]
    grids = []
    for metric, title in METRICS.items():
        shown = {}
        for row in (each for each in rows if metric in each):
            name = f"mean of the {row['name']} generators" if row in found["means"] else row["name"]
            cells = row[metric]
            shown[f"{name} (new)" if row.get("new") else name] = [*(cells[side] for side in _SIDES), cells["verdict"]]
        if shown:
            grids.append(Grid(f"{title} before and after", title, [*_SIDES, ""], shown))
    sentences = [
        f"The detector before and after, on the same {found['n_images']:,} images. Differences have paired 95% intervals, from the same "
        "resamples for both. Won or lost: the interval excludes 0; with many rows 1 in 20 does by chance."
    ]
    return Part("What was won, and what was forgotten", sentences, grids)
