"""Captions: as one line of a table or a prompt, and those of annotation files in MSCOCO's form."""

import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular
from datamodules.records import MAX_CAPTION, MISSING

_MAX_JSON = 1_000_000_000  # bytes; MSCOCO's largest annotation file has 92 million

Skip = Callable[[str, str], None]


def clean_caption(text: str) -> str:
    """A caption as one line.

    Args:
        text: As somebody wrote it. White space, line breaks included, becomes single spaces.

    Returns:
        The caption.

    Raises:
        ValueError: It cannot be a prompt and a cell of a table; the message says why.
    """
    caption = " ".join(text.split())
    strange = next((character for character in caption if unicodedata.category(character) in ("Cc", "Cs")), None)
    if strange is not None:
        msg = f"its caption has the control character {strange!r}"
    elif caption.lower() in MISSING:  # a manifest's reader would take it for an empty cell
        msg = f"its caption is {caption!r}, which says nothing"
    elif len(caption) > MAX_CAPTION:
        msg = f"its caption has {len(caption)} characters, more than {MAX_CAPTION}"
    else:
        return caption
    raise ValueError(msg)


class Annotated(NamedTuple):
    """An image of an annotation file.

    Attributes:
        id: Names it in the file; a number has twelve digits, as MSCOCO's files are named.
        file_name: As the file says it: nothing here says that it stays within any folder.
        caption: One line of text.
    """

    id: str
    file_name: str
    caption: str


def read_annotations(path: Path, skip: Skip) -> Iterator[Annotated]:
    """The images of an annotation file in MSCOCO's form, each with the caption of the lowest annotation id.

    Args:
        path: The file (`.json`).
        skip: Called with id and reason for each image that has no usable caption.

    Yields:
        The images, in the order of the file.

    Raises:
        DataError: The file cannot be read, or has another form.
    """
    content = _read_json(path)
    names = _by_id(content, "images", path, {"id": (int, str), "file_name": (str,)})
    annotations = _by_id(content, "annotations", path, {"id": (int,), "image_id": (int, str), "caption": (str,)})
    captions: dict[int | str, str] = {}
    for number in sorted(annotations):
        captions.setdefault(annotations[number]["image_id"], annotations[number]["caption"])
    for strange in captions.keys() - names.keys():
        skip(_text(strange), "it has a caption, but is not among the images of the annotation file")
    for number, image in names.items():
        try:
            if number not in captions:
                msg = "it has no caption"
                raise ValueError(msg)
            caption = clean_caption(captions[number])
        except ValueError as error:
            skip(_text(number), str(error))
            continue
        yield Annotated(_text(number), image["file_name"], caption)


def _text(number: int | str) -> str:
    return f"{number:012d}" if isinstance(number, int) else number  # MSCOCO's files are named so


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            if file.seek(0, os.SEEK_END) > _MAX_JSON:
                msg = f"the annotation file {path} has more than {_MAX_JSON} bytes, which none has: check the path"
                raise DataError(msg)
            file.seek(0)
            content = json.load(file)
    except OSError as error:
        msg = f"the annotation file {path} cannot be read ({describe_os_error(error)}): check the path"
        raise DataError(msg) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        msg = f"the annotation file {path} is not JSON ({' '.join(str(error).split())[:200]}): fetch it again"
        raise DataError(msg) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in ("images", "annotations")):
        msg = f"the annotation file {path} has no lists `images` and `annotations`, which one in MSCOCO's form has: check that it is one"
        raise DataError(msg)
    return content


def _by_id(content: dict[str, Any], part: str, path: Path, fields: dict[str, tuple[type, ...]]) -> dict[Any, dict[str, Any]]:
    """The entries of a list by their ids, which are distinct."""
    found: dict[Any, dict[str, Any]] = {}
    for i, entry in enumerate(content[part]):
        wrong = next((name for name in fields if not isinstance(entry, dict) or not _is_a(entry.get(name), fields[name])), None)
        if wrong is not None:
            msg = f"the annotation file {path}: {part}[{i}] is {repr(entry)[:80]}, whose {wrong} is missing or of another type: correct it"
            raise DataError(msg)
        if entry["id"] in found:
            msg = f"the annotation file {path}: {part}[{i}] has the id {entry['id']!r} of another one: remove the one that is not meant"
            raise DataError(msg)
        found[entry["id"]] = entry
    return found


def _is_a(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)
