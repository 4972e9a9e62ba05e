"""Latent diffusion models, DDIM inversion and captioning."""

from modules.diffusion.latent_diffusion import LatentDiffusion

__all__ = ["LatentDiffusion"]
