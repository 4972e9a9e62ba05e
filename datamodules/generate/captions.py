"""Photographs and their captions, from MSCOCO's annotations or from a manifest."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.captions import Skip, clean_caption, read_annotations
from datamodules.errors import DataError
from datamodules.records import REAL
from datamodules.sources.manifest import ManifestSource


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
    for each in read_annotations(path, skip):
        try:
            file = _inside(images, each.file_name)
        except ValueError as error:
            skip(each.id, str(error))
            continue
        yield Captioned(each.id, file, each.caption, "human", images.resolve().name)


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
