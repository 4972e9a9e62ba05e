"""One image's record: what is known of it before anything looks at its pixels."""

from dataclasses import asdict, dataclass
from typing import Any

REAL, FAKE = 0, 1
SPLITS = ("train", "val", "test")
MISSING = frozenset({"", "nan", "null", "none", "<na>"})
"""What stands for nothing in tables of all kinds, in lower case."""

MAX_CAPTION = 1000
"""Characters of a caption; what is longer in a data set is cut. Text encoders read 77 tokens."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set.

    Attributes:
        key: First 32 hex digits of the SHA-256 of the file's content, with `-1`, `-2` … for further files of the same
            content. Safe as a tar member, without dots, the same wherever the file lies. Empty until the source has
            read the file.
        label: 0 for a real image, 1 for a generated one.
        dataset: Name of the data set, for example `faces` or `synris/dalle3`.
        generator: Name of the generator; for a real image the source of the reals, for example `ffhq`.
        path: Absolute path of the file, where it is a local one.
        url: Address of the file, where it is a remote one.
        family: Family of generators, `real` for label 0, `unknown` where nothing says it.
        split: `train`, `val`, `test`, or none yet.
        caption: Prompt or description, where the source has one.
        caption_source: Where the caption comes from (`prompt`, `human`, a captioner's name); a run refuses captions
            whose sources differ between real and generated images.
        group: What a split must not separate: a photograph's crops, a prompt. Empty where the image stands alone.
        pair: Name that a real image shares with the generated images made from it, where there are any.
        source_format: What the file was before it was copied or stored again, where the source says it: `PNG`.
        source_width: Pixels then.
        source_height: Pixels then.
        source_bytes: Length of the file then.
        generated_fraction: Share of the pixels that a generator made, in [0, 1], where the source says it: of inpainted images.
    """

    key: str
    label: int
    dataset: str
    generator: str
    path: str | None = None
    url: str | None = None
    family: str = "unknown"
    split: str | None = None
    caption: str | None = None
    caption_source: str | None = None
    group: str = ""
    pair: str | None = None
    source_format: str | None = None
    source_width: int | None = None
    source_height: int | None = None
    source_bytes: int | None = None
    generated_fraction: float | None = None

    @property
    def content_hash(self) -> str:
        """The key without its ordinal: the seed of everything random that is done to this image."""
        return self.key.partition("-")[0]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain types, for JSON."""
        return asdict(self)


def seed_of(record: Record) -> int:
    """Seed of everything random done to an image, from its content: the same in any batch, on any rank, in any order."""
    return int(record.content_hash[:15] or "0", 16)


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that was skipped, and why.

    Attributes:
        where: Path or URL of the image as its source named it.
        reason: One sentence for a person.
        key: The record's key where the content could be read at all.
    """

    where: str
    reason: str
    key: str = ""
