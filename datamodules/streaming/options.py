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
        buffer: samples of each process's shuffle buffer, shared out among its workers; undecoded features are what it holds in memory
        blocks: pieces of shards, from all over the data, that are read at once by each worker and mixed into its buffer
        on_missing: what to do where images have no features there: `error`, or `skip` them and say how many
        allow_http: also addresses without encryption
        allow_private: also addresses of this machine and of private networks
    """

    url: str | None = None
    buffer: int = 1000
    blocks: int = 8
    on_missing: Literal["error", "skip"] = "error"
    allow_http: bool = False
    allow_private: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that are none.

        Raises:
            DataError: A number is below 1, or the address is empty.
        """
        for name in ("buffer", "blocks"):
            if getattr(self, name) < 1:
                msg = f"data.stream.{name} is {getattr(self, name)}: it must be 1 or more"
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
