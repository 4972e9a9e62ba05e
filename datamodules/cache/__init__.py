"""The feature cache: one directory for each combination of settings that changes a number. `python -m datamodules.cache` looks after it."""

from datamodules.cache.compare import differences
from datamodules.cache.features import FeatureCache, caption_hash, library_versions

__all__ = ["FeatureCache", "caption_hash", "differences", "library_versions"]
