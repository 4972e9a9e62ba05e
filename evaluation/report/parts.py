"""Parts of a report: a heading with sentences, tables and charts, which `report.html.j2` lays out one like the other."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evaluation import figures
from evaluation.figures import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCALE = 100  # pixels of a page an inch of a figure: text of 9 points is 12.5 pixels high
_SVG = "image/svg+xml"

Cell = Mapping[str, Any] | str | int | None
"""`{"value", "low", "high"}` with `"reason"` where one is null, as in `metrics.json`, or plain text, or a count."""


@dataclass(frozen=True)
class Chart:
    """A picture in the colours of a light and of a dark page.

    Attributes:
        alt: What it shows, for those who do not see it.
        light: Data URI.
        dark: Data URI.
        caption: Printed above it; empty for none.
        width: Of the page that it takes where there is room, in pixels.
    """

    alt: str
    light: str
    dark: str
    caption: str = ""
    width: int = 544


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: What it shows, for those who do not see it.
        first: Head of the column of names.
        heads: Heads of the other columns.
        rows: By name, a cell a head.
    """

    caption: str
    first: str
    heads: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]

    @property
    def notes(self) -> list[str]:
        """Why cells have no value or no interval, each reason once; `note` counts from 1."""
        return list(
            dict.fromkeys(cell["reason"] for row in self.rows.values() for cell in row if isinstance(cell, Mapping) and cell.get("reason"))
        )

    def shown(self) -> dict[str, list[dict[str, Any]]]:
        """For each row its cells as `text`, `small` (the interval, empty without) and `note` (None without)."""
        numbers = {reason: number for number, reason in enumerate(self.notes, 1)}
        return {name: [_shown(cell, numbers) for cell in row] for name, row in self.rows.items()}


@dataclass(frozen=True)
class Part:
    """A part of a report.

    Attributes:
        heading: Its heading.
        sentences: What there is to say, first.
        grids: Tables, then.
        charts: Charts, last.
    """

    heading: str
    sentences: Sequence[str] = ()
    grids: Sequence[Grid] = field(default_factory=tuple)
    charts: Sequence[Chart] = field(default_factory=tuple)


def drawn(figure: "Figure", alt: str, caption: str = "", light: Theme = figures.ON_LIGHT, dark: Theme = figures.ON_DARK) -> Chart:
    """A chart from a figure in the colours `light`, all of which `dark` has another for.

    Args:
        figure: Drawn in `light`.
        alt: What it shows.
        caption: Printed above it.
        light: The theme it was drawn in.
        dark: Another one with as many colours.
    """
    content = figures.svg(figure)
    recoloured = figures.recoloured(content, light, dark)
    return Chart(alt, data_uri(content, _SVG), data_uri(recoloured, _SVG), caption, _width(figure))


def drawn_twice(draw: Callable[[Theme], "Figure"], alt: str, caption: str = "") -> Chart:
    """A chart of a figure that cannot change its colours, because there is a picture of pixels in it.

    Args:
        draw: Draws it in a theme.
        alt: What it shows.
        caption: Printed above it.
    """
    light, dark = draw(figures.ON_LIGHT), draw(figures.ON_DARK)
    return Chart(alt, data_uri(figures.svg(light), _SVG), data_uri(figures.svg(dark), _SVG), caption, _width(light))


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a media type as a URI that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _width(figure: "Figure") -> int:
    return round(_SCALE * float(figure.get_figwidth()))


def _shown(cell: Cell, numbers: Mapping[str, int]) -> dict[str, Any]:
    if not isinstance(cell, Mapping):
        return {"text": "–" if cell is None else f"{cell:,}" if isinstance(cell, int) else cell, "small": "", "note": None}
    text = "–" if cell["value"] is None else f"{cell['value']:.3f}"
    small = "" if cell["low"] is None else f"{cell['low']:.3f}{'–' if cell['low'] >= 0 else ' to '}{cell['high']:.3f}"
    return {"text": text, "small": small, "note": numbers.get(cell.get("reason", ""))}
