"""Streaming a hub data set once: which rows are looked at, which images of them are kept, and how far it is."""

import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from datamodules.errors import DataError
from datamodules.records import FAKE
from datamodules.sources.hub.choice import Choice, rank_of
from datamodules.sources.hub.stream import HubStream, Row, is_image
from datamodules.sources.keeping import Entry, Keeper, Part
from datamodules.sources.manifest import SPLIT_NAMES
from datamodules.sources.told import check_kind, label_of, split_of, text_of

if TYPE_CHECKING:
    from datamodules.sources.hub.source import HubSource

logger = logging.getLogger(__name__)

ALL = "all"
"""Unit of the journal that says that all is there."""

PLACING = ("rank", "place", "hub_split")
"""Fields of an entry that choosing needs, and a record does not have."""

CHUNK = 500  # rows between two lines of the journal: what a stopped run looks at again, at most
_OPENED = "opened"
_LEAST_SHARE = 100  # rows of a file that a bounded scan looks at: opening one costs as much as reading some rows


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the rows of one split are read.

    Attributes:
        split: Its name in the data set.
        here: `train`, `val` or `test`, or None where the data module cuts it.
        columns: Columns by the record's field.
        images: Columns of images, each with the generator that its name stands for, if any.
    """

    split: str
    here: str | None
    columns: Mapping[str, str]
    images: Mapping[str, str | None]

    @property
    def needed(self) -> list[str]:
        """All columns that are read."""
        return list(dict.fromkeys((*self.columns.values(), *self.images)))


class Fetching:
    """One run over what is not kept yet.

    Args:
        source: Whose options say what is wanted.
        keeper: Where it goes, opened.
    """

    def __init__(self, source: "HubSource", keeper: Keeper) -> None:
        self.source = source
        self.keeper = keeper
        self.choice = Choice(source.per_generator, source.max_images)
        self.kept: list[Entry] = []
        for part in keeper.parts.values():
            for entry in part.entries:
                self.choice.offer(entry)
            self.kept += part.entries
        # The commit that the first run saw, so that the rest is of the same one.
        told = keeper.parts[_OPENED].told if _OPENED in keeper.parts else {}
        self.stream = HubStream(source.repository, source.config, told.get("revision") or source.revision)
        if not told:
            keeper.finish(Part(_OPENED, told={"revision": self.stream.revision}))
        if self.stream.revision and not source.revision:
            logger.warning("%s is read at commit %s: pin it by the option revision.", source.repository, self.stream.revision)

    def run(self) -> None:
        """Stream all splits, and note that all is there."""
        plans = [self._plan(split, here) for split, here in self._splits().items()]  # wrong options stop here, before any row
        if self.choice.limited and self.source.scan_rows is None:
            logger.info("%s: all rows are looked at, to choose from; scan_rows bounds them.", self.source.location)
        for plan in plans:
            self._split(plan)
        self._leave_out()
        self.keeper.drop_all_but({entry["image"] for entry in self.kept})
        self.keeper.finish(Part(ALL))
        logger.info("%s: %d images are kept in %s.", self.source.location, len(self.kept), self.keeper.folder)

    def _splits(self) -> Mapping[str, str | None]:
        """The splits to read, each with its name here."""
        there = self.stream.splits
        if self.source.hub_splits is None:
            return {name: SPLIT_NAMES.get(name.lower()) for name in there}
        if absent := sorted(set(self.source.hub_splits) - set(there)):
            message = f"hub_splits names {', '.join(absent)}; {self.source.repository} has the splits {', '.join(there)}."
            raise DataError(message)
        return self.source.hub_splits

    def _plan(self, split: str, here: str | None) -> _Plan:
        """How a split is read.

        Raises:
            DataError: A column is missing, or of another kind.
        """
        features = self.stream.features(split)
        columns = dict(self.source.columns or {})
        image = columns.pop("image", None)
        images: dict[str, str | None] = dict(self.source.image_columns or {})
        if not images:
            images = dict.fromkeys([image] if image else [name for name, feature in features.items() if is_image(feature)])
        if "label" in features and self.source.all_are is None:
            columns.setdefault("label", "label")
        absent = [name for name in (*columns.values(), *images) if name not in features]
        strange = [name for name in images if name in features and not is_image(features[name])]
        fault = (
            f"has no column {', '.join(map(repr, absent))}"
            if absent
            else f"has a column {strange[0]!r}, which holds no images"
            if strange
            else f"has {len(images)} columns of images: name one in columns.image, or several in image_columns"
            if len(images) != 1 and not self.source.image_columns
            else "says not which images are real: name a column in columns.label, or set all_are"
            if "label" not in columns and self.source.all_are is None
            else ""
        )
        if fault:
            shown = ", ".join(f"{name} (images)" if is_image(feature) else name for name, feature in features.items())
            message = f"{self.source.repository}, split {split}, {fault}. Its columns are {shown}."
            raise DataError(message)
        return _Plan(split, here, columns, images)

    def _split(self, plan: _Plan) -> None:
        from tqdm import tqdm

        files = list(range(self.stream.files(plan.split)))
        left, share = math.inf, math.inf
        if self.source.scan_rows is not None:
            random.Random(self.source.choice_seed).shuffle(files)
            left = self.source.scan_rows
            share = max(math.ceil(left / max(len(files), 1)), _LEAST_SHARE)
        with tqdm(desc=f"Streaming {plan.split}", unit="row", disable=None) as bar:
            for file in files:
                if left > 0:
                    left -= self._file(plan, file, min(share, left), bar)

    def _file(self, plan: _Plan, file: int, most: float, bar: Any) -> int:
        """Keep what is needed of a file, from where the journal ends; gives the number of its rows that were looked at."""
        done = 0
        while (part := self.keeper.parts.get(f"{plan.split}/{file}/{done}")) is not None:
            done += part.told["rows"]
            if part.told["end"]:
                return done
        rows = self.stream.rows(plan.split, file, done, plan.needed)
        end = False
        while not end:
            part = Part(f"{plan.split}/{file}/{done}")
            end = self._chunk(plan, part, rows, most - done)
            self.keeper.finish(part)
            self.kept += part.entries
            self._leave_out()
            bar.update(part.told["rows"])
            done += part.told["rows"]
        return done

    def _chunk(self, plan: _Plan, part: Part, rows: Iterator[Row], most: float) -> bool:
        """Keep what is needed of the next rows; gives whether they were the last."""
        start = int(part.unit.rpartition("/")[2])
        count, end = 0, False
        while count < CHUNK and not end:
            row = next(rows, None) if count < most else None
            end = row is None
            if row is not None:
                for column, generator in plan.images.items():
                    self._image(plan, row, f"{part.unit.rpartition('/')[0]}/{start + count}/{column}", generator, part)
                count += 1
        part.told |= {"rows": count, "end": end}
        return end

    def _image(self, plan: _Plan, row: Row, place: str, generator: str | None, part: Part) -> None:
        """Keep one image of a row, or leave it out, or note why it cannot be had."""
        split, file, number, column = place.split("/", 3)
        where = f"{self.source.repository}, {split}, file {file}, row {number}, {column}"
        try:
            entry = self._entry(plan, row, where, generator)
            if entry is None:
                return
            content = self.stream.content(row[column])
        except DataError:
            raise  # an option that does not fit, or the stream itself
        except ValueError as error:
            part.failures.append((where, str(error)))
            return
        entry |= {"rank": rank_of(content, self.source.choice_seed), "place": place, "hub_split": split}
        if not self.choice.wants(entry):
            return
        image, reason = self.keeper.kept_or_refused(content)
        if image is None:
            part.failures.append((where, reason))
            return
        entry["image"] = image
        self.choice.offer(entry)
        part.entries.append(entry)

    def _entry(self, plan: _Plan, row: Row, where: str, generator: str | None) -> Entry | None:
        """Fields of an image's record, or None where an option leaves it out.

        Raises:
            ValueError: The row does not tell what it should.
            DataError: An option does not cover what it tells.
        """
        told = {field: text_of(row[column], field) for field, column in plan.columns.items()}
        label = check_kind(self.source.all_are)
        if label is None:
            text = told.pop("label")
            if text is None:
                msg = "it has no label"
                raise ValueError(msg)
            label = label_of(text, self.source.labels, f"{where}, column {plan.columns['label']}")
        if label is None:
            return None
        told.pop("label", None)
        generator = generator or told.pop("generator", None)
        if label == FAKE and not is_wanted(generator or "unknown", self.source.generators):
            return None
        split = told.pop("split", None)
        told["split"] = split_of(split, f"{where}, column {plan.columns['split']}") if split else plan.here
        return {name: value for name, value in {**told, "label": label, "generator": generator}.items() if value is not None}

    def _leave_out(self) -> None:
        """Delete kept images that better ones took the place of."""
        if self.choice.limited:
            chosen = self.choice.chosen(self.kept)
            self.keeper.drop({entry["image"] for entry in self.kept} - {entry["image"] for entry in chosen})
            self.kept = chosen


def is_wanted(generator: str, patterns: Sequence[str] | None) -> bool:
    """Whether a generator matches one of the patterns, and none that begins with `!`."""
    names = [pattern for pattern in patterns or () if not pattern.startswith("!")]
    banned = [pattern[1:] for pattern in patterns or () if pattern.startswith("!")]
    return (not names or any(fnmatchcase(generator, name) for name in names)) and not any(fnmatchcase(generator, name) for name in banned)
