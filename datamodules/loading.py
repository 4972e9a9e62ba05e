"""Training batches whose order can be gone on with in the middle of an epoch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.dataset import FeatureDataset
from datamodules.errors import DataError
from datamodules.streaming.options import StreamOptions


class ResumableSampler(DistributedSampler[int]):
    """A shuffled share of the samples for each rank, from any position of the epoch on.

    The order depends on the seed and the epoch only. Every rank gets the same number of samples: some come twice where they do not
    divide evenly.

    Args:
        dataset: What is sampled.
        ranks: Number of processes.
        rank: This process's number.
        seed: Another seed, another order.
    """

    def __init__(self, dataset: Dataset[Any], ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(dataset, num_replicas=ranks, rank=rank, shuffle=True, seed=seed)
        self.skip = 0

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank, the first time without the first `skip` of them."""
        skip, self.skip = self.skip, 0
        return islice(super().__iter__(), skip, None)


class PairSampler(ResumableSampler):
    """Shuffled batches in which images made from one photograph come together, as lists of indices.

    The images are dealt out pair after pair, in an order of the seed and the epoch, to as many batches as `batch_size` asks for: a batch
    holds as many images or a few more or less, and every rank gets the same number of batches.

    Args:
        dataset: What is sampled.
        pairs: Number of each sample's pair, -1 for a sample that stands alone.
        batch_size: Images a batch.
        ranks: Number of processes.
        rank: This process's number.
        seed: Another seed, another order.

    Raises:
        DataError: A pair is larger than a batch, or there are too few images for the processes.
    """

    def __init__(self, dataset: Dataset[Any], pairs: Sequence[int], batch_size: int, ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(dataset, ranks, rank, seed)
        members: dict[int, list[int]] = {}
        for index, pair in enumerate(pairs):
            members.setdefault(pair if pair >= 0 else -1 - index, []).append(index)
        self.together = list(members.values())
        largest = max(map(len, self.together))
        self.batches = max(1, len(pairs) // (batch_size * ranks)) * ranks
        if largest * self.batches > len(pairs):
            msg = (
                f"{largest} images belong to one pair, and a batch holds {len(pairs) / self.batches:.0f} of these {len(pairs)} on {ranks} "
                "processes: set a larger data.batch_size, or use fewer processes"
            )
            raise DataError(msg)

    def __len__(self) -> int:
        return self.batches // self.num_replicas

    def __iter__(self) -> Iterator[Any]:
        """This rank's batches, the first time without the first `skip` of them."""
        skip, self.skip = self.skip, 0
        order = torch.randperm(len(self.together), generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        batches: list[list[int]] = [[] for _ in range(self.batches)]
        total, dealt = sum(map(len, self.together)), 0
        for place in order:
            batches[dealt * self.batches // total] += self.together[place]
            dealt += len(self.together[place])
        yield from batches[self.rank + skip * self.num_replicas :: self.num_replicas]


class Resuming(ABC):
    """What a loader knows of how far an epoch has come.

    It keeps Lightning's protocol for that (`state_dict`, `load_state_dict`): Lightning stores the state in every checkpoint.
    """

    _taken = 0
    _resume: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches that were taken of it, and what they were counted in."""
        return {"epoch": self._epoch(), "batches": self._taken, **self._units()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state.

        Raises:
            DataError: It is in the middle of an epoch that was counted in other batches.
        """
        units = {name: state[name] for name in state if name not in ("epoch", "batches")}
        if 0 < state["batches"] < state["length"] and units != self._units():
            msg = (
                f"the checkpoint was saved after {state['batches']} batches of an epoch with {units}; now it is {self._units()}, and the "
                "place cannot be found: resume with as many processes and images and the same batch size (of a stream, also the same "
                "workers, data.stream.buffer and data.stream.blocks), or from an epoch's end"
            )
            raise DataError(msg)
        self._resume = state

    @abstractmethod
    def _units(self) -> dict[str, int]:
        """What batches are counted in; `length` is the number of them in an epoch."""

    @abstractmethod
    def _epoch(self) -> int:
        """Number of the epoch."""

    def _first_batch(self) -> int:
        """Number of this epoch's batches that were taken before the checkpoint."""
        state, self._resume = self._resume, None
        return int(state["batches"]) if state and state["epoch"] == self._epoch() else 0


class TrainingLoader(Resuming, DataLoader[Any]):
    """A loader that can be stopped in mid-epoch and goes on with the very next batch.

    Args:
        dataset: What is loaded.
        sampler: Its order.
        **options: Of `DataLoader`; `batch_size` must be given, None where the sampler gives whole batches.
    """

    sampler: ResumableSampler

    def __init__(self, dataset: Dataset[Any], sampler: ResumableSampler, **options: Any) -> None:
        super().__init__(dataset, sampler=sampler, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches of the epoch that the sampler is set to.

        A generator on purpose: Lightning asks for the iterator before it sets the sampler's epoch, and nothing may be drawn until then.
        """
        self._taken = self._first_batch()
        self.sampler.skip = self._taken * (self.batch_size or 1)
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def _units(self) -> dict[str, int]:
        return {"batch_size": self.batch_size or 1, "ranks": self.sampler.num_replicas, "length": len(self)}

    def _epoch(self) -> int:
        return self.sampler.epoch


def training_loader(
    dataset: FeatureDataset, batch_size: int, keep_pairs: bool, ranks: int, rank: int, seed: int, stream: StreamOptions, **options: Any
) -> Any:
    """Training batches in an order of the seed and the epoch.

    Args:
        dataset: What is trained on.
        batch_size: Samples a batch, about so many where pairs are kept.
        keep_pairs: Bring the images of a pair in one batch.
        ranks: Number of processes.
        rank: This process's number.
        seed: Another seed, another order.
        stream: Whether features come from elsewhere, and how they are mixed; what is in memory already does not come again.
        **options: Of `DataLoader`.
    """
    if stream.url and not dataset.in_memory:
        from datamodules.streaming.pipeline import stream_loader  # which needs this module

        return stream_loader(dataset, stream, batch_size, ranks, rank, seed, options["num_workers"], options["pin_memory"])
    if keep_pairs:
        pairs = PairSampler(dataset, dataset.pairs.tolist(), batch_size, ranks, rank, seed)
        return TrainingLoader(dataset, pairs, batch_size=None, **options)
    return TrainingLoader(dataset, ResumableSampler(dataset, ranks, rank, seed), batch_size=batch_size, **options)
