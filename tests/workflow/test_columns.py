"""What a predictions table says of its images besides scores, and the warning of shortcuts before training."""

import csv
import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.datamodule import FeatureDataModule
from datamodules.sources import ManifestSource
from evaluation.predictions import make_table, read_predictions, write_predictions
from modules.extractors import ColourExtractor
from workflow.columns import with_columns
from workflow.pipeline import look_for_shortcuts


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Noise that is alike in both classes; the real images are JPEG files and the fakes PNG files."""
    folder = tmp_path_factory.mktemp("columns")
    rows, drawn = [], np.random.default_rng(0)
    for i in range(40):
        for label, suffix in ((0, "jpg"), (1, "png")):
            name = f"{label}-{i}.{suffix}"
            Image.fromarray(drawn.integers(0, 255, (24, 32, 3), np.uint8)).save(folder / name)
            rows.append([name, label, "made" if label else "photos", f"pair {i}", f"group {i}"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "generator", "pair", "group"], *rows])
    return folder


def data_of(images, **options):
    return FeatureDataModule(
        ManifestSource(str(images / "manifest.csv")), ColourExtractor(), cache_dir=str(images / "cache"), test_fraction=0.4, **options
    )


def table_of(data):
    names = ("key", "dataset", "split", "label", "generator", "family", "group")
    rows = [{name: getattr(record, name) for name in names} | {"detector": "d", "score": 0.0} for record in data.records()]
    return make_table(rows)


def test_rows_get_facts_pairs_and_similarities(images, tmp_path):
    data = data_of(images)
    fakes = [record for record in data.records() if record.label == 1]
    found = with_columns(table_of(data), data, {(fakes[0].dataset, fakes[0].key): 0.25, ("another data set", fakes[1].key): 0.5})
    written = read_predictions(write_predictions(tmp_path / "p.parquet", found))
    assert set(written["fact_format"][written["label"] == 0]) == {"JPEG"}
    assert set(written["fact_format"][written["label"] == 1]) == {"PNG"}
    assert (written["fact_width"] == 32).all()
    assert written["fact_aspect"].to_numpy() == pytest.approx(32 / 24, rel=1e-5)
    by_key = written.set_index("key")
    assert by_key["pair_similarity"].dropna().to_dict() == {fakes[0].key: 0.25}
    assert by_key["pair"].to_dict() == {record.key: record.pair for record in data.records()}


def test_without_the_audit_there_are_no_facts(images):
    data = data_of(images, audit=False)
    found = with_columns(table_of(data), data)
    assert not [name for name in found.columns if name.startswith("fact_")]
    assert "pair_similarity" not in found.columns
    assert look_for_shortcuts(data) == []


def test_only_rows_of_the_table_are_read(images):
    data = data_of(images)
    found = with_columns(table_of(data).head(3), data)
    assert len(found) == 3
    assert found["fact_bytes"].notna().all()


def test_a_shortcut_is_warned_of_before_training(images, caplog):
    with caplog.at_level(logging.WARNING, logger="undertow"):
        said = look_for_shortcuts(data_of(images))
    assert any("format is PNG" in sentence or "format is JPEG" in sentence for sentence in said)
    assert said[0] in caplog.text


def test_it_is_not_once_all_images_are_made_alike(images):
    said = look_for_shortcuts(data_of(images, perturbation="equalise_16"))
    assert not any("format" in sentence or "bytes" in sentence for sentence in said)


def test_the_views_that_training_sees_are_looked_at(images):
    assert not any("format" in sentence for sentence in look_for_shortcuts(data_of(images, views=["equalise_16"])))
    both = look_for_shortcuts(data_of(images, views=["none", "equalise_16"]))
    assert any("format" in sentence for sentence in both)


def test_facts_of_an_equalised_image_are_of_its_pixels(images):
    data = data_of(images, perturbation="equalise_16")
    found = with_columns(table_of(data).assign(perturbation="equalise_16"), data)
    assert "fact_format" not in found.columns
    assert set(found["fact_width"]) == {16}
    assert isinstance(found, pd.DataFrame)


def test_the_generated_fraction_travels(images, tmp_path):
    text = (images / "manifest.csv").read_text().splitlines()
    path = images / "partly.csv"
    path.write_text("\n".join([f"{text[0]},generated_fraction", *(f"{line},{0.5 if line.startswith('1-') else ''}" for line in text[1:])]))
    source = ManifestSource(str(path))
    data = FeatureDataModule(source, ColourExtractor(), cache_dir=str(images / "cache"), test_fraction=0.4)
    found = read_predictions(write_predictions(tmp_path / "p.parquet", with_columns(table_of(data), data, facts=False)))
    assert (found[found["label"] == 1]["generated_fraction"] == 0.5).all()
    assert found[found["label"] == 0]["generated_fraction"].isna().all()
