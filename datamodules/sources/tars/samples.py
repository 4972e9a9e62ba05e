"""What belongs together in a shard: an image and the JSON, text and class beside it."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from datamodules.reader import DEFAULT_LIMITS, SUFFIXES
from datamodules.sources.tars.archive import Archive, Member

SIDE_FILES = {".json": 2_000_000, ".txt": 100_000, ".cls": 1_000}
"""Suffixes of what is read beside images, and how many bytes each may have."""

MAX_SAMPLE = 2 * DEFAULT_LIMITS.max_bytes
"""Bytes of all members of one sample that are held at once."""

Skip = Callable[[str, str], None]


@dataclass(slots=True)
class Sample:
    """One image of a shard.

    Attributes:
        name: Of its member.
        image: Its bytes.
        sides: What stands beside it, by suffix.
    """

    name: str
    image: bytes
    sides: dict[str, bytes] = field(default_factory=dict)

    def told(self, place: str) -> Any:
        """What a place says: `json:NAME` (`json:outer.inner`), `txt`, `cls` or `key`; None where it says nothing.

        Raises:
            ValueError: It cannot be read.
        """
        kind, _, path = place.partition(":")
        if kind == "key":
            return _key(self.name)
        content = self.sides.get(f".{kind}")
        if content is None:
            return None
        if kind != "json":
            return content.decode("utf-8", "replace")
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            msg = f"its JSON cannot be read ({type(error).__name__})"
            raise ValueError(msg) from error
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value


def is_place(text: str) -> bool:
    """Whether a text is a place that `Sample.told` knows."""
    kind, _, name = text.partition(":")
    return all(name.split(".")) if kind == "json" else not name and text in ("key", "txt", "cls")


def samples(archive: Archive, skip: Skip, image_member: str | None = None) -> Iterator[Sample]:
    """The images of a shard in their order, each with what stands beside it.

    Members are of one sample when they follow each other and their names agree up to the first dot, as in WebDataset. Where that
    joins several images (`img.v2.jpg`, `img.v3.jpg`), each of them is one, with the side files of its own name without suffix.

    Args:
        archive: The shard.
        skip: Gets the name of a member that is left out, and why.
        image_member: What stands after the first dot of the member that is the image, where a sample has several (`input.png`).

    Raises:
        DamagedError: The shard cannot be read on. The sample that it breaks off in is not given.
    """
    seen: set[str] = set()
    members: dict[str, bytes] = {}
    for member in archive:
        wanted = _is_wanted(member, seen, skip)
        if members and _key(member.name) != _key(next(iter(members))):
            yield from _split(members, image_member)
            members = {}
        if not wanted:
            continue
        if sum(map(len, members.values())) + member.size > MAX_SAMPLE:
            skip(member.name, f"its sample has more than {MAX_SAMPLE} bytes")
        else:
            members[member.name] = member.read()
    yield from _split(members, image_member)


def _key(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, base.partition(".")[0])


def _is_wanted(member: Member, seen: set[str], skip: Skip) -> bool:
    """Whether a member is read; of what a sound shard does not hold, `skip` is told."""
    suffix = os.path.splitext(member.name)[1].lower()
    limit = SIDE_FILES.get(suffix) or (DEFAULT_LIMITS.max_bytes if suffix in SUFFIXES else None)
    if member.refused:
        skip(member.name, member.refused)
    elif limit is None or os.path.basename(member.name).startswith("."):
        return False  # something else: other modalities, notes of an archiver
    elif member.name in seen:
        skip(member.name, "the shard has two members of this name: the first one is taken")
    elif member.size > limit:
        skip(member.name, f"it has {member.size} bytes, the limit is {limit}")
    else:
        seen.add(member.name)
        return True
    return False


def _split(members: dict[str, bytes], image_member: str | None) -> Iterator[Sample]:
    """The images of one sample."""
    images = [name for name in members if os.path.splitext(name)[1].lower() in SUFFIXES]
    if image_member is not None:
        images = [name for name in images if name == f"{_key(name)}.{image_member}"]
    for name in images:
        sample = Sample(name, members[name])
        for suffix in SIDE_FILES:
            own = f"{os.path.splitext(name)[0]}{suffix}"
            shared = f"{_key(name)}{suffix}" if len(images) == 1 else own
            content = members.get(own, members.get(shared))
            if content is not None:
                sample.sides[suffix] = content
        yield sample
