"""LightningModules that score features; larger means more likely fake."""

from modules.detectors.base import Detector
from modules.detectors.corvi import CorviResNet
from modules.detectors.fakeinversion import FakeInversion
from modules.detectors.fusion import Fusion
from modules.detectors.linear import LinearProbe
from modules.detectors.score import ScoreDetector

__all__ = ["CorviResNet", "Detector", "FakeInversion", "Fusion", "LinearProbe", "ScoreDetector"]
