import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from modules.detectors.exact import Standardiser
from modules.detectors.novelty import Mahalanobis, energy, shrunk_covariance, unknown_above
from modules.errors import ModelError
from tests.modules.detectors.heads import clouds


def test_energy_is_minus_the_logarithm_of_the_summed_exponentials():
    logits = torch.tensor([[1.0, 2.0, -3.0], [800.0, 0.0, 0.0]])
    first = -math.log(math.exp(1) + math.exp(2) + math.exp(-3))
    assert energy(logits).tolist() == pytest.approx([first, -800.0])


@pytest.mark.parametrize("count", [300, 12])
def test_distance_is_scikit_learns_to_the_nearest_class(count):
    vectors, targets = clouds(count=count, dimension=8)
    measured = Mahalanobis(8, 3)
    measured.fit(vectors, targets)
    values, classes = vectors.double().numpy(), targets.numpy()
    means = np.stack([values[classes == number].mean(0) for number in range(3)])
    reference = LedoitWolf(assume_centered=True).fit(values - means[classes])
    others = clouds(count=20, dimension=8, seed=1)[0] + 100
    distances = np.stack([reference.mahalanobis(others.double().numpy() - mean) for mean in means])
    assert measured(others).numpy() == pytest.approx(np.sqrt(distances.min(0)), rel=1e-9)


@pytest.mark.parametrize("kind", [torch.randn, torch.rand])
@pytest.mark.parametrize(("count", "dimension"), [(5, 40), (60, 40), (3000, 4), (2, 3), (10, 1)])
def test_the_covariance_is_shrunk_as_scikit_learn_does(count, dimension, kind):
    rows = kind(count, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1, dimension + 1)
    reference = LedoitWolf(assume_centered=True).fit(rows.numpy()).covariance_
    assert np.abs(shrunk_covariance(rows.split(7)).numpy() - reference).max() < 1e-10 * np.abs(reference).max()


def test_vectors_are_prepared_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr("modules.detectors.novelty.ROWS_AT_ONCE", 32)
    vectors, targets = clouds()
    first, second = Mahalanobis(5, 3), Mahalanobis(5, 3)
    first.fit(2 * vectors.double() + 1, targets)
    second.fit(vectors, targets, lambda part: 2 * part.double() + 1)
    assert torch.equal(first(vectors), second(vectors))


def test_fakes_of_no_class_do_not_move_it():
    vectors, targets = clouds()
    first, second = Mahalanobis(5, 3), Mahalanobis(5, 3)
    first.fit(vectors, targets)
    second.fit(torch.cat([vectors, torch.full((7, 5), 1e3)]), torch.cat([targets, torch.full((7,), -1)]))
    assert torch.allclose(first(vectors), second(vectors), rtol=1e-12)


def test_a_constant_column_does_not_divide_by_zero():
    vectors, targets = clouds()
    vectors[:, 2] = 4.0
    measured = Mahalanobis(5, 3)
    measured.fit(vectors, targets)
    assert bool(measured(vectors).isfinite().all())


def test_classes_without_any_spread_are_refused():
    with pytest.raises(ModelError, match=r"model\.unknown is distance, but the training images of each class all have the same"):
        Mahalanobis(5, 3).fit(*clouds(spread=0.0))


def test_the_threshold_is_the_conformal_quantile():
    values = torch.randperm(99, generator=torch.Generator().manual_seed(0)).double()
    assert unknown_above(values, 0.05) == 94  # the 95th smallest of 0, …, 98
    assert unknown_above(values[:19], 0.05) == float(values[:19].max())
    assert unknown_above(values[:18], 0.05) == math.inf
    assert unknown_above(values[:0], 0.5) == math.inf


def test_standardised_vectors_have_mean_0_and_deviation_1():
    vectors = clouds(count=500)[0] * torch.tensor([1.0, 1e4, 1e-4, 1.0, 1.0]) + torch.tensor([0.0, 1e5, 0.0, 0.0, 0.0])
    vectors[:, 3] = 0.1
    standardiser = Standardiser(5)
    assert not standardiser.fitted
    standardiser.fit(vectors)
    values = standardiser(vectors)
    assert values.mean(0).tolist() == pytest.approx([0] * 5, abs=1e-9)
    assert values.std(0, correction=0).tolist() == pytest.approx([1, 1, 1, 0, 1], abs=1e-9)


def test_doubles_stay_doubles_in_a_detector_of_another_type():
    standardiser = torch.nn.ModuleDict({"inner": Standardiser(5)}).to(torch.bfloat16)["inner"]
    assert standardiser.mean.dtype == torch.float64
    assert standardiser.to("meta").mean.device.type == "meta"
