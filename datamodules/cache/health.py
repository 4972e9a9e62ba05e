"""Whether shards hold what their indexes say, and mending those that do not."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.cache.folders import WRITING
from datamodules.files import remove_leftovers
from datamodules.records import Failure
from datamodules.shards import Row, ShardError, ShardWriter, index_path
from datamodules.shards.index import MAX_ROWS, Index, open_plain, read_index, shards_of, write_index
from datamodules.shards.lock import alone, is_written
from datamodules.shards.tar import decode, member_names, padded, read_contents, read_features, read_member, read_record

OnBytes = Callable[[int], object]


@dataclass(slots=True)
class Health:
    """What one shard is like after all of it was read.

    Attributes:
        shard: The tar file.
        size: Its length in bytes.
        good: Rows of the samples that are whole.
        damaged: Reasons by key of the samples that are not.
        problems: What else is wrong: its index, its members, its end.
        failures: Images without features, by its index.
        has_index: Whether it has an index that can be read.
    """

    shard: Path
    size: int = 0
    good: list[Row] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    has_index: bool = True

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.problems

    def describe(self) -> str:
        """One line: the shard, what is wrong and how many images it concerns."""
        reasons = [*self.problems, *self.damaged.values()]
        more = f" (and {len(reasons) - 2} more)" if len(reasons) > 2 else ""
        return f"{self.shard}: {len(self.damaged)} images damaged, {len(self.good)} good: {'; '.join(reasons[:2])}{more}"


def inspect(shard: Path) -> Health:
    """Read a whole shard: sizes, structure, members' names, every sample's checksum and record, the index against the tar file."""
    found = Health(shard)
    index: Index | None = None
    try:
        if os.path.lexists(index_path(shard)):
            index = read_index(shard)
        else:
            found.problems.append("it has no index")
    except ShardError as error:
        found.problems.append(str(error.__cause__ or error))
    found.has_index = index is not None
    try:
        descriptor = open_plain(shard)
    except OSError as error:
        found.problems.append(f"it cannot be opened ({error.strerror or error})")
        return found
    try:
        found.size = os.fstat(descriptor).st_size
        if index is None:
            found.good, found.damaged, problems = read_contents(descriptor, found.size) if found.size else ([], {}, [])
            found.problems += problems
        else:
            found.failures = index.failures
            _compare(found, descriptor, index)
    finally:
        os.close(descriptor)
    return found


def _compare(found: Health, descriptor: int, index: Index) -> None:
    """Hold a shard against its index."""
    if found.size != index.bytes:
        found.problems.append(f"it has {found.size} bytes where its index says {index.bytes}")
    for row in index.rows:
        try:
            read_sample(descriptor, row, found.size)
            found.good.append(row)
        except (ValueError, OSError) as error:
            found.damaged[row.key] = str(error)
    if not found.size:
        return
    members, problems = member_names(descriptor, found.size)
    found.problems += problems
    expected = {f"{row.key}.{kind}" for row in index.rows for kind in ("safetensors", "json")}
    if unknown := members.keys() - expected:
        found.problems.append(f"{len(unknown)} members are not in its index, for example {min(unknown)}")


def read_sample(descriptor: int, row: Row, total: int) -> tuple[bytes, bytes]:
    """Both members of a sample, safetensors and JSON.

    Raises:
        ValueError: If either is damaged, or they do not belong together.
    """
    content = bytes(read_features(descriptor, row, total))
    try:
        decode(content)
        record = read_member(descriptor, row.offset + padded(row.size), total)
        told = read_record(descriptor, record)
        if record is None or record.name != f"{row.key}.json" or told["caption_hash"] != row.caption:
            msg = "its JSON member is another sample's"
            raise ValueError(msg)
    except ValueError as error:
        msg = f"the sample {row.key} is damaged: {error}"
        raise ValueError(msg) from error
    return content, os.pread(descriptor, record.size, record.offset)


def verify(folder: Path, on_bytes: OnBytes = lambda count: None) -> list[str]:
    """Read all shards of a cache directory; changes nothing.

    Args:
        folder: The cache directory.
        on_bytes: Called with the length of each shard that was read.

    Returns:
        A line for everything that is damaged. What a process that lives has not finished is not.
    """
    busy = is_written(folder)
    lines = []
    for shard in shards_of(folder):
        found = inspect(shard)
        on_bytes(found.size)
        if not found.is_sound and (found.has_index or not busy):
            lines.append(found.describe())
    if not busy:
        lines += [f"{path}: left unfinished by a process that was stopped" for path in sorted(folder.glob(f"{WRITING}*"))]
    return lines + [f"{path}: its shard is missing" for path in _orphaned_indexes(folder)]


def _orphaned_indexes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("shard-*.index.json") if not os.path.lexists(_shard_of(path)))


def _shard_of(index: Path) -> Path:
    return index.with_name(index.name.removesuffix(".index.json") + ".tar")


def repair(folder: Path, on_bytes: OnBytes = lambda count: None) -> list[str]:
    """Rebuild lost indexes, drop damaged samples and what stopped processes left; good samples are there at every moment.

    Args:
        folder: The cache directory.
        on_bytes: Called with the length of each shard that was read.

    Returns:
        A line for everything that was done; none where all was well.

    Raises:
        BusyError: If another process writes the directory.
        ShardError: If the disk is full.
    """
    with alone(folder):
        lines = _remove_leftovers(folder)
        for shard in shards_of(folder):
            found = inspect(shard)
            if not found.is_sound:
                lines.append(_mend(found))
            on_bytes(found.size)
        for index in _orphaned_indexes(folder):
            lines.append(f"{index}: removed, its shard is missing; its images are extracted anew")
            index.unlink()
    return lines


def _remove_leftovers(folder: Path) -> list[str]:
    before = set(folder.glob(f"{WRITING}*"))
    remove_leftovers(folder)
    left = set(folder.glob(f"{WRITING}*"))
    lines = [f"{path}: removed, left unfinished" for path in sorted(before - left)]
    return lines + [f"{path}: left alone, it is of a process that lives or of another machine" for path in sorted(left)]


def _mend(found: Health) -> str:
    """Bring one shard in order; gives what was done."""
    shard = found.shard
    if not found.has_index and len(found.problems) == 1 and found.good and not found.damaged:
        write_index(shard, Index(found.size, found.good, []))
        return f"{shard}: index rebuilt, {len(found.good)} images"
    if found.good or found.failures:
        _copy_good(found)
    # The tar file before its index: an index alone is nothing, a tar file alone would be taken for one whose index is lost.
    shard.unlink()
    index_path(shard).unlink(missing_ok=True)
    lost = f"{len(found.damaged)} damaged images are extracted anew" if found.good or found.damaged else "nothing in it can be read"
    return f"{shard}: replaced by a shard of its {len(found.good)} good images; {lost}" if found.good else f"{shard}: removed; {lost}"


def _copy_good(found: Health) -> None:
    """Write a shard's good samples and its failures to a new shard, which appears whole before the old one goes."""
    rank = int(found.shard.name.split("-")[1])
    never = float("inf")
    writer = ShardWriter(found.shard.parent, rank, MAX_ROWS, max_bytes=2**63, max_seconds=never, holds=True)
    descriptor = open_plain(found.shard)
    try:
        for row in found.good:
            writer.add_members(row, *read_sample(descriptor, row, found.size))
    finally:
        os.close(descriptor)
    for failure in found.failures:
        writer.fail(failure)
    writer.finish()
