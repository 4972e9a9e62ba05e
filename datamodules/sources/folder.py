"""Images that lie in folders named after their classes or generators."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from datamodules.errors import DataError
from datamodules.hashing import walk_files
from datamodules.reader import SUFFIXES
from datamodules.records import FAKE, REAL, Record
from datamodules.sources.base import Source, safe_name
from datamodules.sources.manifest import SPLIT_NAMES

REAL_FOLDERS = frozenset({"real", "reals", "nature", "0_real"})
FAKE_FOLDERS = frozenset({"fake", "fakes", "ai", "1_fake"})

_WITH_GENERATORS_INSIDE = frozenset({"real", "reals", "fake", "fakes"})
_NOT_READ = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".psd", ".eps", ".svg"})
_EXPECTED = (
    "Expected one of: real/ and fake/ (also fake/<generator>/); 0_real/ and 1_fake/ or nature/ and ai/ (also below "
    "<generator>/ or <generator>/<class>/); or one folder a generator beside a folder of real images (real/, reals/, "
    "nature/, 0_real/, or those that `reals` names). Folders train/, val/ and test/ may stand at any level. "
    "For anything else write a manifest and use ManifestSource."
)

Folders = tuple[str, ...]


def images_below(folder: Path, skip: Callable[[str, str], None]) -> Iterator[str]:
    """Paths of the images below a folder, in the order of their names.

    Args:
        folder: Where they lie.
        skip: Gets the path of a file that is an image of a format which is not read, or cannot be looked at, and why.
    """
    for path in walk_files(folder, skip):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in SUFFIXES:
            yield path
        elif suffix in _NOT_READ:
            skip(path, f"{suffix} files are not read")


class FolderSource(Source):
    """Images in folders that are named after their classes or generators.

    Three layouts are recognised, with folders `train`, `val` (`valid`, `validation`) and `test` at any level:

    - `real/` and `fake/`: a generated image's generator is the folder inside `fake/`, else the one that holds both;
    - `0_real/` and `1_fake/`, or `nature/` and `ai/`, also below `<generator>/` or `<generator>/<class>/`. Each generator
      is then a data set of its own, `<dataset>/<generator>`, because it is measured against its own reals;
    - one folder a generator, beside a folder of real images.

    Args:
        root: Folder that holds all of them.
        dataset: Name of the data set; by default the folder's.
        reals: Further names of folders that hold real images, besides `real`, `reals`, `nature` and `0_real`.
    """

    def __init__(self, root: str, dataset: str | None = None, reals: list[str] | None = None) -> None:
        super().__init__()
        self.root = root
        self.dataset = dataset
        self.reals = reals

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser().absolute()

    @property
    def _dataset(self) -> str:
        return self.dataset if self.dataset is not None else self._folder.resolve().name

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        return safe_name(self._dataset)

    @property
    def location(self) -> str:
        """Path of the folder."""
        return str(self._folder)

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """One record an image, in the order of the folders' names.

        Args:
            cache_dir: Not used.

        Raises:
            DataError: No such folder, no images in it, or a layout that is not recognised.
        """
        if not self._folder.is_dir():
            hint = "is a file: for a table use ManifestSource" if self._folder.exists() else "does not exist: check the path"
            message = f"The folder {self._folder} {hint}."
            raise DataError(message)
        images = self._images()
        layout = self._layout(set(images.values()))
        for path, folders in images.items():
            record = layout.record(path, folders)
            if record is None:
                self.skip(path, "it lies in no folder that says whether it is real or generated")
            else:
                yield record

    def _images(self) -> dict[str, Folders]:
        """Paths of the images, each with the folders between the root and it."""
        return {path: Path(os.path.dirname(path)).relative_to(self._folder).parts for path in images_below(self._folder, self.skip)}

    def _layout(self, folders: set[Folders]) -> "_Layout":
        named = frozenset(name.lower() for name in self.reals or ())
        reals = REAL_FOLDERS | named
        layout = _Layout(self._dataset, reals, folders)
        names = {name.lower() for parts in folders for name in parts}
        absent = sorted(named - names)
        if absent or not names & (reals | FAKE_FOLDERS):
            top = sorted({parts[0] + "/" if parts else "images without a folder" for parts in folders})
            found = ", ".join(top[:10]) + (" …" if len(top) > 10 else "") or "no images"
            missing = f" No folder is called {', '.join(absent)}." if absent else ""
            message = f"The layout of {self._folder} is not recognised.{missing} Found: {found}. {_EXPECTED}"
            raise DataError(message)
        return layout


class _Layout:
    """How folders' names become labels, generators and splits, decided from all of them together."""

    def __init__(self, dataset: str, reals: frozenset[str], folders: set[Folders]) -> None:
        self.dataset = dataset
        self.reals = reals
        self._children: defaultdict[Folders, set[str]] = defaultdict(set)
        for parts in folders:
            for depth, name in enumerate(parts):
                self._children[parts[:depth]].add(name.lower())
        self._known = {parts: self._without_split(parts) for parts in folders}
        self.by_class = any(name.lower() in FAKE_FOLDERS for parts, _ in self._known.values() for name in parts)
        # The folders that hold a folder of reals: what else they hold are generators.
        self._parents: set[Folders] = set()
        for parts, _ in self._known.values():
            self._parents.update([parts[:i] for i, name in enumerate(parts) if name.lower() in reals][:1])

    def _without_split(self, parts: Folders) -> tuple[Folders, str | None]:
        """The folders without the outermost one that is a split, and that split.

        A single `train` among other folders is no split: in ForenSynths it holds pictures of trains.
        """
        for depth, name in enumerate(parts):
            beside = self._children[parts[:depth]]
            splits = beside & SPLIT_NAMES.keys()
            if name.lower() in splits and (len(splits) > 1 or splits == beside):
                return parts[:depth] + parts[depth + 1 :], SPLIT_NAMES[name.lower()]
        return parts, None

    def record(self, path: str, folders: Folders) -> Record | None:
        """The record of one image, or none where nothing says what it is."""
        parts, split = self._known[folders]
        found = self._by_class(parts, path) if self.by_class else self._by_generator(parts)
        if found is None:
            return None
        label, inner, generator = found
        dataset = "/".join((self.dataset, *inner))
        return Record("", label, dataset, generator, path=path, family="real" if label == REAL else "unknown", split=split)

    def _by_class(self, parts: Folders, path: str) -> tuple[int, Folders, str] | None:
        lower = [name.lower() for name in parts]
        levels = [i for i, name in enumerate(lower) if name in self.reals or name in FAKE_FOLDERS]
        if not levels:
            return None
        if len({lower[i] in FAKE_FOLDERS for i in levels}) > 1:
            message = f"{path} lies in folders of real and of generated images ({'/'.join(parts)}): rename one, or write a manifest."
            raise DataError(message)
        level = levels[0]
        own, before, after = lower[level], parts[:level], parts[level + 1 :]
        if own in _WITH_GENERATORS_INSIDE and after:
            generator = after[0]
        elif own in FAKE_FOLDERS:
            generator = before[0] if before else "unknown" if own in _WITH_GENERATORS_INSIDE else self.dataset
        else:
            generator = "real" if own in REAL_FOLDERS else parts[level]
        return (FAKE if own in FAKE_FOLDERS else REAL), before[:1], generator

    def _by_generator(self, parts: Folders) -> tuple[int, Folders, str] | None:
        for depth in range(len(parts) - 1, -1, -1):
            if parts[:depth] in self._parents:
                own = parts[depth]
                label = REAL if own.lower() in self.reals else FAKE
                return label, parts[:depth], "real" if own.lower() in REAL_FOLDERS else own
        return None
