"""Tip-Adapter, against the paper's equations written out in NumPy."""

import logging
import re

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from modules.detectors.checkpoint import load_detector, save_weights
from modules.detectors.linear import LinearProbe
from modules.detectors.samples import Samples
from modules.detectors.tip_adapter import TipAdapter, draw
from modules.errors import ModelError
from modules.networks.text_prompts import prompt_weights
from modules.settings import from_settings, settings_of
from tests.modules.networks.encoders import TINY, add_tiny

CLASSES = ["real", "gan", "flow"]
PROMPTS = {"real": ["a photo"], "gan": ["a face of a GAN", "a generated face"], "flow": ["a generated picture"]}
WHERE = {"extractor": None}


def clouds(count=12, dimension=12, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    centres = torch.randn(classes, dimension, generator=torch.Generator().manual_seed(9))
    return centres[targets] + 0.7 * torch.randn(count, dimension, generator=generator), targets


def samples(vectors, targets):
    return Samples({"embedding": vectors}, (targets > 0).long(), targets, [""] * len(targets))


def begun(vectors, targets, **options):
    family = {"target": "family", "classes": CLASSES} if int(targets.max()) > 1 else {}
    detector = TipAdapter(**(family | options))
    detector.begin(samples(vectors, targets))
    return detector.eval()


def logits_of(detector, vectors):
    with torch.no_grad():
        return detector({"embedding": vectors})


def equations(queries, cached, targets, alpha=1.0, beta=5.5, prior=0.0):
    """Equations 4 to 6 of the paper, F_train and L_train written out."""
    f_test, f_train = (x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True) for x in (queries, cached))
    l_train = np.eye(int(targets.max()) + 1)[targets.numpy()]
    affinity = np.exp(-beta * (1 - f_test @ f_train.T))
    return prior + alpha * (affinity @ l_train)


class Batches(Dataset):
    def __init__(self, vectors, targets):
        self.vectors, self.targets = vectors, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        told = {"label": int(self.targets[index] > 0), "target": int(self.targets[index]), "pair": -1}
        return told | {"key": str(index), "index": index, "features": {"embedding": self.vectors[index]}}


def fitted(detector, vectors, targets, folder, epochs=3):
    loader = DataLoader(Batches(vectors, targets), batch_size=len(targets))
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    if detector.learns:
        trainer.fit(detector.train(), loader, loader)
    else:
        trainer.validate(detector, loader, verbose=False)
    return detector.eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    name = add_tiny(folder, "tiny-tip", text_cfg=TINY["text_cfg"] | {"vocab_size": 49408})
    torch.manual_seed(2)
    save_file(open_clip.create_model("tiny-tip").state_dict(), folder / "clip.safetensors")
    return f"{name}/{folder / 'clip.safetensors'}"


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    vectors, targets = clouds(60)
    head = LinearProbe(12, target="family", classes=["real", "flow", "gan"], optimizer=lambda ps: torch.optim.SGD(ps, lr=1.0))
    moved = torch.tensor([0, 2, 1])[targets]
    head.begin(samples(vectors, moved))
    fitted(head, vectors, moved, tmp_path_factory.mktemp("linear"))
    path = tmp_path_factory.mktemp("prior") / "linear.safetensors"
    save_weights(head, {"extractor": {"class_path": "x"}, "perturbation": "none"}, path)
    return head, path


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 5.5), (0.3, 1.0), (3.0, 20.0)])
def test_logits_without_a_prior_are_the_papers(alpha, beta):
    vectors, targets = clouds()
    queries, _ = clouds(7, seed=1)
    detector = begun(vectors, targets, alpha=alpha, beta=beta)
    assert np.allclose(logits_of(detector, queries), equations(queries, vectors, targets, alpha, beta), atol=1e-5)
    assert not detector.learns
    assert not list(detector.parameters())


def test_logits_with_the_prior_of_prompts_are_the_papers(tiny):
    vectors, targets = clouds()
    queries, _ = clouds(7, seed=1)
    detector = begun(vectors, targets, prior_prompts=PROMPTS, prior_encoder=tiny)
    weights = prompt_weights(tiny, PROMPTS).double().numpy()
    zero_shot = queries.double().numpy() / np.linalg.norm(queries, axis=1, keepdims=True) @ weights.T
    assert np.ptp(zero_shot) > 1
    assert np.allclose(logits_of(detector, queries), equations(queries, vectors, targets, prior=zero_shot), atol=1e-4)


def test_logits_with_the_prior_of_a_trained_head_are_its_own_by_the_names_of_the_classes(linear):
    head, path = linear
    vectors, targets = clouds()
    queries, _ = clouds(7, seed=1)
    detector = begun(vectors, targets, prior=str(path), alpha=2.0)
    prior = logits_of(head, queries)[:, [0, 2, 1]].double().numpy()
    assert np.ptp(prior) > 0.1
    assert np.allclose(logits_of(detector, queries), equations(queries, vectors, targets, 2.0, prior=prior), atol=1e-5)


def test_a_binary_head_gives_the_fake_logit_minus_the_real_one(linear):
    head, path = linear
    vectors, targets = clouds(classes=2)
    queries, _ = clouds(7, seed=1)
    plain, with_prior = begun(vectors, targets), begun(vectors, targets, prior=str(path))
    expected = equations(queries, vectors, targets)
    expected = expected[:, 1] - expected[:, 0]
    assert np.allclose(plain.score(logits_of(plain, queries)), expected, atol=1e-5)
    prior = head.score(logits_of(head, queries)).numpy()
    assert np.allclose(with_prior.score(logits_of(with_prior, queries)), expected + prior, atol=1e-5)


def test_an_image_of_the_cache_finds_itself():
    vectors, targets = torch.eye(6)[:, :5] + torch.eye(6)[:, 1:], torch.tensor([0, 1, 2, 0, 1, 2])
    detector = begun(3 * vectors, targets, beta=200.0)
    assert torch.allclose(logits_of(detector, 0.1 * vectors), torch.eye(3)[targets], atol=1e-6)


def test_the_score_is_that_of_all_fakes_together():
    vectors, targets = clouds()
    detector = begun(vectors, targets)
    exact = equations(vectors, vectors, targets)
    assert np.allclose(detector.score(logits_of(detector, vectors)), np.log(np.exp(exact[:, 1:]).sum(1)) - exact[:, 0], atol=1e-5)


def test_the_draw_does_not_depend_on_the_order_and_takes_equal_images_once():
    vectors, _ = clouds(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    drawn = draw(vectors, 5, seed=0)
    assert torch.equal(drawn, draw(vectors[order], 5, seed=0))
    assert torch.equal(drawn, draw(torch.cat([vectors, vectors[order]]), 5, seed=0))
    assert not torch.equal(drawn, draw(vectors, 5, seed=1))
    assert len(draw(torch.cat([vectors[:3], vectors[:3]]), 5, seed=0)) == 3


def test_the_draw_favours_no_image():
    counts = torch.zeros(8)
    for seed in range(400):
        counts[draw(torch.arange(8.0)[:, None], 2, seed).flatten().long()] += 1
    # each is drawn 100 times in the mean, with a deviation of 8.7
    assert counts.sum() == 800
    assert (counts - 100).abs().max() < 40


def test_each_class_has_as_many_images_in_the_cache_as_are_wanted():
    vectors, targets = clouds(60)
    detector = begun(vectors, targets, shots=4)
    assert torch.equal(detector.cache_values.sum(0), torch.full((3,), 4.0))
    own = torch.nn.functional.normalize(vectors, dim=1)
    for number in range(3):
        rows = detector.cache_keys[detector.cache_values[:, number] > 0]
        assert all(torch.isclose(own[targets == number], row, atol=1e-6).all(1).any() for row in rows)


def test_fewer_images_than_shots_are_all_taken_with_a_warning(caplog):
    vectors, targets = clouds(10)
    with caplog.at_level(logging.WARNING):
        detector = begun(vectors, targets, shots=4)
    assert detector.cache_values.sum(0).tolist() == [4, 3, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "gan has 3 different training images, and model.shots is 4: all are taken",
        "flow has 3 different training images, and model.shots is 4: all are taken",
    ]
    assert np.allclose(logits_of(detector, vectors), equations(vectors, vectors, targets), atol=1e-5)


def test_fakes_of_no_class_are_not_in_the_cache():
    vectors, targets = clouds(13)
    known = targets.clone()
    known[12] = -1
    detector = begun(vectors, known)
    assert np.allclose(logits_of(detector, vectors), equations(vectors, vectors[:12], targets[:12]), atol=1e-5)


def test_the_gradient_of_the_keys_is_that_of_the_equations(tiny):
    vectors, targets = clouds()
    detector = begun(vectors, targets, fine_tune=True, shots=5, prior_prompts=PROMPTS, prior_encoder=tiny)
    assert detector.learns
    assert [name for name, _ in detector.named_parameters()] == ["cache_keys"]
    queries, wanted = clouds(7, seed=1)
    loss = detector.loss(detector({"embedding": queries}), {"target": wanted})
    loss.backward()

    q = queries.double().numpy() / np.linalg.norm(queries.double(), axis=1, keepdims=True)
    keys, values = detector.cache_keys.detach().double().numpy(), detector.cache_values.double().numpy()
    affinity = np.exp(-5.5 * (1 - q @ keys.T))
    logits = q @ prompt_weights(tiny, PROMPTS).double().numpy().T + affinity @ values
    likely = np.exp(logits - logits.max(1, keepdims=True))
    error = (likely / likely.sum(1, keepdims=True) - np.eye(3)[wanted.numpy()]) / len(q)
    expected = 5.5 * (affinity * (error @ values.T)).T @ q
    assert np.abs(expected).max() > 1e-4
    assert np.allclose(detector.cache_keys.grad, expected, atol=1e-6)
    assert not detector.cache_keys.grad[detector.cache_values.sum(1) == 0].any()


def test_fine_tuning_begins_as_the_plain_one_and_lowers_the_loss(tmp_path):
    vectors, targets = clouds(60)
    plain = begun(vectors, targets, shots=4, alpha=3.0)
    tuned = begun(vectors, targets, shots=4, alpha=3.0, fine_tune=True)
    batch = {"target": targets}
    before = logits_of(tuned, vectors)
    assert torch.equal(before, logits_of(plain, vectors))
    values = tuned.cache_values.clone()
    after = logits_of(fitted(tuned, vectors, targets, tmp_path, epochs=40), vectors)
    assert tuned.loss(after, batch) < tuned.loss(before, batch) - 0.01
    assert torch.equal(tuned.cache_values, values)


def test_a_trained_head_as_prior_is_not_trained_on(linear, tmp_path):
    _, path = linear
    vectors, targets = clouds(30)
    tuned = begun(vectors, targets, fine_tune=True, prior=str(path))
    before = {name: tensor.clone() for name, tensor in tuned.prior.state_dict().items()}
    fitted(tuned, vectors, targets, tmp_path)
    assert not tuned.prior.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.prior.state_dict().items())


@pytest.mark.parametrize("kind", ["plain", "prompts", "prior", "tuned", "binary"])
def test_a_checkpoint_scores_alone(kind, linear, tiny, tmp_path):
    _, prior = linear
    moved = tmp_path / "prior.safetensors"
    moved.write_bytes(prior.read_bytes())
    options = {
        "plain": {},
        "prompts": {"prior_prompts": PROMPTS, "prior_encoder": tiny},
        "prior": {"prior": str(moved), "unknown": "distance"},
        "tuned": {"fine_tune": True, "prior": str(moved)},
        "binary": {"prior": str(moved)},
    }[kind]
    vectors, targets = clouds(60, classes=2 if kind == "binary" else 3)
    detector = begun(vectors, targets, shots=30, calibration="logistic", threshold_fpr=0.2, **options)
    fitted(detector, vectors, targets, tmp_path)
    assert detector.threshold.value is not None
    path = tmp_path / "tip.safetensors"
    save_weights(detector, WHERE, path)
    moved.unlink()
    loaded, _ = load_detector(str(path))
    assert torch.equal(logits_of(loaded, vectors), logits_of(detector, vectors))
    assert loaded.threshold == detector.threshold
    scores = detector.score(logits_of(detector, vectors))
    assert torch.equal(loaded.probability(scores), detector.probability(scores))
    assert settings_of(loaded, skip=("optimizer", "scheduler")) == detector.settings()


def test_settings_name_what_a_head_is_made_of(linear):
    _, path = linear
    vectors, targets = clouds()
    detector = begun(vectors, targets, prior=str(path), shots=2, shots_seed=5)
    told = detector.settings()
    assert (told["init_args"]["dimension"], told["init_args"]["shots"], told["init_args"]["shots_seed"]) == (12, 2, 5)
    assert told["init_args"]["prior"]["class_path"].endswith("LinearProbe")
    again = from_settings(told)
    again.load_state_dict(detector.state_dict())
    assert torch.equal(logits_of(again.eval(), vectors), logits_of(detector, vectors))


def test_classes_are_learnt_from_the_training_images():
    vectors, targets = clouds()
    detector = TipAdapter(target="family")
    detector.learn_classes(CLASSES)
    detector.begin(samples(vectors, targets))
    told = detector.told(logits_of(detector, vectors), {"embedding": vectors})
    assert (told["class"] == targets).all()


def test_beginning_again_gives_the_same():
    vectors, targets = clouds(40)
    detector = begun(vectors, targets, shots=3)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    detector.begin(samples(vectors.flip(0), targets.flip(0)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items() if name.startswith("cache"))


def test_embeddings_of_another_dimension_than_the_prompts(tiny):
    vectors, targets = clouds(dimension=7)
    with pytest.raises(ModelError, match=r"have 12 numbers, and the vectors embedding have 7.*with projection"):
        begun(vectors, targets, prior_prompts=PROMPTS, prior_encoder=tiny)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"real": ["a photo"], "gan": ["a face"]}, "no text for flow (it has some for real, gan)"),
        (PROMPTS | {"flow": []}, "no text for flow"),
        (PROMPTS | {"vae": ["x"]}, "texts for vae, and the classes are real, gan, flow"),
    ],
)
def test_classes_without_prompts_and_prompts_without_classes(tiny, prompts, says):
    vectors, targets = clouds()
    with pytest.raises(ModelError, match=re.escape(says)):
        begun(vectors, targets, prior_prompts=prompts, prior_encoder=tiny)


def test_priors_that_do_not_fit(linear, tmp_path):
    _, path = linear
    vectors, targets = clouds(dimension=7)
    with pytest.raises(ModelError, match="takes 12 numbers, and embedding has 7"):
        begun(vectors, targets, prior=str(path))
    with pytest.raises(ModelError, match=r"does not know vae.*it knows real, flow, gan"):
        TipAdapter(dimension=12, target="family", classes=["real", "vae"], prior=str(path))
    with pytest.raises(ModelError, match="reads embedding; it must be a head that reads colours"):
        TipAdapter(feature="colours", prior=str(path))
    detector = TipAdapter(prior=str(path))
    detector.check_features({"class_path": "x"}, "none")
    with pytest.raises(ModelError, match=r"model\.prior was trained with the extractor"):
        detector.check_features({"class_path": "y"}, "none")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shots": 0}, "model.shots is 0"),
        ({"alpha": -1.0}, "model.alpha is -1.0"),
        ({"beta": float("nan")}, "model.beta is nan"),
        ({"prior_prompts": PROMPTS}, "model.prior_prompts is set and model.prior_encoder is not"),
        ({"prior_encoder": "open_clip/ViT-B-32"}, "model.prior_encoder is set and model.prior_prompts is not"),
        ({"prior_prompts": PROMPTS, "prior_encoder": "clip"}, "'clip'"),
        ({"prior_prompts": PROMPTS, "prior_encoder": "open_clip/ViT-B-32", "prior": "x.ckpt"}, "both set"),
    ],
)
def test_options_that_do_not_go(options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        TipAdapter(**options)


def test_an_empty_cache_answers_nothing():
    detector = TipAdapter(dimension=12)
    with pytest.raises(ModelError, match="has not seen its training images"):
        logits_of(detector, torch.ones(1, 12))


@pytest.mark.parametrize(
    "extractor",
    [
        {"class_path": "modules.extractors.UNetEmbeddingExtractor", "init_args": {"size": 64}},
        {"class_path": "modules.extractors.EmbeddingExtractor", "init_args": {"encoder": "open_clip/ViT-B-16", "projection": True}},
        {"class_path": "modules.extractors.EmbeddingExtractor", "init_args": {"encoder": "open_clip/ViT-B-32", "projection": False}},
    ],
)
def test_prompts_are_refused_beside_other_vectors_before_anything_is_loaded(extractor):
    detector = TipAdapter(prior_prompts=PROMPTS, prior_encoder="open_clip/ViT-B-32")
    with pytest.raises(ModelError, match=r"model\.prior_encoder is 'open_clip/ViT-B-32', and the vectors are no embeddings"):
        detector.check_features(extractor, "none")
    own = {"class_path": "modules.extractors.EmbeddingExtractor", "init_args": {"encoder": "open_clip/ViT-B-32", "projection": True}}
    detector.check_features(own, "none")
