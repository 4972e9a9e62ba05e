"""How long commands take to start: `train.py --help`, and a second `train.py` whose features are cached.

python -m benchmarks.start_up

Each round starts new processes. The second run is the quickstart's with few images; how many passes its diffusion model makes is counted.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import Row, alternate, compared, finish, machine, parser

QUIET = dict(os.environ, HF_HUB_OFFLINE="1", WANDB_MODE="disabled", TQDM_DISABLE="1")
CHILD = "from benchmarks.start_up import watched; watched({!r}, {!r})"
SMALL = [
    "--config=configs/quickstart.yaml",
    "--data.source.init_args.crops=4",
    "--data.source.init_args.sampling_steps=2",
    "--data.extractor.init_args.steps=2",
    "--trainer.max_epochs=1",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]


def python(*arguments: str) -> None:
    """Run an interpreter to its end.

    Raises:
        RuntimeError: It failed.
    """
    ran = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=QUIET)
    if ran.returncode:
        msg = f"python {' '.join(arguments)[:100]} failed: {ran.stderr[-1000:]}"
        raise RuntimeError(msg)


def watched(options: list[str], output: str) -> None:
    """Train until the first training step begins; write when that was, and how often the diffusion model's UNet was called before.

    Args:
        options: Of train.py.
        output: File for the answer.
    """
    import train
    from modules.detectors import FakeInversion
    from modules.diffusion import LatentDiffusion

    calls = []
    predict = LatentDiffusion.predict

    def counted(self: LatentDiffusion, *args: object, **named: object) -> object:
        calls.append(1)
        return predict(self, *args, **named)  # type: ignore[arg-type]

    def begun(*batch: object) -> None:
        Path(output).write_text(json.dumps({"at": time.time(), "passes": len(calls)}))
        sys.stdout.flush()
        os._exit(0)

    LatentDiffusion.predict = counted  # type: ignore[assignment]
    FakeInversion.training_step = begun  # type: ignore[assignment, method-assign]
    train.main(options)


def started(place: Path, name: str) -> dict[str, float]:
    """Seconds from the start of a train.py to its first training step, and its passes of the diffusion model.

    Args:
        place: For cache, runs and the answer.
        name: Of the run.
    """
    options = [*SMALL, f"--data.cache_dir={place / 'cache'}", f"--runs_dir={place / 'runs'}", f"--name={name}"]
    answer = place / f"{name}.json"
    before = time.time()
    python("-c", CHILD.format(options, str(answer)))
    told = json.loads(answer.read_text())
    return {"seconds": told["at"] - before, "passes": told["passes"]}


def measure(rounds: int, warm: int = 1) -> list[Row]:
    """`--help` against what it imports; a warm cache against a cold one.

    Args:
        rounds: That count.
        warm: Rounds of `--help` before them.
    """
    calls = {
        "ours": lambda: python("train.py", "--help"),
        "cli": lambda: python("-c", "from lightning.pytorch.cli import LightningCLI"),
        "torch": lambda: python("-c", "import torch"),
    }
    seconds = alternate(calls, rounds, warm)
    rows = [
        compared("`train.py --help`", "runs", 1, seconds["ours"], ("importing LightningCLI", seconds["cli"]), "≤ 1.3"),
        compared("`train.py --help`", "runs", 1, seconds["ours"], ("importing torch", seconds["torch"])),
    ]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        first = started(place, "first")
        later = [started(place, f"later-{i}") for i in range(rounds)]
    passes = [run["passes"] for run in later]
    told = f"{first['passes']:.0f} passes of the diffusion model in the first run, {max(passes):.0f} in the later ones (target 0)"
    against = ("a cold cache", [first["seconds"]] * rounds)
    warm_seconds = [run["seconds"] for run in later]
    rows.append(compared("`train.py` until its first step, warm cache", "runs", 1, warm_seconds, against, "", told, passes=passes))
    return rows


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    chosen = parser(__doc__, "start_up").parse_args(args)
    before = machine()
    return finish("start_up", chosen, measure(chosen.rounds), before)


if __name__ == "__main__":
    main()
