import math

import pytest
import torch
from scipy.linalg import hadamard, sqrtm
from torch.distributions import MultivariateNormal

from modules.diffusion.ddim import noise_weights
from modules.diffusion.likelihood import denoise, invert, log_standard_normal
from tests.modules.diffusion.closed_forms import Mixture

DIMENSIONS = [8, 16, 64]


def predict_of(model):
    return lambda states, level, images: model.predict_noise(states, level, None)


def all_directions(dimension, images):
    """Orthogonal signs: the mean of vᵀ A v over all of them is the trace of A, without any sampling error."""
    signs = torch.tensor(hadamard(dimension)).reshape(dimension, 1, 1, dimension)
    return signs.expand(images, *signs.shape)


def start(model, images=3):
    law = MultivariateNormal(model.means[0], model.covariances[0])
    torch.manual_seed(3)
    return law.sample((images,)).reshape(images, 1, 1, -1)


def recursion(model, path, states):
    """z_T, the exact log|det| and its first-order form, by matrices in float64."""
    flat, log_determinant, first_order = states.flatten(1), 0.0, 0.0
    dimension = flat.shape[1]
    for step in path:
        k, c = noise_weights(step.alpha_from, step.alpha_to)
        alpha = float(model.schedule.alphas_cumprod[step.timestep])
        means, covariances = model.at(alpha)
        slope = math.sqrt(1 - alpha) * torch.linalg.inv(covariances[0])
        jacobian = k * torch.eye(dimension, dtype=torch.float64) + c * slope
        flat = k * flat + c * (flat - means[0]) @ slope
        log_determinant += float(torch.linalg.slogdet(jacobian)[1])
        first_order += dimension * math.log(k) + c / k * float(torch.trace(slope))
    return flat, log_determinant, first_order


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("steps", [10, 50, 500])
def test_inversion_and_stretch_are_those_of_the_discrete_recursion(dimension, steps):
    model = Mixture.gaussian(dimension)
    path = model.schedule.path(steps, "invert")
    states = start(model)
    found = invert(path, states, predict_of(model), all_directions(dimension, len(states)))
    noise, _, first_order = recursion(model, path, states)
    torch.testing.assert_close(found.noise.flatten(1), noise, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.log_determinant.mean(1), torch.full((3,), first_order, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_the_first_order_stretch_comes_near_the_determinant_with_more_steps():
    model = Mixture.gaussian(16)
    gaps = []
    for steps in (25, 100, 400):
        _, determinant, first_order = recursion(model, model.schedule.path(steps, "invert"), start(model))
        gaps.append(abs(determinant - first_order))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[2] < 0.2


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_noise_and_likelihood_approach_those_of_the_continuous_flow(dimension):
    model = Mixture.gaussian(dimension)
    states = start(model)
    alphas = model.schedule.alphas_cumprod
    mean, first, last = model.means[0], model.at(float(alphas[0]))[1][0], model.at(float(alphas[-1]))[1][0]
    root = torch.tensor(sqrtm((last @ torch.linalg.inv(first)).numpy()).real)
    truth = float(alphas[-1]) ** 0.5 * mean + (states.flatten(1) - float(alphas[0]) ** 0.5 * mean) @ root.T
    density = model.log_density(states.flatten(1), float(alphas[0])) / dimension
    errors, biases = [], []
    for steps in (50, 500):
        found = invert(model.schedule.path(steps, "invert"), states, predict_of(model), all_directions(dimension, len(states)))
        errors.append(float((found.noise.flatten(1) - truth).norm() / truth.norm()))
        likelihood = (log_standard_normal(found.noise) + found.log_determinant.mean(1)) / dimension
        biases.append(float((likelihood - density).abs().max()))
    assert 0.02 < errors[0] < 0.12  # Stable Diffusion's schedule at 50 steps
    assert errors[1] < errors[0] / 4
    assert biases[1] < biases[0] / 3
    assert biases[1] < 0.05


def test_few_probes_scatter_around_the_trace_as_hutchinson_says():
    model, dimension = Mixture.gaussian(16), 16
    path = model.schedule.path(20, "invert")
    states = start(model, 1)
    signs = torch.randint(0, 2, (1, 3000, 1, 1, dimension), generator=torch.Generator().manual_seed(0)) * 2 - 1
    samples = invert(path, states, predict_of(model), signs).log_determinant[0]
    weighted = torch.zeros(dimension, dimension, dtype=torch.float64)
    for step in path:
        k, c = noise_weights(step.alpha_from, step.alpha_to)
        alpha = float(model.schedule.alphas_cumprod[step.timestep])
        weighted += c / k * math.sqrt(1 - alpha) * torch.linalg.inv(model.at(alpha)[1][0])
    variance = 2 * (weighted.square().sum() - weighted.diagonal().square().sum())
    assert float(samples.var() / variance) == pytest.approx(1, abs=0.15)
    assert abs(float(samples.mean()) - recursion(model, path, states)[2]) < 4 * float(variance / 3000) ** 0.5


def test_going_back_undoes_the_inversion_with_enough_steps():
    model = Mixture.gaussian(16)
    states = start(model)
    for steps, tolerance in ((50, 0.25), (500, 0.03)):
        noise = invert(model.schedule.path(steps, "invert"), states, predict_of(model)).noise
        back = denoise(model.schedule.path(steps, "denoise"), noise, predict_of(model))
        assert float((back - states).norm() / states.norm()) < tolerance


def test_the_standard_normal_is_scipys():
    from scipy.stats import multivariate_normal

    states = start(Mixture.gaussian(16))
    expected = multivariate_normal(cov=torch.eye(16).numpy()).logpdf(states.flatten(1).numpy())
    torch.testing.assert_close(log_standard_normal(states), torch.tensor(expected))


def test_one_batch_a_step_holds_the_states_and_all_probes():
    model = Mixture.gaussian(8)
    model.rows = []
    invert(model.schedule.path(5, "invert"), start(model), predict_of(model), all_directions(8, 3)[:, :2])
    assert model.rows == [3 * (1 + 2 * 2)] * 5
