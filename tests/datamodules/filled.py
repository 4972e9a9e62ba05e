"""Cache directories for tests: what is in them is a function of the image's number."""

from pathlib import Path

import numpy as np

from datamodules.shards import ShardWriter

LEAF = "inversion-0123456789ab/photos-none-0123456789ab"


def sample(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 255, (3, 8, 8), np.uint8)


def fill(folder: Path, count: int = 10, start: int = 0, **options) -> Path:
    writer = ShardWriter(folder, **options)
    for i in range(start, start + count):
        writer.add(f"{i:032x}", {"image": sample(i)}, {"number": i}, diagnostics={"psnr": float(i)})
    writer.finish()
    return folder


def settings_of(steps: int, weights: str = "w", identity: str = "sha256:aa") -> dict:
    arguments = {"model": weights, "steps": steps}
    return {"format": 1, "extractor": {"class_path": "m.X", "init_args": arguments}, "weights": {weights: identity}, "perturbation": "none"}
