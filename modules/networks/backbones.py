"""Image classifiers of timm and torchvision by name, with any number of input channels."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from modules.errors import ModelError
from modules.networks.memory import channels_last

Norm = Literal["batch", "instance"]
NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm2d, "instance": partial(nn.InstanceNorm2d, affine=True)}
TORCHVISION = "torchvision/"


def build_backbone(name: str, in_channels: int, outputs: int = 1, pretrained: bool = True, norm: Norm = "batch") -> nn.Module:
    """A classifier that maps float `[B, in_channels, H, W]` to `[B, outputs]`.

    Args:
        name: A timm model (`resnet50`), or a torchvision one as `torchvision/resnet50`.
        in_channels: Input channels. With ImageNet weights the first convolution is repeated over groups of three channels and
            rescaled, so that its activations keep their size.
        outputs: Logits.
        pretrained: Start from ImageNet weights, downloaded where they are not on disk.
        norm: `batch`, or `instance`; only ResNets take the latter.

    Raises:
        ModelError: If there is no such model, it does not take that norm, or the weights cannot be had.
    """
    if norm not in NORMS:
        msg = f"norm {norm!r} is not one of {sorted(NORMS)}"
        raise ModelError(msg)
    options: dict[str, Any] = {} if norm == "batch" else {"norm_layer": NORMS[norm]}
    build = _torchvision if name.startswith(TORCHVISION) else _timm
    try:
        network = build(name.removeprefix(TORCHVISION), in_channels, outputs, pretrained, options)
    except TypeError as error:
        msg = f"backbone {name!r} does not take norm {norm!r}"
        raise ModelError(msg) from error
    except OSError as error:
        msg = f"the ImageNet weights of {name!r} cannot be had ({error}); set model.pretrained to false to start without"
        raise ModelError(msg) from error
    # Instance normalisation would copy every activation to the other order.
    return channels_last(network) if norm == "batch" else network


def _timm(name: str, in_channels: int, outputs: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        similar = ", ".join(timm.list_models(f"*{name}*")[:5]) or "timm.list_models() tells them"
        msg = f"timm has no model {name!r}; similar: {similar}"
        raise ModelError(msg)
    return timm.create_model(name, in_chans=in_channels, num_classes=outputs, pretrained=pretrained, **options)


def _torchvision(name: str, in_channels: int, outputs: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    from timm.models import adapt_input_conv
    from torchvision import models

    if name not in models.list_models(models):
        msg = f"torchvision has no classifier {name!r}; torchvision.models.list_models() tells them"
        raise ModelError(msg)
    network = models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    first = next(path for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    last = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    convolution, linear = network.get_submodule(first), network.get_submodule(last)
    weight: Tensor = adapt_input_conv(in_channels, convolution.weight)
    wider = nn.Conv2d(
        in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        convolution.padding,
        bias=convolution.bias is not None,
    )
    wider.load_state_dict({"weight": weight} | ({} if convolution.bias is None else {"bias": convolution.bias}))
    network.set_submodule(first, wider)
    network.set_submodule(last, nn.Linear(linear.in_features, outputs))
    return network
