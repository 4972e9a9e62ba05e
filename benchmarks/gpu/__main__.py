"""Speed on a GPU with Stable Diffusion 1.5's networks and random weights; on a CPU, with `--size tiny`, a trial of the script itself.

python -m benchmarks.gpu --output gpu.json
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import parts
from benchmarks.gpu.extraction import extraction
from benchmarks.gpu.models import SIZES
from benchmarks.measuring import machine

log = logging.getLogger("benchmarks.gpu")

PARTS = ("limit", "unet", "vae", "training", "extraction", "agreement")


def main() -> None:
    """Run the command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options = parse()
    results: dict[str, Any] = {"machine": machine(), "command": vars(options) | {"output": str(options.output)}}
    for name in options.parts:
        log.info("%s …", name)
        started = time.perf_counter()
        try:
            results[name] = run(name, options, results)
        except RuntimeError as error:  # the other parts are worth having
            results[name] = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        results[name + "_seconds"] = round(time.perf_counter() - started, 1)
        options.output.write_text(json.dumps(results, indent=1))
        log.info("%s: %s", name, json.dumps(results[name]))
    print(f"The figures are in {options.output}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="sd15" if torch.cuda.is_available() else "tiny")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 32, 64], help="of the UNet's part")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=[parts.PLAIN, *parts.MODES],
        default=[parts.PLAIN, "eager", "graph"],
        help="of the UNet at every batch",
    )
    parser.add_argument("--compiled_batches", nargs="*", type=int, default=[32], help="also compiled: about a minute each")
    parser.add_argument("--images", type=int, default=224, help="of the extraction")
    parser.add_argument("--batch", type=int, default=32, help="images a batch of the extraction")
    parser.add_argument("--workers", type=int, default=8, help="processes that decode")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="file of the figures")
    return parser.parse_args()


def run(name: str, options: argparse.Namespace, results: dict[str, Any]) -> Any:
    """One part's figures."""
    small = options.size == "tiny"
    steps = parts.STEPS[options.size]
    rate = results.get("limit", {}).get("flop_per_second", float("nan"))
    calls: dict[str, Callable[[], Any]] = {
        "limit": lambda: parts.limit(options.size),
        "agreement": lambda: parts.agreement(*_photographs(4 if small else 64), steps=steps, compiled=not small),
        "unet": lambda: [
            *parts.unet(options.size, options.batches, options.modes, rate),
            *parts.unet(options.size, options.compiled_batches, [parts.PLAIN, "compiled", "compiled+graph"], rate),
        ],
        "vae": lambda: parts.vae(options.size, 2 if small else 16, [torch.float32, torch.bfloat16, torch.float16]),
        "training": lambda: parts.training([32] if small else [224, 512], 2 if small else 64),
        "extraction": lambda: _extractions(options, steps),
    }
    return calls[name]()


def _photographs(count: int) -> tuple[str, torch.Tensor, list[str]]:
    """The built-in model, crops of photographs that it never saw, and their captions."""
    import numpy as np

    from datamodules.sources.photographs import load, photographs, random_crop

    generator = np.random.default_rng(0)
    held = photographs("test")
    crops = [random_crop(generator, load(held[i % len(held)])[0]) for i in range(count)]
    return "assets/tiny-diffusion", torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), [""] * count


def _extractions(options: argparse.Namespace, steps: int) -> list[dict[str, Any]]:
    """Without and with what makes the UNet quick; compiled from the second batch on, for the benchmark's sake."""
    rows = []
    slow, quick = {"cuda_graphs": False, "compile_after": None}, {"compile_after": options.batch}
    for images, how in [(3 * options.batch, slow), (options.images, quick)]:
        with tempfile.TemporaryDirectory() as folder:
            place, more = Path(folder), {"model_dtype": "bfloat16", **how}
            rows.append(extraction(place, options.size, images, options.batch, options.workers, steps, **more))
    return rows


if __name__ == "__main__":
    main()
