"""What the tests of generating share."""

import json

import pytest

from datamodules.generate import sampling
from datamodules.generate.sampling import Sampler
from tests.datamodules.generate.studies import COUNT, MODEL, annotations, photograph


@pytest.fixture
def place(tmp_path):
    for i in range(COUNT):
        photograph(tmp_path / "photos" / f"{i}.jpg", i)
    (tmp_path / "captions.json").write_text(json.dumps(annotations()))
    return tmp_path


@pytest.fixture
def rewrite(place):
    def change(edit):
        content = annotations()
        edit(content)
        (place / "captions.json").write_text(json.dumps(content))

    return change


@pytest.fixture(scope="module")
def sampler():
    return Sampler(MODEL, steps=2)


@pytest.fixture(autouse=True)
def loaded_once(sampler, monkeypatch):
    """The pipeline is loaded once for all tests; `test_a_pipeline_is_loaded_by_name` loads its own."""
    monkeypatch.setattr(sampling, "_load", lambda model, revision, dtype: sampler.pipeline)
