import math

import pytest
import torch

from modules.detectors.pairs import pair_ranking_loss


def by_loops(scores, labels, pairs):
    terms = []
    for i, (fake, pair) in enumerate(zip(labels.tolist(), pairs.tolist(), strict=True)):
        for j in range(len(labels)):
            if fake == 1 and labels[j] == 0 and pair >= 0 and pairs[j] == pair:
                terms.append(math.log1p(math.exp(-(float(scores[i]) - float(scores[j])))))
    return sum(terms) / len(terms)


def test_it_is_the_mean_over_all_real_and_fake_of_a_pair():
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
    labels, pairs = torch.randint(0, 2, (40,), generator=generator), torch.randint(-1, 8, (40,), generator=generator)
    assert float(pair_ranking_loss(scores, labels, pairs)) == pytest.approx(by_loops(scores, labels, pairs), abs=1e-12)


def test_images_without_a_pair_do_not_belong_together():
    scores, labels, pairs = torch.tensor([5.0, 0.0, 1.0, 2.0]), torch.tensor([0, 1, 0, 1]), torch.tensor([-1, -1, 3, 3])
    assert float(pair_ranking_loss(scores, labels, pairs)) == pytest.approx(math.log1p(math.exp(-1)))


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 1]])
def test_no_pair_costs_nothing_and_still_has_a_gradient(labels):
    scores = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    loss = pair_ranking_loss(scores, torch.tensor(labels), torch.tensor([0, 1, -1]))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [0, 0, 0]


def test_a_step_along_it_parts_the_pair():
    scores = torch.tensor([0.0, 0.0], requires_grad=True)
    pair_ranking_loss(scores, torch.tensor([0, 1]), torch.tensor([0, 0])).backward()
    assert scores.grad.tolist() == [0.5, -0.5]
