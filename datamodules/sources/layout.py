"""Images that lie as a public benchmark lays them out."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datamodules.errors import DataError
from datamodules.families import UNKNOWN, FamilyMap
from datamodules.layouts import Fit, Layout, Rule, find_layout, fit_layout, load_layout
from datamodules.layouts.finding import given_parts, without_suffix
from datamodules.layouts.patterns import Parts, render
from datamodules.layouts.tables import TableReader
from datamodules.records import FAKE, REAL, Record
from datamodules.sources.base import Source, safe_name
from datamodules.sources.folder import images_below
from datamodules.sources.manifest import SPLIT_NAMES
from datamodules.splits import hashed

logger = logging.getLogger(__name__)

_LABELS = {"real": REAL, "fake": FAKE}


class LayoutSource(Source):
    """Images of a public benchmark as it is unpacked: GenImage, Synthbuster, DRCT-2M and others (docs/data.md has a table of them).

    A layout is a few lines of YAML in `datamodules/layouts`, which say what the names of folders mean. A benchmark's generator is a data
    set of its own, `genimage/adm`, where it comes with its own real images; where several share them they are one data set.

    Args:
        root: Folder that was unpacked, or one that holds nothing else.
        layout: Name of the layout, or path of a YAML file of your own; found from the tree by default.
        dataset: First part of the data sets' names; the layout's name by default.
        own_splits: Keep the benchmark's splits. Where it has none for validation, about a tenth of its training images become that, the
            same ones every time. Off, the data module cuts all images anew.
    """

    def __init__(self, root: str, layout: str | None = None, dataset: str | None = None, own_splits: bool = True) -> None:
        super().__init__()
        self.root = root
        self.layout = layout
        self.dataset = dataset
        self.own_splits = own_splits
        self._found: Fit | None = None

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser().absolute()

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        named = Path(self.layout).stem if self.layout is not None else self._folder.resolve().name
        return safe_name(self.dataset if self.dataset is not None else named)

    @property
    def location(self) -> str:
        """Path of the folder."""
        return str(self._folder)

    @property
    def found(self) -> Layout | None:
        """The layout of the images that were read last."""
        return self._found.layout if self._found else None

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """One record an image, in the order of the folders' names.

        Args:
            cache_dir: Folder in which a source may keep what it makes.

        Raises:
            DataError: No such folder, no images in it, no layout that fits, or a file of it that cannot be read.
        """
        if not self._folder.is_dir():
            hint = "is a file: for a table use ManifestSource" if self._folder.exists() else "does not exist: check the path"
            message = f"The folder {self._folder} {hint}."
            raise DataError(message)
        given = load_layout(self.layout) if self.layout is not None else None
        root = str(self._folder)
        start = len(root.rstrip(os.sep)) + 1
        images = [path[start:] for path in images_below(self._folder, self.skip)]
        if not images:
            why = f" ({self.failures[0].where}: {self.failures[0].reason})" if self.failures else ""
            message = f"No image lies in {root}{why}: check the path."
            raise DataError(message)
        fit = self._found = fit_layout(root, images, given) if given is not None else find_layout(root, images)
        logger.info("%s has the layout %s.", os.path.join(root, fit.base), fit.layout.name)
        if fit.layout.synris:
            return self._synris(fit, cache_dir)
        return self._entries(fit, images)

    def _entries(self, fit: Fit, images: list[str]) -> Iterator[Record]:
        reader = _Reader(fit, str(self._folder), self.dataset if self.dataset is not None else fit.layout.name)
        start = len(fit.base) + 1 if fit.base else 0
        for image in images:
            below = without_suffix(image)[start:]
            if fit.layout.ignores(below):
                continue
            path = os.path.join(self._folder, image)
            match = fit.layout.match(below)
            if match is None:
                self.skip(path, f"it lies where the layout {fit.layout.name} has no images")
                continue
            rule, parts = match
            record = reader.record(path, rule, given_parts(below) | {"file": os.path.basename(path)} | parts)
            if isinstance(record, str):
                self.skip(path, record)
            else:
                yield self._split(record, fit.layout, below)

    def _split(self, record: Record, layout: Layout, below: str) -> Record:
        if not self.own_splits:
            return replace(record, split=None)
        if record.split == "train" and layout.validation and hashed(0, record.group or below) < layout.validation * 2**64:
            return replace(record, split="val")
        return record

    def _synris(self, fit: Fit, cache_dir: Path) -> Iterator[Record]:
        from datamodules.sources.synris import SynRISSource

        base = os.path.join(self._folder, fit.base)
        folders = {name: os.path.join(base, folder) for name, folder in fit.layout.synris.items()}
        dataset = self.dataset if self.dataset is not None else fit.layout.name
        source = SynRISSource(folders["lists"], folders["reals"], folders["fakes"], dataset=dataset)
        for record in source.entries(cache_dir):
            yield record if self.own_splits else replace(record, split=None)
        self.failures += source.failures


class _Reader:
    """Makes records out of paths by a layout."""

    def __init__(self, fit: Fit, root: str, dataset: str) -> None:
        self.layout = fit.layout
        self.dataset = dataset
        self.tables = [TableReader(os.path.join(root, fit.base), table) for table in fit.layout.tables]
        self.families = FamilyMap.load()

    def record(self, path: str, rule: Rule, parts: Parts) -> Record | str:
        """The record of an image, or why there is none."""
        for reader in self.tables:
            told = reader.parts(path, parts)
            if reader.table.needed and reader.table.form != "text" and not told:
                return f"{os.path.basename(reader.file(parts) or reader.table.files[0])} does not name it"
            parts = parts | told
        parts = {part: self._meaning(part, value) for part, value in parts.items()}
        label = _LABELS.get(render(rule.says["label"], parts) or "")
        if label is None:
            return f"nothing says whether it is real: {rule.says['label']} is {render(rule.says['label'], parts)!r}"
        says = {**rule.says, **(rule.real if label == REAL else rule.fake)}
        said = {name: render(template, parts) for name, template in says.items()}
        generator = said.get("generator") or ("real" if label == REAL else UNKNOWN)
        caption = said.get("caption")
        return Record(
            "",
            label,
            "/".join(filter(None, (self.dataset, said.get("dataset")))),
            generator,
            path=path,
            family="real" if label == REAL else self._family(generator, said.get("family")),
            split=self._split(said.get("split"), path),
            caption=caption,
            caption_source=said.get("caption_source") if caption else None,
            group=said.get("group") or "",
            pair=said.get("pair"),
        )

    def _meaning(self, part: str, value: str) -> str:
        names = self.layout.names.get(part)
        return value if names is None else names.get(value) or value

    def _family(self, generator: str, told: str | None) -> str:
        """What the family map says; a table's word counts where that knows nothing."""
        return told if told and self.families.family(generator) == UNKNOWN else UNKNOWN

    def _split(self, name: str | None, path: str) -> str | None:
        if name is None:
            return None
        if name.lower() not in SPLIT_NAMES:
            message = f"{path} is of the split {name[:40]!r}, which the layout {self.layout.where} does not know: add it to its part split."
            raise DataError(message)
        return SPLIT_NAMES[name.lower()]
