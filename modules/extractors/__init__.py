"""Frozen extractors: a batch of images to a dictionary of features that are cached."""

from modules.extractors.base import Extractor
from modules.extractors.discrepancy import PerturbationDiscrepancy
from modules.extractors.divergence import Divergence
from modules.extractors.inversion import InversionExtractor
from modules.extractors.likelihood import Likelihood
from modules.extractors.reconstruction import ReconstructionError

__all__ = ["Divergence", "Extractor", "InversionExtractor", "Likelihood", "PerturbationDiscrepancy", "ReconstructionError"]
