"""What a user may say of streaming; imports nothing heavy, since every command's --help needs it."""

from dataclasses import dataclass
from typing import Literal

from datamodules.errors import DataError


@dataclass(frozen=True)
class StreamOptions:
    """Training from shards of cached features that lie elsewhere, without a copy of them on this machine.

    Args:
        url: `https://…`, `s3://…`, `gs://…`, `az://…` or a path: a feature cache's root, or the one directory of it that is wanted (its own
            name and its parent's tell what made it). Nothing is extracted then. By default the cache in `cache_dir` is used
        buffer: megabytes (2²⁰ bytes) of features in each process's shuffle buffer, shared out among its workers; the larger, the better
            mixed, and the longer until it is full at the start of an epoch
        blocks: pieces of shards, from all over the data, that are read at once by each worker and mixed into its buffer
        on_missing: what to do where images have no features there: `error`, or `skip` them and say how many
        allow_http: also addresses without encryption
        allow_private: also addresses of this machine and of private networks
    """

    url: str | None = None
    buffer: float = 512.0
    blocks: int = 8
    on_missing: Literal["error", "skip"] = "error"
    allow_http: bool = False
    allow_private: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that are none.

        Raises:
            DataError: A number is not above 0, or the address is empty.
        """
        if not self.buffer > 0 or self.blocks < 1:  # nor is `nan`
            msg = f"data.stream.buffer is {self.buffer} and data.stream.blocks {self.blocks}: they must be above 0"
            raise DataError(msg)
        if self.url is not None and not self.url.strip():
            msg = "data.stream.url is empty: name a cache's address, or leave it out"
            raise DataError(msg)

    def check_order(self, keep_pairs: bool) -> None:
        """Refuse an order that a stream cannot have.

        Raises:
            DataError: Pairs are to be kept together.
        """
        if self.url and keep_pairs:
            msg = "data.keep_pairs needs all pairs at hand, and a stream (data.stream.url) brings samples in its own order: leave one out"
            raise DataError(msg)
