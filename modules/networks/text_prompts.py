"""Zero-shot classifiers of CLIP: what prompts say of a class, as the weights of a linear layer (Radford et al. 2021, section 3.1.4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from modules.errors import ModelError, first_line
from modules.networks.encoder_names import EncoderName, one_of, parse_name
from modules.networks.encoders import SEED, encoder_size


def prompt_weights(encoder: str, prompts: Mapping[str, Sequence[str]], pretrained: bool = True) -> Tensor:
    """Weights of a zero-shot classifier: the product with an image's normalised embedding is its logit of each class.

    Each class is the mean of its prompts' normalised text embeddings, normalised again, times exp(logit scale), the inverse temperature
    that the model was trained to (100 for most). A bias that is the same for all classes, as SigLIP has one, is left out.

    Args:
        encoder: `open_clip/ARCHITECTURE/TAG`, or with a file for the tag, as in `parse_name`: the model whose images' embeddings, with
            projection, these weights are for.
        prompts: Texts by class, one or more each, whole sentences; those that are longer than the model's context are cut by open_clip.
        pretrained: Load the weights that the name says. Without, they are random numbers, the same ones in every process.

    Returns:
        float32 `[C, D]` on the CPU, in the order of the classes.

    Raises:
        ModelError: The encoder is none of open_clip's, its weights or its tokeniser cannot be had, or a class has no prompt.
    """
    parsed = parse_name(encoder)
    if parsed.library != "open_clip":
        msg = f"encoder {encoder!r} reads no texts; prompts need a model of open_clip, as open_clip/ViT-L-14/datacomp_xl_s13b_b90k"
        raise ModelError(msg)
    if not prompts or any(isinstance(texts, str) or not texts or not all(map(str.strip, texts)) for texts in prompts.values()):
        msg = f"prompts are {dict(prompts)}; each class needs a list of one or more texts"
        raise ModelError(msg)
    encoder_size(encoder)  # refuses an architecture that open_clip does not have
    _check_weights(encoder, parsed, pretrained)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(SEED)
            model, tokenizer = _load(parsed, pretrained)
            rows = [normalize(model.encode_text(tokenizer(list(texts)), normalize=True).mean(0), dim=0) for texts in prompts.values()]
            return (model.logit_scale.exp() * torch.stack(rows)).float()
    except Exception as error:  # open_clip and its tokenisers raise OSError, RuntimeError, KeyError, ImportError and more
        # torch's own text advises to read a file unsafely
        reason = type(error).__name__ if "weights_only" in str(error) else f"{type(error).__name__}: {first_line(error)}"
        msg = (
            f"the texts of encoder {encoder!r} cannot be embedded ({reason}); where there is no network, name a file of the whole model's "
            "weights, as in open_clip/ViT-L-14//data/weights.safetensors"
        )
        raise ModelError(msg) from error


def _check_weights(encoder: str, parsed: EncoderName, pretrained: bool) -> None:
    import open_clip

    tags = list(open_clip.list_pretrained_tags_by_model(parsed.architecture))
    if pretrained and parsed.file is None and not open_clip.get_pretrained_cfg(parsed.architecture, parsed.weights):
        msg = f"encoder {encoder!r}: {parsed.weights!r} is neither a file nor {one_of(parsed.weights, tags)}; name weights, or a file"
        raise ModelError(msg)


def _load(parsed: EncoderName, pretrained: bool) -> tuple[Any, Any]:
    """Model and tokeniser, in evaluation mode and float32 on the CPU."""
    import open_clip

    tagged = open_clip.get_pretrained_cfg(parsed.architecture, parsed.weights)
    model = open_clip.create_model(
        parsed.architecture,
        pretrained=parsed.weights if pretrained else None,
        force_quick_gelu=bool(tagged.get("quick_gelu")),  # as build_encoder: texts and images must be of the same model
        pretrained_text=False,
    )
    return model.eval(), open_clip.get_tokenizer(parsed.architecture)
