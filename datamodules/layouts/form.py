"""What a layout's YAML file says, read strictly: a word that is misspelt must not be passed over."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular
from datamodules.layouts.patterns import Names, Parts, Pattern, placeholders

BUILT_IN = Path(__file__).parent
FIELDS = ("label", "dataset", "generator", "family", "split", "group", "pair", "caption", "caption_source")
"""What a rule can say of an image; each is a text with parts in braces."""

BY_ITSELF = {"label": "{label}", "split": "{split}", "caption": "{caption}"}
"""What a rule says where it says nothing, if its images have such a part; of a generated image also `{generator}`."""

GIVEN = frozenset({"file", "name", "below"})
"""Parts that every image has: its file's name with and without suffix, and its path in the layout's folder without suffix."""

TABLE_FORMS = ("table", "coco", "token", "text")
_MAX_BYTES = 1_000_000
_KEYS = {
    "layout": {"title", "folder", "needs", "parts", "rules", "signs", "ignore", "tables", "validation", "synris"},
    "rule": {"path", "real", "fake", *FIELDS},
    "table": {"file", "form", "key", "of", "parts", "more", "needed"},
    "synris": {"lists", "reals", "fakes"},
}


@dataclass(frozen=True)
class Rule:
    """What images at some paths are.

    Attributes:
        patterns: Where they lie.
        says: Templates by field.
        real: Further ones for those that are real.
        fake: Further ones for those that are generated.
    """

    patterns: tuple[Pattern, ...]
    says: Mapping[str, str]
    real: Mapping[str, str]
    fake: Mapping[str, str]

    def match(self, path: str) -> Parts | None:
        """The parts of a path that one of the patterns fits."""
        return next((parts for pattern in self.patterns if (parts := pattern.match(path)) is not None), None)


@dataclass(frozen=True)
class Table:
    """A file that says more of the images.

    Attributes:
        files: Templates of its path; the first that is there is read.
        form: `table` (CSV, Parquet or JSON lines), `coco` (annotations of MSCOCO), `token` (lines `image.jpg#0<tab>caption`) or `text` (a
            file beside each image).
        key: Column of a `table` that names the image.
        of: Template of that name; empty for the image's path below the table's folder.
        parts: Columns by the part that they give; a table without one of them is another one.
        more: Likewise, of columns that it may lack.
        needed: Whether the layout is another one without it.
    """

    files: tuple[str, ...]
    form: str
    key: str
    of: str
    parts: Mapping[str, str]
    more: Mapping[str, str]
    needed: bool


@dataclass(frozen=True)
class Layout:
    """Where a benchmark keeps its images.

    Attributes:
        name: The file's stem.
        where: The file.
        title: The benchmark's name as its makers write it.
        rules: The first that fits an image counts.
        names: By part, what its values mean.
        signs: Of these patterns one image at least must fit; none to go without.
        ignore: Images that do not belong to it.
        tables: Files that say more.
        folder: Pattern of the folder's own name, without which the layout is not found by itself.
        needs: What must lie beside the images.
        validation: Share of the train split that becomes validation, where the benchmark has none.
        synris: Folders of `SynRISSource`, which then reads the tree.
    """

    name: str
    where: str
    title: str
    rules: tuple[Rule, ...]
    names: Mapping[str, Names] = field(default_factory=dict)
    signs: tuple[Pattern, ...] = ()
    ignore: tuple[Pattern, ...] = ()
    tables: tuple[Table, ...] = ()
    folder: Names | None = None
    needs: tuple[str, ...] = ()
    validation: float = 0.0
    synris: Mapping[str, str] = field(default_factory=dict)

    def match(self, path: str) -> tuple[Rule, Parts] | None:
        """The rule for a path below the data's folder, without suffix, and its parts."""
        for rule in self.rules:
            parts = rule.match(path)
            if parts is not None:
                return rule, parts
        return None

    def ignores(self, path: str) -> bool:
        """Whether an image is no part of the benchmark: a reconstruction, a mask."""
        return any(pattern.match(path) is not None for pattern in self.ignore)


def layout_names() -> list[str]:
    """Names of the built-in layouts."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def load_layout(name: str) -> Layout:
    """A layout by its name, or from a YAML file of the user's own.

    Args:
        name: One of `layout_names`, or the path of a file that ends in `.yaml` or `.yml`.

    Raises:
        DataError: There is no such layout, or the file says something that no layout says.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
    elif name in layout_names():
        path = BUILT_IN / f"{name}.yaml"
    else:
        message = f"There is no layout {name[:80]!r}: there are {', '.join(layout_names())}, or the path of a .yaml file of your own."
        raise DataError(message)
    return _Reader(path).layout()


class _Reader:
    """Reads one file; every message names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = _read(path)

    def layout(self) -> Layout:
        content = self._known(self.content, "layout", "the file")
        meanings = {part: self._meanings(part, value) for part, value in self._mapping(content.get("parts", {}), "parts").items()}
        tables = tuple(self._table(entry) for entry in self._list(content.get("tables", []), "tables"))
        told = {part for table in tables for part in (*table.parts, *table.more)}
        patterns = self._patterns(meanings)
        rules = tuple(self._rule(entry, patterns, told) for entry in self._list(content.get("rules"), "rules"))
        if not rules:
            self._refuse("it has no rules")
        validation = content.get("validation", 0)
        if isinstance(validation, bool) or not isinstance(validation, int | float) or not 0 <= validation < 1:
            self._refuse(f"validation is {validation!r}, which is no share from 0 to below 1")
        folder = content.get("folder")
        synris = self._known(content.get("synris", {}), "synris", "synris")
        if synris and set(synris) != _KEYS["synris"]:
            self._refuse("synris must name the folders lists, reals and fakes")
        return Layout(
            name=self.path.stem,
            where=str(self.path),
            title=self._text(content.get("title", self.path.stem), "title"),
            rules=rules,
            names={part: Names(meaning) for part, meaning in meanings.items()},
            signs=patterns(self._texts(content.get("signs", []), "signs")),
            ignore=patterns(self._texts(content.get("ignore", []), "ignore")),
            tables=tables,
            folder=Names({self._text(folder, "folder"): ""}) if folder is not None else None,
            needs=tuple(self._inside(each, "needs") for each in self._texts(content.get("needs", []), "needs")),
            validation=float(validation),
            synris={name: self._inside(self._text(value, name), name) for name, value in synris.items()},
        )

    def _patterns(self, meanings: Mapping[str, Mapping[str, str]]) -> Callable[[Sequence[str]], tuple[Pattern, ...]]:
        def build(texts: Sequence[str]) -> tuple[Pattern, ...]:
            try:
                return tuple(Pattern(text, meanings) for text in texts)
            except DataError as error:
                self._refuse(str(error))

        return build

    def _rule(self, entry: Any, patterns: Callable[[Sequence[str]], tuple[Pattern, ...]], told: set[str]) -> Rule:
        found = self._known(entry, "rule", "a rule")
        built = patterns(self._texts(found.get("path"), "path of a rule"))
        if not built:
            self._refuse("a rule has no path")
        common = frozenset.intersection(*(pattern.parts for pattern in built)) | told | GIVEN
        says = {name: text for name, text in BY_ITSELF.items() if placeholders(text) <= common}
        says |= {name: self._text(found[name], name) for name in FIELDS if name in found}
        kinds = {kind: self._known(found.get(kind, {}), "rule", kind) for kind in ("real", "fake")}
        if "generator" not in says and "generator" in common:
            kinds["fake"] = {"generator": "{generator}"} | kinds["fake"]
        for kind, more in kinds.items():
            kinds[kind] = {name: self._text(value, name) for name, value in more.items()}
            if "label" in more or not set(more) <= set(FIELDS):
                self._refuse(f"what a rule says of {kind} images is one of {', '.join(FIELDS[1:])}")
        if "label" not in says:
            self._refuse(f"the rule of {built[0].text!r} does not say whether its images are real: label: real, fake, or a part")
        for name, text in [*says.items(), *kinds["real"].items(), *kinds["fake"].items()]:
            if strange := sorted(placeholders(text) - common):
                self._refuse(f"{name} is {text!r}, but not every image of that rule has the part {strange[0]}")
        return Rule(built, says, kinds["real"], kinds["fake"])

    def _table(self, entry: Any) -> Table:
        found = self._known(entry, "table", "a table")
        form = self._text(found.get("form", "table"), "form of a table")
        if form not in TABLE_FORMS:
            self._refuse(f"the form of a table is {form!r}: it is one of {', '.join(TABLE_FORMS)}")
        parts, more = (self._columns(found.get(name, {}), name) for name in ("parts", "more"))
        parts = parts or ({"caption": "caption"} if form != "table" else {})
        files = tuple(self._inside(each, "file of a table") for each in self._texts(found.get("file"), "file of a table"))
        if not files or not parts or (form == "table" and "key" not in found):
            self._refuse("a table needs its file, the parts that it gives by their columns, and the column key that names the image")
        needed = found.get("needed", False)
        if not isinstance(needed, bool):
            self._refuse(f"needed is {needed!r}: it is true or false")
        key, of = (self._text(found.get(name, ""), f"{name} of a table") for name in ("key", "of"))
        return Table(files, form, key.strip().lower(), of, parts, more, needed)

    def _columns(self, value: Any, what: str) -> dict[str, str]:
        return {self._text(part, what): self._text(name, what).strip().lower() for part, name in self._mapping(value, what).items()}

    def _meanings(self, part: str, value: Any) -> dict[str, str]:
        """By name, what it means; empty for itself."""
        if isinstance(value, list):
            value = dict.fromkeys(value)
        found = self._mapping(value, f"the part {part}")
        if not re.fullmatch("[a-z_]+", part) or not found:
            self._refuse(f"the part {part!r} must be of small letters, and have the names that it may have")
        return {self._text(name, part): "" if meaning is None else self._text(meaning, part) for name, meaning in found.items()}

    def _inside(self, path: str, what: str) -> str:
        if path.startswith("/") or "\\" in path or "\0" in path or any(name in ("", "..") for name in path.split("/")):
            self._refuse(f"{what} is {path[:80]!r}, which leads out of the data's folder")
        return path

    def _text(self, value: Any, what: str) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int):
            self._refuse(f"{what} is {str(value)[:80]!r}, which is no text: put it in quotes")
        return str(value)

    def _texts(self, value: Any, what: str) -> list[str]:
        return [self._text(each, what) for each in self._list([value] if isinstance(value, str) else value, what)]

    def _list(self, value: Any, what: str) -> list[Any]:
        if not isinstance(value, list):
            self._refuse(f"{what} is {str(value)[:80]!r}, which is no list")
        return value

    def _mapping(self, value: Any, what: str) -> dict[Any, Any]:
        if not isinstance(value, dict):
            self._refuse(f"{what} is {str(value)[:80]!r}, which is no mapping")
        return value

    def _known(self, value: Any, kind: str, what: str) -> dict[str, Any]:
        found = self._mapping(value, what)
        if strange := [name for name in found if name not in _KEYS[kind]]:
            self._refuse(f"{what} has {str(strange[0])[:80]!r}; known are {', '.join(sorted(_KEYS[kind]))}")
        return found

    def _refuse(self, why: str) -> NoReturn:
        message = f"The layout {self.path} is wrong: {why}."
        raise DataError(message)


def _read(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            message = f"The layout {path} has more than {_MAX_BYTES} bytes: this is no layout."
            raise DataError(message)
        return yaml.safe_load(text)
    except OSError as error:
        message = f"The layout {path} cannot be read ({describe_os_error(error)}): check the path."
        raise DataError(message) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        message = f"The layout {path} is not YAML ({' '.join(str(error).split())[:200]}): correct it."
        raise DataError(message) from error
