"""Patterns of paths with named parts, such as `{generator}/{split}/ai/**/{name}`."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate

from datamodules.errors import DataError

MAX_LENGTH = 300  # characters of a pattern
MAX_OPEN = 3  # parts and stars of one folder's name: more would let a long name cost much time
MAX_DIGITS = 30

_PART = re.compile(r"\{([a-z_]+)(?::([^{}]*))?\}")
_NUMBER = "#"

Parts = dict[str, str]


class Pattern:
    """A path below a folder, without the file's suffix.

    Names of folders are separated by `/`, and `**` stands for any number of them, none included. Within a name `*` stands for any
    characters, `{part}` for one character at least, `{part:#}` for digits, and `{part:a|b*}` for one of several names. Upper and lower
    case make no difference.

    Args:
        text: The pattern.
        allowed: By part, the names that it may have where the pattern lists none.

    Raises:
        DataError: It is no such pattern.
    """

    def __init__(self, text: str, allowed: Mapping[str, Iterable[str]] | None = None) -> None:
        self.text = text
        self._allowed = {part: list(names) for part, names in (allowed or {}).items()}
        self._numbers: list[str] = []
        self._regex = re.compile(self._whole(), re.IGNORECASE)
        self.parts = frozenset(self._regex.groupindex)

    def match(self, path: str) -> Parts | None:
        """The named parts of a path, numbers without leading zeros; none where the path is another."""
        found = self._regex.fullmatch(path)
        if found is None:
            return None
        parts = found.groupdict()
        return parts | {part: parts[part].lstrip("0") or "0" for part in self._numbers}

    def _whole(self) -> str:
        names = self.text.split("/")
        strange = any(name in ("", ".", "..") or "\\" in name or "\0" in name for name in names)
        if len(self.text) > MAX_LENGTH or strange or names[-1] == "**" or names.count("**") > 2:
            message = (
                f"The pattern {self.text[:80]!r} is none: it names folders below the data's, separated by /, and a file at the end, "
                "as in '{generator}/{split}/**/{name}'."
            )
            raise DataError(message)
        named = [part for part, _ in _PART.findall(self.text)]
        if double := sorted({part for part in named if named.count(part) > 1}):
            message = f"The pattern {self.text!r} names the part {double[0]} twice."
            raise DataError(message)
        return "".join("(?:[^/]+/)*" if name == "**" else self._name(name) + "/" for name in names[:-1]) + self._name(names[-1])

    def _name(self, name: str) -> str:
        """Regular expression of one folder's or file's name."""
        pieces = []
        position = 0
        for found in _PART.finditer(name):
            pieces += [_literal(name[position : found.start()], self.text), self._part(found[1], found[2])]
            position = found.end()
        pieces.append(_literal(name[position:], self.text))
        if len(_PART.findall(name)) + _PART.sub("", name).count("*") > MAX_OPEN:
            message = f"The pattern {self.text!r} has more than {MAX_OPEN} parts or stars in {name!r}."
            raise DataError(message)
        return "".join(pieces)

    def _part(self, part: str, given: str | None) -> str:
        if given == _NUMBER:
            self._numbers.append(part)
            return f"(?P<{part}>[0-9]{{1,{MAX_DIGITS}}})"
        names = given.split("|") if given is not None else self._allowed.get(part)
        if names is None:
            return f"(?P<{part}>[^/]+)"
        if not all(names):
            message = f"The pattern {self.text!r} allows {part} to be empty."
            raise DataError(message)
        return f"(?P<{part}>{'|'.join(_literal(name, self.text) for name in names)})"


def _literal(text: str, pattern: str) -> str:
    if "{" in text or "}" in text:
        message = f"The pattern {pattern!r} has a brace without its other half, or a part that is not of small letters."
        raise DataError(message)
    return "[^/]*".join(map(re.escape, text.split("*")))


def placeholders(template: str) -> set[str]:
    """Parts that a template needs."""
    return {part for part, _ in _PART.findall(template)}


def render(template: str, parts: Mapping[str, str]) -> str | None:
    """A template with its parts filled in; none where one is missing or empty."""
    if any(not parts.get(part) for part in placeholders(template)):
        return None
    return _PART.sub(lambda found: parts[found[1]], template)


class Names:
    """What names mean: `ADM` is `adm`. Upper and lower case make no difference; `*` stands for any characters; the first that fits counts.

    Args:
        meanings: By name or pattern; an empty meaning leaves the name as it is.
    """

    def __init__(self, meanings: Mapping[str, str]) -> None:
        self._exact = {name.lower(): meaning for name, meaning in meanings.items() if "*" not in name}
        self._open = [(re.compile(translate(name.lower())), meaning) for name, meaning in meanings.items() if "*" in name]

    def get(self, name: str) -> str | None:
        """The meaning of a name; none where it has none."""
        plain = name.lower()
        if plain in self._exact:
            return self._exact[plain] or name
        return next((meaning or name for pattern, meaning in self._open if pattern.match(plain)), None)
