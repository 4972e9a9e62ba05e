"""Torch modules: diffusion models, extractors, networks, detectors and metrics."""
