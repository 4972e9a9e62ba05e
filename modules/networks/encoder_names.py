"""Names of image encoders: which library, which network, which weights."""

import difflib
from pathlib import Path
from typing import NamedTuple

from modules.errors import ModelError

LIBRARIES = ("open_clip", "timm", "torchvision")
EXAMPLES = "'open_clip/ViT-L-14/datacomp_xl_s13b_b90k', 'timm/vit_large_patch14_dinov2.lvd142m' or 'torchvision/resnet50/IMAGENET1K_V2'"


class EncoderName(NamedTuple):
    """The parts of an encoder's name.

    Attributes:
        library: `open_clip`, `timm` or `torchvision`.
        architecture: What the library calls the network.
        weights: open_clip's tag or torchvision's name of the weights, or a file of them; empty where the name has none.
    """

    library: str
    architecture: str
    weights: str

    @property
    def file(self) -> str | None:
        """The weights where they are a file on disk."""
        return self.weights if self.weights and Path(self.weights).is_file() else None


def parse_name(name: str) -> EncoderName:
    """Take an encoder's name apart; nothing is loaded.

    Args:
        name: `open_clip/ARCHITECTURE/TAG`, `open_clip/ARCHITECTURE`, `timm/NAME`, `torchvision/NAME/WEIGHTS`, `torchvision/NAME`; in
            place of tag or weights, or after timm's name, a file of weights may stand: `open_clip/ViT-L-14//data/vit.safetensors`.

    Raises:
        ModelError: If it begins with none of the libraries, or names no architecture.
    """
    library, _, rest = name.partition("/")
    architecture, _, weights = rest.partition("/")
    if library not in LIBRARIES or not architecture:
        msg = f"encoder {name!r} is not LIBRARY/NAME with one of the libraries {list(LIBRARIES)}; for example {EXAMPLES}"
        raise ModelError(msg)
    return EncoderName(library, architecture, weights)


def one_of(wrong: str, known: list[str]) -> str:
    """Words for an error: the names most like a wrong one."""
    similar = difflib.get_close_matches(wrong, known, 5, 0.4) or known[:5]
    return f"one of its {len(known)} names; similar: {', '.join(similar) or 'none'}"
