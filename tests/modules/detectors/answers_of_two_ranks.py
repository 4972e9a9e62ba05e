"""What each of two processes does in `test_class_answers.py`."""

import torch
import torch.distributed as dist

from modules.detectors.class_answers import ValidationAnswers


def data(n=90):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(n, 3, generator=generator)
    return outputs, torch.rand(n, generator=generator), torch.randint(-1, 3, (n,), generator=generator)


def shard(rank, kind):
    if kind == "empty":
        return torch.arange(90) if rank == 0 else torch.arange(0)
    return torch.arange(0, 60) if rank == 0 else torch.cat([torch.arange(50, 90), torch.arange(5)])


def run(rank, meeting, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    outputs, novelty, targets = data()
    for kind in ("uneven", "empty"):
        kept = ValidationAnswers(3)
        for part in shard(rank, kind).split(25):
            if len(part):
                kept.update(outputs[part], novelty[part], targets[part], part)
        torch.save(kept.compute(), f"{results}/{kind}-{rank}.pt")
    dist.destroy_process_group()
