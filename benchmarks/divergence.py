"""Divergence of the score with K probes: all images and probes in shared batches, against one probe, and one image, at a time.

python -m benchmarks.divergence --images 8 --probes 8
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.inversion import MODEL, photographs
from benchmarks.measuring import Row, alternate, compared, finish, machine, parser
from modules.diffusion.divergence import directional, rademacher
from modules.diffusion.latent_denoiser import LatentDenoiser

TIMESTEP = 1
STEP = 0.1  # of the level's standard deviation


def measure(images: int, probes: int, rounds: int, rows_at_once: int = 64) -> list[Row]:
    """The same estimates in three ways.

    Args:
        images: How many.
        probes: Of each image.
        rounds: That count.
        rows_at_once: States that go through the model in one pass, as the extractors' default.
    """
    denoiser = LatentDenoiser(MODEL)
    denoiser.load()
    pixels, _ = photographs(images)
    level = denoiser.level(TIMESTEP)
    with torch.no_grad():
        states = level.signal * denoiser.encode(pixels)
    generator = torch.Generator().manual_seed(0)
    directions = torch.stack([rademacher(states.shape[1:], probes, generator) for _ in range(images)])

    @torch.no_grad()
    def together(images_of: Tensor, towards: Tensor) -> Tensor:
        def field(rows: Tensor, positions: Tensor) -> Tensor:
            return denoiser.score(rows, level, None)

        return directional(field, images_of, towards, STEP * level.noise, rows_at_once)

    def probe_by_probe() -> Tensor:
        return torch.cat([together(states, directions[:, k : k + 1]) for k in range(probes)], 1)

    def one_by_one() -> Tensor:
        parts = [[together(states[i : i + 1], directions[i : i + 1, k : k + 1]) for k in range(probes)] for i in range(images)]
        return torch.cat([torch.cat(part, 1) for part in parts])

    found = together(states, directions)
    largest = {name: float((call() - found).abs().max() / found.abs().max()) for name, call in (("k", probe_by_probe), ("one", one_by_one))}
    seconds = alternate({"ours": lambda: together(states, directions), "k": probe_by_probe, "one": one_by_one}, rounds)
    what = f"divergence of {images} images with {probes} probes"
    words = "relative {:.1e}"
    return [
        compared(
            what, "images", images, seconds["ours"], ("a call a probe", seconds["k"]), "", words.format(largest["k"]), largest=largest
        ),
        compared(what, "images", images, seconds["ours"], ("a call an image and probe", seconds["one"]), "", words.format(largest["one"])),
    ]


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command."""
    options = parser(__doc__, "divergence")
    options.add_argument("--images", type=int, default=8)
    options.add_argument("--probes", type=int, default=8)
    chosen = options.parse_args(args)
    before = machine()
    return finish("divergence", chosen, measure(chosen.images, chosen.probes, chosen.rounds), before)


if __name__ == "__main__":
    main()
