"""DDIM steps against diffusers' own schedulers, and against the closed form for Gaussian data in float64."""

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from modules.diffusion.ddim import NoiseSchedule, follow

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}
CONVENTIONS = [
    {"steps_offset": 1, "set_alpha_to_one": False},
    {"steps_offset": 0, "set_alpha_to_one": True},
    {"steps_offset": 0, "set_alpha_to_one": False, "timestep_spacing": "trailing"},
]


def network(latents: torch.Tensor, timestep: int) -> torch.Tensor:
    """Any smooth function that depends on the timestep; nonlinear, so that errors of order or place show."""
    return torch.sin(latents * 1.7 + timestep / 300) + 0.3 * latents.roll(1, -1)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("steps", [7, 10, 50])
def test_agrees_with_diffusers(prediction_type, convention, steps):
    config = STABLE_DIFFUSION | convention | {"prediction_type": prediction_type}
    schedule = NoiseSchedule.from_config(config)
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, ours = clean, clean
    for scheduler, direction in [(DDIMInverseScheduler(**config), "invert"), (DDIMScheduler(**config), "denoise")]:
        scheduler.set_timesteps(steps)
        for timestep in scheduler.timesteps:
            expected = scheduler.step(network(expected, int(timestep)), timestep, expected).prev_sample
        path = schedule.path(steps, direction)
        assert [step.timestep for step in path] == scheduler.timesteps.tolist()
        ours = follow(path, ours, network)
        assert (ours - expected).abs().max() <= 1e-4


def test_clip_sample_of_a_configuration_is_ignored():
    clipped = NoiseSchedule.from_config({**STABLE_DIFFUSION, "clip_sample": True})
    assert clipped.path(10, "denoise") == NoiseSchedule.from_config(STABLE_DIFFUSION).path(10, "denoise")


def gaussian(dimensions: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(dimensions, generator=generator, dtype=torch.float64), root @ root.T / dimensions + 0.05 * torch.eye(dimensions)


@pytest.mark.parametrize("steps", [1, 3, 50, 500])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_inversion_of_gaussian_data_equals_the_discrete_recursion(steps, prediction_type):
    """For N(mu, Sigma) the optimal noise prediction is linear in z, so that the end is a product of matrices, done here by numpy."""
    schedule = NoiseSchedule.from_config(
        STABLE_DIFFUSION | {"steps_offset": 1, "set_alpha_to_one": False, "prediction_type": prediction_type}
    )
    mean, covariance = gaussian()
    identity = torch.eye(len(mean), dtype=torch.float64)

    def noise(latents, alpha_network, alpha_latent):
        marginal = alpha_network * covariance + (1 - alpha_network) * identity
        epsilon = (1 - alpha_network) ** 0.5 * (latents - alpha_network**0.5 * mean) @ torch.linalg.inv(marginal)
        if prediction_type == "epsilon":
            return epsilon
        # The network says v such that, converted at the latent's own level, it is this noise.
        return (epsilon - (1 - alpha_latent) ** 0.5 * latents) / alpha_latent**0.5

    start = torch.randn(3, len(mean), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    levels = iter(schedule.path(steps, "invert"))
    ours = follow(schedule.path(steps, "invert"), start, lambda z, t: noise(z, float(schedule.alphas_cumprod[t]), next(levels).alpha_from))

    alphas = schedule.alphas_cumprod.numpy()
    stride = 1000 // steps
    state = start.numpy().copy()
    log_determinant = 0.0
    for i in range(steps):
        high, low = alphas[i * stride + 1], alphas[i * stride + 1 - stride] if i * stride + 1 >= stride else alphas[0]
        inverse = np.linalg.inv(high * covariance.numpy() + (1 - high) * np.eye(len(mean)))
        k = np.sqrt(high / low)
        c = np.sqrt(1 - high) - k * np.sqrt(1 - low)
        jacobian = k * np.eye(len(mean)) + c * np.sqrt(1 - high) * inverse
        state = state @ jacobian - c * np.sqrt(1 - high) * np.sqrt(high) * mean.numpy() @ inverse
        log_determinant += np.linalg.slogdet(jacobian)[1]
    assert np.abs(ours.numpy() - state).max() < 1e-8

    # The determinant of the whole map, read off our own steps by finite columns of the (affine) map.
    def run(points):
        levels = iter(schedule.path(steps, "invert"))
        return follow(
            schedule.path(steps, "invert"), points, lambda z, t: noise(z, float(schedule.alphas_cumprod[t]), next(levels).alpha_from)
        )

    matrix = run(identity) - run(torch.zeros_like(identity))
    assert abs(float(torch.linalg.slogdet(matrix).logabsdet) - log_determinant) < 1e-8


def test_more_steps_come_nearer_to_the_continuous_truth():
    """z_T = sqrt(a_T) mu + (C_T C_0^-1)^(1/2) (z_0 - sqrt(a_0) mu) for the probability-flow ODE."""
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | {"steps_offset": 0, "set_alpha_to_one": False})
    mean, covariance = gaussian()
    values, vectors = torch.linalg.eigh(covariance)
    start = (
        torch.randn(4, len(mean), generator=torch.Generator().manual_seed(3), dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
        + mean
    )

    def noise(latents, timestep):
        alpha = float(schedule.alphas_cumprod[timestep])
        marginal = vectors @ torch.diag(alpha * values + 1 - alpha) @ vectors.T
        return (1 - alpha) ** 0.5 * (latents - alpha**0.5 * mean) @ torch.linalg.inv(marginal)

    errors = []
    for steps in (10, 50, 250, 1000):
        path = schedule.path(steps, "invert")
        first, last = path[0].alpha_from, path[-1].alpha_to
        scale = ((last * values + 1 - last) / (first * values + 1 - first)).sqrt()
        truth = last**0.5 * mean + (start - first**0.5 * mean) @ vectors @ torch.diag(scale) @ vectors.T
        errors.append(float((follow(path, start, noise) - truth).norm() / truth.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=str(steps)):
        NoiseSchedule.from_config(STABLE_DIFFUSION).path(steps, "invert")


def test_a_timestep_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match="use fewer steps"):
        NoiseSchedule.from_config(STABLE_DIFFUSION | {"steps_offset": 1}).timesteps(1000)


def test_unsupported_prediction_type_is_refused():
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        NoiseSchedule.from_config(STABLE_DIFFUSION | {"prediction_type": "sample"})
