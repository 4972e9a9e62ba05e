"""Classes and maps of embeddings in a run's outputs."""

import json

import numpy as np
import pandas as pd
import pytest

from evaluation.confusion import long_rows
from evaluation.embedding_map import embedding_map
from evaluation.families import family_document
from evaluation.options import ReportOptions
from evaluation.report import write_report
from evaluation.report.families import family_part, map_part
from evaluation.report.parts import Grid, Part
from evaluation.results import write_results
from evaluation.statistics import metrics_document
from tests.evaluation.classes import random_answers, trained
from tests.evaluation.report.pages import HOSTILE, checked, pictures, without_drawings
from tests.evaluation.rows import THRESHOLD

FEW = ReportOptions(images=5)
CLASSES = ["real", "gan", "diffusion"]


@pytest.fixture
def undrawn():
    with without_drawings("save_figures", "save_figure_of_detectors"):
        yield


def vectors(keys):
    return np.array([[int(key[place : place + 4], 16) for place in (0, 4, 8)] for key in keys], dtype=np.float32)


def results(folder, frame, **options):
    metrics = write_results(folder, frame, options.pop("threshold", THRESHOLD), pictures, resamples=20, options=FEW, **options)
    return metrics, checked((folder / "report.html").read_text())


@pytest.mark.usefixtures("undrawn")
def test_classes_and_map_are_in_all_outputs(tmp_path):
    frame = random_answers(CLASSES, never=["flow"], n=300)
    metrics, page = results(tmp_path, frame, trained={"probe": trained("gan", "diffusion")}, vectors=vectors)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert metrics["families"] == family_document(frame, trained("gan", "diffusion"), 20)
    names = {"confusion_answers", "confusion_families", "confusion_generators", "embedding_map"}
    figures = {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == figures
    assert {f"{name}.csv" for name in names} <= {path.name for path in (tmp_path / "tables").iterdir()}
    counts = pd.read_csv(tmp_path / "tables" / "confusion_families.csv")["count"]
    assert counts.tolist() == [row["count"] for row in long_rows(metrics["families"]["confusion"]["families"])]
    for text in ("Classes", "Trained to tell real images and 2 families apart: gan, diffusion.", "Map of the embeddings", "3 numbers"):
        assert text in page.text
    recall = metrics["families"]["by_class"]["gan"]["recall"]
    assert f"{recall['value']:.3f}{recall['low']:.3f}–{recall['high']:.3f}" in page.text
    assert any(
        alt.startswith("Confusion matrix, true family by predicted family: real, gan, diffusion, flow")
        for alt in page.values("aria-label", "svg")
    )


@pytest.mark.usefixtures("undrawn")
def test_a_detector_without_classes_has_what_it_had(tmp_path):
    frame = random_answers(CLASSES, n=200)
    binary = frame.drop(columns="novelty").assign(predicted_family=None)
    told = {"probe": {"target": "binary", "classes": None, "generators": ["faces/gan-1"]}}
    plain, page = results(tmp_path / "plain", binary)
    found, again = results(tmp_path / "told", binary, trained=told, title="plain")
    settings = [each.pop("settings") for each in (found, plain)]
    assert [each["trained"] for each in settings] == [told, {}]
    assert found == plain == metrics_document(binary, THRESHOLD, resamples=20)
    assert page.text == again.text
    assert not {"Classes", "Map of the embeddings"} & set(page.text.split("\n"))
    assert {path.stem for path in tmp_path.rglob("confusion*")} == {"confusion_answers"}


@pytest.mark.usefixtures("undrawn")
def test_each_detector_of_a_study_has_its_own(tmp_path):
    head, binary = random_answers(CLASSES, n=200), random_answers(CLASSES, n=200, predicted_family=None).assign(detector="svm@jpeg/40")
    frame = pd.concat([head, binary.drop(columns="novelty")])
    told = {"probe": trained("gan", "diffusion"), "svm@jpeg/40": {"target": "binary", "classes": None, "generators": None}}
    thresholds = {"probe": THRESHOLD, "svm@jpeg/40": THRESHOLD}
    metrics, page = results(tmp_path, frame, threshold=thresholds, trained=told, vectors={"svm@jpeg/40": vectors})
    assert "families" in metrics["detectors"]["probe"]
    assert "families" not in metrics["detectors"]["svm@jpeg/40"]
    of_all = (tmp_path / "tables", tmp_path / "tables" / "matrices")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.csv") if path.parent not in of_all)
    assert found == [
        *(f"tables/probe/confusion_{name}.csv" for name in ("answers", "families", "generators")),
        *(f"tables/svm@jpeg_40/{name}.csv" for name in ("confusion_answers", "embedding_map")),
    ]
    assert (tmp_path / "figures" / "probe" / "confusion_families.png").exists()
    assert (tmp_path / "figures" / "svm@jpeg_40" / "embedding_map.svg").exists()
    assert page.text.count("Map of the embeddings") == 1


@pytest.mark.usefixtures("undrawn")
def test_vectors_that_cannot_be_read_cost_the_map_only(tmp_path):
    def gone(keys):
        raise FileNotFoundError("shard-0000.tar")

    with pytest.warns(UserWarning, match="no map of the embeddings of probe: FileNotFoundError: shard-0000.tar"):
        _, page = results(tmp_path, random_answers(CLASSES, n=60), vectors=gone)
    assert "There is no map: FileNotFoundError: shard-0000.tar." in page.text
    assert not list(tmp_path.rglob("embedding_map*"))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.usefixtures("undrawn")
def test_hostile_classes_are_text(tmp_path):
    frame = random_answers(["real", HOSTILE], n=60)
    _, page = results(tmp_path, frame, trained={"probe": trained(HOSTILE)}, vectors=vectors)
    assert f"1 families apart: {HOSTILE}" in page.text


@pytest.mark.usefixtures("undrawn")
def test_what_is_said_is_what_was_measured():
    def said(frame, told=None):
        return " ".join(family_part(family_document(frame, told or trained("gan", "diffusion"), 20)).sentences)

    frame = random_answers(CLASSES, never=["flow"], n=300)
    document = family_document(frame, trained("gan", "diffusion"), 20)
    assert f"Of {document['n_known']} images that are real or of these families" in said(frame)
    assert f"AUROC of {document['unknown']['auroc']['value']:.3f} (95% interval" in said(frame)
    assert "is not measured: novelty was not measured." in said(frame.drop(columns="novelty"))
    frame.loc[frame[frame["label"] == 1].index[0], "family"] = "unknown"
    frame.loc[1, "predicted_family"] = None
    assert "Fakes of no known family: 1. They count as never trained on" in said(frame)
    assert "Images without a predicted class: 1." in said(frame)
    many = [f"f{n}" for n in range(14)]
    assert "f11 and 2 more." in said(random_answers(["real", *many], n=50), trained(*many))


@pytest.mark.usefixtures("undrawn")
def test_what_a_map_shows_is_said():
    frame = random_answers(CLASSES, n=300)
    assert map_part("it is gone").sentences == ["There is no map: it is gone."]
    chosen = map_part(embedding_map(frame, vectors, 0.5, most=100)).sentences
    assert chosen[0].startswith("100 images of 300, as many reals as fakes")
    broken = map_part(embedding_map(frame, lambda keys: np.where(np.arange(len(keys)) < 2, np.nan, vectors(keys).T).T, 0.5)).sentences
    assert broken[0].startswith("298 images, at")
    assert broken[1].endswith("not finite: 2.")


def test_reasons_of_a_table_are_noted_once():
    null = {"value": None, "low": None, "high": None, "reason": "none"}
    grid = Grid("a", "b", ["c", "d", "e"], {"x": [null, 1200, "text"], "y": [null, None, {"value": 0.5, "low": 0.25, "high": 1.0}]})
    assert grid.notes == ["none"]
    shown = grid.shown()
    assert [cell["text"] for cell in shown["x"]] == ["–", "1,200", "text"]
    assert [cell["note"] for row in shown.values() for cell in row] == [1, None, None, 1, None, None]
    assert shown["y"][2] == {"text": "0.500", "small": "0.250–1.000", "note": None, "href": "", "sort": 0.5}


@pytest.mark.usefixtures("undrawn")
def test_further_parts_stand_after_a_detectors_numbers_and_before_all_else(tmp_path):
    frame = random_answers(CLASSES, n=60)
    part = Part(HOSTILE, ["a sentence"], [Grid("a table", "head", ["x"], {"row": [3]})])
    page = checked(write_report(tmp_path, frame, metrics_document(frame, THRESHOLD, resamples=20), pictures, parts=[part]).read_text())
    assert HOSTILE in page.text
    assert page.text.rindex("By generator") < page.text.index("a sentence") < page.text.rindex("ROC curves")
    assert "a table" in page.values("aria-label")
