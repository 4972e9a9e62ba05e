"""LightningModules that score features; larger means more likely fake."""

from modules.detectors.base import Detector
from modules.detectors.fakeinversion import FakeInversion
from modules.detectors.score import ScoreDetector

__all__ = ["Detector", "FakeInversion", "ScoreDetector"]
