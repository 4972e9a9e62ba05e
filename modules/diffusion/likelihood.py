"""Log-likelihood along the DDIM inversion path, the probability-flow ODE's discretisation (Song et al. 2021, sections 4.3 and D.2).

With the step z' = k z + c ε(z) the density changes by log|det(k I + c ∂ε/∂z)| ≈ d log k + (c/k) tr ∂ε/∂z, and the trace is estimated by
Hutchinson's central differences. Discretising leaves a bias that more steps make smaller, apart from the estimator's own error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.diffusion.ddim import Step, noise_weights
from modules.diffusion.denoiser import NoiseLevel

Predict = Callable[[Tensor, NoiseLevel, Tensor], Tensor]
"""From states `[N, …]`, their noise level and the image of each row `[N]` to the predicted noise."""


@dataclass(frozen=True, slots=True)
class Inverted:
    """Where the inversion of clean states leads.

    Attributes:
        noise: z_T, `[B, …]`.
        log_determinant: Of the map's Jacobian, one estimate a probe, `[B, K]`.
    """

    noise: Tensor
    log_determinant: Tensor


def state_level(step: Step) -> NoiseLevel:
    """The level that states are at before a step, and the timestep that the network is told."""
    return NoiseLevel(step.timestep, step.alpha_from**0.5, (1 - step.alpha_from) ** 0.5)


def invert(path: list[Step], states: Tensor, predict: Predict, directions: Tensor | None = None, relative_step: float = 0.1) -> Inverted:
    """Take clean states along an inversion path, and sum up how it stretches space.

    Args:
        path: Of `NoiseSchedule.path(steps, "invert")`.
        states: z_0, `[B, …]`.
        predict: The noise prediction; asked for 1 + 2K rows an image at once.
        directions: Rademacher probes `[B, K, …]`; without any there is no log-determinant (`[B, 0]`).
        relative_step: The central differences' step in units of the noise that the network expects, √(1 − ᾱ) at the step's noisier end.
    """
    batch, probes = len(states), 0 if directions is None else directions.shape[1]
    images = torch.arange(batch, device=states.device)
    everyone = torch.cat([images, images.repeat_interleave(probes).repeat(2)])
    towards = None if directions is None else directions.to(states)
    total = states.new_zeros(batch, probes)
    for step in path:
        k, c = noise_weights(step.alpha_from, step.alpha_to)
        level = state_level(step)
        if towards is None:
            states = k * states + c * predict(states, level, images)
            continue
        h = relative_step * (1 - min(step.alpha_from, step.alpha_to)) ** 0.5
        apart = (h * towards).flatten(0, 1)
        around = states.repeat_interleave(probes, dim=0)
        predicted = predict(torch.cat([states, around + apart, around - apart]), level, everyone)
        here, forward, backward = predicted.split([batch, batch * probes, batch * probes])
        difference = (forward - backward).reshape_as(towards)
        trace = (towards * difference).flatten(2).sum(2) / (2 * h)
        total = total + states[0].numel() * math.log(k) + c / k * trace
        states = k * states + c * here
    return Inverted(states, total)


def denoise(path: list[Step], states: Tensor, predict: Predict) -> Tensor:
    """Take noise back to clean states along `NoiseSchedule.path(steps, "denoise")`, `[B, …]` to the same."""
    images = torch.arange(len(states), device=states.device)
    for step in path:
        k, c = noise_weights(step.alpha_from, step.alpha_to)
        states = k * states + c * predict(states, state_level(step), images)
    return states


def log_standard_normal(states: Tensor) -> Tensor:
    """Log N(z; 0, I), `[B, …]` to `[B]`, summed over the dimensions in double precision."""
    exact = states if states.device.type == "mps" else states.double()
    return -0.5 * (exact.square() + math.log(2 * math.pi)).flatten(1).sum(1)
