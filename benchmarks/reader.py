"""The training reader, shuffled, against `webdataset.WebDataset` on the same shards.

python -m benchmarks.reader --images 4000

Two kinds of features: pictures of uint8 (three of 3 × 64 × 64) and latents of float16 (three of 4 × 64 × 64, 96 KB). Both give batches
of tensors with labels, in this process, without workers.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measuring import Row, alternate, compared, finish, machine, parser
from datamodules.dataset import FeatureDataset, Naming, View, whole_batch
from datamodules.families import FamilyMap
from datamodules.loading import TrainingLoader, training_loader
from datamodules.records import Record
from datamodules.shards import ShardReader, ShardWriter
from modules.extractors import InversionExtractor

BATCH = 32
BUFFER = 1000  # samples that WebDataset shuffles among
NAMES = ("image", "noise_map", "reconstruction")
KINDS: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
    "pictures, 3 × 3 × 64 × 64 uint8": ((3, 64, 64), np.uint8),
    "latents, 3 × 4 × 64 × 64 float16": ((4, 64, 64), np.float16),
}


def records(count: int) -> list[Record]:
    """Records of images that are not needed: their features are written here."""
    keys = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(count)]
    return [Record(key, i % 2, "synthetic", f"g{i % 2}", split="train", family="real") for i, key in enumerate(keys)]


def fill(folder: Path, known: Sequence[Record], shape: tuple[int, ...], dtype: type[np.generic], shard: int = 1000) -> None:
    """Write random features as extraction does.

    Args:
        folder: Where to.
        known: Of what.
        shape: Of each feature.
        dtype: Of each feature.
        shard: Samples a shard.
    """
    generator = np.random.default_rng(0)
    writer = ShardWriter(folder, max_samples=shard, max_seconds=3600)
    for record in known:
        arrays: dict[str, NDArray[Any]] = {name: generator.integers(0, 256, shape).astype(dtype) for name in NAMES}
        writer.add(record.key, arrays, record.to_dict())
    writer.finish()


def reader(folder: Path, known: Sequence[Record]) -> TrainingLoader:
    """The loader that training uses."""
    extractor = InversionExtractor(size=64, prompt_source="empty")
    dataset = FeatureDataset([View(known, ShardReader(folder))], extractor, Naming(FamilyMap.load().including(known)), NAMES)
    return training_loader(dataset, BATCH, False, 1, 0, 0, collate_fn=whole_batch)


def web_dataset(folder: Path) -> Any:
    """WebDataset on the same shards, shuffled, with the same decoding and batches."""
    import webdataset
    from safetensors.torch import load

    def decoded(sample: dict[str, Any]) -> dict[str, Any]:
        return {"key": sample["__key__"], "label": json.loads(sample["json"])["label"], "features": load(sample["safetensors"])}

    def batched(samples: list[dict[str, Any]]) -> dict[str, Any]:
        features = {name: torch.stack([sample["features"][name] for sample in samples]) for name in NAMES}
        return {"key": [s["key"] for s in samples], "label": torch.tensor([s["label"] for s in samples]), "features": features}

    shards = [str(shard) for shard in sorted(folder.glob("*.tar"))]
    pipeline = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(BUFFER).map(decoded)
    return pipeline.batched(BATCH, collation_fn=batched, partial=True)


def samples_of(batches: Any) -> Iterator[tuple[str, int, dict[str, Tensor]]]:
    """Key, label and features of each sample of an epoch."""
    for batch in batches:
        for i, key in enumerate(batch["key"]):
            yield key, int(batch["label"][i]), {name: tensor[i] for name, tensor in batch["features"].items()}


def differing(first: Any, second: Any) -> int:
    """Samples of an epoch that are not in both, or not bit by bit the same."""
    kept = {key: (label, features) for key, label, features in samples_of(first)}
    wrong = 0
    for key, label, features in samples_of(second):
        known = kept.pop(key, None)
        same = known is not None and known[0] == label and all(torch.equal(features[name], known[1][name]) for name in NAMES)
        wrong += not same
    return wrong + len(kept)


def measure(images: int, rounds: int) -> list[Row]:
    """A row a kind of features.

    Args:
        images: Samples an epoch.
        rounds: That count.
    """
    rows = []
    known = records(images)
    for kind, (shape, dtype) in KINDS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fill(folder, known, shape, dtype)
            loader, theirs = reader(folder, known), web_dataset(folder)
            wrong = differing(loader, theirs)
            seconds = alternate({"ours": partial(_drain, loader), "theirs": partial(_drain, theirs)}, rounds)
        told = "bit by bit the same" if not wrong else f"{wrong} samples differ"
        what = f"read {images:,} samples of training, shuffled ({kind})"
        rows.append(compared(what, "samples", images, seconds["ours"], ("WebDataset", seconds["theirs"]), "≥ 5", told, differing=wrong))
    return rows


def _drain(batches: Any) -> None:
    for _ in batches:
        pass


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    options = parser(__doc__, "reader")
    options.add_argument("--images", type=int, default=4000, help="samples an epoch")
    chosen = options.parse_args(args)
    before = machine()
    return finish("reader", chosen, measure(chosen.images, chosen.rounds), before)


if __name__ == "__main__":
    main()
