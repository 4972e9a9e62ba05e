"""Feature shards: WebDataset tar files of safetensors with an offset index, written atomically and read at random.

A shard `shard-RRRR-NNNNNN.tar` holds `<key>.safetensors` (the features) and `<key>.json` (the record) for each sample, and can
be read by `webdataset` as it is. Its index `shard-RRRR-NNNNNN.index.json` is written last: what is not in an index does not
exist. Nothing here imports torch, so that workers and tools start quickly.
"""

import io
import json
import os
import re
import tarfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from datamodules.files import sync_directory, temporary_name, write_atomically
from datamodules.records import Failure
from modules.errors import UserError

SHARD_NAME = re.compile(r"shard-\d{4}-\d{6}\.tar")
INDEX_VERSION = 1
MAX_OPEN = 128  # shards that a reader keeps open; systems allow a process 1,024 files or fewer

Arrays = dict[str, NDArray[Any]]


class ShardError(UserError):
    """A shard and its index disagree, or a shard cannot be read."""


class Row(NamedTuple):
    """Where one sample's features lie.

    Attributes:
        key: The record's key.
        caption: Hash of the caption that the features depend on, empty where they depend on none.
        offset: First byte of the safetensors member's content in the tar file.
        size: Its length in bytes.
        checksum: CRC-32 of it.
        diagnostics: Figures that the extractor gave of this image, for example its round-trip PSNR.
    """

    key: str
    caption: str
    offset: int
    size: int
    checksum: int
    diagnostics: dict[str, float]


def index_path(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_suffix(".index.json")


class ShardWriter:
    """Writes samples of one process to shards that appear whole or not at all.

    Args:
        folder: The cache directory; made where it is missing.
        rank: Number of this process, part of the shards' names.
        max_samples: Samples after which a shard is finished.
        max_bytes: Bytes after which it is finished.
        max_seconds: Age after which it is finished, so that a killed process loses at most this much work.
    """

    def __init__(
        self, folder: Path, rank: int = 0, max_samples: int = 1000, max_bytes: int = 512 * 2**20, max_seconds: float = 60.0
    ) -> None:
        self.folder = Path(folder)
        self.rank = rank
        self.max_samples = max_samples
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.written = 0
        self._rows: list[Row] = []
        self._failures: list[dict[str, Any]] = []
        self._tar: tarfile.TarFile | None = None
        self._temporary = Path()
        self._opened = 0.0
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        key: str,
        arrays: Mapping[str, NDArray[Any]],
        info: Mapping[str, Any],
        caption: str = "",
        diagnostics: Mapping[str, float] | None = None,
    ) -> None:
        """Append one sample.

        Args:
            key: The record's key.
            arrays: Features by name.
            info: The record, for the sample's JSON member.
            caption: Hash of the caption that the features depend on.
            diagnostics: The extractor's figures of this image.
        """
        figures = dict(diagnostics or {})
        content = save_tensors({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        document = {**info, "caption_hash": caption, "diagnostics": figures}
        told = json.dumps(
            document, ensure_ascii=False, sort_keys=True
        ).encode()  # before anything is written: a sample is whole or not there
        tar = self._tar or self._open()
        offset = _append(tar, f"{key}.safetensors", content)
        _append(tar, f"{key}.json", told)
        self._rows.append(Row(key, caption, offset, len(content), zlib.crc32(content), figures))
        self.written += 1
        if len(self._rows) >= self.max_samples or tar.offset >= self.max_bytes or time.monotonic() - self._opened > self.max_seconds:
            self.finish()

    def fail(self, failure: Failure) -> None:
        """Record an image that gave no features; it is not tried again with the same settings."""
        self._failures.append({"key": failure.key, "where": failure.where, "reason": failure.reason})
        self._opened = self._opened or time.monotonic()

    def finish(self) -> None:
        """Make what was added visible: flush, rename, and write the index last."""
        if self._tar is None and not self._failures:
            return
        shard = self._reserve()
        size = 0
        if self._tar is not None:
            self._tar.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            size = self._temporary.stat().st_size
            self._temporary.replace(shard)
            sync_directory(self.folder)
        _write_index(shard, size, self._rows, self._failures)
        self._tar, self._rows, self._failures, self._opened = None, [], [], 0.0

    def _open(self) -> tarfile.TarFile:
        self._temporary = self.folder / temporary_name(f"{self.rank:04d}.tar")
        self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by finish
        self._opened = time.monotonic()
        return self._tar

    def _reserve(self) -> Path:
        """The next free shard name, taken by making it, so that two processes of the same rank never share one."""
        number = 0
        while True:
            shard = self.folder / f"shard-{self.rank:04d}-{number:06d}.tar"
            try:
                os.close(os.open(shard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            except FileExistsError:
                number += 1
                continue
            return shard


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a member; gives the offset of its content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded


def _write_index(shard: Path, size: int, rows: list[Row], failures: list[dict[str, Any]]) -> None:
    columns = {name: [getattr(row, name) for row in rows] for name in Row._fields}
    document = {"version": INDEX_VERSION, "bytes": size, "rows": columns, "failures": failures}
    write_atomically(index_path(shard), json.dumps(document).encode())


def rebuild_index(shard: Path) -> bool:
    """Write the lost index of a complete shard anew.

    Caption hashes and diagnostics come from the samples' JSON members. A shard is renamed only when it is complete, so one without an index
    is either complete or a name that some process has just reserved (empty).

    Returns:
        Whether the shard was complete and now has an index.
    """
    rows: list[Row] = []
    try:
        with tarfile.open(shard, "r:") as tar:
            members = {member.name: member for member in tar if member.isfile()}
            for name, member in members.items():
                key, _, suffix = name.rpartition(".")
                info = members.get(f"{key}.json")
                if suffix != "safetensors" or info is None:
                    continue
                content = _content(tar, member)
                load_tensors(content)
                told = json.loads(_content(tar, info))
                rows.append(Row(key, told["caption_hash"], member.offset_data, member.size, zlib.crc32(content), told["diagnostics"]))
    except (tarfile.TarError, SafetensorError, ValueError, KeyError, OSError, EOFError):
        return False
    if not rows:
        return False
    _write_index(shard, shard.stat().st_size, rows, [])
    return True


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    content = file.read() if file else b""
    if len(content) != member.size:
        msg = f"member {member.name} is cut short"
        raise ValueError(msg)
    return content


class ShardReader:
    """Random access to all samples of a cache directory.

    Opening reads the indexes only. A sample's checksum is verified the first time that this process reads it.

    Args:
        folder: The cache directory; may be missing or empty.
        rebuild: Write the lost index of a complete shard anew.

    Raises:
        ShardError: If an index cannot be read, or a shard is missing or has another size than its index says.
    """

    def __init__(self, folder: Path, rebuild: bool = True) -> None:
        self.folder = Path(folder)
        self.failures: list[Failure] = []
        self._rows: dict[tuple[str, str], tuple[int, Row]] = {}
        self._shards: list[Path] = []
        self._descriptors: dict[int, int] = {}
        self._verified: set[tuple[str, str]] = set()
        for shard in sorted(path for path in self.folder.glob("shard-*.tar") if SHARD_NAME.fullmatch(path.name)):
            if index_path(shard).exists() or (rebuild and shard.stat().st_size and rebuild_index(shard)):
                self._add(shard)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, sample: tuple[str, str]) -> bool:
        return sample in self._rows

    def keys(self) -> list[tuple[str, str]]:
        """Key and caption hash of every sample."""
        return list(self._rows)

    def diagnostics(self) -> dict[str, list[float]]:
        """The extractor's figures of all samples, by name."""
        figures: dict[str, list[float]] = {}
        for _, row in self._rows.values():
            for name, value in row.diagnostics.items():
                figures.setdefault(name, []).append(value)
        return figures

    def read(self, key: str, caption: str = "") -> Arrays:
        """Features of one sample.

        Raises:
            KeyError: If the sample is not there.
            ShardError: If its bytes are not those that were written.
        """
        number, row = self._rows[key, caption]
        content = os.pread(self._descriptor(number), row.size, row.offset)
        if (key, caption) not in self._verified:
            if zlib.crc32(content) != row.checksum:
                raise self._damaged(self._shards[number], f"the sample {key} does not have the checksum of the index")
            self._verified.add((key, caption))
        return dict(load_tensors(content))

    def __getstate__(self) -> dict[str, Any]:
        """File descriptors belong to one process; a worker opens its own."""
        return self.__dict__ | {"_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def _descriptor(self, number: int) -> int:
        if number not in self._descriptors:
            if len(self._descriptors) >= MAX_OPEN:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[number] = os.open(self._shards[number], os.O_RDONLY)
        return self._descriptors[number]

    def _add(self, shard: Path) -> None:
        try:
            document = json.loads(index_path(shard).read_bytes())
            size, columns = int(document["bytes"]), document["rows"]
            rows = [Row(*values) for values in zip(*(columns[name] for name in Row._fields), strict=True)]
            failures = [Failure(item["where"], item["reason"], item["key"]) for item in document["failures"]]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(shard, f"its index cannot be read ({error})") from error
        found = shard.stat().st_size
        if found != size:
            raise self._damaged(shard, f"it has {found} bytes where its index says {size}")
        self.failures.extend(failures)
        self._shards.append(shard)
        for row in rows:
            self._rows.setdefault((row.key, row.caption), (len(self._shards) - 1, row))

    @staticmethod
    def _damaged(shard: Path, what: str) -> ShardError:
        repair = f"rm '{shard}' '{index_path(shard)}'"
        return ShardError(f"shard {shard} is damaged: {what}. Delete it and run again, only its images are extracted anew: {repair}")
