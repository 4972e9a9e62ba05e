"""Training batches whose order can be gone on with in the middle of an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.errors import DataError


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


class TrainingLoader(DataLoader[Any]):
    """A loader that can be stopped in mid-epoch and goes on with the very next batch.

    It keeps Lightning's protocol for that (`state_dict`, `load_state_dict`): Lightning stores the state in every checkpoint.

    Args:
        dataset: What is loaded.
        sampler: Its order.
        **options: Of `DataLoader`; `batch_size` must be given.
    """

    sampler: ResumableSampler

    def __init__(self, dataset: Dataset[Any], sampler: ResumableSampler, **options: Any) -> None:
        super().__init__(dataset, sampler=sampler, **options)
        self._taken = 0
        self._resume: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches of the epoch that the sampler is set to.

        A generator on purpose: Lightning asks for the iterator before it sets the sampler's epoch, and nothing may be drawn until then.
        """
        self._taken = self._first_batch()
        self.sampler.skip = self._taken * (self.batch_size or 1)
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches that were taken of it, and what they were counted in."""
        return {"epoch": self.sampler.epoch, "batches": self._taken, **self._units()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state.

        Raises:
            DataError: It is in the middle of an epoch that was counted in other batches.
        """
        units = {name: state[name] for name in self._units()}
        if 0 < state["batches"] < state["length"] and units != self._units():
            msg = (
                f"the checkpoint was saved after {state['batches']} batches of an epoch with {units}; now it is {self._units()}, and the "
                "place cannot be found: resume with as many processes and images and the same batch size, or from an epoch's end"
            )
            raise DataError(msg)
        self._resume = state

    def _units(self) -> dict[str, int]:
        return {"batch_size": self.batch_size or 1, "ranks": self.sampler.num_replicas, "length": len(self)}

    def _first_batch(self) -> int:
        """Number of this epoch's batches that were taken before the checkpoint."""
        state, self._resume = self._resume, None
        return int(state["batches"]) if state and state["epoch"] == self.sampler.epoch else 0
