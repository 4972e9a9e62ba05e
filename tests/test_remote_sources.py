"""train.py on a tiny data set of the hub's formats and on tiny shards: streamed, trained, measured, and not streamed again."""

import io
import json
import tarfile

import pandas as pd
import pytest

from datamodules.sources.hub import fetching
from datamodules.sources.tars import reading as tars
from tests.embeddings import DATA, KINDS, TRAINED, picture, undrawn

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images whose generators differ in colour: bytes, generator, label."""
    folder = tmp_path_factory.mktemp("images")
    found = []
    for number, (_, generator, label, count, colour, noise) in enumerate(KINDS):
        for i in range(count):
            found.append((picture(folder / f"{number}-{i}.png", 1000 * number + i, colour, noise).read_bytes(), generator, label))
    return found


def train_on(place, name, kind, *options):
    import train

    own = [option for option in DATA if "source" not in option]
    where = [f"--data.cache_dir={place / 'cache'}", f"--runs_dir={place / 'runs'}", f"--name={name}"]
    with undrawn():
        return train.main([f"--data.source={kind}", *options, *own, *where, "--model=SVMProbe", *TRAINED])


def measured(folder):
    rows = pd.read_parquet(folder / "predictions.parquet")
    assert set(rows.generator) == {generator for _, generator, *_ in KINDS}
    return json.loads((folder / "metrics.json").read_text())["overall"]["auroc"]["value"]


def test_training_on_a_data_set_of_the_hub(tmp_path, images, monkeypatch):
    rows = {"img": [{"bytes": content, "path": None} for content, *_ in images], "kind": [generator for _, generator, _ in images]}
    types = datasets.Features({"img": datasets.Image(), "kind": datasets.Value("string")})
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=types).to_parquet(str(tmp_path / "set" / "train.parquet"))
    options = [
        f"--data.source.repository={tmp_path / 'set'}",
        '--data.source.columns={"label": "kind", "generator": "kind"}',
        '--data.source.labels={"ffhq": 0, "laion": 0, "*": 1}',
        '--data.source.hub_splits={"train": null}',
        "--data.source.per_generator=18",
    ]
    first = measured(train_on(tmp_path, "first", "HubSource", *options))
    assert first > 0.9
    monkeypatch.setattr(fetching, "HubStream", lambda *_: pytest.fail("it was streamed again"))
    assert measured(train_on(tmp_path, "again", "HubSource", *options)) == first
    kept = list((tmp_path / "cache").glob("hub-set-*/images/*/*.png"))
    assert len(kept) == sum(min(count, 18) for _, _, _, count, *_ in KINDS)


def test_training_on_shards(tmp_path, images, monkeypatch):
    (tmp_path / "set").mkdir()
    for shard in range(3):
        with tarfile.open(tmp_path / "set" / f"{shard:05d}.tar", "w") as tar:
            for number, (content, generator, label) in enumerate(images[shard::3]):
                told = json.dumps({"label": label, "model": generator, "status": "success"}).encode()
                for suffix, data in (("png", content), ("json", told)):
                    info = tarfile.TarInfo(f"{shard}{number:04d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    options = [
        f"--data.source.shards={tmp_path / 'set' / '{00000..00002}.tar'}",
        '--data.source.fields={"label": "json:label", "generator": "json:model"}',
    ]
    first = measured(train_on(tmp_path, "first", "ShardsSource", *options))
    assert first > 0.9
    monkeypatch.setattr(tars, "opened", lambda *_: pytest.fail("a shard was read again"))
    assert measured(train_on(tmp_path, "again", "ShardsSource", *options)) == first
