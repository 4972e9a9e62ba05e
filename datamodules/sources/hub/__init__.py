"""Data sets of the Hugging Face hub, or of the same formats on disk, read as a stream."""

from datamodules.sources.hub.source import HubSource

__all__ = ["HubSource"]
