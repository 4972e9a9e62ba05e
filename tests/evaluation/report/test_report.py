"""`report.html` and the whole set of outputs of a run."""

import base64
import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.comparison.targets import Target, Targets
from evaluation.options import ReportOptions
from evaluation.predictions import make_table, read_predictions
from evaluation.report import browser, write_report
from evaluation.report.report import coded
from evaluation.report.verdict import concerns, findings, percent
from evaluation.results import folders_of, write_results
from evaluation.statistics import metrics_document
from modules.metrics.functional import Threshold
from tests.evaluation.report.pages import HOSTILE, checked, pictures, without_drawings
from tests.evaluation.rows import THRESHOLD, some_rows, usual_table

FEW = ReportOptions(images=5)


def small(key, _):
    return {"image": np.full((4, 6, 3), int(key[:2], 16), np.uint8)}


@pytest.fixture
def undrawn():
    with without_drawings():
        yield


def report(tmp_path, table, load=pictures, threshold=THRESHOLD, **options):
    metrics = metrics_document(table, threshold, resamples=20)
    html = write_report(tmp_path, table, metrics, load, **options).read_text()
    return html, checked(html)


def browsed(table, load=small, **options):
    return browser(table, {name: 0.5 for name in table["detector"].unique()}, load, **options)


@pytest.mark.usefixtures("undrawn")
def test_one_file_without_a_network(tmp_path):
    html, page = report(tmp_path, usual_table(), title="quickstart", facts={"detector": "probe", "steps": 10}, warnings=["look out"])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert {value for value in page.values("href") if not value.startswith("#")} == {
        *("metrics.json", "predictions.parquet", "figures/", "tables/")
    }
    assert "url(" not in html
    assert "@import" not in html
    assert "form" not in page.tags
    assert not page.data
    for text in ("quickstart", "look out", "probe", "faces/sd", "Worst mistakes", "ROC curves"):
        assert text in page.text.replace("\u200b", "")


@pytest.mark.usefixtures("undrawn")
def test_pictures_have_alt_texts_and_open(tmp_path):
    _, page = report(tmp_path, usual_table())
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(images) == len(alts) == page.tags.count("img")
    assert all(alts)
    mistakes = [uri for uri in images if uri.startswith("data:image/png")]
    assert len(mistakes) == 2 * 6 * 3
    with Image.open(io.BytesIO(base64.b64decode(mistakes[0].partition(",")[2]))) as image:
        assert image.size == (64, 48)
    assert any("noise map of fake image" in alt and "score" in alt for alt in alts)


@pytest.mark.usefixtures("undrawn")
def test_worst_mistakes_of_both_kinds(tmp_path):
    table = usual_table()
    html, page = report(tmp_path, table)
    missed = table[table["label"] == 1].nsmallest(6, "score")
    alarms = table[table["label"] == 0].nlargest(6, "score")
    for score in [*missed["score"], *alarms["score"]]:
        assert f"score {score:.4g}" in page.text
    assert html.count(">missed<") == 6
    assert html.count(">false alarm<") == 6
    total = int((table[table["label"] == 1]["score"] <= 0.5).sum())
    assert f"{total} of 280" in page.text
    without, _ = report(tmp_path, table, threshold=Threshold(None, 0.05, 3, "too few"))
    assert ">missed<" not in without


@pytest.mark.usefixtures("undrawn")
def test_large_pictures_become_thumbnails(tmp_path):
    _, page = report(tmp_path, usual_table(), load=lambda *_: {"image": np.zeros((600, 1200, 3), np.uint8)})
    uri = next(value for value in page.values("src") if value.startswith("data:image/jpeg"))
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert image.size == (256, 128)


@pytest.mark.parametrize("where", ["generator", "dataset", "path", "detector"])
@pytest.mark.usefixtures("undrawn")
def test_hostile_names_are_text(tmp_path, where):
    table = usual_table().assign(**{where: HOSTILE} if where != "generator" else {})
    if where == "generator":
        table.loc[table["label"] == 1, "generator"] = HOSTILE
    _, page = report(tmp_path, table, title=HOSTILE, facts={HOSTILE: HOSTILE}, warnings=[HOSTILE], images=browsed(table))
    assert len(page.data) == 1 + 3 + 3
    assert HOSTILE in page.text
    assert where == "detector" or any(HOSTILE in text for text in strings(json.loads(page.data[0])))


def strings(value):
    """All texts of a JSON value."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_are_text_in_drawings_too(tmp_path):
    table = make_table(some_rows("faces", "ffhq", 0, 30) + some_rows("faces", "<b onload=x>", 1, 30) + some_rows("<script>", "sd", 1, 30))
    html, page = report(tmp_path, table.assign(detector=HOSTILE))
    assert page.tags.count("svg") == 2 + 3 + 1
    assert not {"b", "style.x"} & set(page.tags)
    assert "faces/<b onload=x>" in page.text
    assert "<script>/sd" in page.text
    assert html.count("<script>") == 1


def test_coded_marks_what_stands_between_backticks_and_escapes_all():
    assert coded("a `b` c `<i>`") == "a <code>b</code> c <code>&lt;i&gt;</code>"
    assert coded("<i> & `x&y`") == "&lt;i&gt; &amp; <code>x&amp;y</code>"
    assert coded('no code, "quoted"') == "no code, &#34;quoted&#34;"
    assert coded("``") == "<code></code>"
    assert coded("a ` alone") == "a <code> alone</code>"


@pytest.mark.usefixtures("undrawn")
def test_a_picture_that_fails_is_said_and_costs_nothing_else(tmp_path):
    def load(key, _):
        if int(key, 16) % 2:
            raise KeyError(key)
        return {"image": np.zeros((4, 4), np.float32)}

    with pytest.warns(UserWarning, match="no pictures of"):
        _, page = report(tmp_path, usual_table(), load=load)
    assert "No picture: KeyError" in page.text
    assert "No picture: ValueError: a picture is uint8 [H, W, 3]; got float32 [4, 4]" in page.text


@pytest.mark.usefixtures("undrawn")
def test_several_detectors_and_perturbations(tmp_path):
    table = usual_table()
    table = pd.concat([table, table.assign(perturbation="jpeg_40", score=table["score"] - 0.1)])
    table = pd.concat([table, table.assign(detector="other")])
    _, page = report(
        tmp_path, table, threshold={"probe": THRESHOLD, "other": Threshold(None, 0.05, 3, "three reals")}, warnings=["one warning"]
    )
    assert page.text.count("By perturbation") == 2
    alts = page.values("aria-label", "svg")
    assert alts.count("ROC curves by perturbation: none, jpeg_40") == 2
    assert alts.count("Histograms of scores by perturbation: none, jpeg_40") == 2
    assert alts.count("ROC curves of the detectors, linear axis: probe, other") == 1
    assert alts.count("ROC curves of the detectors, logarithmic axis: probe, other") == 1
    assert {"AUROC by detector", "TPR at FPR 0.1 by detector"} <= set(page.values("aria-label"))
    assert page.text.count("one warning") == 1
    assert "There is no threshold, so no image is called real or fake: three reals." in page.text


@pytest.mark.usefixtures("undrawn")
def test_only_reals_only_fakes_and_missing_scores(tmp_path):
    for table in (usual_table().query("label == 0"), usual_table().query("label == 1"), usual_table().assign(score=np.nan)):
        _, page = report(tmp_path, table)
        assert "No numbers for" in page.text


def test_verdict_says_what_the_numbers_say():
    table = usual_table()
    document = metrics_document(table, THRESHOLD, resamples=200)
    said = " ".join(findings(document, table))
    assert "280 fakes of 3 generators (100 groups) against 280 real images (68 groups); data: faces, scenes." in said
    assert f"AUROC over all images {document['overall']['auroc']['value']:.3f} (95% interval" in said
    assert "Weakest on faces/gan" in said
    assert "Not shown to do better than chance on faces/gan" in said
    assert "99 validation reals for a false positive rate of 5%" in said
    assert concerns(document) == ["No intervals for scenes/sd: too few groups for an interval: 8 of real images, 10 needed."]


def test_verdict_names_the_perturbation_of_rows_that_are_not_clean():
    table = usual_table().assign(perturbation="jpeg_40")
    assert findings(metrics_document(table, THRESHOLD, resamples=20), table)[0].endswith("data: faces, scenes; perturbation: jpeg_40.")


def test_verdict_on_reversed_scores():
    table = make_table(some_rows("a", "r", 0, 100) + some_rows("a", "f", 1, 100, shift=-2))
    said = " ".join(findings(metrics_document(table, THRESHOLD, resamples=50), table))
    assert "Below 0.5 on a/f: fakes score lower than real images there." in said


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0%"), (1, "100%"), (0.05, "5%"), (0.092, "9.2%"), (0.999, "100%"), (0.5, "50%"), (0.0004, "0.04%")]
)
def test_percent(share, text):
    assert percent(share) == text


def test_write_results_writes_all(tmp_path):
    table = pd.concat([usual_table(), make_table(some_rows("faces", "val", 0, 30, split="val"))])
    metrics = write_results(tmp_path / "run", table, THRESHOLD, small, {"detector": "probe"}, resamples=20)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("predictions.parquet", "metrics.json", "report.html", "figures", "tables")
    }
    assert {path.name for path in (tmp_path / "run" / "tables").iterdir()} == {
        "auroc.csv",
        "auroc_by_dataset.csv",
        "by_generator.csv",
        "confusion_answers.csv",
        "distributions.csv",
        "table.csv",
        "tpr_at_fpr_0.1.csv",
        "tpr_at_fpr_0.1_by_dataset.csv",
    }
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert len(read_predictions(tmp_path / "run" / "predictions.parquet")) == 590
    assert metrics["overall"]["n_real"] == 280
    html = (tmp_path / "run" / "report.html").read_text()
    assert "<h1>run</h1>" in html
    assert len(html) < 3_000_000
    page = checked(html)
    assert page.tags.count("svg") == 2 + 4 + 1
    assert len(json.loads(page.data[0])["images"]["key"]) == 590
    again = metrics_document(read_predictions(tmp_path / "run" / "predictions.parquet").query("split == 'test'"), THRESHOLD, resamples=20)
    assert again == {name: part for name, part in metrics.items() if name != "settings"}


@pytest.mark.usefixtures("undrawn")
def test_write_results_of_all_splits(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.results.save_figures", lambda *_: [])
    table = pd.concat([usual_table(), make_table(some_rows("faces", "val", 0, 30, split="val"))])
    everything = write_results(tmp_path / "all", table, THRESHOLD, pictures, resamples=20, split=None, options=FEW)
    assert everything["overall"]["n_real"] == 310


def test_write_results_without_rows_of_the_split(tmp_path):
    with pytest.raises(ValueError, match=r"no row of the split 'test' .* there are: val"):
        write_results(tmp_path, usual_table().assign(split="val"), THRESHOLD, pictures)


@pytest.mark.usefixtures("undrawn")
def test_figures_of_several_detectors_have_safe_folders(tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr("evaluation.results.save_figures", lambda folder, *_: folders.append(folder))
    monkeypatch.setattr("evaluation.results.save_figure_of_detectors", lambda folder, tables: folders.append((folder, list(tables))))
    table = pd.concat([usual_table(), usual_table().assign(detector="../svm@jpeg_40")])
    write_results(tmp_path, table, {"probe": THRESHOLD, "../svm@jpeg_40": THRESHOLD}, pictures, resamples=20, options=FEW)
    assert folders[:2] == [tmp_path / "figures" / "probe", tmp_path / "figures" / "_svm@jpeg_40"]
    assert folders[2:] == [(tmp_path / "figures", ["probe", "../svm@jpeg_40"])]


@pytest.mark.usefixtures("undrawn")
def test_published_numbers_beside_measured_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.results.save_figures", lambda *_: [])
    same = {"detector": "probe", "train": None, "dataset": "faces", "generator": "sd", "perturbation": "none"}
    rows = [Target(**same, metric="auroc", value=0.25), Target(**same, metric=HOSTILE, value=0.5)]
    rows += [Target(**same | changed, metric="auroc", value=0.75) for changed in ({"generator": "dalle"}, {"detector": "x"})]
    targets = Targets(HOSTILE, "by its authors", "", "", rows, settings={"probe": {"extractor.steps": (10,)}})
    metrics = write_results(
        tmp_path,
        usual_table(),
        THRESHOLD,
        pictures,
        targets=targets,
        settings={"probe": {"extractor": {"steps": 10}}},
        resamples=20,
        options=FEW,
    )
    page = checked((tmp_path / "report.html").read_text())
    assert HOSTILE in page.text
    value = metrics["by_generator"]["faces/sd"]["auroc"]["value"]
    assert f"{value - 0.25:+.4f}" in page.text
    assert "not comparable: other data: faces/gan, faces/sd, scenes/sd; published: faces/dalle" in page.text
    assert "1 × not comparable: no detector is named x here, but probe" in page.text
    table = pd.read_csv(tmp_path / "tables" / "compared.csv")
    assert table["difference"].notna().tolist() == [True, False, False, False]
    assert "Beside published numbers" not in report(tmp_path, usual_table())[1].text


def test_detectors_whose_names_are_alike_have_folders_of_their_own():
    assert folders_of(["sd 1.5", "sd_1_5", "svm@jpeg_40", "sd/1/5"]) == {
        "sd 1.5": "sd_1_5",
        "sd_1_5": "sd_1_5-2",
        "svm@jpeg_40": "svm@jpeg_40",
        "sd/1/5": "sd_1_5-3",
    }
