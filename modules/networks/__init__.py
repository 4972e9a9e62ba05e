"""Plain networks: the mathematics without a Trainer."""

from modules.networks.backbones import build_backbone

__all__ = ["build_backbone"]
