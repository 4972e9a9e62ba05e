"""Presets: names that stand for several perturbations, where a command takes several."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

STUDY = ("none", "crop_256", "grayscale", "horizontal_flip", "rotate_30", "color_jitter")
"""Those of the zero-shot study."""

REUPLOADS = ("limit_2048+jpeg_85", "limit_1600+jpeg_80", "limit_1080+jpeg_70", "limit_1600+webp_80")
"""What sharing an image again commonly does to it: made smaller, then stored again with loss.

Typical choices and no site's documented behaviour: sites differ, change without notice, and do more than this.
"""

_JPEG = ("jpeg_95", "jpeg_90", "jpeg_75", "jpeg_65", "jpeg_40")
_WEBP = ("webp_90", "webp_75", "webp_50")
_RESIZE = ("resize_0.75", "resize_0.5", "resize_0.25")
_BLUR = ("blur_0.5", "blur_1.0", "blur_2.0")
_NOISE = ("noise_0.01", "noise_0.02", "noise_0.05")
_CROP = ("crop_half", "crop_half+crop_half", "crop_half+crop_half+crop_half")  # shares of the image: they fit any size

PRESETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "zero_shot": STUDY,
        "reuploads": REUPLOADS,
        "jpeg": _JPEG,
        "webp": _WEBP,
        "resize": _RESIZE,
        "blur": _BLUR,
        "noise": _NOISE,
        "crop": _CROP,
        "robustness": ("none", *_JPEG, *_WEBP, *_RESIZE, *_BLUR, *_NOISE, *_CROP, *REUPLOADS),
    }
)
"""Perturbations by the preset's name, each family from mild to strong. `robustness` is the unchanged image and all families."""


def expanded(names: Iterable[str]) -> list[str]:
    """Names with every preset replaced by its members.

    Args:
        names: Perturbations and presets.

    Returns:
        Perturbations in the order named, each once. A name that is no preset stays as it is: `perturbation` says whether it is one.
    """
    return list(dict.fromkeys(member for name in names for member in PRESETS.get(name, (name,))))
