"""Photographs and their captions, from MSCOCO's annotations or from a manifest."""

import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.hashing import describe_os_error, open_regular
from datamodules.records import REAL
from datamodules.sources.manifest import ManifestSource

MAX_CAPTION = 1000  # characters; text encoders read 77 tokens, and a book is a mistake
_MAX_JSON = 1_000_000_000  # bytes; MSCOCO's largest annotation file has 92 million
_READ_AS_MISSING = frozenset({"nan", "null", "none", "<na>"})  # captions that a manifest's reader would take for an empty cell

Skip = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Captioned:
    """A photograph with a caption.

    Attributes:
        id: Names it among all photographs of its captions file; the seed of its fake's noise.
        path: Its file.
        caption: One line of text.
        caption_source: Where that comes from, for example `human`.
        generator: Name of the photographs' source.
        group: What a split must not separate it from; empty where the captions file says nothing.
    """

    id: str
    path: Path
    caption: str
    caption_source: str
    generator: str
    group: str = ""


def read_captions(path: Path, images: Path | None, skip: Skip) -> list[Captioned]:
    """The photographs of a captions file, one caption each.

    Args:
        path: MSCOCO's annotations (`.json`; the caption of the lowest annotation id is taken), or a manifest (`.csv`, `.jsonl`, `.parquet`)
            whose real images have captions. Splits and generated images of a manifest are not used.
        images: Folder of the annotations' files; none for a manifest, whose paths are relative to it.
        skip: Called with id and reason for each photograph that cannot be used.

    Returns:
        The photographs, in the order of the file. Whether their files are there is not known yet.

    Raises:
        DataError: The file cannot be read, has another form, or names no photograph with a caption.
    """
    if path.suffix.lower() == ".json":
        if images is None:
            msg = f"--captions {path} is an annotation file: name the folder of its photographs with --images"
            raise DataError(msg)
        found = list(_from_annotations(path, images, skip))
    else:
        if images is not None:
            msg = f"--images {images} is for annotation files (.json); the paths of the manifest {path} are relative to it: leave it out"
            raise DataError(msg)
        found = list(_from_manifest(path, skip))
    if not found:
        msg = f"{path} names no photograph that has a caption: check that it is the right file, and its captions and labels"
        raise DataError(msg)
    return found


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
    elif not caption or caption.lower() in _READ_AS_MISSING:
        msg = f"its caption is {caption!r}, which says nothing"
    elif len(caption) > MAX_CAPTION:
        msg = f"its caption has {len(caption)} characters, more than {MAX_CAPTION}"
    else:
        return caption
    raise ValueError(msg)


def _from_manifest(path: Path, skip: Skip) -> Iterator[Captioned]:
    folder = os.path.abspath(path.expanduser().parent)
    for record in ManifestSource(str(path)).entries(Path()):
        if record.label != REAL:
            continue
        name = os.path.relpath(record.path or "", folder)
        try:
            caption = clean_caption(record.caption or "")
        except ValueError as error:
            skip(name, str(error))
            continue
        yield Captioned(name, Path(record.path or ""), caption, record.caption_source or "manifest", record.generator, record.group)


def _from_annotations(path: Path, images: Path, skip: Skip) -> Iterator[Captioned]:
    if not images.is_dir():
        msg = f"--images {images} is not a folder: name the one that holds the photographs of {path}"
        raise DataError(msg)
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
            caption, file = clean_caption(captions[number]), _inside(images, image["file_name"])
        except ValueError as error:
            skip(_text(number), str(error))
            continue
        yield Captioned(_text(number), file, caption, "human", images.resolve().name)


def _text(number: int | str) -> str:
    return f"{number:012d}" if isinstance(number, int) else number  # MSCOCO's files are named so


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            if file.seek(0, os.SEEK_END) > _MAX_JSON:
                msg = f"--captions {path} has more than {_MAX_JSON} bytes: this is no annotation file"
                raise DataError(msg)
            file.seek(0)
            content = json.load(file)
    except OSError as error:
        msg = f"--captions {path} cannot be read ({describe_os_error(error)}): check the path"
        raise DataError(msg) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        msg = f"--captions {path} is not JSON ({' '.join(str(error).split())[:200]}): fetch it again"
        raise DataError(msg) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in ("images", "annotations")):
        msg = f"--captions {path} has no lists `images` and `annotations`: it must be an annotation file in MSCOCO's form, or a manifest"
        raise DataError(msg)
    return content


def _by_id(content: dict[str, Any], part: str, path: Path, fields: dict[str, tuple[type, ...]]) -> dict[Any, dict[str, Any]]:
    """The entries of a list by their ids, which are distinct."""
    found: dict[Any, dict[str, Any]] = {}
    for i, entry in enumerate(content[part]):
        wrong = next((name for name in fields if not isinstance(entry, dict) or not _is_a(entry.get(name), fields[name])), None)
        if wrong is not None:
            msg = f"--captions {path}: {part}[{i}] is {repr(entry)[:80]}, whose {wrong} is missing or of another type: correct it"
            raise DataError(msg)
        if entry["id"] in found:
            msg = f"--captions {path}: {part}[{i}] has the id {entry['id']!r} of another one: nobody can say which is meant; remove one"
            raise DataError(msg)
        found[entry["id"]] = entry
    return found


def _is_a(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _inside(folder: Path, name: str) -> Path:
    """The file of a name that an annotation file gives, which must not lead out of its folder."""
    root = os.path.realpath(folder)
    try:
        full = os.path.realpath(os.path.join(root, name))
        full.encode("utf-8")
    except ValueError as error:
        msg = f"its file name {name[:80]!r} is none that a file can have"
        raise ValueError(msg) from error
    if os.path.isabs(name) or not full.startswith(root.rstrip(os.sep) + os.sep):
        msg = f"its file name {name[:80]!r} leads out of the folder of images"
        raise ValueError(msg)
    return Path(full)
