"""Lists of addresses: tables of one or several images a row, and the lists of SynRIS, as one kind of listing."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.download.addresses import clean
from datamodules.errors import DataError
from datamodules.sources.manifest import TEXTS, checked_cells, is_missing, read_rows
from datamodules.sources.synris.lists import list_files, prompt_index
from datamodules.sources.synris.source import REALS

FIELDS = ("label", *TEXTS)
"""What a list may say of an image, under the names of a manifest's columns."""

_TABLES = (".csv", ".parquet", ".pq", ".jsonl", ".ndjson")
_INDEX = "prompt_index"


@dataclass(frozen=True, slots=True)
class Listing:
    """One image of a list.

    Attributes:
        where: File and line.
        url: Its cleaned address, empty where it has none.
        cells: `FIELDS` of it, None where the list does not say.
        problem: Why the list's words cannot be used, empty where they can.
        name: Path without suffix under which the image lies besides, relative to the folder; empty for none. Of the listings of one name
            the first that arrives has it.
    """

    where: str
    url: str
    cells: Mapping[str, Any]
    problem: str = ""
    name: str = ""

    @property
    def cohort(self) -> tuple[str, str, int | None]:
        """Data set, generator and label: what a line of the survival table is about."""
        return self.cells["dataset"], self.cells["generator"], self.cells["label"]


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """A column of addresses, in a list with several images a row.

    Attributes:
        column: Its name.
        label: `real` or `fake`.
        generator: Name of the generator, or `@` and the column that names it; empty for the row's own.
    """

    column: str
    label: str
    generator: str = ""

    @classmethod
    def of(cls, text: str) -> "ImageColumn":
        """From `COLUMN:LABEL` or `COLUMN:LABEL:GENERATOR`.

        Raises:
            ValueError: It is no such text.
        """
        column, _, rest = text.partition(":")
        label, _, generator = rest.partition(":")
        if not column or label not in ("real", "fake"):
            msg = f"{text!r} is not COLUMN:real or COLUMN:fake, with :GENERATOR or :@COLUMN after it"
            raise ValueError(msg)
        return cls(column.lower(), label, generator)


@dataclass(frozen=True, slots=True)
class Form:
    """How a list is to be read.

    Attributes:
        url: Column of the addresses.
        columns: By field the column that holds it, where it is not of the field's name.
        constants: By field what holds for every row that says nothing.
        images: Columns of a list with several images a row; then `url` is not used.
    """

    url: str = "url"
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    images: tuple[ImageColumn, ...] = ()

    @property
    def required(self) -> list[str]:
        """Columns without which the list cannot be meant."""
        named = [image.generator[1:].lower() for image in self.images if image.generator.startswith("@")]
        addresses = [image.column for image in self.images] or [self.url.lower()]
        return list(dict.fromkeys([*addresses, *named, *(column.lower() for column in self.columns.values())]))

    @property
    def wanted(self) -> list[str]:
        """Columns that are read."""
        return list(dict.fromkeys([*self.required, *FIELDS, "text", _INDEX]))


def files_of(path: Path) -> list[Path]:
    """The tables at a path: the file itself, or those of a folder in the order of their names.

    Raises:
        DataError: There is none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.iterdir() if each.suffix.lower() in _TABLES and not each.name.startswith("."))
    if not files:
        message = f"No list lies in {path}: it should hold {', '.join(_TABLES)} files."
        raise DataError(message)
    return files


class UrlList:
    """A list of addresses, read from its start as often as it is needed, a row at a time.

    A list of which the first row has a `prompt_index` and an address is one of SynRIS: its file's name is the generator whose fakes the
    real images were found for.

    Args:
        path: A `.csv`, `.parquet` or `.jsonl` file, or a folder of them.
        form: How it is to be read.

    Raises:
        DataError: There is no such list.
    """

    def __init__(self, path: Path, form: Form) -> None:
        self.path = path
        self.form = form
        self._columns = {name: form.columns.get(name, name).lower() for name in FIELDS}
        self.files = files_of(path)
        self.is_synris = not form.images and self._first_has_index()
        if self.is_synris:
            self.files = list_files(path)

    def _first_has_index(self) -> bool:
        if self.files[0].suffix.lower() not in (".jsonl", ".ndjson"):
            return False
        _, row = next(iter(read_rows(self.files[0])), ("", {}))
        return _INDEX in row and self.form.url.lower() in row

    def listings(self) -> Iterator[Listing]:
        """Every image, in the order of the list.

        Raises:
            DataError: The list cannot be read; the message names file and line.
        """
        for file in self.files:
            for line, row in read_rows(file, self.form.required, self.form.wanted):
                where = f"{file.name}, {line}"
                if self.is_synris:
                    yield self._synris(row, where, file.stem)
                elif self.form.images:
                    yield from self._several(row, where, file.stem)
                else:
                    yield _listing(row.get(self.form.url.lower()), self._cells(row, file.stem), where)

    def _cells(self, row: Mapping[str, Any], stem: str) -> dict[str, Any]:
        """What the row says, before it is checked."""
        cells = {name: row.get(column) for name, column in self._columns.items()}
        if is_missing(cells["caption"]) and "caption" not in self.form.columns:
            cells["caption"] = row.get("text")  # as LAION calls it
        defaults = {"dataset": stem, **self.form.constants}
        return cells | {name: value for name, value in defaults.items() if is_missing(cells[name])}

    def _several(self, row: Mapping[str, Any], where: str, stem: str) -> Iterator[Listing]:
        """The images of a row: one group, and a pair where there is a real one and a fake."""
        cells = self._cells(row, stem)
        urls = [row.get(image.column) for image in self.form.images]
        here = [image for image, url in zip(self.form.images, urls, strict=True) if not is_missing(url)]
        if is_missing(cells["group"]):
            cells["group"] = f"row-{hashlib.sha256(repr(urls).encode('utf-8', 'replace')).hexdigest()[:16]}"
        if is_missing(cells["pair"]) and {image.label for image in here} == {"real", "fake"}:
            cells["pair"] = cells["group"]
        for image, url in zip(self.form.images, urls, strict=True):
            generator = row.get(image.generator[1:].lower()) if image.generator.startswith("@") else image.generator
            own = {"label": image.label} | ({} if is_missing(generator) else {"generator": generator})
            if image.label == "real":
                own["family"] = None
                own.setdefault("generator", "real" if "generator" not in self.form.constants else cells["generator"])
            yield _listing(url, cells | own, f"{where}, {image.column}")

    def _synris(self, row: Mapping[str, Any], where: str, stem: str) -> Listing:
        index = prompt_index(row.get(_INDEX))
        cells = dict.fromkeys(FIELDS) | {"dataset": f"synris/{stem}", "generator": REALS, "label": "real", "split": "test"}
        if index is None:
            return _listing(row.get(self.form.url.lower()), cells, where, problem="the prompt_index is not a whole number of 0 or more")
        cells |= {"group": f"synris/prompt-{index}", "pair": f"{stem}/{index}"}
        return _listing(row.get(self.form.url.lower()), cells, where, name=f"reals/{stem}/{index:05}")


def _listing(url: Any, cells: Mapping[str, Any], where: str, problem: str = "", name: str = "") -> Listing:
    try:
        checked = checked_cells(cells, where)
    except DataError as error:
        checked = dict.fromkeys(FIELDS) | {"dataset": str(cells["dataset"])[:80]}
        problem = problem or str(error).removeprefix(f"{where}: ")
    if not is_missing(url) and not isinstance(url, str):
        problem = problem or f"the address is no text: {str(url)[:60]!r}"
    checked["generator"] = checked["generator"] or ("real" if checked["label"] == 0 else "unknown")
    return Listing(where, clean(url) if isinstance(url, str) else "", checked, problem, name)
