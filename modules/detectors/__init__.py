"""LightningModules that score features; larger means more likely fake."""

from modules.detectors.base import Detector
from modules.detectors.corvi import CorviResNet
from modules.detectors.fakeinversion import FakeInversion
from modules.detectors.fusion import Fusion
from modules.detectors.linear import LinearProbe
from modules.detectors.mlp import MLPProbe
from modules.detectors.probe import Probe
from modules.detectors.score import ScoreDetector
from modules.detectors.svm import SVMProbe
from modules.detectors.tip_adapter import TipAdapter

__all__ = [
    "CorviResNet",
    "Detector",
    "FakeInversion",
    "Fusion",
    "LinearProbe",
    "MLPProbe",
    "Probe",
    "SVMProbe",
    "ScoreDetector",
    "TipAdapter",
]
