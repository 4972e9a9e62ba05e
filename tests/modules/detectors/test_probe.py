"""What all heads on cached vectors share."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from modules.detectors import FakeInversion, LinearProbe, MLPProbe, ScoreDetector, SVMProbe
from modules.detectors.samples import Samples
from modules.errors import ModelError
from modules.settings import from_settings
from tests.modules.detectors.heads import clouds, fitted, samples_of, stored

KINDS = (LinearProbe, MLPProbe, SVMProbe)
LEARNING = (LinearProbe, MLPProbe)


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.02)


@pytest.mark.parametrize("target", ["binary", "generator"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learnt_comes_back_with_the_settings(kind, target, tmp_path):
    head = kind(target=target, standardise=True, unknown="distance", unknown_at=0.1)
    train, others = clouds(), {"embedding": clouds(seed=2)[0]}
    fitted(head, tmp_path, train, clouds(seed=1))
    told = head.settings()
    assert told["init_args"]["dimension"] == 5
    assert told["init_args"]["classes"] == (None if target == "binary" else ["real", "gan", "diffusion"])
    again = from_settings(told)
    again.load_state_dict(head.state_dict())
    with torch.no_grad():
        expected = head(others)
        for other in (again.eval(), *stored(head, tmp_path)):
            assert other.settings() == told
            assert torch.equal(other(others), expected)
            for name, values in head.told(expected, others).items():
                torch.testing.assert_close(other.told(expected, others)[name], values, rtol=0, atol=0, equal_nan=True)


def test_a_family_head_learns_what_scikit_learn_does(tmp_path):
    train = clouds(4, count=200, shift=0.7)
    head = LinearProbe(target="family", optimizer=lambda parameters: torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe"))
    fitted(head, tmp_path, train, train, epochs=4, batch_size=200)
    reference = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(train[0].numpy(), train[1].numpy())
    with torch.no_grad():
        likely = head({"embedding": train[0]}).softmax(1)
    assert np.abs(likely.numpy() - reference.predict_proba(train[0].numpy())).max() < 0.01


def test_standardised_training_does_not_depend_on_the_scale_of_the_vectors(tmp_path):
    vectors, targets = clouds(shift=0.7)
    factors, shifts = torch.tensor([1.0, 100.0, 0.01, 1.0, 3.0]), torch.tensor([5.0, 0.0, 1.0, -30.0, 0.0])
    scores = []
    for change in (lambda x: x, lambda x: x * factors + shifts):
        head = LinearProbe(standardise=True, optimizer=adam)
        fitted(head, tmp_path, (change(vectors), targets), (change(vectors), targets))
        scores.append(head.score(head({"embedding": change(vectors)})).detach())
    assert torch.allclose(scores[0], scores[1], atol=1e-3)
    assert float(scores[0].std()) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_several_vectors_are_put_one_after_the_other(kind):
    vectors, targets = clouds(count=60)
    parts = {"clip": vectors[:, :2], "colour": vectors[:, 2:].half()}
    whole, split = kind(feature="both"), kind(feature=["clip", "colour"])
    labels = (targets != 0).long()
    whole.begin(samples_of(torch.cat([vectors[:, :2], vectors[:, 2:].half().float()], 1), targets, binary=True, feature="both"))
    split.begin(Samples(parts, labels, labels, [""] * 60))
    assert split.features == ["clip", "colour"]
    assert split.dimension == 5
    both = {"both": torch.cat([parts["clip"], parts["colour"].float()], 1)}
    assert torch.equal(whole.eval()(both), split.eval()(parts))


def test_class_probabilities_are_calibrated_on_validation(tmp_path):
    train, validation = clouds(4, count=200, shift=0.7), clouds(4, count=300, seed=1, shift=0.7)
    head = LinearProbe(target="family", optimizer=adam)
    head, trainer = fitted(head, tmp_path, train, validation)
    with torch.no_grad():
        head.layer.weight *= 40  # far too sure of itself
        trainer.validate(head, trainer.val_dataloaders, verbose=False)
        outputs = head({"embedding": validation[0]})
    told = head.told(outputs, {"embedding": validation[0]})
    known = (told["class"] == validation[1]).double()
    assert float(head.answers.temperature) > 5
    assert float(told["class_probability"].mean()) == pytest.approx(float(known.mean()), abs=0.05)
    assert float(outputs.softmax(1).amax(1).mean()) > float(known.mean()) + 0.1


@pytest.mark.parametrize(("unknown", "kind"), [("energy", LinearProbe), ("distance", LinearProbe), ("distance", SVMProbe)])
def test_images_unlike_all_are_unknown_at_the_wanted_rate(unknown, kind, tmp_path):
    head = kind(target="family", unknown=unknown, unknown_at=0.1)
    fitted(head, tmp_path, clouds(count=300), clouds(count=300, seed=1))
    near, far = ({"embedding": vectors} for vectors in (clouds(count=600, seed=2)[0], torch.zeros(20, 5) + 0.5))
    told = [head.told(head(batch).detach(), batch) for batch in (near, far)]
    assert 0.04 < float((told[0]["class"] < 0).double().mean()) < 0.17
    assert float(told[1]["novelty"].mean()) > float(told[0]["novelty"].mean())
    assert bool(told[0]["class_probability"][told[0]["class"] < 0].isnan().all())


def test_a_binary_head_measures_novelty_and_names_no_class(tmp_path):
    head, _ = fitted(LinearProbe(unknown="distance"), tmp_path, clouds(), clouds(seed=1))
    batch = {"embedding": torch.cat([clouds(seed=2)[0], torch.full((1, 5), 99.0)])}
    told = head.told(head(batch), batch)
    assert told.keys() == {"novelty"}
    assert int(told["novelty"].argmax()) == len(batch["embedding"]) - 1
    assert math.isfinite(float(head.answers.unknown_above))


def test_predictions_carry_what_is_told(tmp_path):
    head, trainer = fitted(LinearProbe(target="family", unknown="energy", unknown_at=0.1), tmp_path, clouds(), clouds(seed=1))
    rows = trainer.predict(head, trainer.val_dataloaders)[0]
    assert rows.keys() == {"key", "score", "class", "class_probability", "novelty"}
    kinds = [rows[name].dtype for name in ("score", "class", "class_probability", "novelty")]
    assert kinds == [torch.float64, torch.int64, torch.float64, torch.float64]


@pytest.mark.parametrize(("fpr", "value"), [(None, 0.0), (0.1, None)])
def test_without_a_rate_the_threshold_is_the_boundary(fpr, value, tmp_path):
    head, _ = fitted(LinearProbe(threshold_fpr=fpr), tmp_path, clouds(), clouds(seed=1))
    assert head.threshold.fpr == fpr
    assert head.threshold.n == 40
    assert head.threshold.value == value if fpr is None else head.threshold.value != 0
    assert stored(head, tmp_path)[0].threshold == head.threshold


def test_pairs_add_their_loss():
    outputs, batch = torch.randn(4, 3), {"label": torch.tensor([0, 1, 0, 1]), "pair": torch.tensor([0, 0, 1, 1])}
    batch["target"] = torch.tensor([0, 2, 0, -1])
    plain, paired = (LinearProbe(5, target="family", classes=["real", "a", "b"], pair_weight=weight) for weight in (0.0, 2.0))
    scores = plain.score(outputs)
    margins = [float(scores[1] - scores[0]), float(scores[3] - scores[2])]
    ranking = sum(math.log1p(math.exp(-margin)) for margin in margins) / 2
    assert float(paired.loss(outputs, batch)) == pytest.approx(float(plain.loss(outputs, batch)) + 2 * ranking, abs=1e-5)
    assert float(plain.loss(outputs[:3], {"target": batch["target"][:3]})) == pytest.approx(
        float(cross_entropy(outputs[:3], batch["target"][:3]))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_are_given_must_be_those_of_the_images(kind):
    head = kind(target="generator", classes=["real", "sdxl", "dalle"])
    head.learn_classes(["real", "dalle", "sdxl"])
    assert head.classes == ["real", "sdxl", "dalle"]
    with pytest.raises(ModelError, match=r"model\.classes are real, sdxl, dalle, and the training images are of real, sdxl"):
        head.learn_classes(["real", "sdxl"])


@pytest.mark.parametrize("head", [LinearProbe(), ScoreDetector("x"), FakeInversion(backbone="resnet18", pretrained=False)])
def test_binary_detectors_have_no_classes(head):
    assert (head.target, head.classes) == ("binary", None)
    assert head.reads_all is isinstance(head, LinearProbe)
    with pytest.raises(ModelError, match="tells real from fake only"):
        head.learn_classes(["real", "gan"])


@pytest.mark.parametrize("classes", [["gan", "real"], ["real"], ["real", "gan", "gan"], []])
def test_classes_that_cannot_be_are_refused(classes):
    with pytest.raises(ModelError, match=r"model\.classes are .*`real` must come first"):
        LinearProbe(target="family", classes=classes)
    with pytest.raises(ModelError, match=r"`real` must come first"):
        LinearProbe(target="family").learn_classes(classes)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": "artist"}, r"model\.target is 'artist'"),
        ({"unknown": "guess"}, r"model\.unknown is 'guess'"),
        ({"unknown": "energy"}, "needs the logits of several classes"),
        ({"unknown_at": 0.0}, r"model\.unknown_at is 0"),
        ({"pair_weight": -1.0}, r"model\.pair_weight is -1"),
        ({"feature": []}, r"model\.feature is \[\]"),
        ({"feature": ["a", "a"]}, r"model\.feature is \['a', 'a'\]"),
        ({"dimension": 0}, r"model\.dimension is 0"),
        ({"classes": ["real", "gan"]}, r"model\.target is binary"),
        ({"threshold_fpr": 1.5}, r"threshold_fpr is 1\.5"),
    ],
)
@pytest.mark.parametrize("kind", LEARNING)
def test_wrong_options_are_named(kind, wrong, words):
    with pytest.raises(ValueError, match=words):
        kind(**wrong)


@pytest.mark.parametrize("kind", KINDS)
class TestTrainingImagesThatCannotBeLearntFrom:
    def test_one_class_only(self, kind):
        vectors = clouds()[0]
        with pytest.raises(ModelError, match=r"no training image of real with features \(there are 120 generated\)"):
            kind().begin(samples_of(vectors, torch.ones(120, dtype=torch.long), binary=True))

    def test_an_empty_class(self, kind):
        head = kind(target="family", classes=["real", "gan", "flow", "diffusion"])
        vectors, targets = clouds()
        with pytest.raises(ModelError, match=r"no training image of diffusion .*\(there are 40 real, 40 gan, 40 flow\).*model\.classes"):
            head.begin(samples_of(vectors, targets))

    def test_no_image(self, kind):
        with pytest.raises(ModelError, match=r"no training image with the features embedding \(model\.feature\)"):
            kind().begin(samples_of(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), binary=True))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_values_that_are_not_finite(self, kind, value):
        vectors, targets = clouds()
        vectors[[3, 50], 2] = value
        with pytest.raises(ModelError, match=r"2 of 120 training images have values of embedding \(model\.feature\) that are not finite"):
            kind().begin(samples_of(vectors, targets, binary=True))

    def test_another_dimension(self, kind):
        with pytest.raises(ValueError, match=r"'embedding' has shape \[5\] an image, and model\.dimension is 7; they must agree"):
            kind(7).begin(samples_of(*clouds(), binary=True))

    def test_pictures(self, kind):
        pictures = samples_of(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]), binary=True)
        with pytest.raises(ValueError, match=r"'embedding' has shape \[3, 8, 8\] an image, and a vector is needed: set model\.feature"):
            kind().begin(pictures)

    def test_a_feature_that_is_not_there(self, kind):
        with pytest.raises(ValueError, match=r"model\.feature names clip; there are embedding"):
            kind(feature="clip").begin(samples_of(*clouds(), binary=True))

    def test_classes_that_nobody_told(self, kind):
        with pytest.raises(ModelError, match=r"model\.target is family and no classes are known"):
            kind(target="family").begin(samples_of(*clouds()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_saw_nothing_says_so(kind):
    with pytest.raises(ModelError, match="has not seen its training images yet"):
        kind()({"embedding": torch.zeros(2, 5)})
    with pytest.raises(ModelError, match=r"model\.standardise is true and no training image was seen"):
        kind(5, standardise=True)({"embedding": torch.zeros(2, 5)})


def test_looking_twice_is_looking_once():
    head = LinearProbe(target="family", standardise=True, unknown="distance")
    head.learn_classes(["real", "gan", "diffusion"])
    head.begin(samples_of(*clouds()))
    before = {name: tensor.clone() for name, tensor in head.state_dict().items() if "unknown" not in name}
    head.learn_classes(["real", "gan", "diffusion"])
    head.begin(samples_of(*clouds()))
    assert all(torch.equal(head.state_dict()[name], tensor) or bool(tensor.isnan().all()) for name, tensor in before.items())
