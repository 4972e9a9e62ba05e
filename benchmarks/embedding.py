"""Embeddings of JPEG files: our extraction, from files to finished shards, against one image at a time as a user writes it.

python -m benchmarks.embedding --images 128 --encoder torchvision/mobilenet_v3_small

The network has random weights; speed does not depend on them. `--profile` says where the time of ours goes.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.extracting import extract, write_images
from benchmarks.measuring import Row, alternate, compared, finish, machine, parser, quiet
from datamodules.datamodule import FeatureDataModule
from modules.extractors import EmbeddingExtractor
from modules.networks.encoders import ImageEncoder, build_encoder

ENCODERS = ("torchvision/resnet18", "torchvision/mobilenet_v3_small")


def one_by_one(folder: Path, network: nn.Module, encoder: ImageEncoder) -> dict[str, NDArray[np.float32]]:
    """Embeddings by file name, as the examples of the library have it: open, transform, forward, keep.

    Args:
        folder: Of the images.
        network: Gives pooled features, as torchvision makes it.
        encoder: Whose size and normalisation the images get.
    """
    from torchvision import transforms

    transform: Callable[[Image.Image], Tensor] = transforms.Compose(
        [
            transforms.Resize(encoder.size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(encoder.size),
            transforms.ToTensor(),
            transforms.Normalize(encoder.mean, encoder.std),
        ]
    )
    found = {}
    with torch.no_grad():
        for path in sorted(folder.rglob("*.jpg")):
            image = transform(Image.open(path).convert("RGB"))
            found[path.name] = normalize(network(image[None]), dim=1)[0].numpy()
    np.savez(folder / "embeddings.npz", **found)
    return found


def difference(data: FeatureDataModule, theirs: dict[str, NDArray[np.float32]]) -> float:
    """Largest distance between our embeddings and theirs, which have length 1."""
    found = {Path(record.path or "").name: data.load_features(record)["embedding"] for record in data.records()}
    return max(float(np.linalg.norm(found[name] - theirs[name])) for name in theirs)


def measure(encoder: str, images: int, side: int, workers: int | None, rounds: int) -> list[Row]:
    """Both ways over the same files.

    Args:
        encoder: Its name.
        images: How many.
        side: Of each, in pixels.
        workers: Processes that decode in ours.
        rounds: That count.
    """
    quiet()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_images(place / "images", images, side)
        reference = build_encoder(encoder, pretrained=False)
        network = plain(reference)
        number = iter(range(10_000))

        def ours() -> FeatureDataModule:
            return extract(place / "images", place / str(next(number)), EmbeddingExtractor(encoder, pretrained=False), None, workers)

        theirs = partial(one_by_one, place / "images", network, reference)
        distance = difference(ours(), theirs())
        seconds = alternate({"ours": ours, "theirs": theirs}, rounds)
    what = f"embed {images} JPEG files of {side} pixels ({encoder})"
    words = f"embeddings of length 1: {distance:.1e}"
    return [
        compared(what, "images", images, seconds["ours"], ("one at a time", seconds["theirs"]), "≥ 3", words, largest=distance),
    ]


def plain(encoder: ImageEncoder) -> nn.Module:
    """The encoder's network as the library has it: its weights lie in memory as torch puts them by itself."""
    import copy

    return copy.deepcopy(encoder.network).to(memory_format=torch.contiguous_format)


@contextmanager
def profiled(folder: Path) -> Iterator[Any]:
    """Python's profile of what is done within, its largest entries printed at the end."""
    import cProfile
    import pstats

    profile = cProfile.Profile()
    profile.enable()
    try:
        yield profile
    finally:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def show_profile(encoder: str, images: int, side: int) -> None:
    """Print where the time of an extraction goes."""
    quiet()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_images(place / "images", images, side)
        with profiled(place):
            extract(place / "images", place / "cache", EmbeddingExtractor(encoder, pretrained=False), None, 0, behind=False)


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    options = parser(__doc__, "embedding")
    options.add_argument("--images", type=int, default=128)
    options.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    options.add_argument("--encoders", nargs="+", default=list(ENCODERS), help="of torchvision, timm or open_clip")
    options.add_argument("--workers", type=int, help="processes that decode; as extraction chooses by default")
    options.add_argument("--profile", action="store_true", help="print where the time of ours goes, and measure nothing")
    chosen = options.parse_args(args)
    if chosen.profile:
        show_profile(chosen.encoders[0], chosen.images, chosen.side)
        return []
    before = machine()
    rows = [row for name in chosen.encoders for row in measure(name, chosen.images, chosen.side, chosen.workers, chosen.rounds)]
    return finish("embedding", chosen, rows, before)


if __name__ == "__main__":
    main()
