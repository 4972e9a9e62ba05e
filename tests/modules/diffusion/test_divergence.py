import itertools

import pytest
import torch

from modules.diffusion.divergence import coordinates, directional, exact, mean_and_error, rademacher
from modules.errors import ModelError
from tests.modules.diffusion.closed_forms import Mixture, divergence_of_mixture

SHAPES = [(1, 2, 4), (2, 4, 4), (2, 8, 8)]
TIMESTEP = 20


def states_of(count, shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def field_of(model, timestep=TIMESTEP):
    level = model.level(timestep)
    return lambda rows, positions: model.score(rows, level, None)


def probes(shape, count, images, seed=0, choose=rademacher):
    return torch.stack([choose(shape, count, torch.Generator().manual_seed(seed + i)) for i in range(images)])


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_divergence_of_a_gaussian_is_minus_the_trace_of_the_precision(shape):
    model = Mixture.gaussian(torch.Size(shape).numel())
    alpha = float(model.schedule.alphas_cumprod[TIMESTEP])
    truth = -torch.trace(torch.linalg.inv(model.at(alpha)[1][0]))
    found = exact(field_of(model), states_of(3, shape), rows_at_once=50)
    torch.testing.assert_close(found, truth.expand(3), rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_divergence_of_a_mixture_is_the_formula_and_what_reverse_mode_gives(shape):
    model = Mixture.of(3, torch.Size(shape).numel())
    alpha = float(model.schedule.alphas_cumprod[TIMESTEP])
    states = states_of(3, shape)
    found = exact(field_of(model), states, rows_at_once=50)
    torch.testing.assert_close(found, divergence_of_mixture(model, states.flatten(1), alpha), rtol=1e-9, atol=0)
    hessian = torch.autograd.functional.hessian(lambda z: model.log_density(z[None], alpha)[0], states[0].flatten())
    torch.testing.assert_close(found[0], torch.trace(hessian), rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_hutchinson_has_the_variance_of_its_formula_and_no_bias(shape):
    model = Mixture.of(3, torch.Size(shape).numel())
    states = states_of(1, shape)
    count = 4000
    samples = directional(field_of(model), states, probes(shape, count, 1), 1e-4, rows_at_once=2000)[0]
    jacobian = torch.autograd.functional.jacobian(lambda z: field_of(model)(z[None], None)[0].flatten(), states[0]).flatten(1)
    symmetric = (jacobian + jacobian.T) / 2
    variance = 2 * (symmetric.square().sum() - symmetric.diagonal().square().sum())
    assert float(samples.var() / variance) == pytest.approx(1, abs=0.15)
    assert abs(float(samples.mean() - torch.trace(jacobian))) < 4 * float(variance / count) ** 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_discretisation_bias_apart_from_sampling_falls_with_the_square_of_the_step(shape):
    dimension = torch.Size(shape).numel()
    model = Mixture.of(3, dimension)
    states = states_of(2, shape)
    every = probes(shape, dimension, 2, choose=coordinates)  # all coordinates: no sampling error is left
    truth = exact(field_of(model, 300), states, 100)
    errors = [(directional(field_of(model, 300), states, every, h, 100).sum(1) - truth).abs() for h in (0.2, 0.1, 0.05)]
    assert bool((errors[0] > 1e-9).all())
    for coarse, fine in itertools.pairwise(errors):
        torch.testing.assert_close(coarse / fine, torch.full_like(fine, 4.0), rtol=0.1, atol=0)


def test_standard_errors_cover_the_truth_as_often_as_they_promise():
    shape, model = (2, 4, 4), Mixture.of(3, 32)
    states = states_of(1, shape).expand(600, *shape)
    truth = exact(field_of(model), states[:1], 100)
    for choose, samples, scale in ((rademacher, 16, 1), (coordinates, 16, 32)):
        found = scale * directional(field_of(model), states, probes(shape, samples, 600, choose=choose), 1e-4, 5000)
        estimate = mean_and_error(found, 32 if choose is coordinates else None)
        inside = ((estimate.value - truth).abs() < 2 * estimate.error).double().mean()
        assert 0.88 < float(inside) < 0.985, choose.__name__


def test_all_coordinates_leave_no_error_and_one_sample_cannot_tell_it():
    samples = torch.rand(3, 8, dtype=torch.float64)
    assert mean_and_error(samples, 8).error.tolist() == [0, 0, 0]
    assert bool(mean_and_error(samples[:, :1]).error.isnan().all())
    torch.testing.assert_close(mean_and_error(samples).error, samples.std(1) / 8**0.5)


def test_without_replacement_the_variance_is_that_of_all_subsets():
    values = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    subsets = torch.stack([values[list(chosen)] for chosen in itertools.combinations(range(6), 3)])
    estimate = mean_and_error(subsets, 6)
    torch.testing.assert_close(estimate.error.square().mean(), estimate.value.var(correction=0))


def test_rows_at_once_bounds_each_call_and_changes_nothing():
    shape, model = (2, 4, 4), Mixture.of(2, 32)
    states, towards = states_of(3, shape), probes((2, 4, 4), 5, 3)
    model.rows = []
    whole = directional(field_of(model), states, towards, 0.1, 1000)
    assert model.rows == [30]  # 2 evaluations for each of 3 x 5 probes, in one batch
    model.rows = []
    torch.testing.assert_close(directional(field_of(model), states, towards, 0.1, 8), whole, rtol=1e-12, atol=0)
    assert max(model.rows) <= 8
    assert sum(model.rows) == 30


def test_each_row_belongs_to_its_image():
    seen = []

    def field(rows, positions):
        seen.append(positions.tolist())
        return rows * positions[:, None]

    states = torch.ones(2, 4, dtype=torch.float64)
    found = directional(field, states, torch.ones(2, 3, 4, dtype=torch.int8), 0.5, 4)
    assert found.tolist() == [[0, 0, 0], [4, 4, 4]]  # vᵀ (i z)' v = i ‖v‖²
    assert seen == [[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]]


def test_directions_are_signs_and_distinct_coordinates():
    signs = rademacher((3, 5), 7, torch.Generator().manual_seed(0))
    assert signs.shape == (7, 3, 5)
    assert set(signs.unique().tolist()) == {-1, 1}
    units = coordinates((3, 5), 15, torch.Generator().manual_seed(0)).flatten(1)
    assert units.sum(0).tolist() == [1] * 15
    assert units.sum(1).tolist() == [1] * 15
    with pytest.raises(ModelError, match="only 15 dimensions"):
        coordinates((3, 5), 16, torch.Generator())
