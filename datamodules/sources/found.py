"""Which source reads a path that somebody names."""

from pathlib import Path

from datamodules.errors import DataError
from datamodules.layouts.finding import NoLayoutError
from datamodules.sources.base import Source
from datamodules.sources.folder import FolderSource
from datamodules.sources.layout import LayoutSource
from datamodules.sources.manifest import ManifestSource

MANIFESTS = ("manifest.csv", "manifest.parquet", "manifest.jsonl")
"""A folder that holds one of these is read by it."""

FOLDERS = "folders"
"""As a layout: folders named real and fake, or after generators."""


def find_source(
    path: Path,
    layout: str | None = None,
    dataset: str | None = None,
    reals: list[str] | None = None,
    allow_outside: bool = False,
) -> Source:
    """The source that reads a manifest, or a folder that holds one, or has a layout, or folders named real and fake.

    Args:
        path: Manifest or folder.
        layout: Name or path of a layout, or `folders`; found by default.
        dataset: Name of the data set.
        reals: Further names of folders that hold real images, for `FolderSource`.
        allow_outside: Also read files outside of the manifest's folder.

    Raises:
        DataError: There is no such path, an option is for another kind of source, or what fits the folder cannot be read.
    """
    if not path.exists():
        message = f"{path} does not exist: name a folder of images or a manifest."
        raise DataError(message)
    manifest = path if path.is_file() else next((path / name for name in MANIFESTS if (path / name).is_file()), None)
    if layout is None and reals is None and manifest is not None:
        return ManifestSource(str(manifest), dataset=dataset, allow_outside=allow_outside)
    if path.is_file() or allow_outside:
        option = "--allow_outside" if allow_outside else "--layout" if layout is not None else "--reals"
        wanted, given = ("manifests" if allow_outside else "folders"), ("file" if path.is_file() else "folder")
        message = f"{option} is for {wanted}, and {path} is a {given}."
        raise DataError(message)
    if layout == FOLDERS or reals is not None:
        return FolderSource(str(path), dataset=dataset, reals=reals)
    source = LayoutSource(str(path), layout=layout, dataset=dataset)
    return source if layout is not None else _either(source, FolderSource(str(path), dataset=dataset))


def _either(first: LayoutSource, other: FolderSource) -> Source:
    """The layout where the folder has one, damaged or not; folders named real and fake where it has none."""
    try:
        next(first.entries(Path()), None)
    except NoLayoutError as error:
        try:
            next(other.entries(Path()), None)
        except DataError:
            raise error from None
        return other
    return first
