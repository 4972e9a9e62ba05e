"""Writing shards: each appears whole or not at all."""

import contextlib
import io
import json
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from datamodules.files import sync_directory, temporary_name
from datamodules.records import Failure
from datamodules.shards.index import (
    KEY,
    MAX_FEATURE_BYTES,
    MAX_RECORD_BYTES,
    MAX_ROWS,
    MAX_SHARDS,
    Index,
    Row,
    ShardError,
    finite,
    shards_of,
    write_index,
)
from datamodules.shards.lock import join_writers, leave
from datamodules.shards.tar import padded


class ShardWriter:
    """Writes samples of one process to shards that appear whole or not at all.

    Args:
        folder: The cache directory; made where it is missing.
        rank: Number of this process, part of the shards' names.
        max_samples: Samples after which a shard is finished.
        max_bytes: Bytes after which it is finished.
        max_seconds: Age after which it is finished, so that a killed process loses at most this much work.
        holds: Whether the caller holds the directory alone already, as repairing it does.

    Raises:
        ShardError: If `max_samples` is more than an index may hold.
    """

    def __init__(
        self,
        folder: Path,
        rank: int = 0,
        max_samples: int = 1000,
        max_bytes: int = 512 * 2**20,
        max_seconds: float = 60.0,
        holds: bool = False,
    ) -> None:
        if not 1 <= max_samples <= MAX_ROWS:
            msg = f"a shard cannot hold {max_samples} samples; set data.shard_samples to 1 … {MAX_ROWS}"
            raise ShardError(msg)
        self.folder = Path(folder)
        self.rank = rank
        self.max_samples = max_samples
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.holds = holds
        self.written = 0
        self._rows: dict[str, Row] = {}
        self._failures: list[Failure] = []
        self._tar: tarfile.TarFile | None = None
        self._file: BinaryIO | None = None
        self._held: BinaryIO | None = None
        self._temporary = Path()
        self._begun: float | None = None
        self._next: int | None = None
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
            diagnostics: The extractor's figures of this image; those that are not finite are left out.

        Raises:
            ShardError: If the sample is not what a shard may hold, or cannot be written. Samples of finished shards stay.
        """
        content = save_tensors({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        row = Row(key, caption, 0, len(content), zlib.crc32(content), finite(diagnostics or {}))
        document = {**info, "caption_hash": caption, "diagnostics": row.diagnostics, "checksum": row.checksum}
        # Before anything is written: a sample is whole or not there.
        self.add_members(row, content, json.dumps(document, ensure_ascii=False, sort_keys=True).encode())

    def add_members(self, row: Row, content: bytes, record: bytes) -> None:
        """Append one sample whose members are there already.

        Args:
            row: What the index will say, but for the offset.
            content: The safetensors member.
            record: The JSON member.

        Raises:
            ShardError: As `add`.
        """
        if not KEY.fullmatch(row.key) or len(content) > MAX_FEATURE_BYTES or len(record) > MAX_RECORD_BYTES:
            msg = (
                f"the sample {row.key!r:.80} cannot be stored: {len(content)} bytes of features (at most {MAX_FEATURE_BYTES}) and "
                f"{len(record)} of record (at most {MAX_RECORD_BYTES}); a key is letters, digits, - and _"
            )
            raise ShardError(msg)
        if row.key in self._rows:
            self.finish()  # of another caption: names within a tar file are unique
        with self._undone():
            tar = self._tar or self._open()
            offset = _append(tar, f"{row.key}.safetensors", content)
            _append(tar, f"{row.key}.json", record)
            self._rows[row.key] = row._replace(offset=offset)
        self.written += 1
        if tar.offset >= self.max_bytes or self._is_due(len(self._rows)):
            self.finish()

    def fail(self, failure: Failure) -> None:
        """Record an image that gave no features; it is not tried again with the same settings."""
        self._begun = self._begun or time.monotonic()
        self._failures.append(failure)
        if self._is_due(len(self._failures)):
            self.finish()

    def finish(self) -> None:
        """Make what was added visible: flush, rename, and write the index last.

        Raises:
            ShardError: If it cannot be written. The unfinished shard is dropped then, and finishing again does nothing.
        """
        if self._file is None and not self._failures:
            return
        with self._undone():
            self._join()
            shard = self._reserve()
            try:
                size = self._publish(shard)
                write_index(shard, Index(size, list(self._rows.values()), self._failures))
            except BaseException:
                with contextlib.suppress(OSError):
                    if not shard.stat().st_size:
                        shard.unlink()  # the name alone
                raise
        self._forget()

    def _is_due(self, count: int) -> bool:
        return count >= self.max_samples or time.monotonic() - (self._begun or 0) > self.max_seconds

    def _open(self) -> tarfile.TarFile:
        self._begun = self._begun or time.monotonic()
        self._join()
        self._temporary = self.folder / temporary_name(f"{self.rank:04d}.tar")
        self._file = self._temporary.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by finish
        return self._tar

    def _join(self) -> None:
        if not self.holds and self._held is None:
            self._held = join_writers(self.folder)

    def _publish(self, shard: Path) -> int:
        """Flush the tar file and rename it; gives its length."""
        if self._tar is None or self._file is None:
            return 0
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._temporary.replace(shard)
        sync_directory(self.folder)
        return size

    def _reserve(self) -> Path:
        """The next free shard name, taken by making it, so that two processes of the same rank never share one.

        Raises:
            ShardError: All names of this rank are taken.
        """
        if self._next is None:
            self._next = 1 + max((int(path.name[11:17]) for path in shards_of(self.folder, self.rank)), default=-1)
        for number in range(self._next, MAX_SHARDS):
            shard = self.folder / f"shard-{self.rank:04d}-{number:06d}.tar"
            with contextlib.suppress(FileExistsError):
                os.close(os.open(shard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                self._next = number + 1
                return shard
        msg = (
            f"{self.folder} has no name left for a shard of process {self.rank}: set a larger data.shard_samples and another data.cache_dir"
        )
        raise ShardError(msg)

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """Whatever ends a write in its middle, a full disk or Ctrl-C, drops the unfinished shard: none is ever published half."""
        try:
            yield
        except BaseException as error:
            lost = len(self._rows)
            self._forget()
            if isinstance(error, OSError):
                raise self._unwritten(error, lost) from error
            raise

    def _forget(self) -> None:
        """Close and remove what is unfinished, and start afresh."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the buffer's last bytes, on a full disk
                self._file.close()
            self._temporary.unlink(missing_ok=True)
        leave(self._held)
        self._tar, self._file, self._held, self._rows, self._failures = None, None, None, {}, []
        self._begun = None

    def _unwritten(self, error: OSError, lost: int) -> ShardError:
        free = "it is gone"
        with contextlib.suppress(OSError):
            free = f"{shutil.disk_usage(self.folder).free / 1e9:.2f} GB are free there"
        return ShardError(
            f"features cannot be written to {self.folder} ({error.strerror or error}; {free}). Free some space, or set data.cache_dir to "
            f"another disk, and run again: finished shards stay, the {lost} images of the unfinished one are extracted anew"
        )


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a member; gives the offset of its content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    return tar.offset - padded(len(content))
