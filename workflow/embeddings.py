"""Embeddings of images that are known already, through the feature cache, and how similar the images of a pair are by them."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.datamodule import FeatureDataModule
from datamodules.errors import DataError
from datamodules.records import FAKE, REAL, Record
from datamodules.shards import Arrays
from datamodules.sources.base import Source, safe_name
from modules.extractors import Extractor, Together
from modules.extractors.embedding import EncoderExtractor
from workflow.pipeline import extract_missing

log = logging.getLogger("undertow")

Vector = NDArray[np.float32]


class KnownRecords(Source):
    """Records that another source has read.

    Args:
        dataset: What they are called in the cache.
    """

    def __init__(self, dataset: str) -> None:
        super().__init__()
        self.dataset = dataset
        self._given: list[Record] = []

    @classmethod
    def of(cls, records: Iterable[Record], dataset: str) -> "KnownRecords":
        """A source of these records.

        Args:
            records: With keys.
            dataset: What they are called in the cache.
        """
        made = cls(dataset)
        made._given = list(records)
        return made

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        return safe_name(self.dataset)

    @property
    def location(self) -> str:
        """What messages call it."""
        return self.dataset

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """The records, in their order."""
        yield from self._given

    def records(self, cache_dir: Path) -> list[Record]:
        """The records with the keys that they have."""
        return list(self._given)


def embed(
    records: Sequence[Record],
    extractor: Extractor,
    cache_dir: str | Path,
    hardware: Mapping[str, Any],
    name: str = "pairs",
    feature: str | None = None,
    extract_batch_size: int = 16,
    extract_workers: int = 0,
) -> dict[str, Vector]:
    """Unit vectors of images, from the cache; what is not there yet is extracted, with a progress bar, and can be stopped and gone on with.

    Captions are left out: two images of one caption must not become alike by it.

    Args:
        records: With keys.
        extractor: The encoder.
        cache_dir: Root of the feature cache.
        hardware: Arguments of the Trainer that extracts.
        name: What the images are called in the cache.
        feature: Name of the extractor's feature; by default its only vector.
        extract_batch_size: Images an extraction batch.
        extract_workers: Processes that decode images during extraction.

    Returns:
        float32 `[D]` of length 1 by key; without the images that failed or whose vector has no direction.

    Raises:
        DataError: The extractor has no such feature, or no or several vectors and none is named.
    """
    if not records:
        return {}
    silent = [replace(record, caption=None, caption_source=None) for record in records]
    data = FeatureDataModule(
        KnownRecords.of(silent, name),
        extractor,
        cache_dir=str(cache_dir),
        extract_batch_size=extract_batch_size,
        extract_workers=extract_workers,
        evaluate_only="all",
    )
    data.features = [feature] if feature else None
    extract_missing(data, dict(hardware))
    found: dict[str, Vector] = {}
    for record in data.usable("test"):
        vector = _vector(data.load_features(record), feature, extractor)
        length = float(np.linalg.norm(vector))
        if np.isfinite(length) and length > 0:
            found[record.key] = (vector / length).astype(np.float32)
    if len(found) < len(records):
        log.warning("%d of %d images have no embedding and are left out", len(records) - len(found), len(records))
    return found


def _vector(arrays: Arrays, feature: str | None, extractor: Extractor) -> NDArray[np.float64]:
    """The feature that is compared."""
    vectors = {name: array for name, array in arrays.items() if array.ndim == 1 and array.size > 1 and array.dtype.kind == "f"}
    chosen = [feature] if feature else list(vectors)
    if len(chosen) == 1 and chosen[0] in vectors:
        return vectors[chosen[0]].astype(np.float64)
    told = f"its vectors are {', '.join(vectors)}: name one of them as the feature" if vectors else "it gives no vectors: name an encoder"
    message = f"{type(extractor).__name__} cannot be compared by{f' {feature!r}' if feature else ' its features'}; {told}."
    raise DataError(message)


def pair_similarities(
    records: Sequence[Record],
    extractor: Extractor,
    cache_dir: str | Path,
    hardware: Mapping[str, Any],
    feature: str | None = None,
    extract_batch_size: int = 16,
    extract_workers: int = 0,
    reals_from: Mapping[str, str] | None = None,
) -> dict[tuple[str, str], float]:
    """How similar each fake is to the real image of its pair.

    Args:
        records: With keys; those of other pairs, or of none, are not looked at.
        extractor: The encoder; see `check_other_encoder`.
        cache_dir: Root of the feature cache.
        hardware: Arguments of the Trainer that extracts.
        feature: Name of the extractor's feature; by default its only vector.
        extract_batch_size: Images an extraction batch.
        extract_workers: Processes that decode images during extraction.
        reals_from: For a data set, the one whose real images its pairs name; its own by default.

    Returns:
        Cosine similarity in [−1, 1] by the fake's data set and key, of the most similar one where its pair has several real images;
        without fakes whose embedding, or whose real image's, is not known.
    """
    sides: defaultdict[tuple[str, str], dict[int, list[Record]]] = defaultdict(lambda: {REAL: [], FAKE: []})
    for record in records:
        if record.pair:
            of = record.dataset if record.label == REAL else (reals_from or {}).get(record.dataset, record.dataset)
            sides[of, record.pair][record.label].append(record)
    whole = [side for side in sides.values() if side[REAL] and side[FAKE]]
    # One content has one key in every source, and one embedding.
    images = list({record.key: record for side in whole for part in side.values() for record in part}.values())
    vectors = embed(images, extractor, cache_dir, hardware, "pairs", feature, extract_batch_size, extract_workers)
    found = {}
    for side in whole:
        reals = [vectors[record.key] for record in side[REAL] if record.key in vectors]
        for fake in side[FAKE]:
            if reals and fake.key in vectors:
                found[fake.dataset, fake.key] = max(cosine(vectors[fake.key], real) for real in reals)
    return found


def cosine(first: Vector, second: Vector) -> float:
    """Cosine similarity in [−1, 1] of two unit vectors `[D]`."""
    return float(np.clip(first.astype(np.float64) @ second.astype(np.float64), -1, 1))


def check_other_encoder(extractor: Extractor, others: Iterable[Extractor]) -> None:
    """Refuse to compare the images of pairs by the encoder that a detector itself sees them with.

    Pairs would then be similar by what the detector judges. Encoders are the same where they have weights in common and are of one class,
    or both of `EncoderExtractor`; extractors without weights where they are of one class. Members of `Together` count each.

    Args:
        extractor: What pairs are compared by.
        others: The detectors' extractors.

    Raises:
        DataError: It is one of theirs.
    """
    for other in others:
        for own in _members(extractor):
            for theirs in _members(other):
                if _same(own, theirs):
                    told = ", ".join(own.weights) or "without weights"
                    message = (
                        f"Pairs would be compared by {type(own).__name__} ({told}), through which a detector sees the images as well: how "
                        "well a pair matches would be measured by what the detector judges. Name another encoder."
                    )
                    raise DataError(message)


def _members(extractor: Extractor) -> list[Extractor]:
    if isinstance(extractor, Together):
        return [inner for each in extractor.extractors.values() if isinstance(each, Extractor) for inner in _members(each)]
    return [extractor]


def _same(first: Extractor, second: Extractor) -> bool:
    weights = [{str(Path(name).resolve()) if Path(name).exists() else name for name in each.weights} for each in (first, second)]
    alike = type(first) is type(second)
    if weights[0] & weights[1]:
        return alike or (isinstance(first, EncoderExtractor) and isinstance(second, EncoderExtractor))
    return alike and not weights[0] and not weights[1]
