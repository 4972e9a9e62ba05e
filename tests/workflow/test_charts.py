"""What W&B is sent at the end of a run is what `metrics.json` was made of, read back from the files that W&B wrote."""

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from evaluation.families import family_document
from evaluation.figures import save_confusions
from evaluation.predictions import make_table
from evaluation.statistics import against_reals, metrics_document
from modules.metrics.functional import curve
from tests.evaluation.classes import random_answers, trained
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table
from tests.workflow.wandb_runs import draw, logged, media, starts
from workflow.charts import _kept, family_values, figures, log_results
from workflow.tracking import end_service, wandb_logger


def pictures(key, _="none"):
    rng = np.random.default_rng(int(key[:8], 16))
    return {name: rng.integers(0, 256, (48, 300, 3), dtype=np.uint8) for name in ("image", "noise_map")}


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Logs a table's results; gives the rows that W&B wrote, and the run's summary."""
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)

    def run(frame, load=pictures, callbacks=(), threshold=THRESHOLD, families=None, folder=None):
        metrics = metrics_document(frame[frame["split"] == "test"], threshold, resamples=20)
        metrics |= {"families": families} if families else {}
        logger = wandb_logger(tmp_path, "name", "probe", "study")
        trainer = SimpleNamespace(loggers=[logger], global_step=7, checkpoint_callbacks=list(callbacks))
        log_results(trainer, frame, metrics, load, folder)
        summary = dict(logger.experiment.summary)
        end_service()
        return metrics, logged(tmp_path), summary

    yield run
    end_service()


def table_of(folder, description):
    told = media(folder, description)
    return pd.DataFrame(told["data"], columns=told["columns"])


def validation_rows():
    return make_table(some_rows("faces", "ffhq", 0, 30, split="val", shift=5.0) + some_rows("faces", "sd", 1, 30, split="val", shift=-5.0))


def test_curves_are_those_of_the_metrics(log, tmp_path):
    frame = usual_table()
    metrics, (row,), _ = log(pd.concat([validation_rows(), frame], ignore_index=True))
    assert row["trainer/global_step"] == 7
    roc, precision = (table_of(tmp_path, row[f"test/{name}_table"]) for name in ("roc", "precision_recall"))
    tables = {"all": frame} | against_reals(frame)
    assert list(roc["generator"].unique()) == list(precision["generator"].unique()) == list(tables)
    for name, each in tables.items():
        fpr, tpr, _ = roc_curve(each["label"], each["score"], drop_intermediate=False)
        line = roc[roc["generator"] == name]
        np.testing.assert_allclose(line[["fpr", "tpr"]].to_numpy(), np.stack([fpr, tpr], 1))
        document = metrics["overall"] if name == "all" else metrics["by_generator"][name]
        assert np.trapezoid(line["tpr"], line["fpr"]) == pytest.approx(document["auroc"]["value"])
        wanted, recall, _ = precision_recall_curve(each["label"], each["score"])
        line = precision[precision["generator"] == name]
        np.testing.assert_allclose(line[["recall", "precision"]].to_numpy(), np.stack([recall, wanted], 1)[-2::-1])


def test_histograms_have_the_bins_of_the_figures(log):
    frame = usual_table()
    _, (row,), _ = log(frame)
    real, fake = (row[f"test/scores/{name}"] for name in ("real", "fake"))
    assert real["bins"] == fake["bins"]
    assert (sum(real["values"]), sum(fake["values"])) == (280, 280)
    scores = frame.loc[frame["label"] == 1, "score"]
    middle = real["bins"][20]
    assert sum(fake["values"][20:]) == (scores >= middle).sum()


def test_the_worst_mistakes_come_first_with_their_pictures(log, tmp_path):
    frame = usual_table()
    _, (row,), _ = log(frame)
    table = table_of(tmp_path, row["test/mistakes"])
    assert len(table) == 16
    worst_fake = frame[frame["label"] == 1].sort_values("score").iloc[0]
    worst_real = frame[frame["label"] == 0].sort_values("score").iloc[-1]
    assert list(table["key"][:2]) == [worst_fake["key"], worst_real["key"]]
    assert list(table["verdict"][:2]) == ["missed", "false alarm"]
    assert table["score"][0] == worst_fake["score"]
    assert table["generator"][1] == f"{worst_real['dataset']}/{worst_real['generator']}"
    staged = [path for path in tmp_path.glob("wandb/artifacts/staging/*") if path.read_bytes()[:4] == b"\x89PNG"]
    wanted = Image.fromarray(pictures(worst_fake["key"])["image"])
    wanted.thumbnail((256, 256), Image.Resampling.LANCZOS)
    assert len(staged) == 32
    assert any(np.array_equal(np.asarray(Image.open(path)), np.asarray(wanted)) for path in staged)


def test_pictures_can_be_kept_here(log, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERTOW_WANDB_PICTURES", "false")
    _, (row,), _ = log(usual_table(), load=lambda *_: pytest.fail("a picture was read"))
    assert list(table_of(tmp_path, row["test/mistakes"]).columns) == ["generator", "label", "score", "verdict", "key"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x89PNG"]


def test_the_table_by_generator_has_the_numbers_of_the_metrics(log, tmp_path):
    metrics, (row,), _ = log(usual_table())
    table = table_of(tmp_path, row["test/by_generator"]).set_index("generator")
    assert list(table.index) == ["all", *metrics["by_generator"]]
    assert table.loc["faces/gan", "auroc"] == metrics["by_generator"]["faces/gan"]["auroc"]["value"]
    assert table.loc["faces/sd", "tpr_at_fpr_0.05_low"] == metrics["by_generator"]["faces/sd"]["tpr_at_fpr"]["0.05"]["low"]
    assert table.loc["all", "n_real"] == 280


def test_the_best_monitored_value_is_in_the_summary(log):
    best = ModelCheckpoint(monitor="val/auroc", mode="max")
    best.best_model_score = torch.tensor(0.75)
    _, _, summary = log(usual_table(), callbacks=[best, ModelCheckpoint()])
    assert summary["best/val/auroc"] == 0.75


def test_what_cannot_be_drawn_is_left_out(log, tmp_path, caplog):
    def missing(key, _):
        raise FileNotFoundError(key)

    only_fakes = make_table(some_rows("faces", "sd", 1, 5))
    _, (row,), _ = log(only_fakes, load=missing)
    assert media(tmp_path, row["test/roc_table"])["data"] == []
    assert sum(row["test/scores/real"]["values"]) == 0
    assert len(table_of(tmp_path, row["test/mistakes"])) == 5
    assert "no pictures of" in caplog.text


def test_a_failure_costs_one_chart_and_says_how_to_sync(log, tmp_path, monkeypatch, caplog):
    def broken(*told):
        raise MemoryError

    caplog.set_level(logging.INFO)
    monkeypatch.setattr("workflow.charts.roc", broken)
    _, (row,), _ = log(usual_table())
    assert "no test/roc in W&B: MemoryError" in caplog.text
    assert "test/precision_recall_table" in row
    assert f"1 start(s) of this run are only on this machine. Send it with: wandb sync {tmp_path / 'wandb'}" in caplog.text


@pytest.mark.parametrize("distinct", [5, 1000, 1001, 30_000])
def test_thinned_curves_keep_real_points_and_both_ends(distinct):
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 2, distinct))
    points = curve(torch.tensor(rng.permutation(distinct) + 1.0 * distinct * labels.numpy()), labels)
    kept = _kept(points, 1000)
    assert (kept[0], kept[-1]) == (0, points.false.numel() - 1)
    assert np.all(np.diff(kept) > 0)
    assert kept.size <= 1000
    if distinct < 1000:
        assert kept.size == points.false.numel()
    x, y = (rate.numpy()[kept] for rate in points.rates())
    assert np.trapezoid(y, x) == pytest.approx(float(points.auroc()), abs=1e-3)


def test_confusion_matrices_are_tables_and_pictures(log, tmp_path):
    frame = random_answers(["real", "gan", "diffusion"], never=["flow"])
    document = family_document(frame, trained("gan", "diffusion"), 20)
    save_confusions(tmp_path / "figures", document["confusion"])
    _, (row,), _ = log(frame, families=document, folder=tmp_path)
    for name, true in (("families", frame["family"]), ("generators", "faces/" + frame["generator"])):
        table = table_of(tmp_path, row[f"test/confusion_{name}"])
        for told in table.to_dict("records"):
            assert told["count"] == ((true == told["true"]) & (frame["predicted_family"] == told["predicted"])).sum()
            assert told["share"] == pytest.approx(told["count"] / (true == told["true"]).sum())
        assert table["count"].sum() == len(frame)
        (sent,) = tmp_path.glob(f"wandb/offline-run-*/files/{row[f'test/figures/confusion_{name}']['path']}")
        assert sent.read_bytes() == (tmp_path / "figures" / f"confusion_{name}.png").read_bytes()
    assert "test/figures/embedding_map" not in row


def test_all_figures_are_sent_also_those_in_folders(log, tmp_path, caplog):
    names = ["roc", "distributions", "jpeg_40+blur_1.0/shortcuts", "clip@1.5/roc"]
    draw(tmp_path / "figures", *(f"{name}.png" for name in names))
    (tmp_path / "figures" / "roc.svg").write_text("<svg/>")
    (tmp_path / "figures" / "broken.png").write_bytes((tmp_path / "figures" / "roc.png").read_bytes()[:40])
    log(usual_table(), folder=tmp_path)
    assert starts(tmp_path)[0].figures() == {name: (tmp_path / "figures" / f"{name}.png").read_bytes() for name in names}
    assert "no test/figures/broken in W&B" in caplog.text


def test_figures_beyond_the_most_are_left_out_and_said(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("workflow.charts.FIGURES", 3)
    draw(tmp_path, "b.png", "a/deep.png", "c.png", "a.png", "z/x.png")
    assert list(figures(tmp_path, [tmp_path / "z"])) == [f"test/figures/{name}" for name in ("a", "b", "c")]
    assert f"W&B is sent 3 of the 4 figures of this run; all of them are under {tmp_path}" in caplog.text
    assert figures(tmp_path / "nowhere") == {}


def test_values_of_classes_are_plain_numbers():
    frame = random_answers(["real", "gan"], never=["flow"])
    families = family_document(frame, trained("gan"), 20)
    assert family_values({"families": families}) == {
        "test/families/multiclass_accuracy": families["multiclass_accuracy"]["value"],
        "test/families/balanced_accuracy": families["balanced_accuracy"]["value"],
        "test/families/binary_accuracy": families["binary_accuracy"]["value"],
        "test/families/novelty_auroc": families["unknown"]["auroc"]["value"],
    }
    unmeasured = family_document(frame.assign(novelty=np.nan), trained("gan"), 20)
    assert "test/families/novelty_auroc" not in family_values({"families": unmeasured})
    assert family_values({"overall": {}}) == {}
