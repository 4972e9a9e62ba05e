"""A data set of the Hugging Face hub as a source: streamed once, and only the needed images are kept."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datamodules.errors import DataError
from datamodules.hashing import walk_files
from datamodules.layouts.patterns import Names
from datamodules.records import SPLITS, Record
from datamodules.sources.base import Source, safe_name
from datamodules.sources.hub.choice import Choice
from datamodules.sources.hub.fetching import ALL, PLACING, Fetching
from datamodules.sources.hub.stream import SAVED, local_path
from datamodules.sources.keeping import Keeper
from datamodules.sources.told import check_kind, check_labels
from modules.settings import fingerprint, settings_of

COLUMNS = ("image", "label", "generator", "family", "caption", "group", "pair", "split")
FORMAT = 1  # raised when this file or what it uses changes which images are kept

_NAMING = ("dataset", "names", "family", "caption_source")  # what only names things: another name needs no other images


class HubSource(Source):
    """Images of a data set on the Hugging Face hub, or of a local one in the same formats, through the library `datasets`.

    The rows are streamed, and the files of the needed images are kept under the cache directory as the very bytes that the hub has.
    A run that was stopped goes on where it was; once all is there, nothing is streamed again. Other options, or another revision,
    are another folder. No code of a data set is ever run.

    Args:
        repository: Id on the hub (`owner/name`), or path of a folder of Parquet, Arrow or image files, or of one Parquet file.
        config: Configuration (subset) of the data set, where it has several.
        revision: Commit of the hub's repository. Name one: a branch can change. Without one, the newest is taken at the first run,
            and kept.
        hub_splits: Which splits to read, and what each is here: `train`, `val`, `test`, or null to have it cut by the data module.
            All of them by default, under their own names where these are known, else cut.
        columns: Names of the columns for `image`, `label`, `generator`, `family`, `caption`, `group`, `pair` and `split`. By default
            the only column of images, and `label` where there is one. Classes are read by their names.
        image_columns: Several columns of images in a row, each with the name of its generator, in place of `columns.image`.
        names: What generators of the data set are called here (`{ADM: adm, "sd*1*5": stable-diffusion-1.5}`), so that each has one name
            in all data sets; in any case, and `*` stands for any characters. Others keep their names.
        labels: What values of the label column mean: 0 real, 1 fake, null to leave the image out; `*` stands for all others. By
            default 0 and `real`, 1 and `fake`. Truth values count as 0 and 1.
        all_are: `real` or `fake` for all images, where no column says it.
        generators: Patterns of the generators to take (`sd*`; `!sdxl` for all but that), by the data set's own names; real images are
            taken in any case.
        per_generator: At most so many images of each split and generator, chosen by a hash of the content and `choice_seed`, not by
            their place. Real images count as generators likewise.
        max_images: At most so many images of each split, chosen likewise.
        scan_rows: Look at so many rows of each split at most, spread over its files. All by default, so that the choice is from the
            whole data set, which is then streamed whole.
        choice_seed: Another seed, other images.
        dataset: Name of the data set; by default the repository's.
        family: Family of all generators; what the family map says by default.
        caption_source: Where captions come from (`prompt`, `human`).
    """

    def __init__(
        self,
        repository: str,
        config: str | None = None,
        revision: str | None = None,
        hub_splits: dict[str, str | None] | None = None,
        columns: dict[str, str] | None = None,
        image_columns: dict[str, str] | None = None,
        names: dict[str, str] | None = None,
        labels: dict[str, int | None] | None = None,
        all_are: Literal["real", "fake"] | None = None,
        generators: list[str] | None = None,
        per_generator: int | None = None,
        max_images: int | None = None,
        scan_rows: int | None = None,
        choice_seed: int = 0,
        dataset: str | None = None,
        family: str | None = None,
        caption_source: str | None = None,
    ) -> None:
        super().__init__()
        self.repository = repository
        self.config = config
        self.revision = revision
        self.hub_splits = hub_splits
        self.columns = columns
        self.image_columns = image_columns
        self.names = names
        self.labels = labels
        self.all_are = all_are
        self.generators = generators
        self.per_generator = per_generator
        self.max_images = max_images
        self.scan_rows = scan_rows
        self.choice_seed = choice_seed
        self.dataset = dataset
        self.family = family
        self.caption_source = caption_source
        self._check()

    def _check(self) -> None:
        check_labels(self.labels)
        check_kind(self.all_are)
        if unknown := sorted(set(self.columns or {}) - set(COLUMNS)):
            message = f"columns names {', '.join(unknown)}: a record's fields are {', '.join(COLUMNS)}."
            raise DataError(message)
        if wrong := sorted({str(name) for name in (self.hub_splits or {}).values()} - {*SPLITS, "None"}):
            message = f"hub_splits maps to {', '.join(wrong)}: a split here is {', '.join(SPLITS)}, or null."
            raise DataError(message)
        for option in ("per_generator", "max_images", "scan_rows"):
            if (value := getattr(self, option)) is not None and value < 1:
                message = f"{option} is {value}: give at least 1, or leave it out."
                raise DataError(message)
        for reason in self._idle():
            message = f"{reason}: leave it out, or set it to null."
            raise DataError(message)

    def _idle(self) -> Iterator[str]:
        """Options that would do nothing, as the others are."""
        columns, path = self.columns or {}, Path(self.repository).expanduser()
        if self.revision is not None and path.exists():
            yield f"revision does nothing, because repository is the path {path.absolute()}"
        if self.config is not None and (path.is_file() or any((path / name).exists() for name in SAVED)):
            yield f"config does nothing, because repository is the path {path.absolute()}, which has no configurations"
        if self.image_columns and "image" in columns:
            yield "columns.image does nothing beside image_columns"
        if self.image_columns and all(self.image_columns.values()) and "generator" in columns:
            yield "columns.generator does nothing beside image_columns, which name the generators"
        if self.names and "generator" not in columns and not self.image_columns:
            yield "names does nothing without columns.generator or image_columns"
        if self.all_are is not None and self.labels is not None:
            yield "labels does nothing beside all_are"
        if self.all_are is not None and "label" in columns:
            yield "columns.label does nothing beside all_are"
        if self.all_are == "real" and self.generators:
            yield "generators does nothing, because all_are says that all images are real"
        if self.choice_seed and self.per_generator is None and self.max_images is None and self.scan_rows is None:
            yield "choice_seed does nothing without per_generator, max_images or scan_rows"

    @property
    def _dataset(self) -> str:
        return self.dataset if self.dataset is not None else self._own_name

    @property
    def _own_name(self) -> str:
        path = Path(self.repository).expanduser()
        return path.stem if path.is_file() else path.name

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        return safe_name(self._dataset)

    @property
    def location(self) -> str:
        """Id of the repository with its revision, or the path."""
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    def folder(self, cache_dir: Path) -> Path:
        """Where the images are kept: a folder for each data set, revision and choice of images."""
        settings: dict[str, Any] = settings_of(self, skip=_NAMING)["init_args"] | {"format": FORMAT}
        if (path := local_path(self.repository)) is not None:
            settings["repository"] = _stamp(path)  # a changed data set is another one, wherever it lies
        return (cache_dir / f"hub-{safe_name(self._own_name)}-{fingerprint(settings)}").resolve()

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """The records; what is not kept yet is streamed first.

        Args:
            cache_dir: Folder under which the images are kept.

        Raises:
            DataError: The library is missing, the data set cannot be opened, an option does not fit it, the stream breaks or the
                disk is full. What was fetched before stays.
        """
        with Keeper(self.folder(cache_dir)).opened() as keeper:
            if ALL not in keeper.parts:
                Fetching(self, keeper).run()
        choice, names = Choice(self.per_generator, self.max_images), Names(self.names or {})
        for part in keeper.parts.values():
            for where, reason in part.failures:
                self.skip(where, reason)
        for entry in choice.chosen([entry for part in keeper.parts.values() for entry in part.entries]):
            fields = {name: value for name, value in entry.items() if name not in PLACING}
            if "generator" in fields:
                fields["generator"] = names.get(fields["generator"]) or fields["generator"]
            yield keeper.record(fields, self._dataset, self.family, self.caption_source)


def _stamp(path: Path) -> list[list[Any]]:
    """What tells a local data set from a changed one: names, lengths and times of its files."""
    files = [str(path)] if path.is_file() else list(walk_files(path, lambda _path, _reason: None))
    stamps = [(os.path.relpath(file, path.parent), Path(file).stat()) for file in files]
    return [[name, status.st_size, status.st_mtime_ns] for name, status in stamps]
