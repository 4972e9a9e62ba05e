"""Where records come from: folders, manifests, the built-in set."""

from datamodules.sources.base import Source
from datamodules.sources.builtin import BuiltInSource
from datamodules.sources.folder import FolderSource
from datamodules.sources.manifest import ManifestSource

__all__ = ["BuiltInSource", "FolderSource", "ManifestSource", "Source"]
