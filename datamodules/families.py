"""Generator to family to integer, and back; the classes that a training set has."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular
from datamodules.records import REAL, Record

BUILT_IN = Path(__file__).with_name("families.yaml")
UNKNOWN, UNKNOWN_INDEX = "unknown", -1
REAL_CLASS = "real"
TARGETS = ("family", "generator")


class FamilyMap:
    """Which family a generator belongs to, and the number of each family.

    `real` is always number 0, the others follow in the order given; `unknown` is -1.

    Args:
        families: Names or patterns of generators by family.
        where: Where they come from, for messages.
    """

    def __init__(self, families: Mapping[str, Sequence[str]], where: str = "the family map") -> None:
        others = {name: list(generators) for name, generators in families.items() if name != "real"}
        self.families: dict[str, list[str]] = {"real": list(families.get("real", ())), **others}
        self.where = where
        self.names = list(self.families)
        self._indices = {name: i for i, name in enumerate(self.names)}
        # Later families win: a user's file is read after the built-in one.
        self._exact = {_plain(entry): name for name, entries in self.families.items() for entry in entries}
        patterns = [(entry, name) for entry, name in self._exact.items() if "*" in entry or "?" in entry]
        self._patterns = sorted(patterns, key=lambda item: -len(item[0].rstrip("*")))
        self._found: dict[str, str] = {}

    @classmethod
    def load(cls, path: str | Path | None = None) -> "FamilyMap":
        """The built-in map, with a file of the user's on top of it.

        Args:
            path: A YAML file of the built-in one's form, or none.

        Raises:
            DataError: The file is missing or has another form.
        """
        families = _read(BUILT_IN)
        if path is None:
            return cls(families, str(BUILT_IN))
        own = _read(Path(path))
        named = {_plain(entry) for entries in own.values() for entry in entries}
        families = {name: [entry for entry in entries if _plain(entry) not in named] for name, entries in families.items()}
        for name, entries in own.items():
            families[name] = [*families.get(name, []), *entries]
        return cls(families, str(path))

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "FamilyMap":
        """The map that `to_dict` wrote."""
        return cls(state["families"], state["where"])

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for a checkpoint; the order of the families is kept."""
        return {"families": {name: list(entries) for name, entries in self.families.items()}, "where": self.where}

    def family(self, generator: str) -> str:
        """Family of a generator by its name, `unknown` where nothing says it."""
        if generator not in self._found:
            plain = _plain(generator)
            matching = (family for pattern, family in self._patterns if fnmatchcase(plain, pattern))
            self._found[generator] = self._exact.get(plain) or next(matching, UNKNOWN)
        return self._found[generator]

    def of(self, record: Record) -> str:
        """Family of a record: `real` for a real image, then what its source says, then the map, else `unknown`."""
        if record.label == REAL:
            return "real"
        return record.family if record.family != UNKNOWN else self.family(record.generator)

    def resolve(self, records: Iterable[Record]) -> list[Record]:
        """The records with their families filled in, in the same order."""
        found = ((record, self.of(record)) for record in records)
        return [record if record.family == family else replace(record, family=family) for record, family in found]

    def index(self, family: str) -> int:
        """Number of a family, from 0; -1 for `unknown` and for a family that the map does not have."""
        return self._indices.get(family, UNKNOWN_INDEX)

    def name(self, index: int) -> str:
        """Family of a number, `unknown` for every number that none has."""
        return self.names[index] if 0 <= index < len(self.names) else UNKNOWN

    def including(self, records: Iterable[Record]) -> "FamilyMap":
        """This map with further families that the records' source names, numbered after the others by name."""
        found = {self.of(record) for record in records} - set(self.names) - {UNKNOWN}
        return FamilyMap({**self.families, **{name: [] for name in sorted(found)}}, self.where)

    def check_known(self, records: Iterable[Record]) -> None:
        """Stop where an image has no family with a number: a family head cannot learn `unknown`.

        Args:
            records: The records that a family head would be trained on.

        Raises:
            DataError: Naming the generators and the file that lacks them.
        """
        strange = sorted({record.generator for record in records if self.index(self.of(record)) == UNKNOWN_INDEX})
        if strange:
            message = (
                f"No family is known for {', '.join(map(repr, strange[:10]))}{' …' if len(strange) > 10 else ''} in {self.where}. "
                "Add them in a YAML file of your own (family: [generators]), or give the manifest a column family."
            )
            raise DataError(message)


def classes_of(records: Iterable[Record], target: str, families: FamilyMap, unknown: bool = False) -> list[str]:
    """Names of the classes that a training set has.

    Generators whose names differ only in what the map passes over (case, spaces, dots, underscores, dashes) are one class, under the
    spelling that most of the images have (of two equally common ones the later in the alphabet).

    Args:
        records: The training records, real images among them or not.
        target: `family` or `generator`.
        families: The map; it says the order of the families.
        unknown: Make generated images without a known family (for `generator`: without the name of one) a class of their own.

    Returns:
        `real`; then the families in the map's order, or the generators sorted; then `unknown` where there are such images.

    Raises:
        DataError: An image has no known family or no generator, and `unknown` is not set; a generated image is said to be of the family
            or the generator `real`.
        ValueError: There is no such target.
    """
    if target not in TARGETS:
        message = f"target is {target!r}; classes are those of {' or '.join(TARGETS)}"
        raise ValueError(message)
    fakes = [record for record in records if record.label != REAL]
    named = Counter(_class_name(record, target, families) for record in fakes)
    if REAL_CLASS in {_plain(name) for name in named}:
        message = f"Generated images have the {target} 'real', which is that of real images: correct the label or the {target} of them."
        raise DataError(message)
    strange = named.pop(UNKNOWN, 0)
    if strange and not unknown and target == "family":
        families.check_known(fakes)
    if strange and not unknown:
        message = f"{strange} generated images have no generator's name: give it in the manifest's column generator, or as their folder."
        raise DataError(message)
    if target == "family":
        found = [name for name in families.names if name in named]
    else:
        spelled = {_plain(name): name for name in sorted(named, key=lambda name: (named[name], name))}
        found = sorted(spelled.values())
    return [REAL_CLASS, *found, *([UNKNOWN] if strange else [])]


def class_numbers(records: Sequence[Record], classes: Sequence[str], target: str, families: FamilyMap) -> list[int]:
    """Number of the class of each record, from 0; -1 where it is of none of them.

    Args:
        records: Of any split.
        classes: What `classes_of` said of the training records.
        target: `family` or `generator`.
        families: The map.
    """
    key = _plain if target == "generator" else str
    numbers = {key(name): number for number, name in enumerate(classes)}
    real = numbers.pop(REAL_CLASS, UNKNOWN_INDEX)
    fakes = (numbers.get(key(_class_name(record, target, families)), UNKNOWN_INDEX) for record in records)
    return [real if record.label == REAL else fake for record, fake in zip(records, fakes, strict=True)]


def _class_name(record: Record, target: str, families: FamilyMap) -> str:
    """Family or generator of a generated image, `unknown` where the map has no number for it or nobody named it."""
    if target == "generator":
        return UNKNOWN if _plain(record.generator) in ("", UNKNOWN) else record.generator
    family = families.of(record)
    return family if families.index(family) != UNKNOWN_INDEX else UNKNOWN


def _plain(generator: str) -> str:
    return re.sub(r"[\s._·-]+", "-", generator.strip().lower()).strip("-")


def _read(path: Path) -> dict[str, list[str]]:
    try:
        with open_regular(path) as file:
            content = yaml.safe_load(file)
    except OSError as error:
        message = f"The family map {path} cannot be read ({describe_os_error(error)}): check the path."
        raise DataError(message) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        message = f"The family map {path} is not YAML ({' '.join(str(error).split())[:200]}): correct it."
        raise DataError(message) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        message = f"The family map {path} is not a list of generators by family: see {BUILT_IN} for the form."
        raise DataError(message)
    families: dict[str, list[str]] = {}
    for name, entries in content.items():
        if name == UNKNOWN or not isinstance(entries, list | None) or not all(isinstance(entry, str) for entry in entries or ()):
            message = f"The family map {path} has {name!r}: {entries!r}, which is no family's list of names: see {BUILT_IN} for the form."
            raise DataError(message)
        families[name] = entries or []
    return families
