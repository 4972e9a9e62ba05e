"""A map of the vectors that a detector sees: their two main directions, by generator and by right or wrong."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.statistics import clean_rows
from evaluation.tables import write_csv

POINTS = 3000
COLUMNS = ("key", "dataset", "generator", "label", "score", "x", "y")

Vectors = Callable[[Sequence[str]], NDArray[Any]]
"""From keys to their vectors, real numbers `[n, D]`."""


@dataclass(frozen=True)
class EmbeddingMap:
    """Images on a plane.

    Attributes:
        points: A row an image, with `COLUMNS`.
        explained: Share of the vectors' variance along x and along y, in [0, 1]; zero where there is no variance.
        dimensions: D of the vectors.
        images: Number of images that were there to choose from.
        left_out: Number of chosen images whose vectors are not finite.
        threshold: Scores greater than this are called fake; None where there is none.
    """

    points: pd.DataFrame
    explained: tuple[float, float]
    dimensions: int
    images: int
    left_out: int
    threshold: float | None


def embedding_map(frame: pd.DataFrame, vectors: Vectors, threshold: float | None, most: int = POINTS, seed: int = 0) -> EmbeddingMap:
    """Principal components of the vectors of some images.

    Args:
        frame: Rows of one detector and one split; unperturbed images are shown, where there are any.
        vectors: Gives the vectors of the chosen images.
        threshold: The stored threshold, where there is one.
        most: How many images at most (see `balanced`).
        seed: Of scikit-learn's randomised solver, which it takes for large arrays.

    Raises:
        ValueError: The vectors are not `[n, D]` of real numbers, or fewer than two of them are finite.
    """
    from sklearn.decomposition import PCA

    images = clean_rows(frame).drop_duplicates("key")
    rows = balanced(images, most)
    found = np.asarray(vectors(rows["key"].tolist()))
    if found.ndim != 2 or len(found) != len(rows) or not found.shape[1] or not np.issubdtype(found.dtype, np.number):
        message = f"the vectors of {len(rows)} images are numbers [{len(rows)}, D]; got {found.dtype} {list(found.shape)}"
        raise ValueError(message)
    values = found.astype(np.float64)
    finite = np.isfinite(values).all(axis=1)
    if finite.sum() < 2:
        message = f"a map needs two vectors of finite numbers; {int(finite.sum())} of {len(rows)} are"
        raise ValueError(message)
    values = values[finite]
    plane, explained = np.zeros((len(values), 2)), np.zeros(2)
    if np.ptp(values, axis=0).any():
        parts = PCA(n_components=min(2, *values.shape), random_state=seed)
        coordinates = parts.fit_transform(values)
        plane[:, : coordinates.shape[1]] = coordinates
        explained[: coordinates.shape[1]] = parts.explained_variance_ratio_
    points = rows[finite].assign(x=plane[:, 0], y=plane[:, 1])[list(COLUMNS)].reset_index(drop=True)
    shares = float(explained[0]), float(explained[1])
    return EmbeddingMap(points, shares, values.shape[1], len(images), int((~finite).sum()), threshold)


def balanced(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` rows, chosen by a hash of their keys: as many reals as fakes, and as many of each `dataset/generator` within them.

    What has fewer images than its part leaves the rest to the others.

    Args:
        frame: Rows with different keys.
        most: Number of rows wanted.

    Returns:
        Rows of `frame`, in the order of the hash.
    """
    order = frame["key"].map(lambda key: hashlib.sha256(f"map {key}".encode()).hexdigest())
    rows = frame.loc[order.sort_values(kind="stable").index]
    classes = rows.groupby("label").size()
    quotas = _shared(classes.to_dict(), most)
    chosen = []
    for label, part in rows.groupby("label"):
        names = part["dataset"] + "/" + part["generator"]
        places = names.groupby(names).cumcount()
        chosen.append(part[places < names.map(_shared(names.value_counts().to_dict(), quotas[label]))])
    return rows.loc[rows.index.isin(pd.concat(chosen).index)] if chosen else rows


def write_map(folder: Path, found: EmbeddingMap) -> Path:
    """Write the coordinates of a map as `embedding_map.csv`, a line an image, with `COLUMNS`.

    Args:
        folder: Usually `runs/<name>/tables`.
        found: Of `embedding_map`.

    Returns:
        The file.
    """
    rows: list[dict[str, Any]] = [{str(name): value for name, value in row.items()} for row in found.points.to_dict("records")]
    return write_csv(folder / "embedding_map.csv", rows, COLUMNS)


def _shared(counts: Mapping[Any, int], most: int) -> dict[Any, int]:
    """How many of each kind: alike, but for kinds that have fewer, whose rest the others get."""
    quotas: dict[Any, int] = {}
    for done, (name, count) in enumerate(sorted(counts.items(), key=lambda item: (item[1], str(item[0])))):
        quotas[name] = min(count, (most - sum(quotas.values())) // (len(counts) - done))
    return quotas
