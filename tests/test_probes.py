"""Heads on cached vectors through the real commands: train and predict."""

import json
import logging
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score
from sklearn.svm import LinearSVC

import predict
import train
from datamodules.errors import DataError
from datamodules.shards import ShardReader
from datamodules.sources import ManifestSource
from modules.detectors import LinearProbe, MLPProbe
from modules.detectors.checkpoint import load_detector
from modules.errors import UserError
from tests.embeddings import FAMILIES, data_set, fakes, options, run, undrawn
from workflow import pipeline

MLP = ["--model=MLPProbe", "--model.hidden=32", "--model.standardise=true", "--data.batch_size=16", "--trainer.max_epochs=12"]
LINEAR = ["--model=LinearProbe", "--trainer.max_epochs=3"]
CLASSES = {
    "binary": None,
    "family": ["real", "gan", "latent-diffusion"],
    "generator": ["real", "progan", "sdxl", "stylegan2"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    data_set(folder / "images")
    return folder


@pytest.fixture(scope="module")
def family(place):
    """A head of families that tells what is unlike all, with all its figures drawn."""
    return train.main(options(place, "family", *MLP, "--model.target=family", "--model.unknown=distance", "--model.unknown_at=0.1"))


@pytest.fixture(scope="module")
def generators(place):
    return run(place, "mlp-generator", *MLP, "--model.target=generator")


def head_of(folder):
    return load_detector(str(folder / "checkpoints" / "best.ckpt"))[0]


def rows_of(folder):
    rows = pd.read_parquet(folder / "predictions.parquet")
    return rows[rows.split == "test"].set_index("key")


def document(folder):
    return json.loads((folder / "metrics.json").read_text())


def features(place, view="none"):
    """The cached vectors of all images under a perturbation, and their labels, by key."""
    reader = ShardReader(next(place.glob(f"cache/colour-*/images-{view}-*")))
    shown = reader.keys()
    return {key: reader.read(key, caption)["colour"] for key, caption in shown}


def verdicts(checkpoint, paths, output, *more):
    predict.main([f"--checkpoint={checkpoint}", *map(str, paths), f"--output={output}", "--accelerator=cpu", "--cache_dir=none", *more])
    return (pd.read_parquet if output.suffix == ".parquet" else pd.read_csv)(output).set_index("key")


def test_a_head_of_families_is_in_all_that_a_run_leaves(family):
    for name in ("confusion_families", "confusion_generators", "embedding_map"):
        with Image.open(family / "figures" / f"{name}.png") as drawn:
            assert min(drawn.size) > 100
        assert (family / "figures" / f"{name}.svg").read_text().lstrip().startswith("<?xml")
    page = (family / "report.html").read_text()
    assert "<h2>Classes</h2>" in page
    assert "<h2>Map of the embeddings</h2>" in page
    assert "Trained to tell real images and 2 families apart: gan, latent-diffusion." in page
    points = pd.read_csv(family / "tables" / "embedding_map.csv")
    assert set(points.key) == set(rows_of(family).index)
    assert load_detector(str(family / "checkpoints" / "best.safetensors"))[0].classes == CLASSES["family"]


def test_what_the_document_counts_is_what_the_table_says(family):
    rows, found = rows_of(family), document(family)["families"]
    assert found["classes"] == CLASSES["family"]
    assert found["generators"] == ["faces/sdxl", "faces/stylegan2", "scenes/progan"]
    assert found["multiclass_accuracy"]["value"] == pytest.approx((rows.family == rows.predicted_family).mean())
    assert found["multiclass_accuracy"]["value"] > 0.7
    told = pd.read_csv(family / "tables" / "confusion_families.csv").pivot_table(index="true", columns="predicted", values="count")
    names = ["real", "gan", "latent-diffusion", "unknown"]
    expected = confusion_matrix(rows.family, rows.predicted_family, labels=names)
    np.testing.assert_array_equal(told.reindex(index=names[:3], columns=names).fillna(0), expected[:3])


@pytest.mark.parametrize("target", ["binary", "family", "generator"])
@pytest.mark.parametrize("head", ["svm", "mlp"])
def test_every_head_learns_every_target(place, request, head, target):
    if (head, target) == ("mlp", "generator"):
        folder = request.getfixturevalue("generators")
    else:
        folder = run(place, f"{head}-{target}", *(MLP if head == "mlp" else ["--model=SVMProbe"]), f"--model.target={target}")
    rows, found = rows_of(folder), document(folder)
    assert found["overall"]["auroc"]["value"] == pytest.approx(roc_auc_score(rows.label, rows.score))
    assert found["overall"]["auroc"]["value"] > 0.8
    assert head_of(folder).classes == CLASSES[target]
    columns = {"binary": set(), "family": {"family_probability"}, "generator": {"family_probability", "predicted_generator"}}
    assert set(rows) & {"family_probability", "predicted_generator", "novelty"} == columns[target]
    assert rows.predicted_family.isna().all() == (target == "binary")
    assert ("families" in found) == (target != "binary")
    assert (folder / "figures" / "embedding_map.png").exists()
    assert (folder / "figures" / "confusion_families.png").exists() == (target != "binary")
    assert (folder / "figures" / "confusion_predicted_generators.png").exists() == (target == "generator")
    if target != "binary":
        assert set(rows.predicted_family) <= {"real", "gan", "latent-diffusion"}
        assert rows.family_probability.between(1 / 4, 1).all()
    if target == "generator":
        assert [FAMILIES.get(name, "real") for name in rows.predicted_generator] == list(rows.predicted_family)


def test_an_svm_of_two_views_is_scikit_learns_own(place):
    folder = run(place, "views", "--model=SVMProbe", "--data.views=[none, jpeg_40]")
    clean, compressed = features(place), features(place, "jpeg_40")
    rows = pd.read_parquet(folder / "predictions.parquet").set_index("key")
    keys = sorted(set(clean) - set(rows.index))
    assert sorted(compressed) == keys  # test and validation are seen as they are
    assert not np.allclose([clean[key] for key in keys], [compressed[key] for key in keys])
    labels = dict(zip(*labels_of(place), strict=True))
    machine = LinearSVC(random_state=0, max_iter=100_000, tol=1e-8)
    machine.fit([view[key] for view in (clean, compressed) for key in keys], [labels[key] for _ in range(2) for key in keys])
    np.testing.assert_allclose(machine.decision_function([clean[key] for key in rows.index]), rows.score, atol=2e-3)
    assert load_detector(str(folder / "checkpoints" / "best.ckpt"))[1]["views"] == ["none", "jpeg_40"]


def labels_of(place):
    """Keys and labels of the data set's images."""
    records = ManifestSource(str(place / "images" / "manifest.csv")).records(place / "cache")
    return [record.key for record in records], [record.label for record in records]


@pytest.mark.parametrize("weight", [0, 2])
def test_pairs_come_together_and_the_first_loss_is_known(place, monkeypatch, weight):
    """A linear head begins with zeros: both losses of it are log 2, whatever the images."""
    seen, step = [], LinearProbe.training_step
    monkeypatch.setattr(LinearProbe, "training_step", lambda self, batch, i: seen.append(batch["pair"].tolist()) or step(self, batch, i))
    more = ["--data.keep_pairs=true", "--data.batch_size=12", f"--model.pair_weight={weight}", "--trainer.max_epochs=1"]
    folder = run(place, f"pairs-{weight}", *LINEAR, *more)
    losses = pd.read_csv(folder / "log.csv")["train/loss"].dropna()
    assert losses.iloc[0] == pytest.approx((1 + weight) * np.log(2), abs=1e-5)
    placed = [(pair, number) for number, batch in enumerate(seen) for pair in set(batch)]
    assert len(seen) == 3
    assert len(placed) == len({pair for pair, _ in placed}) == 20
    assert sum(map(len, seen)) == 44


@pytest.mark.parametrize("option", ["--data.keep_pairs=true", "--model.pair_weight=1"])
def test_pairs_where_there_are_none(place, option):
    path = place / "images" / "alone.csv"
    pd.read_csv(place / "images" / "manifest.csv").drop(columns="pair").to_csv(path, index=False)
    with pytest.raises(DataError, match=rf"{option[2:].split('=')[0]} is set, and no training image shares a `pair`"):
        run(place, "alone", *LINEAR, option, f"--data.source.path={path}")


def test_an_mlp_goes_on_in_mid_epoch_as_if_it_had_not_been_stopped(place, monkeypatch):
    arguments = [*MLP, "--model.target=family", "--model.unknown=distance", "--trainer.max_epochs=3"]
    whole = run(place, "whole", *arguments)
    step = MLPProbe.training_step

    def watched(detector, batch, batch_idx):
        if detector.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(detector, batch, batch_idx)

    monkeypatch.setattr(MLPProbe, "training_step", watched)
    with pytest.raises(SystemExit):
        run(place, "cut", *arguments)
    monkeypatch.undo()
    stopped = torch.load(place / "runs" / "cut" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stopped["global_step"] == 5
    cut = run(place, "cut", *arguments, "--resume=auto")
    states = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (whole, cut)]
    assert states[0]["global_step"] == states[1]["global_step"] == 9
    for (name, expected), (other, found) in zip(*(state["state_dict"].items() for state in states), strict=True):
        assert name == other
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert (cut / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


def test_tip_adapter_keeps_training_images_and_may_train_them(place):
    tip = ["--model=TipAdapter", "--model.shots=4", "--model.target=family"]
    plain = run(place, "tip", *tip)
    tuned = run(place, "tip-f", *tip, "--model.fine_tune=true", "--trainer.max_epochs=4")
    keys = head_of(plain).cache_keys
    known = np.stack(list(features(place).values()))
    known = torch.tensor(known / np.linalg.norm(known, axis=1, keepdims=True))
    assert len(keys) == 3 * 4
    assert torch.cdist(keys.double(), known.double()).amin(1).max() < 1e-6
    assert torch.cdist(head_of(tuned).cache_keys.detach().double(), known.double()).amin(1).min() > 1e-6
    for folder in (plain, tuned):
        assert document(folder)["overall"]["auroc"]["value"] > 0.8
        assert set(rows_of(folder).predicted_family) <= set(CLASSES["family"])


def test_tip_adapter_takes_a_trained_head_for_its_prior(place, family):
    prior = f"--model.prior={family / 'checkpoints' / 'best.ckpt'}"
    folder = run(place, "tip-prior", "--model=TipAdapter", "--model.alpha=0", "--model.target=family", prior)
    np.testing.assert_allclose(rows_of(folder).score, rows_of(family).score[rows_of(folder).index], atol=1e-5)


def test_a_trained_head_goes_on_with_a_further_family(place):
    first = run(place, "before", *MLP, "--model.target=family", "--data.train_generators=[stylegan2, progan]")
    checkpoint = first / "checkpoints" / "best.ckpt"
    still = ["--model.optimizer=SGD", "--model.optimizer.lr=0", "--trainer.max_epochs=1"]
    then = run(place, "after", *MLP, *still, "--model.target=family", f"--model.start={checkpoint}")
    old, new = head_of(first), head_of(then)
    assert (old.classes, new.classes) == (["real", "gan"], CLASSES["family"])
    for name, expected in old.state_dict().items():
        if name.startswith(("layers", "standardiser")):
            torch.testing.assert_close(new.state_dict()[name][: len(expected)], expected, rtol=0, atol=0)
    assert new.layers[3].weight.shape[0] == 3
    with pytest.raises(UserError, match=r"model\.start .*knows latent-diffusion, of which there is no training image now"):
        run(
            place,
            "lost",
            *MLP,
            "--model.target=family",
            f"--model.start={then / 'checkpoints/best.ckpt'}",
            "--data.train_generators=[progan]",
        )


@pytest.fixture(scope="module")
def strange(place):
    """Options of the data set with a generator that no map knows."""
    path = data_set(place / "images", "strange.csv", {"sdxl": "nobody-knows-it"})
    return [f"--data.source.path={path}", "--data.source.dataset=images"]


def test_row_37_a_generator_without_family_is_an_error_before_anything_is_extracted(place, strange, monkeypatch):
    monkeypatch.setattr(pipeline, "extract_missing", lambda *_: pytest.fail("features were extracted first"))
    with pytest.raises(DataError, match=r"nobody-knows-it.*families\.yaml"):
        run(place, "refused", *MLP, "--model.target=family", *strange)


def test_row_37_it_is_a_class_of_its_own_where_that_is_asked_for(place, strange):
    folder = run(place, "asked", *MLP, "--model.target=family", "--data.unknown_families=unknown", *strange)
    assert head_of(folder).classes == ["real", "gan", "unknown"]
    rows = rows_of(folder)
    assert set(rows.family[rows.generator == "nobody-knows-it"]) == {"unknown"}
    assert (rows.predicted_family[rows.generator == "nobody-knows-it"] == "unknown").mean() > 0.5


def test_row_37_or_of_the_family_that_a_file_names(place, strange, tmp_path):
    (tmp_path / "mine.yaml").write_text("homemade: [nobody-knows-it]\n")
    own = [f"--data.families={tmp_path / 'mine.yaml'}", *strange]
    folder = run(place, "named", "--model=SVMProbe", "--model.target=family", *own)
    assert head_of(folder).classes == ["real", "gan", "homemade"]
    assert (rows_of(folder).predicted_family == "homemade").any()


def test_predict_answers_as_the_runs_own_test(family, tmp_path):
    rows = rows_of(family)
    told = verdicts(family / "checkpoints" / "best.ckpt", rows.path, tmp_path / "a.csv", "--no_abstain")
    assert list(told)[5:] == ["predicted_family", "family_probability", "novelty"]
    assert list(told.predicted_family) == list(rows.predicted_family[told.index])
    for name in ("score", "family_probability", "novelty"):
        np.testing.assert_allclose(told[name], rows[name][told.index].astype(float), rtol=1e-4, atol=1e-5)
    threshold = document(family)["threshold"]["value"]
    assert list(told.verdict) == ["generated" if score > threshold else "real" for score in told.score]
    again = verdicts(family / "checkpoints" / "best.safetensors", rows.path, tmp_path / "a.parquet", "--no_abstain")
    assert list(again) == list(told)
    assert list(again.predicted_family) == list(told.predicted_family)
    np.testing.assert_allclose(again.novelty, told.novelty, rtol=1e-9)


def test_predict_tells_the_generator_where_that_was_learnt(generators, tmp_path):
    rows = rows_of(generators)
    told = verdicts(generators / "checkpoints" / "best.ckpt", rows.path, tmp_path / "a.csv")
    assert list(told)[5:] == ["predicted_family", "family_probability", "predicted_generator"]
    assert list(told.predicted_generator) == list(rows.predicted_generator[told.index])
    assert list(told.predicted_family) == list(rows.predicted_family[told.index])


def test_images_unlike_all_are_called_unknown(family, tmp_path):
    odd = fakes(tmp_path / "odd", 5, colour=(0, 0, 255), noise=90)
    told = verdicts(family / "checkpoints" / "best.ckpt", [odd], tmp_path / "a.csv")
    assert set(told.predicted_family) == {"unknown"}
    assert told.family_probability.isna().all()
    assert told.novelty.min() > rows_of(family).novelty.quantile(0.5)
    answered = rows_of(family)
    assert (answered.predicted_family == "unknown").mean() < 0.5


def test_sources_are_joined_by_the_command_line(place, tmp_path):
    new = fakes(tmp_path / "new", 6)
    sources = {
        "old": {"class_path": "ManifestSource", "init_args": {"path": str(place / "images" / "manifest.csv")}},
        "new": {"class_path": "ImagesSource", "init_args": {"root": str(new), "generator": "flux", "dataset": "fresh"}},
    }
    command = [f"--data.source.sources={json.dumps(sources)}", "--data.source.splits={new: test}"]
    given = [option for option in options(place, "joined", "--model=SVMProbe", "--model.target=family") if "data.source" not in option]
    folder = train_quietly([*given, "--data.source=JoinedSource", *command])
    fresh = rows_of(folder).query("dataset == 'fresh'")
    assert set(zip(fresh.generator, fresh.family, fresh.label, strict=True)) == {("flux", "flow", 1)}
    assert len(fresh) == 6
    found = document(folder)
    assert found["by_generator"]["fresh/flux"]["n_fake"] == 6
    assert found["families"]["unknown"]["images"]["never_trained_fakes"]["n"] == 6
    told = yaml.safe_load((folder / "config.yaml").read_text())["data"]["source"]
    assert told["init_args"]["splits"] == {"new": "test"}


def train_quietly(command):
    with undrawn():
        return train.main(command)


def test_colour_is_appended_to_an_embedding(place, caplog):
    caplog.set_level(logging.INFO)
    members = {
        "colour": {"class_path": "ColourExtractor", "init_args": {"size": 16, "bins": 4}},
        "unet": {"class_path": "UNetEmbeddingExtractor"},
    }
    given = [option for option in options(place, "both", "--model=LinearProbe", "--trainer.max_epochs=2") if "extractor" not in option]
    command = ["--data.extractor=Together", f"--data.extractor.extractors={json.dumps(members)}", "--data.limit=2"]
    folder = train_quietly([*given, *command, "--model.feature=[unet.embedding, colour.colour]"])
    head = head_of(folder)
    assert head.features == ["unet.embedding", "colour.colour"]
    reader = ShardReader(next(place.glob("cache/together-*/images-none-*")))
    sizes = [reader.read(*reader.keys()[0])[name].size for name in head.features]
    assert sizes[1] == 38
    assert head.layer.weight.shape == (1, sum(sizes))
