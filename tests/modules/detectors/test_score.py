import pytest
import torch
from sklearn.linear_model import LogisticRegression

from modules.detectors import Detector, ScoreDetector
from modules.detectors.calibration import Calibrator, fit_line
from modules.detectors.checkpoint import load_detector, save_weights
from modules.errors import CheckpointError


def scores_of(n=400, shift=1.0, scale=50.0, centre=-600.0, fakes=None):
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(n) < (n // 2 if fakes is None else fakes)).long()
    return centre + scale * (torch.randn(n, generator=generator) + shift * labels), labels


def test_smaller_is_fake_turns_the_score_round():
    values = torch.tensor([-3.0, 2.0])
    assert ScoreDetector("x", "smaller_is_fake")({"x": values}).tolist() == [3.0, -2.0]
    assert ScoreDetector("x")({"x": values[:, None]}).tolist() == [-3.0, 2.0]  # as a scalar comes from a shard


@pytest.mark.parametrize(("sign", "direction"), [(1.0, 1.0), (-1.0, -1.0)])
def test_a_learned_orientation_is_the_training_splits(sign, direction):
    detector = ScoreDetector("x", "learned")
    scores, labels = scores_of()
    detector.learn_orientation(sign * scores, labels)
    assert float(detector.direction) == direction
    assert float(detector({"x": torch.tensor([2.0])})[0]) == 2 * direction


def test_a_given_orientation_that_does_not_hold_stays():
    detector = ScoreDetector("x", "larger_is_fake")
    detector.calibrator.fit(*scores_of(shift=-1.0))
    assert float(detector({"x": torch.tensor([2.0])})[0]) == 2.0


@pytest.mark.parametrize("feature", [torch.zeros(2, 3), torch.zeros(2, 3, 4, 4), [torch.zeros(3), torch.zeros(4)]])
def test_more_than_one_number_an_image_is_refused(feature):
    with pytest.raises(ValueError, match="one number an image"):
        ScoreDetector("x")({"x": feature})


@pytest.mark.parametrize("wrong", [{"orientation": "up"}, {"calibration": "sigmoid"}, {"calibration": "platt"}, {"threshold_fpr": 2}])
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ScoreDetector("x", **wrong)


def test_nothing_learns_and_nothing_is_shown():
    detector = ScoreDetector("x")
    assert isinstance(detector, Detector)
    assert not detector.learns
    assert detector.features == ["x"]
    assert detector.pictures == []
    assert not list(detector.parameters())


def test_logistic_calibration_is_scikit_learns_at_equal_weights():
    scores, labels = scores_of(fakes=100)
    fit = fit_line(scores, labels, "logistic")
    line = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-8).fit(((scores + 600) / 50)[:, None].numpy(), labels.numpy())
    assert fit.slope * 50 == pytest.approx(float(line.coef_[0, 0]), rel=0.02)
    assert (fit.centre + 600) / 50 == pytest.approx(float(-line.intercept_[0] / line.coef_[0, 0]), abs=0.02)
    assert fit.n == 400


def test_calibrated_probabilities_are_frequencies():
    detector = ScoreDetector("x", calibration="logistic")
    assert detector.probability(torch.tensor([0.0])) is None
    scores, labels = scores_of(n=4000)
    detector.calibrator.fit(scores, labels)
    probabilities = detector.probability(scores)
    for low in (0.2, 0.4, 0.6):
        inside = (probabilities >= low) & (probabilities < low + 0.2)
        assert float(labels[inside].double().mean()) == pytest.approx(float(probabilities[inside].mean()), abs=0.06)


def test_temperature_keeps_the_score_of_an_even_chance_at_zero():
    scores, labels = scores_of(centre=0.0, scale=3.0)
    fit = fit_line(scores - 1.5, labels, "temperature")
    assert fit.centre == 0.0
    # Gaussians a deviation of 3 wide and 3 apart: the log-odds are score / 3
    assert fit.slope == pytest.approx(1 / 3, rel=0.2)


def test_separable_scores_get_a_finite_slope():
    fit = fit_line(torch.tensor([0.0, 1.0, 10.0, 11.0]), torch.tensor([0, 0, 1, 1]), "logistic")
    assert 0 < fit.slope < 100
    assert 1 < fit.centre < 10


@pytest.mark.parametrize(
    ("scores", "labels", "why"),
    [
        ([1.0, 0.0, 1.2, 0.1], [0, 1, 0, 1], "higher score does not mean"),
        ([1.0, 0.0], [1, 1], "one class"),
        ([1.0, float("inf")], [0, 1], "not finite"),
        ([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1], "higher score does not mean"),
    ],
)
def test_what_cannot_be_calibrated_says_why(scores, labels, why):
    calibrator = Calibrator("logistic")
    calibrator.fit(torch.tensor(scores), torch.tensor(labels))
    assert not calibrator.fitted
    assert why in str(calibrator.reason)


def test_a_logit_that_is_one_already_is_kept():
    calibrator = Calibrator("sigmoid")
    calibrator.fit(*scores_of())
    assert calibrator(torch.tensor([-2.0, 3.0])).tolist() == [-2.0, 3.0]


def test_threshold_direction_and_calibration_come_back_from_a_file(tmp_path):
    detector = ScoreDetector("x", "learned", calibration="logistic")
    scores, labels = scores_of(shift=-2.0)
    detector.learn_orientation(scores, labels)
    detector.calibrator.fit(-scores, labels)
    path = tmp_path / "best.safetensors"
    save_weights(detector, {"extractor": {}}, path)
    again, _ = load_detector(str(path))
    value = torch.tensor([-650.0, -580.0])
    torch.testing.assert_close(again({"x": value}), detector({"x": value}))
    torch.testing.assert_close(again.probability(again({"x": value})), detector.probability(detector({"x": value})))
    assert again.calibrator.n == 400


def test_a_checkpoint_from_before_calibrations_still_loads(tmp_path):
    detector = ScoreDetector("x")
    state = {name: value for name, value in detector.state_dict().items() if not name.startswith("calibrator.")}
    described = {"detector": detector.settings(), "data": {}, "threshold": detector.measured()["threshold"]}
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": state, "undertow": described}, path)
    assert load_detector(str(path))[0].probability(torch.tensor([1.0])) is None
    torch.save({"state_dict": {}, "undertow": described}, path)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_detector(str(path))
