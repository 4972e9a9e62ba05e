"""Embeddings of JPEG files: our extraction, from files to finished shards, against one image at a time as a user writes it.

python -m benchmarks.embedding --images 256

The encoder of torchvision has random weights; speed does not depend on them. `--profile` says where the time of ours goes.
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
from torchvision.transforms import InterpolationMode

from benchmarks.extracting import extract, write_images
from benchmarks.inversion import DiffusersLoop
from benchmarks.measuring import Row, alternate, compared, finish, machine, parser, quiet
from datamodules.datamodule import FeatureDataModule
from modules.extractors import EmbeddingExtractor, UNetEmbeddingExtractor
from modules.extractors.base import Extractor
from modules.networks.encoder_names import parse_name
from modules.networks.encoders import SEED, build_encoder
from modules.networks.torchvision_encoders import torchvision_network

BUILT_IN = "unet"
ENCODERS = (BUILT_IN, "torchvision/mobilenet_v3_small")
Embed = Callable[[Image.Image], Tensor]
"""From a picture to an embedding, `[1, D]`."""


def extractor(name: str) -> Extractor:
    """Ours: the built-in diffusion model's UNet at 64 pixels, or an encoder."""
    return UNetEmbeddingExtractor(size=64) if name == BUILT_IN else EmbeddingExtractor(name, pretrained=False)


def plain_encoder(name: str) -> Embed:
    """An encoder as the examples of torchvision use it, with the random numbers of ours as its weights."""
    from torchvision import transforms

    encoder = build_encoder(name, pretrained=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = torchvision_network(name, parse_name(name), pretrained=False)[0].eval()
    transform: Callable[[Image.Image], Tensor] = transforms.Compose(
        [
            transforms.Resize(encoder.size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(encoder.size),
            transforms.ToTensor(),
            transforms.Normalize(encoder.mean, encoder.std),
        ]
    )
    return lambda image: network(transform(image)[None])


def plain_unet() -> Embed:
    """The built-in model's UNet with diffusers' parts: what hooks on its blocks see, pooled."""
    from torchvision.transforms.functional import center_crop, resize, to_tensor

    ours = UNetEmbeddingExtractor(size=64)
    parts = DiffusersLoop(steps=1)
    tokenizer = parts.tokenizer
    tokens = tokenizer([""], padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
    with torch.no_grad():
        text = parts.text_encoder(tokens.input_ids)[0]
    signal = float(parts.schedulers[1].alphas_cumprod[ours.timestep]) ** 0.5
    seen: dict[str, Tensor] = {}
    for block in ours.blocks:
        way, _, number = block.partition("_")
        module = (parts.unet.down_blocks if way == "down" else parts.unet.up_blocks)[int(number)]

        def keep(_: nn.Module, __: Any, outputs: Any, block: str = block) -> None:
            activations = outputs[0] if isinstance(outputs, tuple) else outputs
            seen[block] = torch.cat([activations.mean((2, 3)), activations.std((2, 3), correction=0)], 1)

        module.register_forward_hook(keep)

    def embed(image: Image.Image) -> Tensor:
        square = resize(center_crop(image, [min(image.size)] * 2), [64, 64], InterpolationMode.BICUBIC)
        latent = parts.vae.encode(to_tensor(square)[None] * 2 - 1).latent_dist.mean * parts.vae.config.scaling_factor
        parts.unet(signal * latent, ours.timestep, text)
        return torch.cat([seen[block] for block in ours.blocks], 1)

    return embed


@torch.no_grad()
def one_by_one(folder: Path, embed: Embed) -> dict[str, NDArray[np.float32]]:
    """Embeddings by file name: open, transform, forward, keep; then one file of all."""
    found = {path.name: normalize(embed(Image.open(path).convert("RGB")), dim=1)[0].numpy() for path in sorted(folder.rglob("*.jpg"))}
    np.savez(folder / "embeddings.npz", **found)  # type: ignore[arg-type]
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
        embed = plain_unet() if encoder == BUILT_IN else plain_encoder(encoder)
        number = iter(range(10_000))

        def ours() -> FeatureDataModule:
            return extract(place / "images", place / str(next(number)), extractor(encoder), None, workers)

        theirs = partial(one_by_one, place / "images", embed)
        distance = difference(ours(), theirs())
        seconds = alternate({"ours": ours, "theirs": theirs}, rounds)
    what = f"embed {images} JPEG files of {side} pixels ({encoder})"
    words = f"embeddings of length 1: {distance:.1e}"
    return [
        compared(what, "images", images, seconds["ours"], ("one at a time", seconds["theirs"]), "≥ 3", words, largest=distance),
    ]


@contextmanager
def profiled() -> Iterator[Any]:
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
        with profiled():
            extract(place / "images", place / "cache", extractor(encoder), None, 0, behind=False)


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    options = parser(__doc__, "embedding")
    options.add_argument("--images", type=int, default=256)
    options.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    options.add_argument(
        "--encoders",
        nargs="+",
        default=list(ENCODERS),
        help=f"of torchvision; {BUILT_IN} is the built-in diffusion model's",
    )
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
