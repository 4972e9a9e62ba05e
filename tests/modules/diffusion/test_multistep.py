"""DPM-Solver++(2M) against diffusers' own schedulers, and against the closed form for Gaussian data in float64."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler

from modules.diffusion import LatentDiffusion
from modules.diffusion.ddim import NoiseSchedule, follow, noise_weights
from modules.diffusion.multistep import follow_multistep, multistep_path

STABLE_DIFFUSION = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def diffusers_loop(predict, start, steps: int, direction: str, **config: object) -> torch.Tensor:
    """The loop that a diffusers user would write, at the timesteps that ours visits."""
    ours = [step.timestep for step in multistep_path(NoiseSchedule.from_config(STABLE_DIFFUSION | config), steps, direction)]
    if direction == "denoise":
        scheduler = DPMSolverMultistepScheduler(**STABLE_DIFFUSION, final_sigmas_type="sigma_min", **config)
        scheduler.set_timesteps(timesteps=ours)
    else:  # takes no timesteps of one's own
        scheduler = DPMSolverMultistepInverseScheduler(**STABLE_DIFFUSION, **config)
        scheduler.set_timesteps(steps)
        scheduler.timesteps = torch.tensor(ours)
        scheduler.sigmas = (1 / scheduler.alphas_cumprod - 1)[[*ours, 999]].sqrt()
    for timestep in scheduler.timesteps:
        start = scheduler.step(predict(start, int(timestep)), timestep, start).prev_sample
    return start


def network(latents: torch.Tensor, timestep: int) -> torch.Tensor:
    """Any smooth function that depends on the timestep; nonlinear, so that errors of order or place show."""
    return torch.sin(latents * 1.7 + timestep / 300) + 0.3 * latents.roll(1, -1)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 5, 14, 15, 50])
def test_agrees_with_diffusers(prediction_type, steps):
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | {"prediction_type": prediction_type})
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for direction in ("invert", "denoise"):
        expected = diffusers_loop(network, start, steps, direction, prediction_type=prediction_type)
        ours = follow_multistep(multistep_path(schedule, steps, direction), start, network)
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_schedule_that_ends_in_pure_noise():
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | config)
    assert float(schedule.alphas_cumprod[-1]) == 0
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = diffusers_loop(network, start, 20, "denoise", **config)
    ours = follow_multistep(multistep_path(schedule, 20, "denoise"), start, network)
    assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert follow_multistep(multistep_path(schedule, 20, "invert"), start, network).isfinite().all()


def test_the_built_in_model_with_diffusers_schedulers():
    """Round trip of ten steps on the same weights."""
    model = LatentDiffusion.from_pretrained("assets/tiny-diffusion")
    clean, text = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)), model.embed(["a cat", ""])

    def unet(latents, timestep):
        return model.unet(latents, timestep, encoder_hidden_states=text).sample

    with torch.no_grad():
        noise = model.invert(clean, text, 10, solver="dpm++")
        assert (noise - diffusers_loop(unet, clean, 10, "invert")).abs().max() <= 1e-3
        rebuilt = model.denoise(noise, text, 10, solver="dpm++")
        assert (rebuilt - diffusers_loop(unet, noise, 10, "denoise")).abs().max() <= 1e-3
        assert (noise - model.invert(clean, text, 10)).abs().max() > 0.01  # not DDIM's


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 400, 999])
def test_the_timesteps_are_evenly_spaced_in_log_snr(steps):
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    there, back = ([step.timestep for step in multistep_path(schedule, steps, way)] for way in ("invert", "denoise"))
    levels = [*there, 999]
    assert back == levels[:0:-1]
    assert levels[0] == 0
    assert (np.diff(levels) > 0).all()
    ratios = 0.5 * (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)).log().numpy()
    if steps <= 10:  # a step is then longer than any one timestep
        assert -np.diff(ratios[levels]) == pytest.approx(np.full(steps, (ratios[0] - ratios[-1]) / steps), rel=0.35)


def test_a_single_step_is_one_of_ddim_with_the_network_at_the_latents_level():
    """Both are exact where the noise does not change."""
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    (step,) = multistep_path(schedule, 1, "invert")
    weights = noise_weights(float(schedule.alphas_cumprod[0]), float(schedule.alphas_cumprod[-1]))
    assert step.timestep == 0
    assert step.last_weight == 0
    assert (step.latent_weight, step.output_weight) == pytest.approx(weights)


def gaussian(dimensions: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, and the covariance's eigenvalues and eigenvectors."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    covariance = root @ root.T / dimensions + 0.05 * torch.eye(dimensions)
    return torch.randn(dimensions, generator=generator, dtype=torch.float64), *torch.linalg.eigh(covariance)


def errors_of(solve, schedule: NoiseSchedule, direction: str, numbers: list[int]) -> list[float]:
    """Relative errors against the probability-flow ODE's z' = √ᾱ' μ + (C' C⁻¹)^½ (z − √ᾱ μ), which moves along the eigenvectors."""
    mean, values, vectors = gaussian()
    start = torch.randn(4, len(mean), generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def noise(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        alpha = float(schedule.alphas_cumprod[timestep])
        inverse = vectors @ torch.diag(1 / (alpha * values + 1 - alpha)) @ vectors.T
        return (1 - alpha) ** 0.5 * (latents - alpha**0.5 * mean) @ inverse

    first, last = float(schedule.alphas_cumprod[0]), float(schedule.alphas_cumprod[-1])
    if direction == "denoise":
        first, last = last, first
    scale = ((last * values + 1 - last) / (first * values + 1 - first)).sqrt()
    truth = last**0.5 * mean + (start - first**0.5 * mean) @ vectors @ torch.diag(scale) @ vectors.T
    return [float((solve(steps, start, noise) - truth).norm() / truth.norm()) for steps in numbers]


@pytest.mark.parametrize("direction", ["invert", "denoise"])
def test_the_error_falls_with_the_square_of_the_steps(direction):
    """A schedule of many timesteps, so that the levels are not rounded; each doubling of the steps divides the error by four."""
    total = 64_001
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, total, dtype=torch.float64) ** 2 / (total / 1000)
    schedule = NoiseSchedule(torch.cumprod(1 - betas, 0) * 0.99, 0.99, "epsilon")

    def solve(steps, start, noise):
        return follow_multistep(multistep_path(schedule, steps, direction), start, noise)

    numbers = [250, 500, 1000, 2000]
    errors = errors_of(solve, schedule, direction, numbers)
    slopes = [math.log2(errors[i] / errors[i + 1]) for i in range(3)]
    assert slopes == pytest.approx([2, 2, 2], abs=0.25)
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("direction", ["invert", "denoise"])
def test_ten_steps_are_nearer_to_the_ode_than_forty_of_ddim(direction):
    """With Stable Diffusion's own schedule."""
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | {"set_alpha_to_one": False, "timestep_spacing": "trailing"})
    (second,) = errors_of(lambda n, z, f: follow_multistep(multistep_path(schedule, n, direction), z, f), schedule, direction, [10])
    (first,) = errors_of(lambda n, z, f: follow(schedule.path(n, direction), z, f), schedule, direction, [40])
    assert second < first


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}"):
        multistep_path(NoiseSchedule.from_config(STABLE_DIFFUSION), steps, "invert")
