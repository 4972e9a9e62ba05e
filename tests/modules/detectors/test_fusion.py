"""Fused log-odds, against forty digits of decimal arithmetic."""

import itertools
import os
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
import torch

from modules.detectors.base import Detector
from modules.detectors.checkpoint import build_extractor, load_detector, save_weights
from modules.detectors.fusion import RULES, Fusion
from modules.detectors.linear import LinearProbe
from modules.detectors.score import ScoreDetector
from modules.errors import CheckpointError, ModelError
from modules.extractors import Complexity, Together

VALUES = [-300.0, -88.0, -30.0, -15.1, -14.9, -3.0, -0.5, 0.0, 0.5, 2.0, 16.0, 17.5, 40.0, 100.0, 400.0]


def exactly(rule, logits):
    """Log-odds of the fused probability by its definition."""
    with localcontext() as context:
        context.prec = 400  # 1 - p can be 1e-348
        odds = [Decimal(each).exp() for each in logits]
        fake = [each / (1 + each) for each in odds]
        if rule == "soft_or":
            none = Decimal(1)
            for p in fake:
                none *= 1 - p
            p = 1 - none
        elif rule == "mean_probability":
            p = sum(fake) / len(fake)
        else:
            return float(sum(map(Decimal, logits)) / len(logits)) if rule == "mean_logit" else max(logits)
        return float((p / (1 - p)).ln())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_fused_log_odds_are_exact_where_probabilities_would_saturate(rule, dtype, tolerance):
    pairs = list(itertools.product(VALUES, repeat=2))
    found = RULES[rule](torch.tensor(pairs, dtype=dtype).T)
    assert found.dtype == dtype
    stored = torch.tensor(pairs, dtype=dtype).tolist()
    for pair, value in zip(stored, found.tolist(), strict=True):
        assert value == pytest.approx(exactly(rule, pair), rel=tolerance, abs=tolerance)


def test_soft_or_of_three_is_a_chain_of_two():
    logits = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    soft_or = RULES["soft_or"]
    chained = soft_or(torch.stack([soft_or(logits[:2]), logits[2]]))
    assert torch.allclose(soft_or(logits), chained, rtol=1e-9)
    assert torch.allclose(soft_or(logits).sigmoid(), 1 - (1 - logits.sigmoid()).prod(0))
    assert torch.allclose(soft_or(logits[:1]), logits[0], rtol=1e-12)


def probe(scale, dimension=4, calibration="sigmoid", **options):
    detector = LinearProbe(dimension, calibration=calibration, **options)
    detector.layer.weight.data.fill_(scale)
    return detector


@pytest.fixture
def cached():
    generator = torch.Generator().manual_seed(0)
    return {"clip.embedding": torch.randn(6, 4, generator=generator), "dino.vector": torch.randn(6, 3, generator=generator)}


def build(**options):
    return Fusion({"clip": probe(2.0), "dino": probe(-1.0, 3, feature="vector")}, **options)


def test_each_member_reads_its_own_features(cached):
    fused = build()
    assert fused.features == ["clip.embedding", "dino.vector"]
    assert fused.pictures == []
    assert not fused.learns
    first, second = (2 * cached["clip.embedding"].sum(1)).sigmoid(), (-cached["dino.vector"].sum(1)).sigmoid()
    assert torch.allclose(fused.score(fused(cached)).sigmoid(), 1 - (1 - first) * (1 - second), atol=1e-6)
    assert torch.allclose(build(rule="mean_probability")(cached).sigmoid(), (first + second) / 2, atol=1e-6)


def test_the_fused_probability_is_that_of_sigmoid_calibration(cached):
    fused = build(calibration="sigmoid")
    scores = fused.score(fused(cached))
    assert torch.equal(fused.probability(scores), scores.sigmoid())
    assert build().probability(scores) is None


def test_members_calibrations_count(cached):
    member = probe(2.0, calibration="temperature")
    member.calibrator.slope.fill_(0.25)
    member.calibrator.centre.fill_(0.0)
    fused = Fusion({"clip": member}, rule="mean_logit")
    assert torch.allclose(fused(cached), cached["clip.embedding"].sum(1) / 2)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("calibration", ["none", "logistic"])
def test_a_member_that_is_not_calibrated_is_named(cached, rule, calibration):
    fused = Fusion({"clip": probe(2.0), "dino": probe(1.0, 3, calibration, feature="vector")}, rule)
    with pytest.raises(ModelError, match=rf"the member dino is not calibrated .*'{calibration}'.*calibration to sigmoid"):
        fused(cached)


def test_members_stay_in_evaluation_mode_and_frozen():
    fused = build()
    fused.train()
    assert fused.training
    assert not any(member.training for member in fused.detectors.values())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_only_what_is_a_feature_is_shown():
    class Pictures(Detector):
        features = ("image", "reconstruction")
        pictures = ("residual", "image")

        def forward(self, features):
            return features["image"].flatten(1)[:, :1]

    assert Fusion({"a": Pictures(), "b": Pictures()}).pictures == ["a.image", "b.image"]


def test_a_checkpoint_holds_all_members(cached, tmp_path):
    fused = build(rule="mean_logit", calibration="sigmoid")
    assert fused.settings()["init_args"]["detectors"]["dino"]["init_args"]["feature"] == "vector"
    save_weights(fused, {}, tmp_path / "x.safetensors")
    loaded, _ = load_detector(str(tmp_path / "x.safetensors"))
    assert torch.equal(loaded(cached), fused(cached))
    assert loaded.rule == "mean_logit"


def test_an_image_alone_or_in_any_batch(cached):
    fused = build()
    together = fused(cached)
    alone = torch.cat([fused({name: values[i : i + 1] for name, values in cached.items()}) for i in range(6)])
    assert torch.allclose(alone, together, rtol=1e-5)


def test_a_fitted_statistic_can_be_a_member():
    member = ScoreDetector("divergence", "smaller_is_fake", calibration="logistic")
    member.calibrator.slope.fill_(3.0)
    member.calibrator.centre.fill_(1.0)
    values = torch.tensor([-2.0, 0.0, 5.0])
    assert torch.allclose(Fusion({"zero_shot": member})({"zero_shot.divergence": values}), 3 * (-values.double() - 1))


@pytest.mark.parametrize("names", [[], ["a.b"], [""]])
def test_wrong_names_are_refused(names):
    with pytest.raises(ValueError, match="names without dots"):
        Fusion({name: probe(1.0) for name in names})


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=r"model\.rule is 'and'"):
        build(rule="and")


@pytest.fixture
def trained(tmp_path):
    """Two calibrated detectors' checkpoints, each of its own extractor."""
    paths = {}
    for i, (name, extractor) in enumerate({"size": Complexity(), "slope": Complexity(size=32)}.items()):
        detector = ScoreDetector("png_bits_per_pixel" if name == "size" else "spectral_slope", calibration="logistic")
        scores = torch.randn(200, generator=torch.Generator().manual_seed(i)) + torch.arange(200) // 100
        detector.calibrator.fit(scores, torch.arange(200) // 100)
        paths[name] = str(tmp_path / f"{name}.safetensors")
        save_weights(detector, {"extractor": extractor.settings(), "perturbation": "none"}, Path(paths[name]))
    return paths


def test_detectors_of_checkpoints_are_fused_and_the_fusion_needs_their_files_no_more(trained, tmp_path):
    fusion, extractor = Fusion(checkpoints=trained, rule="mean_logit"), Together(checkpoints=trained)
    images = torch.randint(0, 256, (3, 3, 40, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = extractor(images, [""] * 3, [0, 1, 2])
    assert set(fusion.features) <= features.keys()
    parts = []
    for path in trained.values():
        member, described = load_detector(path)
        own = build_extractor(described)
        alone = own(torch.stack([own.prepare(image) for image in images]), [""] * 3, [0, 1, 2])
        parts.append(member.logit(member.score(member(alone))))
    scores = fusion.score(fusion(features))
    torch.testing.assert_close(scores, torch.stack(parts).mean(0))
    path = tmp_path / "fused.safetensors"
    save_weights(fusion, {"extractor": extractor.settings()}, path)
    for file in trained.values():
        Path(file).unlink()
    again, described = load_detector(str(path))
    torch.testing.assert_close(again.score(again(build_extractor(described)(images, [""] * 3, [0, 1, 2]))), scores)


def test_a_member_has_one_name_and_one_place(trained):
    with pytest.raises(ValueError, match="each once"):
        Fusion(detectors={"size": ScoreDetector("x")}, checkpoints=trained)
    with pytest.raises(ValueError, match="one or more"):
        Together()


def test_features_of_another_extractor_than_a_members_own_are_refused(trained, caplog):
    fusion, extractor = Fusion(checkpoints=trained), Together(checkpoints=trained)
    fusion.check_features(extractor.settings(), "none")
    assert not caplog.text
    fusion.check_features(extractor.settings(), "jpeg_75")
    assert "trained on images under none" in caplog.text
    swapped = Together(checkpoints={"size": trained["slope"], "slope": trained["size"]})
    for wrong in (swapped, Complexity()):
        with pytest.raises(ModelError, match="the member size was trained with"):
            fusion.check_features(wrong.settings(), "none")


def test_a_strangers_checkpoint_names_no_further_files(trained, tmp_path):
    pipe = tmp_path / "pipe.ckpt"
    os.mkfifo(pipe)
    with pytest.raises(CheckpointError, match="is no file"):
        load_detector(str(pipe))
    described = {"extractor": Together(checkpoints=trained).settings()}
    described["extractor"]["init_args"]["checkpoints"] = {"evil": str(pipe)}
    assert set(build_extractor(described).extractors) == {"size", "slope"}
