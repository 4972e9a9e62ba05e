"""WebDataset shards, as img2dataset and others write them, as a source of images."""

from datamodules.sources.tars.source import ShardsSource

__all__ = ["ShardsSource"]
