"""How many pairs of SynRIS are left: hosts die, and lists have gaps."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from datamodules.files import write_atomically

ALL = "all"


@dataclass(frozen=True, slots=True)
class Survival:
    """What is left of one generator's list, or of all.

    A prompt is counted once, however many lines it has: `lines` = `unusable` + `doubled` + `prompts`, and `prompts` = `with_url` +
    `without_url`. A file is there where it can be read and is not empty; what decodes to no image is found during extraction only, and
    recorded there.

    Attributes:
        generator: Its name; `all` for the sum.
        lines: Lines of the list.
        unusable: Lines without a prompt index, or whose address is no text.
        doubled: Lines of a prompt that an earlier line has.
        prompts: Prompts listed.
        with_url: Prompts with an address.
        without_url: Prompts whose address is missing, empty, `NULL`, or none of a host.
        reals: Prompts with an address whose real image is there.
        fakes: Prompts listed whose generated image is there.
        unreadable: Files of listed prompts that lie there, but are empty or cannot be read; they count as absent.
        pairs: Prompts whose both images are there.
    """

    generator: str
    lines: int
    unusable: int
    doubled: int
    prompts: int
    with_url: int
    without_url: int
    reals: int
    fakes: int
    unreadable: int
    pairs: int

    @property
    def share(self) -> float | None:
        """Pairs over prompts, in [0, 1]; None without prompts."""
        return self.pairs / self.prompts if self.prompts else None


COLUMNS = (*(field.name for field in fields(Survival)), "share")


def total(rows: Sequence[Survival]) -> Survival:
    """The sum of all generators."""
    counts = [field.name for field in fields(Survival) if field.name != "generator"]
    return Survival(ALL, **{name: sum(getattr(row, name) for row in rows) for name in counts})


def _with_total(rows: Sequence[Survival]) -> list[Survival]:
    return [*rows, total(rows)] if len(rows) > 1 else list(rows)


def survival_text(rows: Sequence[Survival]) -> str:
    """The table for a terminal, a line a generator, and their sum where there are several.

    Args:
        rows: Of `SynRISSource.survival`.
    """
    heads = [name.replace("_", " ") for name in COLUMNS]
    lines = [heads]
    for row in _with_total(rows):
        share = "-" if row.share is None else f"{100 * row.share:.1f}%"
        lines.append([_printable(row.generator), *(f"{value:,}" for value in list(asdict(row).values())[1:]), share])
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines)


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:40]


def write_survival(path: Path, rows: Sequence[Survival]) -> Path:
    """Write the table as CSV with the columns `COLUMNS`, and the sum where there are several generators.

    Args:
        path: The file, for example `survival.csv`.
        rows: Of `SynRISSource.survival`.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([*asdict(row).values(), row.share] for row in _with_total(rows))
    write_atomically(path, text.getvalue().encode())
    return path
