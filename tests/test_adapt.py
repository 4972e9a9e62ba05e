"""adapt.py: a trained head and a folder of a new generator; what was won, what was forgotten, and a new checkpoint."""

import json
import re
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

import adapt
import predict
import train
from modules.detectors.checkpoint import load_detector
from modules.errors import UserError
from tests.embeddings import data_set, fakes, fitted_here, options, picture, run, undrawn
from tests.workflow.wandb_runs import starts
from workflow import adaptation, fitting

LINEAR = ["--model=LinearProbe", "--model.standardise=true", "--model.optimizer=AdamW", "--model.optimizer.lr=0.02"]
LINEAR += ["--data.batch_size=16", "--trainer.max_epochs=20"]
MLP = ["--model=MLPProbe", "--model.hidden=32", "--data.batch_size=16", "--trainer.max_epochs=12", "--model.target=family"]
OLD = {"faces/sdxl", "faces/stylegan2", "scenes/progan"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    data_set(folder / "images")
    fakes(folder / "newgan", 12, colour=(120, 120, 140), noise=60)
    fakes(folder / "more", 10, seed=9500, colour=(120, 120, 140), noise=60)
    return folder


@pytest.fixture(scope="module")
def head(place):
    return run(place, "head", *LINEAR, "--model.threshold_fpr=0.2") / "checkpoints" / "best.ckpt"


def adapted(checkpoint, images, *more):
    """Run adapt.py with all in the run directory of the head."""
    runs = checkpoint.parent.parent.parent
    with fitted_here():
        return adapt.main([f"--checkpoint={checkpoint}", f"--images={images}", f"--runs_dir={runs}", "--accelerator=cpu", *more])


@pytest.fixture(scope="module")
def folded(place, head):
    """Two heads for two folds and one for all; among the images are three that cannot be used."""
    mixed = shutil.copytree(place / "newgan", place / "flux-mini")
    (mixed / "empty.png").touch()
    (mixed / "text.png").write_text("no image")
    (mixed / "cut.png").write_bytes((mixed / "0.png").read_bytes()[:1500])
    return adapted(head, mixed, "--folds=2", "--epochs=15", "--share=0.5")


def new_head(folder):
    return folder / "checkpoints" / "best.ckpt"


def changes(folder):
    return pd.read_csv(folder / "tables" / "changes.csv")


def scores(checkpoint, paths, output):
    predict.main([f"--checkpoint={checkpoint}", *map(str, paths), f"--output={output}", "--accelerator=cpu", "--cache_dir=none"])
    return pd.read_csv(output).set_index("path")


def test_the_table_tells_before_and_after_of_old_and_new(folded):
    table = changes(folded)
    found = table[table.kind == "generator"]
    assert set(found.images) == OLD | {"new-flux-mini/flux-mini"}
    assert set(found.images[found.new.astype(bool)]) == {"new-flux-mini/flux-mini"}
    assert set(table.images[table.kind == "mean"]) == {"old", "new"}
    assert set(table.images[table.kind == "reals"]) == {"faces/ffhq", "scenes/laion"}
    assert table[["before_value", "after_value", "difference_value"]].notna().all(axis=None)
    assert (table.after_value - table.before_value - table.difference_value).abs().max() < 1e-9
    won = found[(found.images == "new-flux-mini/flux-mini") & (found.metric == "auroc")].iloc[0]
    assert won.after_value > won.before_value
    assert set(table.verdict) <= {"won", "lost", "unchanged", "not known"}


def test_what_was_won_is_said_in_the_terminal_and_the_report(folded, head, place, capsys):
    again = adapted(head, place / "flux-mini", "--folds=2", "--epochs=15", "--share=0.5", "--resume")
    said = capsys.readouterr().out
    assert again == folded
    assert "(+: adapted to it)" in said
    assert "+ new-flux-mini/flux-mini" in said
    assert f"New checkpoint: {new_head(folded)}" in said
    page = (folded / "report.html").read_text()
    assert "adapted to flux-mini" in page
    assert "What was won, and what was forgotten" in page
    assert "(new)" in page
    assert "difference" in page
    assert "chosen on 0 validation reals" not in page


def test_the_directory_is_that_of_the_new_head(folded):
    inner = folded / "detectors" / "after"
    assert (folded / "config.yaml").read_text() == (inner / "config.yaml").read_text()
    for name in ("best.ckpt", "best.safetensors"):
        assert (folded / "checkpoints" / name).read_bytes() == (inner / "checkpoints" / name).read_bytes()


def test_the_report_says_how_scores_were_made(folded):
    page = (folded / "report.html").read_text()
    assert "in 2 folds: each scored by a head that learnt from the others" in page


def test_each_fold_is_scored_by_a_head_that_did_not_learn_from_it(folded):
    rows = pd.read_parquet(folded / "predictions.parquet")
    new = rows[rows.dataset == "new-flux-mini"].assign(content=lambda table: table.key.str.partition("-")[0])
    by_content = new[new.detector == "after"].set_index("content")
    assert len(by_content) == 12
    manifests = [pd.read_csv(next((folded / "new").glob(f"fold_{i}*.csv"))) for i in range(2)]
    parts = [set(each.path[each.split == "test"]) for each in manifests]
    assert not parts[0] & parts[1]
    for i, manifest in enumerate(manifests):
        assert set(manifest.path[manifest.split == "train"]).isdisjoint(parts[i])
        detector, described = load_detector(str(folded / "detectors" / f"fold_{i}" / "checkpoints" / "best.ckpt"))
        own = pd.read_parquet(folded / "detectors" / f"fold_{i}" / "predictions.parquet")
        own = own[(own.split == "test") & (own.dataset == "new-flux-mini")]
        assert set(own.path) >= {path for path in parts[i] if "cut" not in path and "text" not in path}
        for row in own.itertuples():
            counted = by_content.loc[row.key.partition("-")[0]].score
            assert counted == pytest.approx(row.score - detector.threshold.value, abs=1e-4)
        assert "new-flux-mini/flux-mini" in described["trained_generators"]


def test_the_share_of_the_new_images_is_the_one_that_was_asked_for(folded):
    told = yaml.safe_load((folded / "detectors" / "after" / "config.yaml").read_text())
    [times] = told["data"]["repeat"].values()
    _, described = load_detector(str(new_head(folded)))
    new = 12
    old = described["trained_images"] - new
    assert times * new / (times * new + old) == pytest.approx(0.5, abs=0.1)


def test_the_new_checkpoint_has_another_head_and_gives_verdicts(folded, head, tmp_path):
    paths = [folded.parent.parent / "newgan" / f"{i}.png" for i in range(6)]
    before, after = (scores(each, paths, tmp_path / f"{i}.csv") for i, each in enumerate([head, new_head(folded)]))
    assert (after.score > before.score).mean() > 0.5
    assert set(after.verdict) <= {"generated", "real", "abstain"}
    old, new = (load_detector(str(each))[0] for each in (head, new_head(folded)))
    assert not (old.layer.weight == new.layer.weight).all()
    assert (old.standardiser.mean == new.standardiser.mean).all()


def test_broken_files_are_passed_over_and_recorded(folded):
    names = set(pd.read_parquet(folded / "predictions.parquet").path.str.rpartition("/")[2])
    assert not names & {"empty.png", "text.png", "cut.png"}
    page = (folded / "report.html").read_text()
    assert re.search(r"[23] images are left out \(first .*(empty|text|cut)\.png", page)


def test_what_is_fitted_is_kept_by_resume_and_refused_without(folded, head, place, monkeypatch):
    same = ["--folds=2", "--epochs=15", "--share=0.5"]
    with pytest.raises(UserError, match="holds results already; choose another --name, or --resume"):
        adapted(head, place / "flux-mini", *same)
    before = (folded / "metrics.json").read_bytes()
    monkeypatch.setattr(fitting, "subprocess", SimpleNamespace(run=lambda *_, **__: pytest.fail("a head was fitted again")))
    command = [f"--checkpoint={head}", f"--images={place / 'flux-mini'}", f"--runs_dir={place / 'runs'}", "--accelerator=cpu"]
    with undrawn():
        adapt.main([*command, *same, "--resume"])
    assert (folded / "metrics.json").read_bytes() == before


def check_wandb(folder):
    """Both heads and what is said of both are runs in W&B; so is the training of the new one, in the same group."""
    before, after, both = starts(folder)
    (training,) = starts(folder / "detectors" / "after")
    assert {run.group for run in (before, after, both, training)} == {folder.name}
    assert [run.job_type for run in (before, after, both)] == ["evaluation/before", "evaluation/after", "study"]
    metrics = json.loads((folder / "metrics.json").read_text())["detectors"]
    for each, name in ((before, "before"), (after, "after")):
        assert each.name == f"{folder.name}/{name}"
        expected = metrics[name]["by_generator"]["new-newgan/newgan"]["auroc"]["value"]
        assert each.rows[0]["test/new-newgan/newgan/auroc"] == expected
        assert each.config["adaptation"]["generator"] == "newgan"
    assert after.config["checkpoint"] == str(new_head(folder))


def test_an_svm_is_fitted_anew_and_tested_on_further_images(place):
    checkpoint = run(place, "svm", "--model=SVMProbe", "--model.standardise=true") / "checkpoints" / "best.ckpt"
    folder = adapted(checkpoint, place / "newgan", f"--test={place / 'more'}", "--share=0.5", "--set=trainer.logger=true")
    check_wandb(folder)
    assert [path.name for path in (folder / "detectors").iterdir()] == ["after"]
    rows = pd.read_parquet(folder / "predictions.parquet")
    new = rows[rows.dataset == "new-newgan"]
    assert set(new.path) == {str(path) for path in (place / "more").iterdir()}
    assert len(new) == 2 * 10
    won = changes(folder).query("images == 'new-newgan/newgan' and metric == 'auroc'").iloc[0]
    assert won.n_fake == 10
    assert won.after_value > won.before_value


def test_a_folder_that_has_changed_is_not_taken_for_the_old_one(place):
    checkpoint = run(place, "again", "--model=SVMProbe") / "checkpoints" / "best.ckpt"
    folder = shutil.copytree(place / "newgan", place / "growing")
    adapted(checkpoint, folder, f"--test={place / 'more'}")
    fakes(folder, 14, colour=(120, 120, 140), noise=60)
    with pytest.raises(UserError, match=r"the configuration is not that of the run"):
        adapted(checkpoint, folder, f"--test={place / 'more'}", "--resume")


def test_a_head_of_families_gets_a_class_more(place, tmp_path):
    checkpoint = run(place, "families", *MLP) / "checkpoints" / "best.ckpt"
    named = ["--generator=mine-1", "--dataset=fresh", "--family=homemade", "--epochs=3", "--name=families-mine"]
    folder = adapted(checkpoint, place / "newgan", f"--test={place / 'more'}", *named)
    head, described = load_detector(str(new_head(folder)))
    assert set(head.classes) == {"real", "gan", "latent-diffusion", "homemade"}
    assert head.layers[3].weight.shape[0] == 4
    assert described["generator_families"]["mine-1"] == "homemade"
    rows = pd.read_parquet(folder / "predictions.parquet")
    assert set(rows.family[rows.dataset == "fresh"]) == {"homemade"}
    told = scores(new_head(folder), [place / "more"], tmp_path / "a.csv")
    assert set(told.predicted_family) <= {*head.classes}


def test_a_head_of_families_asks_for_the_family_that_it_cannot_know(place):
    checkpoint = run(place, "asking", *MLP) / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match=r"newgan.*--family"):
        adapted(checkpoint, place / "newgan", "--folds=2", "--epochs=1")


def test_a_tuned_tip_adapter_can_be_adapted(place):
    tip = ["--model=TipAdapter", "--model.shots=4", "--model.fine_tune=true", "--data.batch_size=16", "--trainer.max_epochs=2"]
    checkpoint = run(place, "tip", *tip) / "checkpoints" / "best.ckpt"
    folder = adapted(checkpoint, place / "newgan", f"--test={place / 'more'}", "--epochs=2")
    assert set(changes(folder).query("kind == 'generator'").images) == OLD | {"new-newgan/newgan"}
    assert load_detector(str(new_head(folder)))[0].fine_tune


def test_real_images_of_the_same_kind_may_come_along(place, head, tmp_path):
    for i in range(12):
        picture(tmp_path / "real" / f"{i}.png", 9800 + i, (120, 120, 140), 6)
    more = [f"--reals={tmp_path / 'real'}", "--folds=2", "--epochs=2", "--name=with-reals", "--set=trainer.gradient_clip_val=1.0"]
    folder = adapted(head, place / "newgan", *more)
    rows = pd.read_parquet(folder / "predictions.parquet")
    assert len(rows[(rows.dataset == "new-newgan") & (rows.label == 0)]) == 2 * 12
    found = json.loads((folder / "metrics.json").read_text())["detectors"]["after"]["by_generator"]["new-newgan/newgan"]
    assert (found["n_real"], found["n_fake"]) == (12, 12)
    told = yaml.safe_load((folder / "detectors" / "after" / "config.yaml").read_text())
    assert told["trainer"]["gradient_clip_val"] == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--images=nowhere"], "--images: there is no folder nowhere"),
        (["--reals=nowhere"], "--reals: there is no folder nowhere"),
        (["--test=nowhere"], "--test: there is no folder nowhere"),
        (["--folds=1"], "--folds is 1: it must be 2 or more"),
        (["--share=1"], r"--share is 1\.0: it must be between 0 and 1"),
        (["--epochs=0"], "--epochs is 0: it must be 1 or more"),
        (["--folds=7"], "holds 12 images, too few for 7 folds: give more, --folds 6, or a folder by --test"),
        (["--test={images}"], r"12 images of .* are also in .*: a test on what was learnt says nothing"),
        (["--reals={images}"], r"12 images of .* are also in .*: they are either real or generated"),
        (["--set=epochs"], "--set epochs: write OPTION=VALUE"),
        (["--config=nowhere.yaml"], r"--config: there is no file nowhere\.yaml"),
        (["--config=README.md"], "is no configuration of a training run|cannot be read"),
        (["--checkpoint=nowhere.ckpt"], r"--checkpoint: there is no file nowhere\.ckpt"),
        (["--reals_from=nobody"], "--reals_from nobody: there are real images of"),
    ],
)
def test_what_cannot_work_ends_in_a_sentence_before_anything_is_fitted(place, head, monkeypatch, given, message):
    monkeypatch.setattr(adaptation, "fit", lambda *_: pytest.fail("a head was fitted"))
    command = [f"--checkpoint={head}", f"--images={place / 'newgan'}", f"--runs_dir={place / 'wrong'}", "--accelerator=cpu"]
    with pytest.raises(UserError, match=message):
        adapt.main([*command, *(each.format(images=place / "newgan") for each in given)])


def test_only_heads_on_vectors_are_adapted(place, monkeypatch):
    given = [
        option for option in options(place, "statistic", "--model=ScoreDetector") if "feature" not in option and "extractor" not in option
    ]
    more = [
        "--model.statistic=jpeg_bits_per_pixel",
        "--model.orientation=learned",
        "--data.extractor=Complexity",
        "--data.extractor.size=32",
    ]
    with undrawn():
        folder = train.main([*given, *more])
    monkeypatch.setattr(adaptation, "fit", lambda *_: pytest.fail("a head was fitted"))
    with pytest.raises(UserError, match=r"holds a ScoreDetector; what can be adapted .* is a head on cached vectors"):
        adapted(folder / "checkpoints" / "best.ckpt", place / "newgan")
