"""FFDNet (Zhang et al. 2018), a denoiser of pixels: a true score function that no diffusion model stands behind."""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.diffusion.denoiser import Denoiser, NoiseLevel
from modules.errors import ModelError
from modules.images import to_unit
from modules.networks.released import load_released, read_released

CHANNELS, LAYERS = 96, 12  # of the colour network
MAX_SIGMA = 75 / 255  # what it was trained for


class FFDNet(Denoiser):
    """The colour network; its states are images in [0, 1], its levels standard deviations up to 75/255.

    Args:
        path: The authors' weight file, `.pth` or `.safetensors`.
    """

    multiple: ClassVar[int] = 2

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.network: nn.Sequential | None = None

    @property
    def weights(self) -> dict[str, str | None]:
        """The file."""
        return {self.path: None}

    def load(self) -> None:
        """Load the file.

        Raises:
            CheckpointError: If it does not hold this network.
        """
        widths = [13, *[CHANNELS] * (LAYERS - 1), 12]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        state = {name.removeprefix("model."): value for name, value in read_released(self.path).items()}
        load_released(network, state, self.path, "the colour FFDNet of 12 layers")
        self.network = network.requires_grad_(False).eval()

    def unload(self) -> None:
        """Let go of the network."""
        self.network = None

    def encode(self, images: Tensor) -> Tensor:
        """The images themselves, in [0, 1]."""
        if self.network is None:
            msg = "load() was not called"
            raise RuntimeError(msg)
        return to_unit(images.to(next(self.network.parameters()).device))

    def decode(self, states: Tensor) -> Tensor:
        """The states themselves."""
        return states

    def level(self, value: float) -> NoiseLevel:
        """The level of a standard deviation.

        Raises:
            ModelError: If it is not above 0, or larger than what the network was trained for.
        """
        if not 0 < value <= MAX_SIGMA:
            msg = f"the noise level is {value:g}; for FFDNet it is a standard deviation above 0 and at most {MAX_SIGMA:.3f} (75/255)"
            raise ModelError(msg)
        return NoiseLevel(value, 1.0, value)

    def predict_clean(self, states: Tensor, level: NoiseLevel, conditioning: Tensor | None) -> Tensor:
        """The denoised images."""
        if self.network is None:
            msg = "load() was not called"
            raise RuntimeError(msg)
        halves = functional.pixel_unshuffle(states, 2)
        sigma = halves.new_full((len(halves), 1, *halves.shape[2:]), level.value)
        denoised: Tensor = functional.pixel_shuffle(self.network(torch.cat([halves, sigma], dim=1)), 2)
        return denoised
