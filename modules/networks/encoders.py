"""Image encoders of open_clip, timm and torchvision by name: pixels to one embedding an image."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.errors import ModelError, first_line
from modules.networks.encoder_names import EncoderName, one_of, parse_name
from modules.networks.memory import channels_last
from modules.networks.torchvision_encoders import resize_positions, torchvision_network, torchvision_preprocessing

log = logging.getLogger(__name__)

Parts = tuple[nn.Module, int, Sequence[float], Sequence[float]]  # network, side in pixels, mean, deviation
FOLDED_ALIKE = 1e-4  # of an embedding's length: what folding may change, several times as much as rounding does
SEED = 0  # of the random numbers that stand for weights where there are none


class ImageEncoder(nn.Module):
    """A frozen network that gives one embedding an image, with its own normalisation inside.

    Args:
        network: From normalised `[B, 3, size, size]` to `[B, D]`, or a tuple that begins with that.
        size: Side in pixels of the images.
        mean: Of each channel in [0, 1], which is taken off.
        std: Of each channel in [0, 1], by which is divided.

    Attributes:
        size: As given.
        mean: As given.
        std: As given.
        dimension: D.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.register_buffer("shift", torch.tensor(self.mean)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(self.std)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()
        self.network = channels_last(folded(self.network, size))  # ResNet18 is 1.4 times as quick so on a CPU core
        with torch.no_grad():
            self.dimension = self(torch.zeros(1, 3, size, size)).shape[1]

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Stays in evaluation mode whatever is asked: its embeddings are cached."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of float images `[B, 3, size, size]` in [0, 1]: float32 `[B, D]`."""
        outputs = self.network((images - self.shift) / self.scale)
        embeddings: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return embeddings.float()


@torch.no_grad()
def folded(network: nn.Module, size: int) -> nn.Module:
    """The network with batch normalisations folded into the convolutions before them, where torch can trace it; else as it is.

    On a CPU core MobileNetV3 (small) takes 4.6 ms an image in place of 8.7, ResNet18 37 in place of 43; embeddings differ in float32's
    last digits.

    Args:
        network: In evaluation mode, float32; it is not changed.
        size: Side in pixels of the images that it takes.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    from torch.fx.experimental.optimization import fuse

    try:
        quicker: nn.Module = fuse(network)
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(SEED))
        expected, found = (outputs[0] if isinstance(outputs := each(image), tuple) else outputs for each in (network, quicker))
        alike = bool((found - expected).norm() <= FOLDED_ALIKE * expected.norm())
    except Exception as error:  # whatever a tracer meets that runs a stranger's code
        log.debug("batch normalisations are not folded: %s", error)
        return network
    return quicker.requires_grad_(False).eval() if alike else network


def encoder_size(name: str) -> int:
    """Side in pixels of the images that an encoder was trained on, from its library's configuration: no network is built.

    Raises:
        ModelError: If there is no such encoder, or its images are not square.
    """
    parsed = parse_name(name)
    if parsed.library == "open_clip":
        return _side(_open_clip_config(name, parsed)["vision_cfg"].get("image_size", 224), name)
    if parsed.library == "torchvision":
        return _side(torchvision_preprocessing(name, parsed).size, name)
    return _side(_timm_config(name, parsed).input_size[1:], name)


def build_encoder(
    name: str,
    pretrained: bool = True,
    projection: bool = True,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageEncoder:
    """An encoder in evaluation mode, on the CPU, in float32.

    Args:
        name: As in `parse_name`.
        pretrained: Load the weights that the name says, downloaded where they are not on disk. Without, they are random numbers, the
            same ones in every process.
        projection: Give open_clip's embedding in the space that it shares with texts; otherwise the pooled one before it (1024 numbers
            for ViT-L/14, what Cozzolino et al. 2024 use). The others' networks have no projection: they give the pooled embedding either
            way; torchvision's is what its classifier is given, pooled over space (SqueezeNet's 512 numbers, ResNet50's 2048).
        size: Side in pixels of the images, the encoder's own by default; position embeddings are interpolated to another.
        mean: Of each channel in [0, 1], which is taken off; the encoder's own by default.
        std: Of each channel in [0, 1], by which is divided; the encoder's own by default.

    Raises:
        ModelError: If there is no such encoder, the weights cannot be had or are others', it has no projection that could be left out,
            it does not take images of that size, or it does not fit into memory.
    """
    parsed = parse_name(name)
    build: Callable[..., Parts] = {"open_clip": _open_clip, "timm": _timm, "torchvision": _torchvision}[parsed.library]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            network, side, own_mean, own_std = build(name, parsed, pretrained, projection, size)
            return ImageEncoder(network, side, tuple(own_mean if mean is None else mean), tuple(own_std if std is None else std))
    except ModelError:
        raise
    except Exception as error:  # the libraries raise OSError, RuntimeError, KeyError and more
        raise ModelError(_why(error, name, parsed, size)) from error


def _why(error: Exception, name: str, parsed: EncoderName, size: int | None) -> str:
    """Words for what a library raised: what is wrong, and what to do about it."""
    # torch's own text advises to read a file unsafely
    reason = type(error).__name__ if "weights_only" in str(error) else f"{type(error).__name__}: {first_line(error)}"
    start = f"encoder {name!r} cannot be built ({reason})"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        return f"{start}: it does not fit into memory; name a smaller one"
    if parsed.file is not None and isinstance(error, OSError):
        return f"{start}: look whether its file can be read"
    if parsed.file is None and _of_a_download(error):
        return (
            f"{start}. Its weights are downloaded on first use: where there is no network, fetch them elsewhere and name the file, as in "
            f"{parsed.library}/{parsed.architecture}//data/weights.safetensors"
        )
    if parsed.file is not None:
        start += f"; the file must hold weights of {parsed.architecture!r} as a state dict"
    return start if size is None else f"{start}; not every encoder takes images of another size: set size to null for its own"


def _of_a_download(error: BaseException) -> bool:
    """Whether it goes back to the disk, the hub or the network; open_clip wraps those errors in others."""
    before = error.__cause__ or error.__context__
    return (
        isinstance(error, OSError)
        or "download" in str(error).lower()
        or "invalid hash" in str(error)
        or (before is not None and _of_a_download(before))
    )


def _open_clip(name: str, parsed: EncoderName, pretrained: bool, projection: bool, size: int | None) -> Parts:
    import open_clip

    _open_clip_config(name, parsed)
    if pretrained and not parsed.weights:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(parsed.architecture)) or "none"
        msg = f"encoder {name!r} names no weights; add /TAG with one of {tags}, or a file, or set pretrained to false"
        raise ModelError(msg)
    tagged = open_clip.get_pretrained_cfg(parsed.architecture, parsed.weights)
    if pretrained and not tagged and parsed.file is None:
        msg = f"encoder {name!r}: {parsed.weights!r} is neither a file nor {one_of(parsed.weights, _tags(parsed.architecture))}"
        raise ModelError(msg)
    model = open_clip.create_model(
        parsed.architecture,
        pretrained=parsed.weights if pretrained else None,
        # OpenAI's weights need another activation than open_clip's own of the same architecture; it would only warn.
        force_quick_gelu=bool(tagged.get("quick_gelu")),
        force_image_size=size,
        pretrained_text=False,
    )
    settings = open_clip.get_model_preprocess_cfg(model)
    network = model.visual
    if not projection:
        _drop_projection(name, network)
    if size is not None:
        _check_patches(name, network, size, encoder_size(name))
    return network, _side(settings["size"], name), settings["mean"], settings["std"]


def _drop_projection(name: str, network: Any) -> None:
    """Leave the last linear map of an open_clip image tower out."""
    if isinstance(getattr(network, "proj", None), nn.Parameter):
        network.proj = None
    elif isinstance(head := getattr(network, "head", None), nn.Sequential) and "proj" in dict(head.named_children()):
        head.proj = nn.Identity()
    else:
        msg = f"encoder {name!r} has no projection that could be left out; set projection to true"
        raise ModelError(msg)


def _timm(name: str, parsed: EncoderName, pretrained: bool, projection: bool, size: int | None) -> Parts:
    import timm

    config = _timm_config(name, parsed)
    if parsed.weights and parsed.file is None:
        msg = f"encoder {name!r}: there is no file {parsed.weights!r}; timm's weights are part of the name, after a dot"
        raise ModelError(msg)
    own = _side(config.input_size[1:], name)
    options: dict[str, Any] = {"img_size": size} if size not in (None, own) and config.fixed_input_size else {}
    if parsed.file is not None:
        options["pretrained_cfg_overlay"] = {"file": parsed.file, "custom_load": False}
    network = timm.create_model(parsed.architecture, pretrained=pretrained, num_classes=0, **options)
    if size is not None:
        _check_patches(name, network, size, own)
    if pretrained and parsed.file is not None:
        torch.manual_seed(SEED)
        untrained = timm.create_model(parsed.architecture, pretrained=False, num_classes=0, **options)
        _check_loaded(name, network, untrained)
    return network, size or own, config.mean, config.std


def _torchvision(name: str, parsed: EncoderName, pretrained: bool, projection: bool, size: int | None) -> Parts:
    network, own = torchvision_network(name, parsed, pretrained)
    if size is not None:
        _check_patches(name, network, size, _side(own.size, name))
        resize_positions(network, size)
    return network, size or _side(own.size, name), own.mean, own.std


def _check_patches(name: str, network: Any, size: int, own: int) -> None:
    """Refuse a size of which the last pixels would be in no patch: most networks drop them in silence."""
    parts = [part for part in (network, getattr(network, "trunk", None)) if part is not None]
    found = [getattr(part, "patch_size", None) or getattr(getattr(part, "patch_embed", None), "patch_size", None) for part in parts]
    patch = next((each if isinstance(each, int) else max(each) for each in found if each), 1)
    if size != own and size % patch:
        near = max(1, size // patch) * patch
        msg = (
            f"encoder {name!r} sees patches of {patch} pixels, and size is {size}; name a multiple, as {near} or {near + patch}, or null "
            f"for its own {own}"
        )
        raise ModelError(msg)


def _check_loaded(name: str, network: nn.Module, untrained: nn.Module) -> None:
    """Refuse a network that still has random numbers after its file was read: timm only warns of weights that are missing there.

    Args:
        name: The encoder's, for the error.
        network: After reading the file.
        untrained: The same from the same seed without the file.
    """
    random = dict(untrained.named_parameters())
    missing = [
        path for path, weights in network.named_parameters() if weights.ndim > 1 and weights.any() and torch.equal(weights, random[path])
    ]
    if missing:
        msg = (
            f"encoder {name!r}: its file lacks {len(missing)} of the network's weights, {missing[0]!r} the first; name the file of this one"
        )
        raise ModelError(msg)


def _open_clip_config(name: str, parsed: EncoderName) -> dict[str, Any]:
    import open_clip

    known = open_clip.list_models()
    if parsed.architecture not in known:  # open_clip takes hub ids as well, which cannot be pinned to a revision
        msg = f"encoder {name!r}: {parsed.architecture!r} is not {one_of(parsed.architecture, known)}"
        raise ModelError(msg)
    return dict(open_clip.get_model_config(parsed.architecture))


def _timm_config(name: str, parsed: EncoderName) -> Any:
    import timm

    base, _, tag = parsed.architecture.partition(".")
    if not timm.is_model(base):
        msg = f"encoder {name!r}: timm has no model {base!r}; {one_of(base, timm.list_models())}"
        raise ModelError(msg)
    known = [model.partition(".")[2] for model in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in known:
        msg = f"encoder {name!r}: timm's {base!r} has no weights {tag!r}; {one_of(tag, known)}"
        raise ModelError(msg)
    return timm.get_pretrained_cfg(parsed.architecture)


def _tags(architecture: str) -> list[str]:
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(architecture))


def _side(size: Any, name: str) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        msg = f"encoder {name!r} takes images of {height}×{width} pixels; only encoders of square images are supported"
        raise ModelError(msg)
    return int(height)
