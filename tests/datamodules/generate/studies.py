"""Photographs, captions and options of small studies."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = str(Path(__file__).parents[3] / "assets" / "tiny-diffusion")
COUNT = 12


def photograph(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


def annotations(count=COUNT):
    """MSCOCO's form, with two captions an image; the lower id comes last."""
    images = [{"id": i, "file_name": f"{i}.jpg", "license": 3} for i in range(count)]
    second = [{"id": 500 + i, "image_id": i, "caption": "not this one"} for i in range(count)]
    first = [{"id": 100 + i, "image_id": i, "caption": f" A photo of\n{i} coins "} for i in range(count)]
    return {"info": {}, "images": images, "annotations": second + first}


def options(place, output="out", **changed):
    given = {"captions": place / "captions.json", "images": place / "photos", "model": MODEL, "output": place / output, "device": "cpu"}
    given |= {"test": 5, "calibration": 3, "steps": 2, "batch_size": 3} | changed
    return [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]


def rows(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
