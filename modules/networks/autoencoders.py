"""The autoencoder of a latent diffusion model, by itself: images to latents and back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.errors import ModelError, first_line

# diffusers' classes whose encoder takes one picture; a configuration may name nothing else.
SUPPORTED = ("AutoencoderKL", "AsymmetricAutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "VQModel", "AutoencoderKLFlux2")
CONFIG = "config.json"
VAE = "vae"


class Autoencoder(nn.Module):
    """A frozen autoencoder of diffusers as one function, `D(E(x))`.

    Args:
        network: A model of one of the classes `SUPPORTED`.

    Attributes:
        factor: Pixels of an image's side for one of the latent's; heights and widths must be multiples of it.
    """

    network: Any  # diffusers' models: their methods are not those that nn.Module types

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.requires_grad_(False).eval()
        ratio = getattr(network, "spatial_compression_ratio", None)
        self.factor = int(ratio) if ratio is not None else 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return next(self.network.parameters()).dtype

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions of images.

        The latent is the mode of the encoder's distribution where it has one, never a sample: nothing is random. It is not scaled: the
        scaling that a diffusion model needs would be undone before decoding.

        Args:
            images: float `[B, 3, H, W]` in [0, 1]; H and W are multiples of `factor`.

        Returns:
            float32 of the same shape; not clamped, so that an overflow can still be seen.
        """
        encoded = self.network.encode((images * 2 - 1).to(self.dtype))
        if hasattr(encoded, "latent_dist"):
            latents = encoded.latent_dist.mode()
        else:
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent
        decoded: Tensor = self.network.decode(latents).sample
        return decoded.float() / 2 + 0.5


def load_autoencoder(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> Autoencoder:
    """Load an autoencoder of diffusers.

    Args:
        name: A local directory or a hub id `owner/name`, of an autoencoder or of a text-to-image model, whose `vae` is taken then; a
            third part names another subfolder of a hub model: `owner/name/movq`.
        revision: Branch, tag or commit of a hub model.
        dtype: What the network computes in.

    Raises:
        ModelError: If there is no autoencoder there, it is of no supported class, or it cannot be read or downloaded.
    """
    import diffusers

    place, options, kind = find_autoencoder(name, revision)
    try:
        network, told = getattr(diffusers, kind).from_pretrained(place, torch_dtype=dtype, output_loading_info=True, **options)
    except Exception as error:  # safetensors, torch and diffusers raise nearly every type there is for broken files
        msg = f"autoencoder {name!r} cannot be loaded ({first_line(error)}); is the download complete, and of this version of diffusers?"
        raise ModelError(msg) from error
    if told["missing_keys"]:  # diffusers fills them with random numbers, and warns
        msg = f"autoencoder {name!r} lacks {len(told['missing_keys'])} of its weights, {sorted(told['missing_keys'])[0]!r} the first"
        raise ModelError(msg)
    if network.config.in_channels != 3:
        msg = f"autoencoder {name!r} has {network.config.in_channels} input channels; one of RGB images is needed"
        raise ModelError(msg)
    return Autoencoder(network)


def find_autoencoder(name: str, revision: str | None = None) -> tuple[str, dict[str, Any], str]:
    """Where an autoencoder lies, and which of diffusers' classes it is; no weights are read.

    Args:
        name: As in `load_autoencoder`.
        revision: As in `load_autoencoder`.

    Returns:
        Path or hub id, the options `subfolder` and `revision` where there are any, and the class's name.

    Raises:
        ModelError: As in `load_autoencoder`.
    """
    parts = name.split("/")
    local = Path(name).is_dir() or name.startswith((".", "/", "~")) or len(parts) not in (2, 3) or not all(parts)
    if local and not (Path(name) / CONFIG).is_file() and not (Path(name) / VAE / CONFIG).is_file():
        msg = (
            f"autoencoder {name!r}: there is neither a {CONFIG} nor a {VAE}/{CONFIG} in such a directory; name a directory of diffusers' "
            "format, or a hub id like 'owner/name' or 'owner/name/subfolder'"
        )
        raise ModelError(msg)
    options: dict[str, Any] = {} if revision is None or local else {"revision": revision}
    place, subfolders, found = name, [None, VAE], list[str]()
    if not local and len(parts) == 3:
        place, subfolders = "/".join(parts[:2]), [parts[2]]
    for subfolder in subfolders:
        within = options if subfolder is None else options | {"subfolder": subfolder}
        kind = _class_name(place, within, found)
        if kind in SUPPORTED:
            return place, within, kind
    msg = f"autoencoder {name!r} is none of {list(SUPPORTED)} ({'; '.join(found)})"
    if not local:
        msg += "; where there is no network, download it elsewhere and name its directory"
    raise ModelError(msg)


def _class_name(place: str, options: dict[str, Any], found: list[str]) -> str:
    """The class that a configuration names, or an empty string; what was found instead is added to `found`."""
    from diffusers import AutoencoderKL

    where = options.get("subfolder", "top")
    try:
        config = AutoencoderKL.load_config(place, **options)
    except (OSError, ValueError) as error:
        found.append(f"{where}: {first_line(error)}")
        return ""
    kind = str(config.get("_class_name", "")) if isinstance(config, dict) else ""
    found.append(f"{where}: {kind or 'no class'}")
    return kind
