"""DPM-Solver++(2M) in both directions, as scalars known beforehand (Lu et al. 2022, "DPM-Solver++", algorithm 2).

The probability-flow ODE is solved in the half log-SNR `λ = log(√ᾱ / √(1−ᾱ))` for the predicted data `x = (z − √(1−ᾱ) ε) / √ᾱ`. A step
from `λ_s` to `λ_t = λ_s + h` is `z' = (σ_t/σ_s) z + √ᾱ_t (1 − e^{−h}) (x + (x − x_last) h / 2 h_last)`, with `h_last` the step before; the
first step, which has none before it, leaves the difference out. An inversion is the same with `h` negative. The arithmetic is that of
diffusers' `DPMSolverMultistepScheduler` and `DPMSolverMultistepInverseScheduler`. Both directions visit the same timesteps, evenly spaced
in `λ` from timestep 0, which a clean latent is taken to be at, to the last one: spaced evenly in time as DDIM's, the first step of an
inversion is so long that ten steps are no nearer to the ODE than DDIM's. The network is told the level that the latent is at, where
DDIM's inversion tells it the next one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.diffusion.ddim import Direction, NoiseSchedule
from modules.errors import ModelError

FEW_STEPS = 15  # below this the last step is of first order, which is steadier (diffusers' lower_order_final)
LEAST_SIGNAL = 2.0**-24  # of ᾱ at the noisy end of schedules that reach pure noise: their log-SNR would be infinite


@dataclass(frozen=True, slots=True)
class MultistepStep:
    """One step `z' = latent_weight · z + output_weight · network(z, timestep) + last_weight · x_last`.

    Attributes:
        timestep: The timestep that the network is told: that of the level that the latent is at.
        latent_weight: Factor of the latent.
        output_weight: Factor of the network's output (noise, or `v`).
        last_weight: Factor of the data predicted at the step before; 0 for a step of first order.
        data_latent_weight: Factor of the latent in the data predicted here, for the next step.
        data_output_weight: Factor of the network's output there.
    """

    timestep: int
    latent_weight: float
    output_weight: float
    last_weight: float
    data_latent_weight: float
    data_output_weight: float


def multistep_path(schedule: NoiseSchedule, steps: int, direction: Direction) -> list[MultistepStep]:
    """All steps from clean to noise (`invert`) or back (`denoise`), in the order in which they are taken.

    Raises:
        ModelError: If `steps` is below 1 or not below the schedule's number of timesteps.
    """
    total = len(schedule.alphas_cumprod)
    if not 1 <= steps < total:
        msg = f"steps is {steps}; with dpm++ it must lie between 1 and {total - 1}, one below the schedule's training timesteps"
        raise ModelError(msg)
    levels = schedule.alphas_cumprod.clamp(min=LEAST_SIGNAL)
    timesteps = _evenly_spaced((0.5 * (levels / (1 - levels)).log()).numpy(), steps)
    if direction == "denoise":
        timesteps.reverse()
    alphas = [float(levels[timestep]) for timestep in timesteps]
    path = []
    for i in range(steps):
        first_order = i == 0 or (i == steps - 1 and steps < FEW_STEPS)
        before = None if first_order else alphas[i - 1]
        path.append(_step(timesteps[i], before, alphas[i], alphas[i + 1], schedule.prediction_type))
    return path


def _evenly_spaced(half_log_snr: NDArray[np.float64], steps: int) -> list[int]:
    """`steps + 1` different timesteps, ascending, from the first to the last, as evenly spaced in log-SNR as whole ones can be."""
    total = len(half_log_snr)
    wanted = np.linspace(half_log_snr[0], half_log_snr[-1], steps + 1)
    nearest = np.interp(-wanted, -half_log_snr, np.arange(total)).round().astype(int)
    # Near the clean end one timestep may be a longer way than a step.
    order = np.arange(steps + 1)
    ascending = np.maximum.accumulate(nearest - order) + order
    return [int(timestep) for timestep in np.minimum(ascending, total - 1 - order[::-1])]


def _step(timestep: int, before: float | None, alpha: float, following: float, prediction_type: str) -> MultistepStep:
    """The step from level `alpha` to `following`; of second order where the level `before` is given."""
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    # x = √ᾱ z − √(1−ᾱ) v, or (z − √(1−ᾱ) ε) / √ᾱ.
    of_latent, of_output = (signal, -noise) if prediction_type == "v_prediction" else (1 / signal, -noise / signal)
    width = _half_log_snr(following) - _half_log_snr(alpha)
    data = -(following**0.5) * math.expm1(-width)
    slope = 0.0 if before is None else data * width / (2 * (_half_log_snr(alpha) - _half_log_snr(before)))
    return MultistepStep(
        timestep,
        latent_weight=(1 - following) ** 0.5 / noise + (data + slope) * of_latent,
        output_weight=(data + slope) * of_output,
        last_weight=-slope,
        data_latent_weight=of_latent,
        data_output_weight=of_output,
    )


def _half_log_snr(alpha: float) -> float:
    return 0.5 * math.log(alpha / (1 - alpha))


def follow_multistep(path: list[MultistepStep], latents: Tensor, predict: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Take a latent along a path of multistep steps.

    Args:
        path: Steps of `multistep_path`.
        latents: `[B, C, h, w]`; the state keeps this dtype, whatever the network computes in.
        predict: The network: latents and timestep to its raw output, of the latents' shape.

    Returns:
        The latents at the path's end, same shape and dtype.
    """
    last: Tensor | None = None
    for step in path:
        output = predict(latents, step.timestep).to(latents.dtype)
        following = torch.add(latents * step.latent_weight, output, alpha=step.output_weight)
        if last is not None and step.last_weight:
            following = torch.add(following, last, alpha=step.last_weight)
        last = torch.add(latents * step.data_latent_weight, output, alpha=step.data_output_weight)
        latents = following
    return latents
