"""Published numbers: `targets/*.json`, read as strictly as a stranger's file should be."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_BYTES = 4_000_000
MOST_ROWS = 10_000
_LONGEST = {"header": 4000, "row": 300}
_ROW = ("detector", "train", "dataset", "generator", "perturbation", "metric", "value")
_OPTIONAL = ("train", "generator")  # may be null
MACRO = "macro"
"""Generator of a published row that is the mean over all generators of a collection: of the data sets `COLLECTION/…`."""
ROOTS = ("detector", "extractor", "training", "threshold", "test")
_REQUIRES = ("n_real", "n_fake", "settings")
_ADVICE = "see targets/zero_shot_blog.json for the format"

Scalar = str | int | float | bool | None
Wanted = Scalar | tuple[Scalar, ...]
"""A value that a setting must have: plain, or that of a setting that is a list."""


class TargetsError(ValueError):
    """A file of published numbers that cannot be used; the message names the place and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """One published number.

    Attributes:
        detector: Name of the detector, as a study calls it.
        train: What it was trained on: a data set, or `dataset/perturbation`; None where there was no training.
        dataset: Name of the data set.
        generator: Name of the generator of its fakes; None where all generators of the data set were measured together.
        perturbation: What every image went through.
        metric: A name such as `auroc`, `accuracy`, `tpr_at_fpr_0.1`, `multiclass_accuracy` (real or which class of fakes).
        value: In [0, 1].
        n: Number of images, real and fake, where it is said of this number alone.
    """

    detector: str
    train: str | None
    dataset: str
    generator: str | None
    perturbation: str
    metric: str
    value: float
    n: int | None = None

    @property
    def images(self) -> str:
        """The data set, and the generator where it is one."""
        return self.dataset if self.generator is None else f"{self.dataset}/{self.generator}"


@dataclass(frozen=True, slots=True)
class Targets:
    """The numbers of one publication.

    Attributes:
        source: Where they were published.
        status: By whom: the authors, a re-implementation.
        setting: Data and parameters, in words.
        note: Whatever else a reader should know.
        rows: The numbers.
        n_real: Number of real images that were measured; None where it is not said.
        n_fake: Number of fakes.
        settings: By detector (`*`: every one), by dotted path that begins with one of `ROOTS` (`extractor.denoiser.path`,
            `detector.class_path`, `training.images`, `threshold.fpr`, `test.images`), the values of which one must be that of a measured
            detector for its numbers to be comparable. A list in this list is the value of a setting that is a list, in its order.
    """

    source: str
    status: str
    setting: str
    note: str
    rows: Sequence[Target]
    n_real: int | None = None
    n_fake: int | None = None
    settings: Mapping[str, Mapping[str, Sequence[Wanted]]] = field(default_factory=dict)


def read_targets(path: Path) -> Targets:
    """Read a file of published numbers.

    Args:
        path: JSON: an object with `source`, `status`, `setting`, `note` (texts, the first needed), `rows` (see `Target`; `n` may be left
            out) and optionally `requires` with `n_real`, `n_fake` and `settings` (see `Targets`).

    Raises:
        TargetsError: The file cannot be read, or something in it is not as it should be.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            msg = f"larger than {MOST_BYTES:,} bytes"
            raise ValueError(msg)
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "too deeply nested" if isinstance(error, RecursionError) else error
        msg = f"published numbers {str(path)!r} cannot be read: {why}; {_ADVICE}"
        raise TargetsError(msg) from error
    try:
        return _targets(document)
    except ValueError as error:
        msg = f"published numbers {str(path)!r}: {error}; {_ADVICE}"
        raise TargetsError(msg) from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        msg = f"the key {next(name for name in names if names.count(name) > 1)[:100]!r} is there twice"
        raise ValueError(msg)
    return made


def _no_constant(name: str) -> float:
    msg = f"{name} is no number of JSON"
    raise ValueError(msg)


def _targets(document: Any) -> Targets:
    known = _object(document, "the file", ("source", "status", "setting", "note", "requires", "rows"))
    texts = {name: _text(known.get(name, ""), name, "header") for name in ("status", "setting", "note")}
    rows = known.get("rows")
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_ROWS:
        msg = f"rows is a list of 1 to {MOST_ROWS:,} objects"
        raise ValueError(msg)
    made = [_row(row, f"rows[{place}]") for place, row in enumerate(rows)]
    seen: dict[tuple[Any, ...], int] = {}
    for place, row in enumerate(made):
        what = tuple(getattr(row, name) for name in _ROW[:-1])
        if (before := seen.setdefault(what, place)) != place:
            msg = f"rows[{before}] and rows[{place}] are of the same detector, images, perturbation and metric"
            raise ValueError(msg)
    requires = _object(known.get("requires", {}), "requires", _REQUIRES)
    counts = {name: _count(requires[name], f"requires.{name}") for name in ("n_real", "n_fake") if name in requires}
    return Targets(
        source=_text(known.get("source"), "source", "header", needed=True),
        status=texts["status"],
        setting=texts["setting"],
        note=texts["note"],
        rows=made,
        n_real=counts.get("n_real"),
        n_fake=counts.get("n_fake"),
        settings=_settings(requires.get("settings", {})),
    )


def _row(row: Any, where: str) -> Target:
    found = _object(row, where, (*_ROW, "n"))
    if missing := [name for name in _ROW if name not in found]:
        msg = f"{where} lacks {', '.join(missing)}"
        raise ValueError(msg)
    names: dict[str, Any] = {name: _text(found[name], f"{where}.{name}", "row", needed=True) for name in _ROW[:-1] if name not in _OPTIONAL}
    names |= {name: None if found[name] is None else _text(found[name], f"{where}.{name}", "row", needed=True) for name in _OPTIONAL}
    value = found["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        msg = f"{where}.value is {_shown(value)}; it must be a number from 0 to 1"
        raise ValueError(msg)
    return Target(value=float(value), n=_count(found["n"], f"{where}.n", least=1) if "n" in found else None, **names)


def _settings(told: Any) -> dict[str, dict[str, tuple[Wanted, ...]]]:
    """Alternatives by detector and dotted path."""
    made: dict[str, dict[str, tuple[Wanted, ...]]] = {}
    for detector, paths in _object(told, "requires.settings").items():
        where = f"requires.settings.{_text(detector, 'a name in requires.settings', 'row', needed=True)}"
        made[detector] = {}
        for path, value in _object(paths, where).items():
            if path.partition(".")[0] not in ROOTS or not all(path.split(".")) or "." not in path:
                msg = f"{where}: {_shown(path)} is no path such as extractor.denoiser.path or detector.backbone"
                raise ValueError(msg)
            _text(path, f"a path in {where}", "row")
            made[detector][path] = _alternatives(value, f"{where}.{path}")
    return made


def _alternatives(value: Any, where: str) -> tuple[Wanted, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        msg = f"{where} is an empty list: no value would do"
        raise ValueError(msg)
    return tuple(tuple(_scalar(one, where) for one in each) if isinstance(each, list) else _scalar(each, where) for each in values)


def _scalar(value: Any, where: str) -> Scalar:
    if not isinstance(value, Scalar) or (isinstance(value, float) and not math.isfinite(value)):
        msg = f"{where} is a text, a number, true, false, null, or a list of those, or of lists of those"
        raise ValueError(msg)
    return _text(value, where, "row") if isinstance(value, str) else value


def _object(value: Any, where: str, known: Sequence[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        msg = f"{where} is {_shown(value)}; it must be an object"
        raise ValueError(msg)
    if known is not None and (other := [name for name in value if name not in known]):
        msg = f"{where} has {_shown(other[0])}; there are {', '.join(known)}"
        raise ValueError(msg)
    return value


def _text(value: Any, where: str, kind: str, needed: bool = False) -> str:
    most = _LONGEST[kind]
    if not isinstance(value, str) or len(value) > most or (needed and not value.strip()):
        msg = f"{where} is {_shown(value)}; it must be a text of {'1' if needed else '0'} to {most} characters"
        raise ValueError(msg)
    value.encode()  # half a surrogate pair, which JSON can spell, would fail where the text is written
    return value


def _count(value: Any, where: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"{where} is {_shown(value)}; it must be a number of images{f', {least} at least' if least else ''}"
        raise ValueError(msg)
    return value


def _shown(value: Any) -> str:
    """A value for a message: short, and in one line."""
    said = ascii(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return said if len(said) <= 60 else f"{said[:59]}…"
