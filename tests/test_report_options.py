"""Options of the report through the real commands."""

import json
import re

import pytest
import yaml

import evaluate
import train
from cli import RunError
from tests.embeddings import data_set, options, undrawn
from tests.evaluation.report.pages import checked

HEAD = ["--model=LinearProbe", "--trainer.max_epochs=1"]
LITTLE = ["--report.images=12", "--report.spectra=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    data_set(folder / "images")
    return folder


@pytest.fixture(scope="module")
def run(place):
    with undrawn():
        return train.main(options(place, "head", *HEAD, *LITTLE))


def page_of(folder):
    return checked((folder / "report.html").read_text())


def evaluated(place, run, name, *more):
    where = [
        f"--data.source.path={place / 'images' / 'manifest.csv'}",
        f"--data.cache_dir={place / 'cache'}",
        f"--runs_dir={place / 'runs'}",
    ]
    checkpoint = f"--checkpoint={run / 'checkpoints' / 'best.ckpt'}"
    command = [checkpoint, "--data.source=ManifestSource", *where, f"--name={name}", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    with undrawn():
        return evaluate.main([*command, "--trainer.enable_progress_bar=false", *more])


@pytest.mark.parametrize("option", ["images=-1", "megabytes=-0.5", "spectra=-3"])
def test_negative_numbers_are_refused_in_a_sentence(place, run, option):
    sentence = f"report.{option.replace('=', ' is ')}: it must be 0 or more"
    with pytest.raises(RunError, match=re.escape(sentence)):
        train.main(options(place, "refused", *HEAD, f"--report.{option}"))
    with pytest.raises(RunError, match=re.escape(sentence)):
        evaluated(place, run, "unstarted", f"--report.{option}")
    assert not (place / "runs" / "refused").exists()
    assert not (place / "runs" / "unstarted").exists()


def test_a_report_holds_as_many_images_as_it_may(run):
    page = page_of(run)
    data = json.loads(page.data[0])
    assert len(data["images"]["key"]) == 12
    assert data["split"] == "test"
    assert [name for name, text in zip(data["images"]["key"], json.loads(page.data[1]), strict=True) if not text] == []
    assert len(json.loads(page.data[2])) == 12
    held = set(data["images"]["key"])
    led = {href.rpartition("%2F")[2].partition("%40")[0] for href in page.values("href") if "image=" in href}
    assert led
    assert led <= held
    assert "img" in page.tags
    assert yaml.safe_load((run / "config.yaml").read_text())["report"] == {"images": 12, "megabytes": 16.0, "spectra": 2}
    assert "2 images" in page.text or "up to 2" in page.text


def test_no_picture_of_an_image_is_in_the_report_where_none_is_wanted(place, run):
    folder = evaluated(place, run, "none", "--report.images=0", "--report.spectra=0")
    html = (folder / "report.html").read_text()
    page = checked(html)
    assert not {"img", "image"} & set(page.tags)
    assert not page.data
    assert not re.search(r"data:image/\w+;base64,[A-Za-z0-9]", html)
    assert "UklGR" not in html  # how a WebP file begins
    assert "Worst mistakes" in page.text
    assert "No picture" not in page.text
    assert not [href for href in page.values("href") if href.startswith("#images")]
    assert not list(folder.rglob("spectr*"))
    assert list(run.glob("figures/spectr*.png"))


def test_a_run_goes_on_with_another_report(place, run):
    with undrawn():
        again = train.main(
            options(place, "head", *HEAD, "--report.images=5", "--report.megabytes=0", "--report.spectra=0", "--resume=auto")
        )
    assert again == run
    page = page_of(run)
    assert len(json.loads(page.data[0])["images"]["key"]) == 5
    assert len(page.data) == 2
    assert "--report.megabytes allows 0 MB" in page.text
