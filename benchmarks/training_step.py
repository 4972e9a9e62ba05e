"""An epoch of FakeInversion with the training reader against the same batches from memory: how long does training wait for data?

python -m benchmarks.training_step --images 640

ResNet18 on nine channels of 64 pixels, cropped to 56, as in the quickstart. `--profile` prints where the time of an epoch goes.
"""

import copy
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from benchmarks.measuring import Row, alternate, compared, finish, machine, parser, quiet, spread
from benchmarks.reader import KINDS, fill, reader, records
from modules.detectors import FakeInversion


class Waiting:
    """Batches of a loader, and the seconds that an epoch waited for them.

    Args:
        batches: Gives an epoch each time that it is gone through.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.seconds: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        waited, iterator = 0.0, iter(self.batches)
        while True:
            started = time.perf_counter()
            batch = next(iterator, None)
            waited += time.perf_counter() - started
            if batch is None:
                break
            yield batch
        self.seconds.append(waited)


def trainer() -> Trainer:
    """One that does nothing but train, for an epoch."""
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def epoch(detector: FakeInversion, batches: Iterable[Any]) -> FakeInversion:
    """Train for an epoch; the same crops and flips each time."""
    torch.manual_seed(0)
    trainer().fit(detector, train_dataloaders=batches)
    return detector


@torch.no_grad()
def farthest(first: FakeInversion, second: FakeInversion) -> float:
    """Largest difference of any weight of two detectors."""
    pairs: Iterable[tuple[Tensor, Tensor]] = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def measure(images: int, rounds: int, profile: bool = False) -> list[Row]:
    """The epochs, and the share of ours that is waiting.

    Args:
        images: Samples an epoch.
        rounds: That count.
        profile: Print torch's profile of an epoch too.
    """
    quiet()
    detector = FakeInversion(backbone="resnet18", pretrained=False, crop=56)
    known = records(images)
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name), known, *next(iter(KINDS.values())))
        loader = reader(Path(name), known)
        kept = list(loader)
        other = copy.deepcopy(detector)
        difference = farthest(epoch(copy.deepcopy(detector), Waiting(loader)), epoch(other, Waiting(kept)))
        waiting, memory = Waiting(loader), Waiting(kept)
        seconds = alternate({"ours": lambda: epoch(detector, waiting), "memory": lambda: epoch(other, memory)}, rounds)
        if profile:
            show_profile(detector, loader)
    waits = waiting.seconds[-rounds:]
    shares = spread([100 * wait / whole for wait, whole in zip(waits, seconds["ours"], strict=True)])
    told = (
        f"weights after an epoch {difference:.1e}; waiting for data {shares['median']:.1f}% ({shares['low']:.1f} to {shares['high']:.1f})"
    )
    what = f"an epoch of FakeInversion, {images} samples, ResNet18, 9 × 64 × 64"
    row = compared(
        what, "samples", images, seconds["ours"], ("from memory", seconds["memory"]), "", told, largest=difference, waiting=shares
    )
    return [row]


def show_profile(detector: FakeInversion, batches: Iterable[Any]) -> None:
    """Print the operations that an epoch's time goes to."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        epoch(detector, batches)
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=50))


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    options = parser(__doc__, "training_step")
    options.add_argument("--images", type=int, default=640, help="samples an epoch")
    options.add_argument("--profile", action="store_true", help="print where the time of an epoch goes")
    chosen = options.parse_args(args)
    before = machine()
    return finish("training_step", chosen, measure(chosen.images, chosen.rounds, chosen.profile), before)


if __name__ == "__main__":
    main()
