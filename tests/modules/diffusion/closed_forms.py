"""Denoisers whose density is known: everything about them can be computed another way."""

import math

import torch
from torch.distributions import MultivariateNormal

from modules.diffusion.ddim import NoiseSchedule
from modules.diffusion.denoiser import Denoiser, NoiseLevel

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


def covariance(dimension, seed):
    """Never diagonal: Rademacher probes would have no variance."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return matrix @ matrix.T / dimension + 0.1 * torch.eye(dimension, dtype=torch.float64)


class Mixture(Denoiser):
    """A mixture of Gaussians in float64 under Stable Diffusion's schedule; states are the images' values themselves."""

    def __init__(self, means, covariances, weights=None):
        super().__init__()
        self.means = means  # [K, d]
        self.covariances = covariances  # [K, d, d]
        self.mixing = weights if weights is not None else torch.full((len(means),), 1 / len(means), dtype=torch.float64)
        self.rows = []

    @classmethod
    def gaussian(cls, dimension, seed=0):
        generator = torch.Generator().manual_seed(seed + 1000)
        return cls(torch.randn(1, dimension, generator=generator, dtype=torch.float64), covariance(dimension, seed)[None])

    @classmethod
    def of(cls, components, dimension):
        generator = torch.Generator().manual_seed(7)
        means = 0.7 * torch.randn(components, dimension, generator=generator, dtype=torch.float64)
        return cls(means, torch.stack([covariance(dimension, seed) for seed in range(components)]))

    @property
    def schedule(self):
        return NoiseSchedule.from_config(STABLE_DIFFUSION)

    def load(self):
        pass

    def unload(self):
        pass

    def encode(self, images):
        return images.double()

    def decode(self, states):
        return states

    def alpha(self, level):
        return float(self.schedule.alphas_cumprod[int(level.value)])

    def level(self, value):
        alpha = float(self.schedule.alphas_cumprod[int(value)])
        return NoiseLevel(value, alpha**0.5, (1 - alpha) ** 0.5)

    def at(self, alpha):
        """Means, covariances of the components at a noise level."""
        identity = torch.eye(self.means.shape[1], dtype=torch.float64)
        return alpha**0.5 * self.means, alpha * self.covariances + (1 - alpha) * identity

    def log_density(self, flat, alpha):
        means, covariances = self.at(alpha)
        parts = [MultivariateNormal(m, c).log_prob(flat) for m, c in zip(means, covariances, strict=True)]
        return torch.logsumexp(torch.stack(parts) + self.mixing.log()[:, None], dim=0)

    def predict_noise(self, states, level, conditioning):
        """Optimal for the timestep that the network is told, wherever the states are."""
        self.rows.append(len(states))
        alpha, flat = self.alpha(level), states.flatten(1)
        means, covariances = self.at(alpha)
        pulls = torch.stack([-torch.linalg.solve(c, (flat - m).T).T for m, c in zip(means, covariances, strict=True)])
        # Without torch.distributions, whose checks forward-mode differentiation does not pass.
        away = torch.stack([((flat - m) * -pull).sum(1) for m, pull in zip(means, pulls, strict=True)])
        shares = torch.softmax(self.mixing.log()[:, None] - 0.5 * (torch.logdet(covariances)[:, None] + away), dim=0)
        score = (shares[:, :, None] * pulls).sum(0)
        return (-math.sqrt(1 - alpha) * score).reshape(states.shape)


def divergence_of_mixture(model, flat, alpha):
    """div s = Σ r_k (−tr C_k⁻¹ + ‖s_k‖²) − ‖s‖²."""
    means, covariances = model.at(alpha)
    logs = torch.stack([MultivariateNormal(m, c).log_prob(flat) for m, c in zip(means, covariances, strict=True)])
    shares = torch.softmax(logs + model.mixing.log()[:, None], dim=0)
    pulls = torch.stack([-(flat - m) @ torch.linalg.inv(c) for m, c in zip(means, covariances, strict=True)])
    traces = torch.stack([torch.trace(torch.linalg.inv(c)) for c in covariances])
    score = (shares[:, :, None] * pulls).sum(0)
    return (shares * (-traces[:, None] + pulls.square().sum(2))).sum(0) - score.square().sum(1)
