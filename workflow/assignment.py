"""Which real image goes with which fake: each at most once, the more similar the better."""

import heapq
import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

log = logging.getLogger("undertow")

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]

MEMORY = 2**31
_BYTES_A_PAIR = 24  # of the optimal assignment: the gains in float64, and scipy's copies of them
_MOST_CANDIDATES = 256  # a fake; more are looked up again when these are taken


@dataclass(frozen=True)
class Assigned:
    """Pairs of a fake and a real image.

    Attributes:
        fakes: int64 `[K]`, places of the fakes, increasing.
        reals: int64 `[K]`, places of their real images, each once.
        similarity: float64 `[K]` in [−1, 1].
        method: `optimal` or `greedy`.
        reason: Why this one.
    """

    fakes: Places
    reals: Places
    similarity: NDArray[np.float64]
    method: Literal["optimal", "greedy"]
    reason: str


def assign(fakes: Vectors, pool: Vectors, least: float = -1.0, memory_limit: int = MEMORY) -> Assigned:
    """Pair fakes with real images of a pool by cosine similarity, each image at most once.

    Where the matrix of similarities fits into the memory the assignment is optimal: of all with the greatest number of pairs of at least
    `least`, one with the greatest sum of similarities (the linear assignment problem). Else it is greedy: again and again the most similar
    pair whose images are both free. Greedy pairs are never more than the optimal ones; without `least` they are as many, and their sum is
    never greater: the first ones are the best that there are, and the last ones pay for it.

    Args:
        fakes: float32 `[F, D]`, of length 1.
        pool: float32 `[P, D]`, of length 1.
        least: No pair is less similar.
        memory_limit: Bytes.
    """
    needed = _BYTES_A_PAIR * len(fakes) * len(pool)
    sizes = f"{len(fakes):,} × {len(pool):,} similarities need {needed / 2**20:,.0f} MiB, the limit is {memory_limit / 2**20:,.0f} MiB"
    if needed <= memory_limit:
        log.info("Optimal assignment: %s", sizes)
        return _made(*optimal(similarities(fakes, pool), least), fakes, pool, "optimal", sizes)
    log.info("Greedy assignment: %s", sizes)
    return _made(*greedy(fakes, pool, least, memory_limit), fakes, pool, "greedy", sizes)


def _made(rows: Places, columns: Places, fakes: Vectors, pool: Vectors, method: Literal["optimal", "greedy"], reason: str) -> Assigned:
    order = np.argsort(rows, kind="stable")
    rows, columns = rows[order], columns[order]
    exact = np.einsum("kd,kd->k", fakes[rows].astype(np.float64), pool[columns].astype(np.float64))
    return Assigned(rows, columns, np.clip(exact, -1, 1), method, reason)


def similarities(fakes: Vectors, pool: Vectors) -> NDArray[np.float64]:
    """Cosine similarities of unit vectors: `[F, D]` and `[P, D]` to float64 `[F, P]`."""
    return (fakes @ pool.T).astype(np.float64)


def optimal(similarity: NDArray[np.float64], least: float = -1.0) -> tuple[Places, Places]:
    """As many pairs of at least `least` as there can be, and of these assignments one of the greatest sum.

    Args:
        similarity: `[F, P]` in [−1, 1]; written over.
        least: No pair is less similar.

    Returns:
        int64 `[K]` places of rows and of columns.
    """
    from scipy.optimize import linear_sum_assignment  # scipy takes a while to import

    if not similarity.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    refused = similarity < least
    # One pair more outweighs whatever the others lose by it, at most 2 each.
    similarity += 2 * min(similarity.shape) + 1 if refused.any() else 0
    similarity[refused] = 0
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    kept = ~refused[rows, columns]
    return rows[kept].astype(np.int64), columns[kept].astype(np.int64)


def greedy(fakes: Vectors, pool: Vectors, least: float = -1.0, memory_limit: int = MEMORY) -> tuple[Places, Places]:
    """Again and again the most similar pair whose images are both free; of equal ones the first fake, then the first real image.

    Each fake waits with its best candidate in a queue. Where that is taken when its turn comes, it waits again with its next one; where
    it has no more, it looks at what is left of the pool. So it is the same as sorting all pairs, in little memory.

    Args:
        fakes: float32 `[F, D]`, of length 1.
        pool: float32 `[P, D]`, of length 1.
        least: No pair is less similar.
        memory_limit: Bytes.

    Returns:
        int64 `[K]` places of rows and of columns.
    """
    free = np.ones(len(pool), dtype=bool)
    most = int(np.clip(memory_limit // 2 // (24 * max(1, len(fakes))), 1, _MOST_CANDIDATES))
    rows_at_once = int(np.clip(memory_limit // 2 // (16 * max(1, len(pool))), 1, 4096))
    waiting: dict[int, list[tuple[float, int]]] = {}
    for start in range(0, len(fakes), rows_at_once):
        chosen = range(start, min(start + rows_at_once, len(fakes)))
        waiting |= dict(zip(chosen, _candidates(fakes[chosen.start : chosen.stop], pool, free, least, most), strict=True))
    queue = [(-candidates[-1][0], fake, candidates[-1][1]) for fake, candidates in waiting.items() if candidates]
    heapq.heapify(queue)
    rows, columns = [], []
    with tqdm(total=min(len(fakes), len(pool)), desc="Matching", unit="pair", disable=None) as bar:
        while queue:
            _, fake, real = heapq.heappop(queue)
            candidates = waiting[fake]
            if free[real]:
                free[real] = False
                rows.append(fake)
                columns.append(real)
                del waiting[fake]
                bar.update()
                continue
            while candidates and not free[candidates[-1][1]]:
                candidates.pop()
            if not candidates:
                candidates = waiting[fake] = _candidates(fakes[fake : fake + 1], pool, free, least, most)[0]
            if candidates:
                heapq.heappush(queue, (-candidates[-1][0], fake, candidates[-1][1]))
    return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)


def _candidates(fakes: Vectors, pool: Vectors, free: NDArray[np.bool_], least: float, most: int) -> list[list[tuple[float, int]]]:
    """For each fake its most similar free images with their similarity, the best one last."""
    similarity = fakes @ pool.T
    similarity[:, ~free] = -np.inf
    similarity[similarity < least] = -np.inf
    found = []
    for row in similarity:
        # All that are as similar as the last one that fits, so that which of equal ones comes first does not depend on their number.
        floor = np.partition(row, -most)[-most] if row.size > most else -np.inf
        places = np.flatnonzero((row >= floor) & np.isfinite(row))
        order = np.lexsort((places, -row[places]))[::-1][-most:]
        found.append([(float(row[place]), int(place)) for place in places[order]])
    return found
