"""A small data set whose generators differ in colour, and options that make heads on it a matter of a second."""

import csv
import os
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import train
from cli import CHECKPOINT_VARIABLE, RUN_VARIABLE
from workflow import fitting

SIDE = 32
# data set, generator, label, how many images, colour that is mixed in, noise in levels
KINDS = (
    ("faces", "ffhq", 0, 20, (120, 120, 120), 4),
    ("scenes", "laion", 0, 20, (100, 110, 130), 8),
    ("faces", "stylegan2", 1, 16, (250, 40, 40), 20),
    ("scenes", "progan", 1, 16, (230, 30, 70), 30),
    ("faces", "sdxl", 1, 16, (40, 230, 60), 12),
)
FAMILIES = {"ffhq": "real", "laion": "real", "stylegan2": "gan", "progan": "gan", "sdxl": "latent-diffusion"}
DATA = [
    "--data.source=ManifestSource",
    "--data.extractor=ColourExtractor",
    "--data.extractor.size=16",
    "--data.extractor.bins=4",
    "--data.val_fraction=0.2",
    "--data.test_fraction=0.3",
]
TRAINED = [
    "--model.feature=colour",
    "--model.threshold_fpr=0.2",
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
]


def picture(path, seed, colour, noise, mixed=0.5):
    """Write a smooth picture of its own with a colour mixed in, under noise."""
    drawn = np.random.default_rng(seed)
    corners = Image.fromarray(drawn.integers(0, 255, (3, 3, 3), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    levels = np.asarray(corners) * (1 - mixed) + np.array(colour) * mixed + drawn.normal(0, noise, (SIDE, SIDE, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)).save(path)
    return path


def data_set(folder, name="manifest.csv", renamed=None):
    """Write the images and their manifest, without splits; each fake shares a pair with a real image."""
    rows = []
    for number, (dataset, generator, label, count, colour, noise) in enumerate(KINDS):
        for i in range(count):
            path = folder / dataset / generator / f"{i}.png"
            if not path.exists():
                picture(path, 1000 * number + i, colour, noise)
            photograph = f"{dataset}-{i}"
            rows.append([path.relative_to(folder), label, dataset, (renamed or {}).get(generator, generator), photograph, photograph])
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "dataset", "generator", "pair", "group"], *rows])
    return folder / name


def fakes(folder, count, seed=9000, colour=(60, 60, 250), noise=16):
    """Write images of a generator that the data set does not have."""
    for i in range(count):
        picture(folder / f"{i}.png", seed + i, colour, noise)
    return folder


def options(place, name, *more):
    """Options of train.py for a run of this name on the data set of `place`, with cache and runs there."""
    where = [f"--data.source.path={place / 'images' / 'manifest.csv'}", f"--data.cache_dir={place / 'cache'}"]
    return [*DATA, *where, f"--runs_dir={place / 'runs'}", f"--name={name}", *more[:1], *TRAINED, *more[1:]]


@contextmanager
def undrawn():
    """Figures are not drawn, which takes most of the time of a run on so few images; everything else is as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **_: file.write(b"<svg/>"))
        yield


def run(place, name, *more):
    """A run of train.py without figures; gives its folder."""
    with undrawn():
        return train.main(options(place, name, *more))


@contextmanager
def fitted_here():
    """Detectors of studies are fitted in this process and not in one of their own, which takes ten seconds to start."""

    def instead(command, **_):
        run_directory = {name: os.environ.pop(name, None) for name in (RUN_VARIABLE, CHECKPOINT_VARIABLE)}
        try:
            train.main(command[2:])
        finally:
            os.environ.update({name: value for name, value in run_directory.items() if value is not None})
        return SimpleNamespace(returncode=0)

    with undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "subprocess", SimpleNamespace(run=instead))
        yield
