"""What all figures share: axes in a theme's colours, a legend, names that can be drawn, and files."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.figures.theme import Theme
from evaluation.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST = 44  # characters of a name in a legend


def canvas(theme: Theme, width: float, height: float, rows: int = 1, columns: int = 1) -> tuple["Figure", Any]:
    """A figure outside pyplot's global state, drawn by Agg, with axes in the theme's colours."""
    # Here and not above: matplotlib takes half a second to import, and most commands draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns)
    for axes in np.atleast_1d(grid).flat:
        axes.set_facecolor("none")
        axes.grid(color=theme.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=theme.text, which="both", labelsize=9)
        axes.xaxis.label.set(color=theme.text, fontsize=9.5)
        axes.yaxis.label.set(color=theme.text, fontsize=9.5)
        for side, spine in axes.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(theme.text)
    return figure, grid


def legend(figure: "Figure", theme: Theme, handles: list[Any], labels: list[str], columns: int, title: str | None = None) -> None:
    """A legend below the axes."""
    options: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 9, "alignment": "left"}
    made = figure.legend(handles, labels, labelcolor=theme.text, title=title, title_fontsize=9, **options)
    made.get_title().set_color(theme.text)


def legible(name: str) -> str:
    """A name as plain, short text: matplotlib reads dollars as formulas and leaves out labels that begin with `_`."""
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    printable = "".join(letter if letter.isprintable() else "?" for letter in short)
    escaped = printable.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def svg(figure: "Figure", *, outlines: bool = True) -> bytes:
    """The figure as SVG.

    Args:
        figure: What is drawn.
        outlines: Text as outlines, which need no fonts, as a file of its own should; else as text, with fewer bytes, in the fonts of the
            page that it stands in.
    """
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "path" if outlines else "none", "svg.hashsalt": "undertow"}):
        return _rendered(figure, format="svg", metadata={"Date": None, "Creator": None})


def saved(folder: Path, figures: "Mapping[str, Figure]") -> list[Path]:
    """Save figures by name as PNG and SVG; gives the files."""
    written = []
    for name, figure in figures.items():
        contents = {"png": _rendered(figure, format="png", dpi=160), "svg": svg(figure)}
        for suffix, content in contents.items():
            written.append(folder / f"{name}.{suffix}")
            write_atomically(written[-1], content)
    return written


def _rendered(figure: "Figure", **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()
