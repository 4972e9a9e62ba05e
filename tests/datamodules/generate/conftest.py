"""What the tests of generating share."""

import json

import pytest

from datamodules.generate import sampling
from datamodules.generate.sampling import Loading, Sampler
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
    return Sampler(Loading(MODEL), steps=2)


@pytest.fixture(autouse=True)
def loaded_once(sampler, monkeypatch):
    """The pipeline is loaded once for all tests; `test_a_pipeline_is_loaded_by_name` loads its own."""
    monkeypatch.setattr(sampling, "load_pipeline", lambda *given: sampler.pipeline)


@pytest.fixture
def commits(monkeypatch):
    """What the branch of the model's repository names at each load: the first of these, as of a model of the hub."""
    found = ["1" * 40]
    monkeypatch.setattr(Loading, "commit", lambda loading: loading.revision or found[0])
    return found
