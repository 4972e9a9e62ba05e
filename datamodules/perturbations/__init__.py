"""Named perturbations of an image: pure functions whose parameters are in their names."""

from datamodules.perturbations.names import NAMES_HELP, Perturbation, link_seed, perturbation
from datamodules.perturbations.operations import Pixels
from datamodules.perturbations.presets import PRESETS, REUPLOADS, STUDY, expanded

__all__ = ["NAMES_HELP", "PRESETS", "REUPLOADS", "STUDY", "Perturbation", "Pixels", "expanded", "link_seed", "perturbation"]
