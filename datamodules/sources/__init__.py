"""Where records come from: folders, layouts of public benchmarks, manifests, SynRIS, the built-in set, several of these."""

from datamodules.sources.base import Source
from datamodules.sources.builtin import BuiltInSource
from datamodules.sources.folder import FolderSource
from datamodules.sources.hub import HubSource
from datamodules.sources.images import ImagesSource
from datamodules.sources.joined import JoinedSource
from datamodules.sources.layout import LayoutSource
from datamodules.sources.manifest import ManifestSource
from datamodules.sources.synris import SynRISSource
from datamodules.sources.tars import ShardsSource

__all__ = [
    "BuiltInSource",
    "FolderSource",
    "HubSource",
    "ImagesSource",
    "JoinedSource",
    "LayoutSource",
    "ManifestSource",
    "ShardsSource",
    "Source",
    "SynRISSource",
]
