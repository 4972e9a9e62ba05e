"""Reading shards once: which are to be read, another try where the network fails, what is kept of each, and how far it is."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from datamodules.errors import DataError
from datamodules.sources.keeping import Entry, Keeper, Part
from datamodules.sources.manifest import NUMBERS
from datamodules.sources.tars.archive import Archive, DamagedError
from datamodules.sources.tars.fetch import Access, FetchError, ShardStream, is_address, opened, shown
from datamodules.sources.tars.places import stamped
from datamodules.sources.tars.samples import Sample, samples
from datamodules.sources.told import check_kind, label_of, split_of, text_of

if TYPE_CHECKING:
    from datamodules.sources.tars.source import ShardsSource

logger = logging.getLogger(__name__)

_TRIES = 3
_PAUSE = 1.0  # seconds before another try, times its number
_DIGITS = re.compile(r"[1-9][0-9]{0,14}")
_CUT = "cut"  # of a part that is noted, but not done: when its shard was fetched last, in seconds of the epoch
_AGAIN = "it is fetched again at the next start"
_BEGAN = time.time()  # all processes of a run must have the same images, so what was fetched since this one began counts for it
_SETTLED_S = 600.0  # and what was fetched so shortly before, by the process that started this one


class CutError(FetchError):
    """An answer that is no whole shard.

    Attributes:
        part: What could be read of it.
    """

    def __init__(self, message: str, part: Part) -> None:
        super().__init__(message, again=True)
        self.part = part


class Reading:
    """One run over the shards that are not done yet.

    Args:
        source: Whose options say what is read.
        keeper: Where it goes, opened.
    """

    def __init__(self, source: "ShardsSource", keeper: Keeper) -> None:
        self.source = source
        self.keeper = keeper
        self._access = Access(source.allow_http, source.allow_private, source.max_shard_bytes, source.shard_timeout)

    def run(self, places: Sequence[str]) -> list[Part]:
        """The parts of all shards; those that cannot be fetched are an error once all others are done.

        Args:
            places: Paths and addresses.

        Raises:
            DataError: Some cannot be fetched, an option does not fit, or the disk is full. What was done stays.
        """
        from tqdm import tqdm

        missing: list[FetchError] = []
        units = {_unit(place): place for place in places}
        todo = {unit: place for unit, place in units.items() if not self._is_settled(unit)}
        with tqdm(total=len(todo), desc="Reading shards", unit="shard", disable=None if len(todo) > 1 else True) as bar:
            for unit, place in todo.items():
                try:
                    self._read(unit, place)
                except FetchError as error:
                    missing.append(error)
                    logger.warning("%s", error)
                bar.update()
        parts = [self.keeper.parts[unit] for unit in units if unit in self.keeper.parts]
        if todo:
            self.keeper.drop_all_but({entry["image"] for part in self.keeper.parts.values() for entry in part.entries})
            self._tell(len(todo), len(units), parts)
        if missing:
            message = (
                f"{len(missing)} of {len(places)} shards cannot be fetched; the first: {missing[0]} What the other {len(parts)} gave "
                "stays. Run the same command again, or take those shards out of shards."
            )
            raise DataError(message)
        return parts

    def _is_settled(self, unit: str) -> bool:
        """Whether a shard is not to be read: it is done, or it came cut just now."""
        part = self.keeper.parts.get(unit)
        return part is not None and part.told.get(_CUT, float("inf")) > min(_BEGAN, time.time() - _SETTLED_S)

    def _tell(self, read: int, number: int, parts: Sequence[Part]) -> None:
        """The last word: what there is, and where."""
        images, failures = sum(len(part.entries) for part in parts), sum(len(part.failures) for part in parts)
        cut = sum(_CUT in part.told for part in parts)
        message = f"{images} images of {number} shards ({read} read now) are kept in {self.keeper.folder}"
        message += f"; {failures} members or shards were left out or damaged" if failures else ""
        message += f"; {cut} shards came cut: they are used, and fetched again at the next start" if cut else ""
        logger.info("%s: %s.", self.source.location, message)

    def _read(self, unit: str, place: str) -> None:
        """Read one shard and note what it gave; with another try where the network fails, which writes no image again.

        Raises:
            FetchError: It cannot be had, and nothing of it is there from an earlier answer.
        """
        kept = self.keeper.parts.get(unit) or Part(unit)
        for attempt in range(1, _TRIES + 1):
            try:
                with opened(place, self._access) as stream:
                    self.keeper.finish(self._part(unit, place, stream))
                return
            except FetchError as error:
                if isinstance(error, CutError) and len(error.part.entries) > len(kept.entries):
                    kept = error.part
                if not error.again or attempt == _TRIES:
                    self._keep_cut(kept, error)
                    return
                logger.info("%s Trying again.", error)
                time.sleep(_PAUSE * attempt)

    def _keep_cut(self, part: Part, error: FetchError) -> None:
        """Note what there is of a shard that did not come whole, but not that it is done."""
        if not part.entries or self.source.on_damage == "error":
            raise error
        part.told[_CUT] = time.time()
        self.keeper.finish(part)
        logger.warning("%s %d images of it are there and are used; %s.", error, len(part.entries), _AGAIN)

    def _part(self, unit: str, place: str, stream: ShardStream) -> Part:
        """What a shard gives, up to its end.

        Raises:
            CutError: It came from an address, and is no whole shard.
        """
        from tqdm import tqdm

        part = Part(unit)
        by_name = self._by_name(place)

        def skip(name: str, reason: str) -> None:
            part.failures.append((f"{shown(place)}: {ascii(name)[1:-1][:200]}", reason))

        with tqdm(total=stream.size, desc=shown(place)[-40:], unit="B", unit_scale=True, leave=False, disable=None) as bar:
            stream.watch = bar.update
            try:
                for sample in samples(Archive(stream), skip, self.source.image_member):
                    self._keep(part, sample, place, by_name)
            except DamagedError as error:
                self._damaged(part, place, error)
        return part

    def _damaged(self, part: Part, place: str, error: DamagedError) -> None:
        """Note a damage in the part.

        Raises:
            CutError: The shard came from an address: the next answer may be whole.
            DataError: The options say so.
        """
        message = f"The shard {shown(place)} is damaged: {error}."
        later = f", and {_AGAIN}" if is_address(place) else ""
        part.failures.append((shown(place), f"{error}; {len(part.entries)} images before it are used{later}"))
        if self.source.on_damage == "error":
            message += " Fetch or write it again, or take what can be read of it with on_damage: record."
        if is_address(place):
            raise CutError(message, part) from error
        if self.source.on_damage == "error":
            raise DataError(message) from error
        logger.warning("%s %d images of it can be read, and are used.", message, len(part.entries))

    def _by_name(self, place: str) -> dict[str, str]:
        """What the shard's own name says.

        Raises:
            DataError: `shard_pattern` does not match.
        """
        if self.source.shard_pattern is None:
            return {}
        path = urlsplit(place).path if is_address(place) else place
        found = re.search(self.source.shard_pattern, path)
        if found is None:
            message = f"shard_pattern {self.source.shard_pattern!r} does not match {path}."
            raise DataError(message)
        return {name: value for name, value in found.groupdict().items() if value is not None}

    def _keep(self, part: Part, sample: Sample, place: str, by_name: Mapping[str, str]) -> None:
        where = f"{shown(place)}: {ascii(sample.name)[1:-1][:200]}"
        try:
            entry = self._entry(sample, where, by_name)
        except DataError:
            raise
        except ValueError as error:
            part.failures.append((where, str(error)))
            return
        if entry is None:
            return
        image, reason = self.keeper.kept_or_refused(sample.image)
        if image is None:
            part.failures.append((where, reason))
        else:
            part.entries.append({**entry, "image": image})

    def _entry(self, sample: Sample, where: str, by_name: Mapping[str, str]) -> Entry | None:
        """Fields of an image's record, or None where its label says to leave it out.

        Raises:
            ValueError: What stands beside the image does not tell what it should.
            DataError: An option does not cover what it tells.
        """
        source = self.source
        told: dict[str, str | None] = {"generator": source.generator, "split": source.split, **by_name}
        for name, place in source.places.items():
            if name != "label" or source.all_are is None:
                told[name] = text_of(sample.told(place), name) or told.get(name)
        label, text = check_kind(source.all_are), told.pop("label", None)
        if label is None:
            if text is None:
                msg = f"it has no label (in {source.places.get('label', 'no place')})"
                raise ValueError(msg)
            label = label_of(text, source.labels, where)
        if label is None:
            return None
        split = told.pop("split", None)
        numbers = {name: _count(told.pop(name, None)) for name in NUMBERS}
        fields = {**told, **numbers, "label": label, "split": split_of(split, where) if split else None}
        return {name: value for name, value in fields.items() if value is not None}


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and _DIGITS.fullmatch(text) else None


def _unit(place: str) -> str:
    """Name of a shard in the journal: by a hash, because an address may hold a secret."""
    return hashlib.sha256(json.dumps(stamped(place)).encode()).hexdigest()[:32]
