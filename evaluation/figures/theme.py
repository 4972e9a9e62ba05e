"""Colours of figures, on paper, on a light page and on a dark one."""

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Theme:
    """Colours of a figure: Okabe and Ito's palette, which colour-blind readers can tell apart, by contrast with the paper."""

    text: str
    grid: str
    paper: str
    palette: tuple[str, ...]


LIGHT = Theme("#1f2328", "#d1d9e0", "white", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#56B4E9"))
ON_LIGHT = replace(LIGHT, paper="none")
ON_DARK = Theme("#e6edf3", "#3d444d", "none", ("#56B4E9", "#E69F00", "#2FC79A", "#E39CC4", "#F0E442", "#FF8A4C"))


def recoloured(drawn: bytes, old: Theme, new: Theme) -> bytes:
    """A figure's SVG in the colours of another theme, as drawing it again would give it, in no time.

    Args:
        drawn: Of `drawing.svg`, drawn in `old`.
        old: The theme that it was drawn in.
        new: Another one; whether it has a paper of its own stays as it was.
    """
    pairs = zip((old.text, old.grid, *old.palette), (new.text, new.grid, *new.palette), strict=True)
    colours = {before.lower().encode(): after.lower().encode() for before, after in pairs}
    return re.sub(rb"#[0-9a-f]{6}\b", lambda match: colours.get(match[0], match[0]), drawn)
