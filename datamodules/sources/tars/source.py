"""WebDataset shards as a source: images are taken out of them once, and kept under the cache."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from datamodules.errors import DataError
from datamodules.records import SPLITS, Record
from datamodules.sources.base import Source, safe_name
from datamodules.sources.keeping import Keeper
from datamodules.sources.manifest import NUMBERS
from datamodules.sources.tars.fetch import is_address, shown
from datamodules.sources.tars.places import shard_places
from datamodules.sources.tars.reading import Reading
from datamodules.sources.tars.samples import is_place
from datamodules.sources.told import check_kind, check_labels
from modules.settings import fingerprint, settings_of

FIELDS = {"label": "cls", "caption": "txt", "source_width": "json:original_width", "source_height": "json:original_height"}
"""Where fields stand by default: as img2dataset writes them, and a class in `.cls`."""

FORMAT = 1  # raised when what is read of a shard changes

_KNOWN = ("label", "generator", "family", "dataset", "caption", "group", "pair", "split", *NUMBERS)
# What changes nothing in a shard's part of the journal.
_APART = ("shards", "dataset", "family", "caption_source", "allow_http", "allow_private", "max_shard_bytes", "shard_timeout")


class ShardsSource(Source):
    """Images in WebDataset shards, on disk or at https addresses: img2dataset's, or anyone's with `.jpg`, `.png`, `.json`, `.txt`, `.cls`.

    Each shard is read once, from its beginning; its images are kept under the cache directory as they are, and the shard is noted as
    done. A run that was stopped goes on with the shard that it was at. A shard that has changed on disk is read again.

    For images only: features in shards are the cache's own, and this does not stream them to training.

    Args:
        shards: A path, a folder, a pattern, an https address, or a list of these; each may hold braces (`{00000..00099}.tar`).
        fields: Where a record's fields stand: `json:NAME` (`json:outer.inner`), `txt`, `cls` or `key`; null for nowhere. For `label`,
            `generator`, `family`, `dataset`, `caption`, `group`, `pair`, `split`, `source_width`, `source_height`, `source_bytes`. By
            default the label is in `cls`, the caption in `txt`, and the size before img2dataset's resizing in its JSON.
        labels: What values of the label mean: 0 real, 1 fake, null to leave the image out; `*` stands for all others. By default 0 and
            `real`, 1 and `fake`. Truth values count as 0 and 1.
        all_are: `real` or `fake` for all images, whatever stands beside them.
        shard_pattern: Regular expression that is searched in a shard's path or address; its named groups are fields, such as
            `(?P<generator>[^/]+)/(?P<split>train|test)-`. What stands beside an image goes before it.
        image_member: What stands after the first dot in the name of the member that is the image, where samples hold several
            (`input.png`).
        generator: Name of the generator where nothing else says it; for real images the source of the reals.
        split: `train`, `val` or `test` where nothing else says it; cut by the data module by default.
        dataset: Name of the data set where nothing else says it; by default the name of the shards' folder.
        family: Family of all generators; what the family map says by default.
        caption_source: Where captions come from (`prompt`, `human`).
        on_damage: A shard that is cut or damaged: `record` takes what can be read of it and records the damage, `error` stops. From an
            address it is fetched again at the next start.
        allow_http: Also read addresses without encryption.
        allow_private: Also read addresses of this machine and of private networks.
        max_shard_bytes: Length that a shard at an address may have.
        shard_timeout: Seconds that the transfer of one shard may take, from the look-up of its name on.
    """

    def __init__(
        self,
        shards: str | list[str],
        fields: dict[str, str | None] | None = None,
        labels: dict[str, int | None] | None = None,
        all_are: Literal["real", "fake"] | None = None,
        shard_pattern: str | None = None,
        image_member: str | None = None,
        generator: str | None = None,
        split: str | None = None,
        dataset: str | None = None,
        family: str | None = None,
        caption_source: str | None = None,
        on_damage: Literal["record", "error"] = "record",
        allow_http: bool = False,
        allow_private: bool = False,
        max_shard_bytes: int = 20_000_000_000,
        shard_timeout: float = 3600.0,
    ) -> None:
        super().__init__()
        self.shards = shards
        self.fields = fields
        self.labels = labels
        self.all_are = all_are
        self.shard_pattern = shard_pattern
        self.image_member = image_member
        self.generator = generator
        self.split = split
        self.dataset = dataset
        self.family = family
        self.caption_source = caption_source
        self.on_damage = on_damage
        self.allow_http = allow_http
        self.allow_private = allow_private
        self.max_shard_bytes = max_shard_bytes
        self.shard_timeout = shard_timeout
        self._check()

    def _check(self) -> None:
        check_labels(self.labels)
        check_kind(self.all_are)
        if self.split is not None and self.split not in SPLITS:
            message = f"split is {self.split!r}: it is one of {', '.join(SPLITS)}, or left out."
            raise DataError(message)
        try:
            groups = set(re.compile(self.shard_pattern or "").groupindex)
        except re.error as error:
            message = f"shard_pattern {self.shard_pattern!r} is no regular expression ({error})."
            raise DataError(message) from error
        places = {place for place in (self.fields or {}).values() if place is not None}
        if unknown := sorted({*(self.fields or {}), *groups} - set(_KNOWN)):
            message = f"fields or shard_pattern name {', '.join(unknown)}: a record's fields are {', '.join(_KNOWN)}."
            raise DataError(message)
        if strange := sorted(place for place in places if not is_place(place)):
            message = f"fields names {', '.join(strange)}: a field stands in json:NAME, txt, cls or key."
            raise DataError(message)
        if self.all_are is not None and self.labels is not None:
            message = "labels does nothing beside all_are: leave it out, or set it to null."
            raise DataError(message)

    @property
    def _own_name(self) -> str:
        first = self.shards if isinstance(self.shards, str) else next(iter(self.shards), "shards")
        path = Path(urlsplit(shown(first)).path) if is_address(first) else Path(first).expanduser().absolute()
        return (path.name if path.is_dir() else path.parent.name) or "shards"

    @property
    def _dataset(self) -> str:
        return self.dataset if self.dataset is not None else self._own_name

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        return safe_name(self._dataset)

    @property
    def location(self) -> str:
        """The shards as they are named."""
        return ", ".join(map(shown, [self.shards] if isinstance(self.shards, str) else self.shards))

    @property
    def places(self) -> dict[str, str]:
        """Where each field stands."""
        return {name: place for name, place in (FIELDS | (self.fields or {})).items() if place is not None}

    def folder(self, cache_dir: Path) -> Path:
        """Where the images are kept: a folder for all shards that are read in one way, so that more of them can be named later."""
        settings: dict[str, Any] = settings_of(self, skip=_APART)["init_args"] | {"format": FORMAT}
        return (cache_dir / f"shards-{safe_name(self._own_name)}-{fingerprint(settings)}").resolve()

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """The records, shard by shard; shards that are not done yet are read first.

        Args:
            cache_dir: Folder under which the images are kept.

        Raises:
            DataError: No such shards, some that cannot be fetched, an option that does not fit, or a full disk. What was done stays.
        """
        places = shard_places(self.shards)
        with Keeper(self.folder(cache_dir)).opened() as keeper:
            parts = Reading(self, keeper).run(places)
        for part in parts:
            for where, reason in part.failures:
                self.skip(where, reason)
            for entry in part.entries:
                yield keeper.record(entry, self._dataset, self.family, self.caption_source)
