"""What tables and side files of data sets tell of an image, as text from strangers: labels, names, captions."""

import math
from collections.abc import Mapping
from typing import Any

from datamodules.errors import DataError
from datamodules.records import FAKE, MAX_CAPTION, MISSING, REAL
from datamodules.sources.manifest import SPLIT_NAMES

ANYTHING = "*"
"""Stands for every other value in `labels`."""

LABELS: Mapping[str, int | None] = {"0": REAL, "real": REAL, "1": FAKE, "fake": FAKE}
"""What label values mean where no option says otherwise."""

_LONGEST = 500  # characters of all fields but the caption


def text_of(value: Any, field: str) -> str | None:
    """A value as text, without control characters, None where it is missing.

    Args:
        value: A text or a number; of a label also a truth value, which counts as 0 or 1.
        field: The record's field that it becomes: captions may be longer than names, and are cut.

    Raises:
        ValueError: It is neither text nor a number, or a name that is too long.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) and field == "label":
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        msg = f"its {field} is a {type(value).__name__}, not a text"
        raise ValueError(msg)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # A lone surrogate could stand in no table, a null byte in no path.
    text = str(value).encode("utf-8", "replace").decode()
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if field == "caption":
        text = text[:MAX_CAPTION]
    if len(text) > _LONGEST and field != "caption":
        msg = f"its {field} has {len(text)} characters"
        raise ValueError(msg)
    return None if text.lower() in MISSING else text


def label_of(text: str, labels: Mapping[str, int | None] | None, where: str) -> int | None:
    """What a label value means: 0 real, 1 generated, None for an image that is to be left out.

    Args:
        text: The value.
        labels: What values mean; `*` stands for all others. `real`, `fake`, `0` and `1` by default, in any case.
        where: Where the value stands, for the message.

    Raises:
        DataError: Nothing says what it means.
    """
    known = LABELS if labels is None else labels
    for name in (text, text.lower()) if labels is None else (text,):
        if name in known:
            return known[name]
    if ANYTHING in known:
        return known[ANYTHING]
    message = (
        f"{where}: nothing says whether the label {text[:60]!r} is real (0) or fake (1); labels knows {', '.join(map(repr, known))}. "
        "Name it in labels, with null to leave such images out; '*' stands for all others."
    )
    raise DataError(message)


def check_labels(labels: Mapping[str, int | None] | None) -> None:
    """Refuse label values that mean something else than real or fake.

    Raises:
        DataError: Some do.
    """
    wrong = {name: value for name, value in (labels or {}).items() if value not in (REAL, FAKE, None)}
    if wrong:
        message = f"labels says {wrong}: a value means 0 (real), 1 (fake) or null (left out)."
        raise DataError(message)


def split_of(text: str, where: str) -> str:
    """`train`, `val` or `test` by any of the names that data sets use.

    Raises:
        DataError: It is none of them.
    """
    if text.lower() not in SPLIT_NAMES:
        message = f"{where}: {text[:60]!r} is no split. Known are {', '.join(SPLIT_NAMES)}; leave the split out to have it cut here."
        raise DataError(message)
    return SPLIT_NAMES[text.lower()]


def check_kind(kind: str | None) -> int | None:
    """The label that all images have by an option.

    Raises:
        DataError: The option is neither `real` nor `fake` nor left out.
    """
    labels = {None: None, "real": REAL, "fake": FAKE}
    if kind not in labels:
        message = f"all_are is {kind!r}: it is real, fake, or left out."
        raise DataError(message)
    return labels[kind]
