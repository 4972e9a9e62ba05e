"""Facts of the files alone that tell fakes from real images: a quick look, which `python -m workflow.audit` takes with intervals.

A fact is named where its strength, the larger of AUROC and 1 - AUROC, is at least 0.65 (as in the audit) and three standard errors above
chance. The error is that of a fact which says nothing, with groups in place of images: a hundred crops of a photograph count as one.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.facts import TEXT_FACTS, FactsOfImage, source_facts
from datamodules.records import REAL, Record

LEAST, ERRORS = 0.65, 3.0

Numbers = NDArray[np.float64]


def auroc(fake: Numbers, real: Numbers) -> float:
    """Probability that a fake has the larger value; ties count half.

    Args:
        fake: `[N]`, none missing.
        real: `[M]`.
    """
    _, ranks, counts = np.unique(np.concatenate([fake, real]), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle = ends - (counts - 1) / 2  # mean rank of each value
    total = middle[ranks[: fake.size]].sum() - fake.size * (fake.size + 1) / 2
    return float(total / (fake.size * real.size))


def shortcuts(records: Sequence[Record], facts: Mapping[str, FactsOfImage]) -> list[dict[str, object]]:
    """Facts that tell the fakes of a generator from the real images of its data set, the strongest first.

    Args:
        records: Images; those without facts are left out.
        facts: By content hash.

    Returns:
        Plain values: `dataset`, `generator`, `fact`, `auroc` (below 0.5 where fakes have the smaller value), `strength`.
    """
    reals: defaultdict[str, list[Record]] = defaultdict(list)
    fakes: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.content_hash in facts:
            if record.label == REAL:
                reals[record.dataset].append(record)
            else:
                fakes[record.dataset, record.generator].append(record)
    found: list[dict[str, object]] = []
    columns = {dataset: dict(_columns(own, facts)) for dataset, own in reals.items()}
    for (dataset, generator), own in sorted(fakes.items()):
        if not reals.get(dataset):
            continue
        least = max(LEAST, _least(own, reals[dataset]))
        for name, values in _columns(own, facts):
            for fact, fake, real in _numbers(name, values, columns[dataset].get(name, [])):
                value = auroc(fake, real)
                strength = max(value, 1 - value)
                if strength >= least:
                    found.append({"dataset": dataset, "generator": generator, "fact": fact, "auroc": value, "strength": strength})
    return sorted(found, key=lambda each: (-float(str(each["strength"])), str(each["dataset"]), str(each["generator"]), str(each["fact"])))


def _least(fakes: Sequence[Record], reals: Sequence[Record]) -> float:
    """Strength that a fact which says nothing hardly reaches."""
    n, m = (len({record.pair or record.group or record.key for record in part}) for part in (fakes, reals))
    return 0.5 + ERRORS * math.sqrt((n + m + 1) / (12 * n * m))


def _columns(records: Sequence[Record], facts: Mapping[str, FactsOfImage]) -> Iterator[tuple[str, list[float | str]]]:
    told: defaultdict[str, list[float | str]] = defaultdict(list)
    for record in records:
        for name, value in (facts[record.content_hash] | source_facts(record)).items():
            told[name].append(value)
    yield from told.items()


def _numbers(name: str, fake: Sequence[float | str], real: Sequence[float | str]) -> Iterator[tuple[str, Numbers, Numbers]]:
    """A fact's values as numbers; of one in words, whether it is each of the words."""
    if not fake or not real:
        return
    if name not in TEXT_FACTS:
        yield name, np.asarray(fake, dtype=np.float64), np.asarray(real, dtype=np.float64)
        return
    words = Counter([*fake, *real])
    for word in sorted(words, key=str) if len(words) > 2 else sorted(words, key=str)[:1]:
        one, other = (np.asarray([value == word for value in part], dtype=np.float64) for part in (fake, real))
        yield f"{name} {word}", one, other
