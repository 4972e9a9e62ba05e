"""What faster inversions cost in numbers: features and AUROC of fewer steps, DPM-Solver++ and DeepCache beside the exact mode.

python -m benchmarks.faster_modes --folder cache/faster-modes

The built-in set and model at 64 pixels; the exact mode is 50 + 50 steps of DDIM. Every mode has features of its own in the cache, and
what was measured is kept in the folder: stopped, the same command goes on. A probe (logistic regression) is trained on 34 statistics of
each image's features, and again on resampled training images, the same ones in every mode; with `--seeds` the quickstart's network too.
"""

import argparse
import itertools
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.datamodule import FeatureDataModule
from datamodules.files import write_atomically
from datamodules.sources import BuiltInSource
from modules.extractors import InversionExtractor
from modules.images import psnr
from modules.metrics.functional import auroc
from workflow.fitting import FittedDetector, fit
from workflow.pipeline import extract_missing

EXACT = "ddim-50"
MODES: dict[str, dict[str, Any]] = {
    EXACT: {"steps": 50},
    **{f"{solver}-{steps}": {"steps": steps, "solver": solver} for solver in ("ddim", "dpm++") for steps in (25, 10, 5)},
    **{f"reuse-{reuse}": {"steps": 50, "reuse": reuse} for reuse in (2, 3, 5)},
}
RESAMPLES = 20
Arrays = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Images:
    """The images of one mode, in the same order in every mode.

    Attributes:
        features: `image`, `noise_map` and `reconstruction`, each `[N, 3, 64, 64]`.
        labels: `[N]`, 1 for fakes.
        tested: `[N]`, True in the test split, False in the training split.
    """

    features: Arrays
    labels: NDArray[np.int64]
    tested: NDArray[np.bool_]


def data_of(mode: str, folder: Path, limit: int | None) -> FeatureDataModule:
    """Training and test images of the built-in set, with this mode's features."""
    extractor = InversionExtractor(size=64, **MODES[mode])
    data = FeatureDataModule(
        BuiltInSource(), extractor, cache_dir=str(folder / "cache"), extract_batch_size=32, extract_workers=0, limit=limit
    )
    data.restrict({record.key for record in data.records() if record.split in ("train", "test")})
    return data


def extracted(mode: str, folder: Path, limit: int | None) -> tuple[Images, float | None]:
    """The features, and images a second of the extraction that made most of them."""
    data, told = data_of(mode, folder, limit), folder / f"{mode}-{limit}.json"
    missing = len(data.missing())
    started = time.perf_counter()
    if missing:
        extract_missing(data, {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False})
    if 2 * missing > len(data.records()):
        write_atomically(told, json.dumps(missing / (time.perf_counter() - started)).encode())
    records = sorted((record for split in ("train", "test") for record in data.usable(split)), key=lambda record: record.key)
    loaded = [data.load_features(record) for record in records]
    features = {name: np.stack([each[name] for each in loaded]) for name in ("image", "noise_map", "reconstruction")}
    labels, tested = np.array([record.label for record in records]), np.array([record.split == "test" for record in records])
    return Images(features, labels, tested), json.loads(told.read_text()) if told.exists() else None


def forwards(mode: str) -> dict[str, int]:
    """Passes of the UNet that one image takes, counted: `deep` with all layers, `shallow` with the outer ones alone."""
    extractor = InversionExtractor(size=64, **MODES[mode])
    extractor.load()
    unet = extractor._loaded().unet
    counts = {"deep": 0, "all": 0}
    for layer, name in ((unet.mid_block, "deep"), (unet.conv_in, "all")):
        layer.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    with torch.inference_mode():
        extractor(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), [""], [0])
    return {"deep": counts["deep"], "shallow": counts["all"] - counts["deep"]}


def distances(features: Arrays, exact: Arrays) -> dict[str, float]:
    """Differences from the exact features in levels of 255, and the median PSNR of the round trip in dB."""
    found: dict[str, float] = {}
    for name in ("noise_map", "reconstruction"):
        difference = np.abs(features[name].astype(np.int16) - exact[name])
        found |= {f"{name}_mean": float(difference.mean()), f"{name}_max": float(difference.max())}
    image, rebuilt = (torch.from_numpy(features[name]) for name in ("image", "reconstruction"))
    return found | {"psnr": float(psnr(image, rebuilt).median())}


def describe(features: Arrays) -> NDArray[np.float64]:
    """Statistics of each image's residual and noise map, `[N, 34]`.

    Of each channel mean, spread, 90th percentile and root of the third moment of the residual |x − x̂|, mean and spread of the noise map,
    and how alike neighbours are in the signed residual, in both directions, and in the noise map; over all channels, the energy of both
    by frequency.
    """
    image, noise, rebuilt = (features[name].astype(np.float64) / 255 for name in ("image", "noise_map", "reconstruction"))
    signed = image - rebuilt
    residual = np.abs(signed)
    mean, spread = residual.mean((2, 3)), residual.std((2, 3)) + 1e-6
    columns = [mean, spread, np.quantile(residual, 0.9, axis=(2, 3)), (residual**3).mean((2, 3)) ** (1 / 3)]
    columns += [noise.mean((2, 3)), noise.std((2, 3))]
    columns += [_alike(signed, 2), _alike(signed, 3), _alike(noise, 3), _energies(signed), _energies(noise)[:, :3]]
    return np.concatenate(columns, axis=1)


def _alike(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Correlation of neighbours along an axis, `[N, 3, h, w]` to `[N, 3]`."""
    centred = values - values.mean((2, 3), keepdims=True)
    size = values.shape[axis]
    first, second = (np.take(centred, range(start, size - 1 + start), axis) for start in (0, 1))
    return np.asarray((first * second).mean((2, 3)) / ((centred**2).mean((2, 3)) + 1e-9))


def _energies(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the energy in four rings of frequencies, `[N, 3, h, w]` to `[N, 4]`."""
    power = (np.abs(np.fft.fft2(values)) ** 2).mean(1)
    rows, columns = (np.fft.fftfreq(size) for size in values.shape[2:])
    radius = np.hypot(rows[:, None], columns[None])
    edges = [0, 0.1, 0.2, 0.35, 1]
    rings = [power[:, (radius > low) & (radius <= high)].mean(1) for low, high in itertools.pairwise(edges)]
    return np.log(np.stack(rings, axis=1) + 1e-9)


def probe(images: Images) -> dict[str, float]:
    """Test AUROC of the probe, and its standard deviation over resampled training images."""
    described = describe(images.features)
    classes = [np.flatnonzero(~images.tested & (images.labels == label)) for label in (0, 1)]
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(images.labels[images.tested])
    found = []
    draws = [[rng.choice(each, len(each)) for each in classes] for _ in range(RESAMPLES)]
    for chosen in map(np.concatenate, [classes, *draws]):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced"))
        model.fit(described[chosen], images.labels[chosen])
        scores = torch.from_numpy(model.decision_function(described[images.tested]))
        found.append(float(auroc(scores, labels)))
    return {"probe_auroc": found[0], "probe_resampled": statistics.mean(found[1:]), "probe_spread": statistics.stdev(found[1:])}


def trained(mode: str, folder: Path, limit: int | None, seeds: int) -> dict[str, Any]:
    """Test AUROC of the quickstart's detector on these features, a number for each seed; train.py fits it."""
    options = {f"data.extractor.{name}": value for name, value in MODES[mode].items()}
    options |= {"data.cache_dir": str((folder / "cache").resolve()), "data.limit": limit}
    found = []
    for seed in range(seeds):
        detector = FittedDetector(config="configs/quickstart.yaml", overrides=options | {"seed_everything": seed})
        run = fit(f"{mode}-{limit}-{seed}", detector, folder / "fits", ["--report.images=0"], ["--trainer.accelerator=cpu"]).parent.parent
        found.append(json.loads((run / "metrics.json").read_text())["overall"]["auroc"]["value"])
    return {"network_auroc": found} if found else {}


def measured(mode: str, folder: Path, limit: int | None, seeds: int, exact: Images) -> dict[str, Any]:
    """A row of the table."""
    images, rate = extracted(mode, folder, limit)
    row = {"mode": mode, "images": len(images.labels), **forwards(mode), "images_per_second": rate}
    return row | distances(images.features, exact.features) | probe(images) | trained(mode, folder, limit, seeds)


def shown(row: dict[str, Any]) -> str:
    """A line of the table in Markdown."""
    rate = "" if row["images_per_second"] is None else f"{row['images_per_second']:.2f}"
    levels = [f"{row[f'{name}_mean']:.2f} / {row[f'{name}_max']:.0f}" for name in ("noise_map", "reconstruction")]
    network = ", ".join(f"{value:.3f}" for value in row.get("network_auroc", []))
    resampled = f"{row['probe_resampled']:.3f} ± {row['probe_spread']:.3f}"
    cells = [row["mode"], f"{row['deep']} + {row['shallow']}", rate, *levels, f"{row['psnr']:.1f}", f"{row['probe_auroc']:.3f}"]
    return f"| {' | '.join([*cells, resampled, network])} |"


def main() -> None:
    """Measure every mode, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("cache/faster-modes"))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--limit", type=int, help="images of each split and generator; all by default")
    parser.add_argument("--seeds", type=int, default=0, help="fits of the quickstart's network for each mode, minutes each")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{torch.get_num_threads()} threads of a CPU, torch {torch.__version__}")
    print("| mode | UNet deep + shallow | images/s | noise map | reconstruction | PSNR | probe | resampled | network |", flush=True)
    exact, rows = extracted(EXACT, options.folder, options.limit)[0], []
    for mode in options.modes:
        rows.append(measured(mode, options.folder, options.limit, options.seeds, exact))
        print(shown(rows[-1]), flush=True)
    write_atomically(options.folder / f"table-{options.limit}.json", json.dumps(rows, indent=1).encode())


if __name__ == "__main__":
    main()
