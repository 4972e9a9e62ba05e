import math
import multiprocessing

import pytest
import torch
import torch.multiprocessing as mp
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy

from modules.detectors.class_answers import Answers, ValidationAnswers, class_loss, collapse, fit_temperature
from tests.modules.detectors import answers_of_two_ranks as two_ranks


def logits_of(n=300, classes=4, scale=3.0, seed=0, right=1.5):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (n,), generator=generator)
    logits = scale * torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), targets] += right
    return logits, targets


def test_the_collapse_is_the_log_odds_of_float64_probabilities():
    logits, _ = logits_of(n=2000)
    real = logits.double().softmax(1)[:, 0]
    expected = torch.log(1 - real) - torch.log(real)
    told = collapse(logits)
    assert told.dtype == torch.float64
    assert torch.allclose(told, expected, rtol=0, atol=1e-9)


def test_the_collapse_keeps_the_order_where_probabilities_are_1():
    fake = torch.linspace(20, 4000, 500)
    logits = torch.stack([-fake, fake, fake / 2], 1)
    assert bool((1 - logits.softmax(1)[:, 0] == 1).all())
    for sign in (1, -1):
        told = collapse(sign * logits)
        assert bool(told.isfinite().all())
        assert bool((told.diff() * sign > 0).all())


def test_known_classes_cost_their_cross_entropy():
    logits, targets = logits_of()
    assert float(class_loss(logits, targets)) == pytest.approx(float(cross_entropy(logits, targets)), rel=1e-6)


def test_a_fake_of_no_class_costs_what_is_known_of_it():
    logits, targets = logits_of()
    targets[::3] = -1
    likely = logits.double().softmax(1)
    costs = [-math.log(1 - row[0]) if target < 0 else -math.log(row[target]) for row, target in zip(likely, targets, strict=True)]
    assert float(class_loss(logits, targets)) == pytest.approx(sum(costs) / len(costs), rel=1e-6)


def test_a_fake_of_no_class_pulls_finitely_where_its_probability_is_0():
    logits = torch.tensor([[300.0, 0.0, -5.0]], requires_grad=True)
    class_loss(logits, torch.tensor([-1])).backward()
    assert logits.grad[0].tolist() == pytest.approx([1, -1, 0], abs=1e-2)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_the_temperature_has_the_least_negative_log_likelihood(scale):
    logits, targets = logits_of(n=2000)
    logits = logits.double() * scale
    reference = minimize(lambda slope: float(cross_entropy(logits / scale * slope[0], targets)), [1.0], method="Nelder-Mead")
    assert fit_temperature(logits, targets) == pytest.approx(scale / reference.x[0], rel=1e-2)


def test_temperatures_are_finite_where_every_image_is_right_or_nothing_is_learnt():
    logits = 5 * torch.eye(3).repeat(20, 1)
    assert 0 < fit_temperature(logits, torch.arange(3).repeat(20)) < 5
    assert fit_temperature(torch.zeros(6, 3), torch.arange(3).repeat(2)) == 1
    assert math.isnan(fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)))
    assert math.isnan(fit_temperature(torch.full((2, 3), torch.nan), torch.tensor([0, 1])))


def test_the_class_its_probability_and_what_is_unknown():
    logits, targets = logits_of()
    novelty = torch.arange(300.0)
    targets[:50] = -1
    answers = Answers()
    answers.fit(logits, novelty, targets, 0.1)
    assert float(answers.unknown_above) == 50 + 226 - 1  # the 226th smallest of 250
    assert float(answers.temperature) == fit_temperature(logits[50:], targets[50:])
    chosen, likely = answers(logits, novelty)
    unknown = novelty > 275
    assert chosen[unknown].tolist() == [-1] * 24
    assert torch.equal(chosen[~unknown], logits.argmax(1)[~unknown])
    assert bool(likely[unknown].isnan().all())
    expected = (logits.double() / answers.temperature).softmax(1).amax(1)
    assert torch.allclose(likely[~unknown], expected[~unknown])
    assert likely.dtype == torch.float64
    assert torch.equal(answers(logits, None)[0], logits.argmax(1))


def test_too_few_images_make_nothing_unknown_and_say_so(caplog):
    answers = Answers()
    logits, targets = logits_of(n=10)
    answers.fit(logits, torch.rand(10), targets, 0.05)
    assert "--model.unknown_at 0.05 needs at least 19 validation images of known classes, there are 10" in caplog.text
    assert int(answers(logits, torch.full((10,), 1e9))[0].min()) >= 0


def test_no_known_image_means_no_probability_and_says_so(caplog):
    answers = Answers()
    logits, _ = logits_of(n=10)
    answers.fit(logits, torch.full((10,), torch.nan), torch.full((10,), -1), 0.05)
    assert "there are no class probabilities" in caplog.text
    assert bool(answers(logits, None)[1].isnan().all())


def test_two_processes_keep_what_one_does(tmp_path):
    multiprocessing.set_forkserver_preload(["modules.detectors.class_answers"])
    mp.start_processes(two_ranks.run, args=(tmp_path / "meeting", str(tmp_path)), nprocs=2, start_method="forkserver")
    outputs, novelty, targets = two_ranks.data()
    for kind in ("uneven", "empty"):
        for rank in (0, 1):
            told = torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True)
            assert all(torch.equal(a, b) for a, b in zip(told, (outputs.double(), novelty.double(), targets), strict=True))


def test_novelty_that_is_not_measured_is_kept_as_nan():
    kept = ValidationAnswers(1)
    kept.update(torch.zeros(2, 1), None, torch.tensor([0, 1]), torch.tensor([1, 0]))
    outputs, novelty, targets = kept.compute()
    assert outputs.shape == (2, 1)
    assert bool(novelty.isnan().all())
    assert targets.tolist() == [1, 0]
