import pytest
import torch
from torch.nn.functional import gelu

from modules.detectors import LinearProbe, MLPProbe
from modules.seeds import SEED_VARIABLE
from tests.modules.detectors.heads import clouds, fitted, stored


def rings(seed=0, count=400):
    """Reals within fakes: no line parts them."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 2
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return directions * (0.5 + 2.0 * targets[:, None]), targets


def adam(lr):
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr)


def right(head, vectors, targets):
    with torch.no_grad():
        return float(((head.score(head({"embedding": vectors})) > 0).long() == targets).double().mean())


def test_it_learns_what_no_linear_head_does(tmp_path):
    linear, _ = fitted(LinearProbe(optimizer=adam(0.02)), tmp_path, rings(), rings(1), batch_size=40)
    deep, _ = fitted(MLPProbe(hidden=32, optimizer=adam(0.02)), tmp_path, rings(), rings(1), batch_size=8)
    assert right(linear, *rings(2)) < 0.7
    assert right(deep, *rings(2)) > 0.97


def test_classes_are_learnt_and_come_back(tmp_path):
    head, _ = fitted(MLPProbe(target="family", hidden=16, optimizer=adam(0.02)), tmp_path, clouds(), clouds(seed=1), batch_size=4)
    vectors, targets = clouds(seed=2)
    with torch.no_grad():
        outputs = head({"embedding": vectors})
        assert float((outputs.argmax(1) == targets).double().mean()) > 0.95
        for again in stored(head, tmp_path):
            assert torch.equal(again({"embedding": vectors}), outputs)


def test_its_first_numbers_depend_on_the_runs_seed_only(monkeypatch):
    monkeypatch.setenv(SEED_VARIABLE, "3")
    first = MLPProbe(4, hidden=8).state_dict()
    torch.rand(17)
    state = torch.random.get_rng_state()
    again = MLPProbe(4, hidden=8).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setenv(SEED_VARIABLE, "4")
    other = MLPProbe(4, hidden=8).state_dict()
    assert torch.equal(first["layers.0.weight"], again["layers.0.weight"])
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_it_is_two_layers_and_an_activation():
    head = MLPProbe(4, hidden=8, activation="gelu").eval()
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    first, last = head.layers[0], head.layers[3]
    expected = gelu(vectors @ first.weight.T + first.bias) @ last.weight.T + last.bias
    assert torch.allclose(head({"embedding": vectors}), expected, atol=1e-6)


def test_dropout_is_of_training_only():
    head = MLPProbe(4, hidden=64, dropout=0.5)
    batch = {"embedding": torch.ones(2, 4)}
    assert not torch.equal(head.train()(batch), head(batch))
    assert torch.equal(head.eval()(batch), head(batch))


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"activation": "tanh"}, {"dropout": 1.0}])
def test_wrong_options_are_named(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"model\.{name} is {value!r}"):
        MLPProbe(**wrong)
