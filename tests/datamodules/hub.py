"""Data sets in the hub's formats, made on disk by the library itself."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.sources import HubSource

datasets = pytest.importorskip("datasets")
GENERATORS = ("real", "sdxl", "flux")


def png(seed, side=24):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table(seeds, **more):
    """Rows as data sets of the hub have them: an image, a class, a generator, a prompt."""
    rows = {
        "image": [{"bytes": png(seed), "path": f"{seed}.png"} for seed in seeds],
        "label": [min(seed % 3, 1) for seed in seeds],
        "model": [GENERATORS[seed % 3] for seed in seeds],
        "prompt": [f"prompt {seed // 3}" for seed in seeds],
        "unused": [{"nested": seed} for seed in seeds],
        **more,
    }
    types = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["real", "fake"]),
        "model": datasets.Value("string"),
        "prompt": datasets.Value("string"),
        "unused": {"nested": datasets.Value("int64")},
    }
    types |= {name: datasets.Dataset.from_dict({name: values}).features[name] for name, values in more.items() if name not in types}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(types))


OPTIONS = {"columns": {"generator": "model", "caption": "prompt", "group": "prompt"}, "caption_source": "prompt"}


def source(repository, **options):
    return HubSource(str(repository), **(OPTIONS | options))


def kept(folder):
    return sorted(path for path in folder.glob("images/*/*"))


def contents(records):
    return [Path(record.path).read_bytes() for record in records]
