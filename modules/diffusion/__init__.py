"""Denoisers, latent diffusion models, DDIM inversion, divergence, likelihood and captioning."""

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.ffdnet import FFDNet
from modules.diffusion.latent_denoiser import LatentDenoiser
from modules.diffusion.latent_diffusion import LatentDiffusion

__all__ = ["Denoiser", "FFDNet", "LatentDenoiser", "LatentDiffusion"]
