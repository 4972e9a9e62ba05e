"""torchvision's image classifiers without their classifier: pixels to pooled features."""

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from modules.errors import CheckpointError, ModelError
from modules.networks.encoder_names import EncoderName, one_of
from modules.networks.released import load_released, read_released

Replacements = dict[str, Callable[[], nn.Module]]


def _pool() -> nn.Module:
    return nn.AdaptiveAvgPool2d(1)


# By torchvision's class, what takes the place of which module, so that the features pooled over space come out. Inception and GoogLeNet are
# left out: they normalise their input by another rule where they are pretrained.
HEADS: dict[str, Replacements] = {
    "AlexNet": {"avgpool": _pool, "classifier": nn.Identity},
    "ConvNeXt": {"classifier.2": nn.Identity},
    "DenseNet": {"classifier": nn.Identity},
    "EfficientNet": {"classifier": nn.Identity},
    "MaxVit": {"classifier.5": nn.Identity},
    "MobileNetV2": {"classifier": nn.Identity},
    "MobileNetV3": {"classifier": nn.Identity},
    "RegNet": {"fc": nn.Identity},
    "ResNet": {"fc": nn.Identity},
    "ShuffleNetV2": {"fc": nn.Identity},
    "SqueezeNet": {"classifier": _pool},
    "SwinTransformer": {"head": nn.Identity},
    "VGG": {"avgpool": _pool, "classifier": nn.Identity},
    "VisionTransformer": {"heads": nn.Identity},
}
OLD_DENSENET = re.compile(r"\.(norm|conv)\.([12])\.")  # how its released files name what is `norm1` and `conv1` now


class Preprocessing(NamedTuple):
    """What a torchvision network was trained on.

    Attributes:
        size: Height and width in pixels.
        mean: Of each channel in [0, 1].
        std: Likewise.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def torchvision_preprocessing(name: str, parsed: EncoderName) -> Preprocessing:
    """Size and normalisation that belong to the named weights; those of the network's default weights where none, or a file, is named.

    Args:
        name: The encoder's, for errors.
        parsed: Its parts.

    Raises:
        ModelError: If torchvision has no such network.
    """
    weights = _weights(name, parsed)
    known = weights[parsed.weights] if parsed.weights in weights.__members__ else weights.DEFAULT
    transforms = known.transforms()
    side = transforms.crop_size[0]
    return Preprocessing((side, side), tuple(transforms.mean), tuple(transforms.std))


def torchvision_network(name: str, parsed: EncoderName, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    """A network that gives its pooled features, what the classifier would see, at the size that it was trained on.

    Args:
        name: The encoder's, for errors.
        parsed: Its parts.
        pretrained: Load the weights: a file's, or torchvision's, downloaded where they are not on disk.

    Returns:
        From `[B, 3, H, W]` to `[B, D]`, and its preprocessing.

    Raises:
        ModelError: If there is no such network, it is not known what its features are, or its weights are not named or do not fit.
    """
    from torchvision import models

    weights = _weights(name, parsed)
    _check_weights(name, parsed, [each.name for each in weights], pretrained)  # not DEFAULT, which changes with torchvision
    preprocessing = torchvision_preprocessing(name, parsed)
    options: dict[str, Any] = {"image_size": preprocessing.size[0]} if parsed.architecture.startswith("vit_") else {}
    network = models.get_model(parsed.architecture, weights=None, **options)
    kind = type(network).__name__
    if kind not in HEADS:
        msg = f"encoder {name!r}: it is not known which features a {kind} has before its classifier; known are {', '.join(HEADS)}"
        raise ModelError(msg)
    complete = set(network.state_dict())
    for path, build in HEADS[kind].items():
        network.set_submodule(path, build())
    if pretrained:
        _load(name, parsed, network, complete, weights)
    return network, preprocessing


def resize_positions(network: nn.Module, size: int) -> None:
    """Let a vision transformer see images of another side in pixels, its position embeddings interpolated; others take any size."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    if isinstance(network, VisionTransformer) and network.image_size != size:
        state = interpolate_embeddings(size, network.patch_size, OrderedDict(network.state_dict()))
        network.image_size = size
        network.encoder.pos_embedding = nn.Parameter(state["encoder.pos_embedding"])


def _weights(name: str, parsed: EncoderName) -> Any:
    """The network's enumeration of weights."""
    from torchvision import models

    known = models.list_models(models)
    if parsed.architecture not in known:
        msg = f"encoder {name!r}: {parsed.architecture!r} is not {one_of(parsed.architecture, known)}"
        raise ModelError(msg)
    return models.get_model_weights(parsed.architecture)


def _check_weights(name: str, parsed: EncoderName, known: list[str], pretrained: bool) -> None:
    if pretrained and not parsed.weights:
        msg = f"encoder {name!r} names no weights; add / and one of {', '.join(known)}, or a file, or set pretrained to false"
        raise ModelError(msg)
    if parsed.weights and parsed.file is None and parsed.weights not in known:
        msg = f"encoder {name!r}: {parsed.weights!r} is neither a file nor {one_of(parsed.weights, known)}"
        raise ModelError(msg)


def _load(name: str, parsed: EncoderName, network: nn.Module, complete: set[str], weights: Any) -> None:
    """Put weights into a network; those of the modules that it has no more are left over."""
    state: dict[str, Tensor]
    try:
        if parsed.file is not None:
            state = read_released(parsed.file)
        else:
            state = weights[parsed.weights].get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
        if type(network).__name__ == "DenseNet":
            state = {OLD_DENSENET.sub(r".\1\2.", each): tensor for each, tensor in state.items()}
        left_over = complete - set(network.state_dict())
        kept = {each: tensor for each, tensor in state.items() if each not in left_over}
        load_released(network, kept, parsed.weights, f"torchvision's {parsed.architecture}")
    except CheckpointError as error:
        msg = f"encoder {name!r}: {error}"
        raise ModelError(msg) from error
