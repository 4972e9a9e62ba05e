"""ResNets without early down-sampling: first convolution and max-pool keep every pixel (Gragnaniello et al. 2021, Corvi et al. 2023).

The names in their state dicts are torchvision's, so that released weights load. Whole images of any size are possible, and large ones
in tiles that overlap by what an output can see.
"""

from collections.abc import Callable, Iterator
from math import isqrt

import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from modules.errors import ModelError

RESNETS = ("resnet18", "resnet34", "resnet50")
STRIDE = 8  # pixels between two places of the last feature map: three stages that halve


def build_no_down_resnet(name: str = "resnet50", pretrained: bool = False, dropout: float = 0.5) -> ResNet:
    """A torchvision ResNet with strides of 1 up to its second stage, dropout before its last layer, and one logit.

    Args:
        name: `resnet18`, `resnet34` or `resnet50` (the paper's).
        pretrained: Start from torchvision's `IMAGENET1K_V1` weights, downloaded where they are not on disk.
        dropout: Probability, in [0, 1), that a pooled feature is zeroed in training.

    Returns:
        A network that maps float `[B, 3, H, W]`, of any size, to logits `[B, 1]`.

    Raises:
        ModelError: If there is no such ResNet, or the ImageNet weights cannot be had.
        ValueError: If `dropout` is no such probability.
    """
    from torchvision import models

    if name not in RESNETS:
        msg = f"backbone {name!r} is not one of {RESNETS}"
        raise ModelError(msg)
    if not 0 <= dropout < 1:
        msg = f"dropout is {dropout}; a probability from 0 to below 1 is needed"
        raise ValueError(msg)
    try:
        network: ResNet = models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    except OSError as error:
        msg = f"the ImageNet weights of {name!r} cannot be had ({error}); set model.pretrained to false to start without"
        raise ModelError(msg) from error
    network.conv1.stride = (1, 1)
    network.maxpool.stride = 1
    network.avgpool = nn.Sequential(network.avgpool, nn.Dropout(dropout))  # no parameters, so that the last layer is still called `fc`
    network.fc = nn.Linear(network.fc.in_features, 1)
    return network


def feature_map(network: ResNet, images: Tensor) -> Tensor:
    """What the network averages: float `[B, 3, H, W]` to `[B, C, ⌈H / 8⌉, ⌈W / 8⌉]`."""
    early = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    features: Tensor = network.layer4(network.layer3(network.layer2(network.layer1(early))))
    return features


def margin(network: ResNet) -> int:
    """How many pixels to each side of its own place a value of `feature_map` depends on, rounded up to a multiple of 8."""
    pixels, spacing = 0, 1
    for layer in _path(network):
        size, stride = (value[0] if isinstance(value, tuple) else value for value in (layer.kernel_size, layer.stride))
        pixels += size // 2 * spacing
        spacing *= stride
    return -(-pixels // STRIDE) * STRIDE


def least_pixels(network: ResNet) -> int:
    """The smallest `pixels` that `whole_image_logits` can work with: one place of the feature map, and all that it sees."""
    return (2 * margin(network) + STRIDE) ** 2


def whole_image_logits(
    network: ResNet, images: Tensor | list[Tensor], pixels: int, normalise: Callable[[Tensor], Tensor] = lambda images: images
) -> Tensor:
    """Logits of whole images of any sizes, with no more than so many pixels in the network at once.

    Images of one size go together, as many as there may be, and an image that is too large by itself goes in tiles. A tile sees so far
    beyond its edges that its features are those of the whole image: the result is the same up to rounding.

    Args:
        network: In evaluation mode.
        images: `[B, 3, H, W]`, or B images `[3, h, w]`.
        pixels: How many at most, `least_pixels` or more.
        normalise: From `[b, 3, h, w]` to what the network takes.

    Returns:
        `[B, 1]`.

    Raises:
        ValueError: If tiles are needed and `pixels` is below `least_pixels`.
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, image in enumerate(images):
        by_size.setdefault((image.shape[1], image.shape[2]), []).append(i)
    logits: dict[int, Tensor] = {}
    for (height, width), alike in by_size.items():
        at_once = max(1, pixels // (height * width))
        for first in range(0, len(alike), at_once):
            part = alike[first : first + at_once]
            normal = normalise(torch.stack([images[i] for i in part]))
            found = network(normal) if height * width <= pixels else _tiled(network, normal, pixels)
            logits.update(zip(part, found, strict=True))
    return torch.stack([logits[i] for i in range(len(images))])


def _tiled(network: ResNet, image: Tensor, pixels: int) -> Tensor:
    if pixels < least_pixels(network):
        msg = f"{pixels} pixels at once are too few for the tiles of a large image; at least {least_pixels(network)} are needed"
        raise ValueError(msg)
    around = margin(network)
    side = (isqrt(pixels) - 2 * around) // STRIDE * STRIDE
    height, width = image.shape[-2:]
    total, places = image.new_zeros(1, network.fc.in_features, dtype=torch.float32), 0
    for rows, inner_rows in _spans(height, side, around):
        for columns, inner_columns in _spans(width, side, around):
            inner = feature_map(network, image[..., rows, columns])[..., inner_rows, inner_columns]
            total += inner.sum((2, 3), dtype=torch.float32)
            places += inner.shape[2] * inner.shape[3]
    logits: Tensor = network.fc(total / places)
    return logits


def _spans(length: int, side: int, around: int) -> Iterator[tuple[slice, slice]]:
    """Along one side of an image, each tile's pixels with what lies around it, and which of its features are the tile's own."""
    for start in range(0, length, side):
        first, stop = max(0, start - around), min(length, start + side)
        yield slice(first, min(length, stop + around)), slice((start - first) // STRIDE, -(-(stop - first) // STRIDE))


def _path(network: ResNet) -> Iterator[nn.Conv2d | nn.MaxPool2d]:
    """The layers with a kernel on the longest way through the network."""
    yield from (network.conv1, network.maxpool)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            yield from (layer for layer in block.children() if isinstance(layer, nn.Conv2d))
