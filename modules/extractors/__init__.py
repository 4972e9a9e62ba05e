"""Frozen extractors: a batch of images to a dictionary of features that are cached."""

from modules.extractors.base import Extractor
from modules.extractors.inversion import InversionExtractor

__all__ = ["Extractor", "InversionExtractor"]
