"""What a user may say of the report; imports nothing, since every command's --help needs it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportOptions:
    """What report.html holds of the images.

    Args:
        images: images in its browser at most: of more, half are those that the detectors get most wrong, half are drawn by chance. 0 leaves
            every picture of an image out of the report
        megabytes: pictures that a click shows, as large as detectors saw them up to 192 pixels, in 10⁶ bytes together; thumbnails are
            there whatever this says
        spectra: images of each generator whose noise residual's power spectra are averaged; 0 for no spectra
    """

    images: int = 10_000
    megabytes: float = 16.0
    spectra: int = 200

    def __post_init__(self) -> None:
        """Refuse what is no number of images.

        Raises:
            ValueError: A number is negative.
        """
        for name in ("images", "megabytes", "spectra"):
            if not getattr(self, name) >= 0:  # nor is `nan`
                msg = f"report.{name} is {getattr(self, name)}: it must be 0 or more"
                raise ValueError(msg)
