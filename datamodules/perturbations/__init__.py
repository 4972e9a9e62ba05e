"""Named perturbations of an image: pure functions whose parameters are in their names."""

from datamodules.perturbations.names import NAMES_HELP, REUPLOADS, STUDY, Perturbation, link_seed, perturbation
from datamodules.perturbations.operations import Pixels

__all__ = ["NAMES_HELP", "REUPLOADS", "STUDY", "Perturbation", "Pixels", "link_seed", "perturbation"]
