"""Random numbers that depend on the run's seed and the step only, so that a resumed run draws what an undisturbed one would have."""

import os

import numpy as np
import torch

# Where Lightning's seed_everything leaves the seed, for the processes that it starts as well.
SEED_VARIABLE = "PL_GLOBAL_SEED"


def run_seed() -> int:
    """The seed of `seed_everything`; 0 where none was set."""
    return int(os.environ.get(SEED_VARIABLE, "0"))


def seed_step(epoch: int, batch: int, rank: int) -> None:
    """Seed torch's generators of all devices for one training step, the same whether the run was stopped before it or not.

    Args:
        epoch: Number of the epoch.
        batch: Number of the batch in it.
        rank: Number of the process; each draws numbers of its own.
    """
    state = np.random.SeedSequence((run_seed(), epoch, batch, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
