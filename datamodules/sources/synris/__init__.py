"""SynRIS: fakes of many generators, each against real images that reverse image search found for them."""

from datamodules.sources.synris.source import SynRISSource
from datamodules.sources.synris.survival import Survival, survival_text, write_survival

__all__ = ["Survival", "SynRISSource", "survival_text", "write_survival"]
