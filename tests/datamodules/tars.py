"""Shards for the tests of their source: as webdataset and img2dataset write them, and by hand."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

IMG2DATASET = {"fields": {"label": "json:label", "generator": "json:model"}}


def picture(seed, form="PNG", side=24):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def img2dataset(path, seeds, **more):
    """A shard as img2dataset writes it: `.jpg`, `.txt` and an indented `.json`, the table and the statistics beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for seed in seeds:
            told = {"key": f"{seed:09d}", "url": f"http://x.y/{seed}", "caption": f"caption {seed}", "status": "success", "label": seed % 2}
            told |= {"width": 24, "height": 24, "original_width": 640, "original_height": 480, "exif": "{}", "model": f"m{seed % 3}"} | more
            sample = {"__key__": f"{seed:09d}", "jpg": picture(seed, "JPEG"), "txt": f"caption {seed}", "json": json.dumps(told, indent=4)}
            writer.write(sample)
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    path.with_name(f"{path.stem}_stats.json").write_text("{}")
    return path


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def by_hand(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def contents(records):
    """The kept files' bytes."""
    return [Path(record.path).read_bytes() for record in records]
