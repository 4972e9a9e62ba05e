"""Extraction with decoding and writing beside the network, against the same one after the other.

python -m benchmarks.overlap --images 256 --steps 5
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.extracting import extract, write_images
from benchmarks.measuring import Row, alternate, compared, finish, machine, parser, quiet
from datamodules.datamodule import FeatureDataModule
from modules.extractors import EmbeddingExtractor, InversionExtractor
from modules.extractors.base import Extractor


def extractors(steps: int) -> dict[str, Extractor]:
    """One for which decoding is little, and one for which it is most."""
    return {
        f"inversion, {steps} + {steps} steps": InversionExtractor(size=64, steps=steps, prompt_source="empty"),
        "torchvision/mobilenet_v3_small": EmbeddingExtractor("torchvision/mobilenet_v3_small", pretrained=False),
    }


def largest_difference(first: FeatureDataModule, second: FeatureDataModule) -> float:
    """Largest difference of any feature of any image."""
    told = 0.0
    for record in first.records():
        theirs = second.load_features(record)
        for name, array in first.load_features(record).items():
            told = max(told, float(np.abs(array.astype(np.float64) - theirs[name].astype(np.float64)).max()))
    return told


def measure(images: int, side: int, steps: int, rounds: int) -> list[Row]:
    """A row an extractor.

    Args:
        images: How many.
        side: Of each file, in pixels.
        steps: DDIM steps each way.
        rounds: That count.
    """
    quiet()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_images(place / "images", images, side)
        number = iter(range(10_000))
        for kind, extractor in extractors(steps).items():

            def run(extractor: Extractor, workers: int | None, behind: bool) -> FeatureDataModule:
                return extract(place / "images", place / str(next(number)), extractor, None, workers, behind)

            overlapped, apart = partial(run, extractor, None, True), partial(run, extractor, 0, False)
            difference = largest_difference(overlapped(), apart())
            seconds = alternate({"ours": overlapped, "apart": apart}, rounds)
            what = f"extract {images} JPEG files of {side} pixels ({kind})"
            against = ("nothing overlapped", seconds["apart"])
            told = f"features {difference:.1e}"
            rows.append(compared(what, "images", images, seconds["ours"], against, "", told, largest=difference))
    return rows


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    options = parser(__doc__, "overlap")
    options.add_argument("--images", type=int, default=256)
    options.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    options.add_argument("--steps", type=int, default=5, help="DDIM steps each way")
    chosen = options.parse_args(args)
    before = machine()
    return finish("overlap", chosen, measure(chosen.images, chosen.side, chosen.steps, chosen.rounds), before)


if __name__ == "__main__":
    main()
