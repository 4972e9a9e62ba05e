import numpy as np
import pytest
import torch
from sklearn.multiclass import OneVsOneClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from modules.detectors import SVMProbe
from modules.errors import ModelError
from tests.modules.detectors.heads import clouds, fitted, samples_of, stored


def names_of(classes):
    return ["real", *(f"generator-{i}" for i in range(1, classes))]


def fitted_to(vectors, targets, **options):
    head = SVMProbe(target="family", **options)
    head.learn_classes(names_of(int(targets.max()) + 1))
    head.begin(samples_of(vectors, targets))
    return head


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 18])
@pytest.mark.filterwarnings("ignore:Liblinear failed")
def test_stored_heads_decide_as_scikit_learn_does(classes, standardise, tmp_path):
    vectors, targets = clouds(classes, count=18 * 12, dimension=7, shift=1.0)
    vectors = torch.cat([vectors * 4 + 2, vectors[:30] * 4 + 2])
    targets = torch.cat([targets, targets[:30]])
    scaled = StandardScaler().fit(vectors.double().numpy()) if standardise else None
    reference = OneVsOneClassifier(LinearSVC(random_state=0, C=0.5))
    reference.fit(vectors.double().numpy() if scaled is None else scaled.transform(vectors.double().numpy()), targets.numpy())
    others = torch.cat([clouds(classes, count=200, dimension=7, seed=1, shift=1.0)[0] * 4 + 2, vectors])
    values = others.double().numpy()
    expected = reference.decision_function(values if scaled is None else scaled.transform(values))
    head = fitted_to(vectors, targets, standardise=standardise, c=0.5)
    for again in stored(head, tmp_path):
        told = again({"embedding": others})
        assert told.dtype == torch.float64
        assert told.shape == (len(others), classes)
        decided = told[:, 1] if classes == 2 else told
        assert np.abs(decided.numpy() - expected).max() < 1e-5
        chosen = again.told(told, {"embedding": others})["class"]
        assert chosen.tolist() == reference.predict(values if scaled is None else scaled.transform(values)).tolist()


@pytest.mark.parametrize("standardise", [False, True])
def test_a_stored_binary_head_decides_as_scikit_learn_does(standardise, tmp_path):
    vectors, targets = clouds(3, count=90, shift=0.5)
    labels = (targets != 0).long()
    scaled = StandardScaler(with_mean=standardise, with_std=standardise).fit(vectors.double().numpy())
    machine = LinearSVC(random_state=0, class_weight="balanced").fit(scaled.transform(vectors.double().numpy()), labels.numpy())
    head = SVMProbe(standardise=standardise, class_weight="balanced")
    head.begin(samples_of(vectors, targets, binary=True))
    others = clouds(3, seed=1)[0]
    expected = machine.decision_function(scaled.transform(others.double().numpy()))
    for again in stored(head, tmp_path):
        score = again.score(again({"embedding": others}))
        assert np.abs(score.numpy() - expected).max() < 1e-5
        assert again.told(score, {"embedding": others}) == {}


def test_votes_decide_before_confidences():
    head = fitted_to(*clouds(4, count=120))
    outputs = head({"embedding": clouds(4, count=40, seed=5, spread=4.0)[0]})
    assert torch.allclose(outputs.round().sum(1), torch.tensor(6.0, dtype=torch.float64))
    assert bool(((outputs - outputs.round()).abs() < 1 / 3).all())


def test_the_score_is_the_best_fake_against_real():
    head = fitted_to(*clouds(4, count=120))
    outputs = head({"embedding": clouds(4, count=40, seed=5)[0]}).numpy()
    assert head.score(torch.from_numpy(outputs)).tolist() == pytest.approx([max(row[1:]) - row[0] for row in outputs], abs=1e-12)


def test_it_does_not_change_with_the_type_of_the_detector():
    head = fitted_to(*clouds())
    others = {"embedding": clouds(seed=1)[0]}
    before = head(others)
    assert torch.equal(head.to(torch.bfloat16)(others), before)


def test_the_same_images_give_the_same_planes_whatever_was_drawn_before():
    first = fitted_to(*clouds(shift=0.3))
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002 - what an SVM without a seed of its own would draw from
    second = fitted_to(*clouds(shift=0.3))
    assert torch.equal(first.planes.weight, second.planes.weight)


def test_fakes_of_no_class_are_left_out_and_that_is_said(caplog):
    vectors, targets = clouds()
    head = fitted_to(vectors, targets)
    other = fitted_to(torch.cat([vectors, vectors[:4] + 9]), torch.cat([targets, torch.full((4,), -1)]))
    assert torch.equal(head.planes.weight, other.planes.weight)
    assert "4 training images are of no class that the SVM tells apart (model.classes)" in caplog.text


def test_too_few_iterations_are_said_with_the_option(caplog):
    fitted_to(*clouds(shift=0.1), max_iter=1)
    assert "3 of 3 planes of the SVM need more iterations than --model.max_iter 1" in caplog.text
    assert "--model.standardise true" in caplog.text
    caplog.clear()
    fitted_to(*clouds(), c=0.01)
    assert "iterations" not in caplog.text


def test_validation_sets_threshold_calibration_and_class_probabilities(tmp_path):
    head = SVMProbe(target="family", calibration="logistic", threshold_fpr=None, unknown="distance", unknown_at=0.1)
    head, _ = fitted(head, tmp_path, clouds(shift=0.8), clouds(seed=1, shift=0.8))
    assert (head.threshold.value, head.threshold.fpr, head.threshold.n) == (0.0, None, 40)
    others = {"embedding": torch.cat([clouds(seed=2, shift=0.8)[0], torch.full((3, 5), 50.0)])}
    for again in stored(head, tmp_path):
        outputs = again(others)
        told = again.told(outputs, others)
        assert told["class"][-3:].tolist() == [-1, -1, -1]
        assert 0 < float(told["class_probability"][:-3].nanmean()) < 1
        assert float(told["novelty"][-3:].min()) > float(told["novelty"][:-3].max())
        assert bool(again.probability(again.score(outputs)).isfinite().all())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"calibration": "sigmoid"}, "decision value of an SVM is no logit"),
        ({"calibration": "temperature"}, "decision value of an SVM is no logit"),
        ({"unknown": "energy"}, "no logits to take the energy of"),
        ({"c": 0.0}, r"model\.c is 0\.0"),
        ({"max_iter": 0}, r"model\.max_iter 0"),
        ({"class_weight": "even"}, r"model\.class_weight 'even'"),
    ],
)
def test_wrong_options_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        SVMProbe(**wrong)


def test_it_says_that_it_was_not_fitted():
    with pytest.raises(ModelError, match="has not been fitted yet"):
        SVMProbe(5)({"embedding": torch.zeros(2, 5)})
    assert not SVMProbe(5).learns
