"""What each of two processes does in `test_metric_classes.py`: a module of its own, so that they import little."""

import torch
import torch.distributed as dist

from modules.metrics.ranking import ranking_metrics


def data(n=333, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=generator)
    return torch.randn(n, generator=generator, dtype=torch.float64) * 5 + labels * 4, labels


def shard(rank, kind):
    """What a rank sees: shards of different sizes, with rows that others have seen too; or nothing at all."""
    if kind == "empty":
        return torch.arange(333) if rank == 0 else torch.arange(0)
    return torch.arange(0, 250) if rank == 0 else torch.cat([torch.arange(200, 333), torch.arange(5)])


def run(rank, meeting, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    scores, labels = data()
    for kind in ("uneven", "empty"):
        metrics = ranking_metrics().clone(prefix="test/")
        mine = shard(rank, kind)
        for start in range(0, len(mine), 64):
            batch = mine[start : start + 64]
            metrics.update(scores[batch].float(), labels[batch], batch)
        torch.save({name: float(value) for name, value in metrics.compute().items()}, f"{results}/{kind}-{rank}.pt")
    dist.destroy_process_group()
