"""Which images of a stream are kept: at most so many of a generator or a split, by a hash and not by their place."""

import hashlib
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

_Rank = tuple[str, str]


def rank_of(content: bytes, seed: int) -> str:
    """The place of an image in the order by which images are chosen, from its content and the seed."""
    return hashlib.sha256(f"{seed}:".encode() + hashlib.sha256(content).digest()).hexdigest()[:24]


class Choice:
    """The images of the smallest ranks, as many as are wanted, of all that were offered.

    The result does not depend on the order in which they come, nor on whether those that were not chosen of a part are offered
    again. An entry has a `rank`, and a `place` that breaks ties, so that copies of one image count as several.

    Args:
        per_generator: At most so many of each split and generator; all by default.
        at_most: At most so many of each split; all by default.
    """

    def __init__(self, per_generator: int | None, at_most: int | None) -> None:
        self._per_generator = per_generator
        self._at_most = at_most
        self._ranks: defaultdict[Hashable, list[_Rank]] = defaultdict(list)

    @property
    def limited(self) -> bool:
        """Whether not all images are taken."""
        return self._per_generator is not None or self._at_most is not None

    def _bucket(self, entry: dict[str, Any]) -> Hashable:
        if self._per_generator is None:
            return entry["hub_split"]
        return entry["hub_split"], entry["label"], entry.get("generator")

    def wants(self, entry: dict[str, Any]) -> bool:
        """Whether an image may be among the chosen ones, by what was offered so far.

        By the closer one of two limits only: what fills a split may still make room, when its generator is full of better ranks.
        """
        limit = self._at_most if self._per_generator is None else self._per_generator
        ranks = self._ranks[self._bucket(entry)]
        return limit is None or len(ranks) < limit or (limit > 0 and (entry["rank"], entry["place"]) < ranks[limit - 1])

    def offer(self, entry: dict[str, Any]) -> None:
        """Take an image into account."""
        if self.limited:
            ranks = self._ranks[self._bucket(entry)]
            insort(ranks, (entry["rank"], entry["place"]))
            del ranks[self._at_most if self._per_generator is None else self._per_generator :]

    def chosen(self, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the entries that are chosen, in their order."""
        if not self.limited:
            return list(entries)
        generators: Counter[Hashable] = Counter()
        splits: Counter[Hashable] = Counter()
        taken = set()
        for entry in sorted(entries, key=lambda entry: (entry["rank"], entry["place"])):
            bucket, split = self._bucket(entry), entry["hub_split"]
            if _fits(generators[bucket], self._per_generator) and _fits(splits[split], self._at_most):
                taken.add(entry["place"])
                generators[bucket] += 1
                splits[split] += 1
        return [entry for entry in entries if entry["place"] in taken]


def _fits(count: int, limit: int | None) -> bool:
    return limit is None or count < limit
