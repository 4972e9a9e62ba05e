"""Training from cached features that lie elsewhere: at an address, in an object store, in a folder. See docs/streaming.md."""

from datamodules.streaming.options import StreamOptions

__all__ = ["StreamOptions"]
