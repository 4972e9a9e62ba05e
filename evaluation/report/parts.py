"""Parts of a report: a heading with sentences, tables, charts and pictures, which the template lays out one like the other."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from evaluation import figures
from evaluation.figures import Theme
from evaluation.report.inline import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMN = 560  # wider charts have a line of their own
_SCALE = 100  # pixels of a page an inch of a figure: text of 9 points is 12.5 pixels high


@dataclass(frozen=True)
class Text:
    """A cell of words.

    Attributes:
        text: What it says.
        small: Said below it in small print; empty for nothing.
        href: Fragment of the page that it leads to; empty for none.
        sort: What its column is sorted by; the text itself where None.
    """

    text: str
    small: str = ""
    href: str = ""
    sort: float | None = None


Cell = Mapping[str, Any] | Text | str | int | None
"""`{"value", "low", "high"}` with `"reason"` where one is null, as in `metrics.json`, or plain text, or a count."""


@dataclass(frozen=True)
class Chart:
    """A figure in the colours of a light and of a dark page.

    Attributes:
        svg: The figure, an SVG element with a text for those who do not see it.
        caption: Printed above it; empty for none.
        width: Of the page that it takes where there is room, in pixels.
    """

    svg: Markup
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
        links: For names of rows, the fragment of the page that they lead to.
    """

    caption: str
    first: str
    heads: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Why cells have no value or no interval, each reason once; `note` counts from 1."""
        return list(
            dict.fromkeys(cell["reason"] for row in self.rows.values() for cell in row if isinstance(cell, Mapping) and cell.get("reason"))
        )

    def shown(self) -> dict[str, list[dict[str, Any]]]:
        """For each row its cells as `text`, `small` (the interval, empty without), `note` (None without), `href` and `sort`."""
        numbers = {reason: number for number, reason in enumerate(self.notes, 1)}
        return {name: [_shown(cell, numbers) for cell in row] for name, row in self.rows.items()}


@dataclass(frozen=True)
class View:
    """A picture.

    Attributes:
        name: Printed below it.
        alt: What it shows, for those who do not see it.
        uri: Data URI.
        small: Whether it has so few pixels that they are shown as squares.
    """

    name: str
    alt: str
    uri: str
    small: bool


@dataclass(frozen=True)
class Card:
    """One image of a gallery.

    Attributes:
        score: The detector's, as text.
        source: Data set and generator.
        where: The file, or its key.
        verdict: `right`, `missed` or `false alarm`; None without a threshold.
        views: What the detector saw.
        problem: Why there are no pictures; None where there are.
        href: Fragment of the page with all there is to say of it; empty for none.
    """

    score: str
    source: str
    where: str
    verdict: str | None
    views: Sequence[View]
    problem: str | None
    href: str = ""


@dataclass(frozen=True)
class Gallery:
    """Images of one kind: a heading, a sentence (may be empty) and cards."""

    heading: str
    sentence: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Part:
    """A part of a report.

    Attributes:
        heading: Its heading.
        sentences: What there is to say, first.
        grids: Tables, then.
        charts: Charts.
        galleries: Pictures, last.
        together: Whether small charts stand beside each other.
        small_print: Sentences below, in small print.
    """

    heading: str
    sentences: Sequence[str] = ()
    grids: Sequence[Grid] = field(default_factory=tuple)
    charts: Sequence[Chart] = field(default_factory=tuple)
    galleries: Sequence[Gallery] = field(default_factory=tuple)
    together: bool = False
    small_print: Sequence[str] = ()

    @property
    def column(self) -> int:
        """Width of a column of charts that stand beside each other: room for the widest that is not very wide, in pixels."""
        return max((chart.width for chart in self.charts if chart.width <= _COLUMN), default=_COLUMN)


@dataclass(frozen=True)
class Group:
    """Parts about one detector among several.

    Attributes:
        heading: Its name.
        parts: What is said of it.
        findings: The verdict, in sentences.
        concerns: What must be known before it is trusted.
    """

    heading: str
    parts: Sequence[Part]
    findings: Sequence[str] = ()
    concerns: Sequence[str] = ()


def drawn(figure: "Figure", alt: str, caption: str = "", light: Theme = figures.ON_LIGHT, dark: Theme = figures.ON_DARK) -> Chart:
    """A chart from a figure in the colours `light`, all of which `dark` has another for.

    Args:
        figure: Drawn in `light`.
        alt: What it shows.
        caption: Printed above it.
        light: The theme it was drawn in.
        dark: Another one with as many colours.
    """
    content = figures.svg(figure, outlines=False)
    return Chart(inline_svg(content, figures.recoloured(content, light, dark), alt), caption, _width(figure))


def drawn_twice(draw: Callable[[Theme], "Figure"], alt: str, caption: str = "") -> Chart:
    """A chart of a figure whose colours have to be worked out for each theme, such as a heat map's.

    Args:
        draw: Draws it in a theme.
        alt: What it shows.
        caption: Printed above it.
    """
    light, dark = draw(figures.ON_LIGHT), draw(figures.ON_DARK)
    contents = [figures.svg(figure, outlines=False) for figure in (light, dark)]
    return Chart(inline_svg(contents[0], contents[1], alt), caption, _width(light))


def anchors(headings: Sequence[str]) -> list[str]:
    """For each heading a fragment of its own, of letters, digits and hyphens."""
    found: list[str] = []
    for heading in headings:
        plain = name = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "part"
        number = 1
        while name in found:
            number += 1
            name = f"{plain}-{number}"
        found.append(name)
    return found


def _width(figure: "Figure") -> int:
    return round(_SCALE * float(figure.get_figwidth()))


def _shown(cell: Cell, numbers: Mapping[str, int]) -> dict[str, Any]:
    plain = {"text": "–", "small": "", "note": None, "href": "", "sort": None}
    if isinstance(cell, Text):
        return plain | {"text": cell.text, "small": cell.small, "href": cell.href, "sort": cell.sort}
    if isinstance(cell, Mapping):
        text = "–" if cell["value"] is None else f"{cell['value']:.3f}"
        small = "" if cell["low"] is None else f"{cell['low']:.3f}{'–' if cell['low'] >= 0 else ' to '}{cell['high']:.3f}"
        return plain | {"text": text, "small": small, "note": numbers.get(cell.get("reason", "")), "sort": cell["value"]}
    if isinstance(cell, int):
        return plain | {"text": f"{cell:,}", "sort": cell}
    return plain | {"text": cell} if cell is not None else plain
