"""What is told of the data of a run: to a checkpoint, to a person, to a reader of the results."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.cache import caption_hash, library_versions
from datamodules.records import FAKE, SPLITS, seed_of

if TYPE_CHECKING:
    from datamodules.datamodule import FeatureDataModule


def description(data: "FeatureDataModule") -> dict[str, Any]:
    """What a checkpoint needs to make the same features of a new image, and what its detector was trained on, in plain types."""
    trained = [record for record in data.records() if record.split != "test"]
    fakes = {f"{record.dataset}/{record.generator}" for record in trained if record.label == FAKE and record.split == "train"}
    return {
        "extractor": data.extractor.settings(),
        "extractor_fingerprint": data.cache.extractor_fingerprint,
        "perturbation": data.perturbation,
        "views": data.training_views,
        "families": data.family_map.to_dict(),
        "caption_sources": sorted({str(record.caption_source) for record in data.records() if record.caption}),
        "calibrated_on": calibrated_on(data),
        "trained_on": torch.tensor(sorted({seed_of(record) for record in trained} | data.inherited)),
        "trained_generators": sorted(fakes),
        "generator_families": {record.generator: record.family for record in trained if record.label == FAKE},
        "trained_images": sum(record.split == "train" for record in trained),
        "trained_datasets": sorted({record.dataset for record in trained}),
        "versions": library_versions(),
    }


def calibrated_on(data: "FeatureDataModule") -> dict[str, list[float]]:
    """Lower and upper bound of each figure of the images that are trained and validated on (0.5% and 99.5% quantiles), by name.

    The figures are those of the cache: the extractor's diagnostics, such as `round_trip_psnr` in dB, and `short_side` in pixels.
    """
    samples = [(record.key, caption_hash(record, data.extractor)) for split in ("train", "val") for record in data.usable(split)]
    figures = data.reader.diagnostics(samples)
    return {name: np.quantile(values, (0.005, 0.995)).tolist() for name, values in figures.items()}


def concerns(data: "FeatureDataModule") -> list[str]:
    """What a reader of the results should know of the data."""
    found = []
    if failures := [*data.source.failures, *data.reader.failures]:
        first = f"first {failures[0].where}: {failures[0].reason}"
        found.append(f"{len(failures)} images are left out ({first}).")
    if data.extractor.uses_record_captions and not any(record.caption for record in data.records()):
        found.append("No image has a caption: the empty prompt was used for all.")
    samples = [(record.key, caption_hash(record, data.extractor)) for split in SPLITS for record in data.usable(split)]
    return found + data.cache.poor_features(data.reader.diagnostics(samples))


def summary(data: "FeatureDataModule") -> str:
    """Table of images by data set, generator and split."""
    counts = Counter((record.dataset, record.generator, record.split or "") for record in data.records())
    kinds = sorted({(dataset, generator) for dataset, generator, _ in counts})
    rows: list[tuple[str, ...]] = [("data set / generator", *SPLITS)]
    rows += [(f"{dataset}/{generator}", *(str(counts[dataset, generator, split]) for split in SPLITS)) for dataset, generator in kinds]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>8}" for cell in row[1:]) for row in rows)
