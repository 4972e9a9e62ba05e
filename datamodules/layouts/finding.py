"""Which layout a tree of images has."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datamodules.errors import DataError
from datamodules.layouts.form import Layout, layout_names, load_layout
from datamodules.layouts.patterns import Parts
from datamodules.layouts.tables import TableReader

ENOUGH = 0.9
"""Share of the images that must lie where a layout has some, for it to be found by itself."""

DEEPEST = 3  # folders above the layout's own, each the only one that holds images: an archive's name, a download's
_OF_EACH = 3  # images of a folder that are looked at


class NoLayoutError(DataError):
    """No known layout fits a tree: another kind of source may read it."""


@dataclass(frozen=True)
class Fit:
    """A layout and where it begins.

    Attributes:
        layout: The layout.
        base: Folder below the root in which it begins; empty for the root itself.
        share: Share of the images that lie where it has some.
        damage: Why a table that it needs cannot be read; None where all can be.
    """

    layout: Layout
    base: str
    share: float
    damage: DataError | None = None


def without_suffix(path: str) -> str:
    """A relative path as patterns see it: `/` between names, no suffix."""
    return os.path.splitext(path)[0].replace(os.sep, "/")


def given_parts(path: str) -> Parts:
    """Parts that every image has by its path below the layout's folder; the suffix of `file` is lost here."""
    name = path.rpartition("/")[2]
    return {"file": name, "name": name, "below": path}


class _Sample:
    """A few images of each folder, which stand for the others: as many folders as images would take as long as reading them."""

    def __init__(self, root: str, images: Iterable[str]) -> None:
        self.root = root
        chosen: defaultdict[str, list[str]] = defaultdict(list)
        self.counts: defaultdict[str, int] = defaultdict(int)
        for image in images:
            folder = os.path.dirname(image)
            self.counts[folder] += 1
            if len(chosen[folder]) < _OF_EACH:
                chosen[folder].append(without_suffix(image))
        self.images = [(image, self.counts[folder] / len(some)) for folder, some in chosen.items() for image in some]

    @property
    def bases(self) -> list[str]:
        """The root, and folders below it that hold all images."""
        common = os.path.commonpath(list(self.counts)).replace(os.sep, "/") if self.counts else ""
        names = [name for name in common.split("/") if name]
        return ["/".join(names[:depth]) for depth in range(min(len(names), DEEPEST) + 1)]

    def fit(self, layout: Layout, base: str) -> Fit | None:
        """How well a layout fits below a folder; none where what it cannot go without is missing."""
        start = len(base) + 1 if base else 0
        matched = total = 0.0
        signed = not layout.signs
        some: Parts | None = None
        for image, weight in self.images:
            path = image[start:]
            if layout.ignores(path):
                continue
            total += weight
            found = layout.match(path)
            if found is not None:
                matched += weight
                some = some or given_parts(path) | found[1]
                signed = signed or any(sign.match(path) is not None for sign in layout.signs)
        folder = os.path.join(self.root, base)
        if some is None or not signed or not all(os.path.exists(os.path.join(folder, each)) for each in layout.needs):
            return None
        damage = None
        try:
            if not all(TableReader(folder, table).fits(some) for table in layout.tables if table.needed):
                return None
        except DataError as error:
            damage = error
        return Fit(layout, base, matched / total, damage)


def find_layout(root: str, images: Sequence[str]) -> Fit:
    """The layout of a tree.

    A built-in layout is found where at least 90% of the images lie where it has some, and what it cannot go without is there. Where
    several are, the one that more images fit is taken.

    Args:
        root: Folder of the images.
        images: Their paths below it.

    Raises:
        NoLayoutError: None fits; the message says what was seen and what there is.
        DataError: Several fit equally well, or a table cannot be read without which none fits.
    """
    sample = _Sample(root, images)
    layouts = [load_layout(name) for name in layout_names()]
    nearest: Fit | None = None
    damaged: Fit | None = None
    for base in sample.bases:
        names = [*os.path.realpath(root).split(os.sep)[-2:], *base.split("/")]
        found = [fit for layout in layouts if (fit := sample.fit(layout, base)) is not None]
        allowed = [fit for fit in found if fit.layout.folder is None or any(fit.layout.folder.get(name) is not None for name in names)]
        enough = sorted((fit for fit in allowed if fit.share >= ENOUGH), key=lambda fit: -fit.share)
        best = [fit for fit in enough if fit.damage is None]
        damaged = damaged or next((fit for fit in enough if fit.damage is not None), None)
        if len(best) > 1 and best[0].share == best[1].share:
            equal = ", ".join(fit.layout.name for fit in best if fit.share == best[0].share)
            message = f"{root} may be any of the layouts {equal}: their images lie alike. Say which it is by the option layout."
            raise DataError(message)
        if best:
            return best[0]
        nearest = max([*found, *([nearest] if nearest else [])], key=lambda fit: fit.share, default=None)
    if damaged is not None:
        message = f"{root} may have the layout {damaged.layout.name}: {damaged.damage} If it has another, say which by the option layout."
        raise DataError(message) from damaged.damage
    raise _no_layout(root, images, layouts, nearest)


def _no_layout(root: str, images: Sequence[str], layouts: Sequence[Layout], nearest: Fit | None) -> NoLayoutError:
    hint = ""
    if nearest is not None:
        what = f"{nearest.share:.0%} of the images lie where the layout {nearest.layout.name} has some"
        hint = f" {what}: name it by the option layout if it is that."
    message = (
        f"No layout is known for {root}. It holds {seen(images)}.{hint} Layouts: {', '.join(layout.name for layout in layouts)}. "
        "For folders named real and fake, or after generators, use FolderSource; for anything else a manifest, or a layout of your own."
    )
    return NoLayoutError(message)


def fit_layout(root: str, images: Sequence[str], layout: Layout) -> Fit:
    """Where a layout that somebody names begins in a tree.

    Args:
        root: Folder of the images.
        images: Their paths below it.
        layout: The layout.

    Raises:
        DataError: No image lies where it has some, or what it cannot go without is missing or cannot be read.
    """
    sample = _Sample(root, images)
    found = [fit for base in sample.bases if (fit := sample.fit(layout, base)) is not None]
    if found:
        best = max(found, key=lambda fit: (fit.damage is None, fit.share))
        if best.damage is not None:
            raise best.damage
        return best
    expected = "; ".join(rule.patterns[0].text for rule in layout.rules[:3])
    needed = [*layout.needs, *(table.files[0] for table in layout.tables if table.needed)]
    besides = f", and {', '.join(needed)} with its columns" if needed else ""
    message = (
        f"The images of {root} do not lie as the layout {layout.name} says: it expects {expected}{besides}. "
        f"The folder holds {seen(images)}."
    )
    raise DataError(message)


def seen(images: Iterable[str]) -> str:
    """What lies in a tree, in a few words."""
    folders: defaultdict[str, int] = defaultdict(int)
    for image in images:
        folder = "/".join(os.path.dirname(image).split(os.sep)[:2])
        folders[f"{folder}/" if folder else "images without a folder"] += 1
    if not folders:
        return "no images"
    shown = [ascii(name)[1:-1][:60] for name in sorted(folders)]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more folders" if len(shown) > 8 else "")
