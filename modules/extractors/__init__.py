"""Frozen extractors: a batch of images to a dictionary of features that are cached."""

from modules.extractors.autoencoder import AutoencoderError
from modules.extractors.base import Extractor
from modules.extractors.colour import ColourExtractor
from modules.extractors.complexity import Complexity
from modules.extractors.discrepancy import PerturbationDiscrepancy
from modules.extractors.divergence import Divergence
from modules.extractors.embedding import EmbeddingExtractor
from modules.extractors.image import ImageExtractor
from modules.extractors.inversion import InversionExtractor
from modules.extractors.likelihood import Likelihood
from modules.extractors.reconstruction import ReconstructionError
from modules.extractors.similarity import PerturbationSimilarity
from modules.extractors.together import Together
from modules.extractors.unet_embedding import UNetEmbeddingExtractor

__all__ = [
    "AutoencoderError",
    "ColourExtractor",
    "Complexity",
    "Divergence",
    "EmbeddingExtractor",
    "Extractor",
    "ImageExtractor",
    "InversionExtractor",
    "Likelihood",
    "PerturbationDiscrepancy",
    "PerturbationSimilarity",
    "ReconstructionError",
    "Together",
    "UNetEmbeddingExtractor",
]
