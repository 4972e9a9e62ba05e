"""Fakes of one folder and real images of another as one data set: the recipe of docs/data_remote.md, checked, trained and measured."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

import train
from datamodules.check.findings import findings
from datamodules.check.text import warnings
from datamodules.errors import DataError
from datamodules.families import FamilyMap
from datamodules.sources import ImagesSource, JoinedSource
from tests.embeddings import DATA, TRAINED, picture, undrawn


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    for i in range(20):
        picture(root / "coco" / f"{i}.png", i, (120, 120, 120), 4)
        picture(root / "sdxl" / f"{i}.png", 100 + i, (250, 40, 40), 20)
    return root


def sources(folders):
    return {
        "fakes": ImagesSource(str(folders / "sdxl"), generator="sdxl", dataset="mine"),
        "reals": ImagesSource(str(folders / "coco"), kind="real", dataset="mine"),
    }


def recipe():
    """The YAML of docs/data_remote.md that joins fakes of the hub with real images."""
    blocks = re.findall(r"```yaml\n(.*?)```", Path("docs/data_remote.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if "JoinedSource" in block]
    return yaml.safe_load(found)


def test_one_name_for_all_sources(folders, tmp_path):
    records = JoinedSource(sources(folders), splits={"fakes": "test"}, dataset="one").records(tmp_path)
    assert {(record.dataset, record.label, record.split) for record in records} == {("one", 1, "test"), ("one", 0, None)}
    assert JoinedSource(sources(folders), dataset="one").name == "one"
    with pytest.raises(DataError, match="option dataset that all are one"):
        JoinedSource(sources(folders)).records(tmp_path)
    with pytest.raises(DataError, match="dataset is ' ', which is no name"):
        JoinedSource(sources(folders), dataset=" ")


def test_what_check_advises_is_what_helps(folders, tmp_path):
    fakes, reals = sources(folders).values()
    for alone, missing in ((fakes, "has no real images"), (reals, "has no generated images")):
        (said,) = [sentence for sentence in warnings(findings(alone, FamilyMap.load(), tmp_path)) if missing in sentence]
        assert "JoinedSource and its option dataset: docs/data_remote.md" in said
    joined = findings(JoinedSource(sources(folders), dataset="mine"), FamilyMap.load(), tmp_path)
    assert (joined["datasets"], joined["real"], joined["generated"]) == (["mine"], 20, 20)
    assert not [sentence for sentence in warnings(joined) if "has no" in sentence]


def test_the_recipe_of_the_documentation(folders, tmp_path):
    told = recipe()
    joined = told["data"]["source"]["init_args"]["sources"]
    joined["fakes"] = {"class_path": "datamodules.sources.ImagesSource", "init_args": {"root": str(folders / "sdxl")}}
    joined["reals"]["init_args"]["root"] = str(folders / "coco")
    (tmp_path / "joined.yaml").write_text(yaml.safe_dump(told))
    own = [option for option in DATA if "source" not in option]
    where = [f"--data.cache_dir={tmp_path / 'cache'}", f"--runs_dir={tmp_path / 'runs'}", "--name=joined"]
    with undrawn():
        folder = train.main([f"--config={tmp_path / 'joined.yaml'}", *own, *where, "--model=SVMProbe", *TRAINED])
    rows = pd.read_parquet(folder / "predictions.parquet")
    assert set(rows.dataset) == {"ai-genbench"}
    assert set(rows.generator) == {"sdxl", "coco"}
    assert json.loads((folder / "metrics.json").read_text())["by_generator"]["ai-genbench/sdxl"]["auroc"]["value"] > 0.9


def test_every_set_of_the_hub_without_real_images_says_so():
    for path in Path("configs/sources").glob("*.yaml"):
        if yaml.safe_load(path.read_text())["data"]["source"]["init_args"].get("all_are") == "fake":
            assert "JoinedSource with the option dataset" in re.sub(r"\n# ", " ", path.read_text()), path
