"""Published numbers beside measured ones, and a difference only where model, data and size are the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.rows import one_line
from evaluation.statistics import CLEAN
from evaluation.tables import Documents, cell_of, short, write_csv
from evaluation.targets import Scalar, Target, Targets

COLUMNS = (
    *("detector", "train", "dataset", "generator", "perturbation", "metric", "published", "measured", "low", "high", "difference"),
    *("measured_on", "n_real", "n_fake", "not_comparable"),
)
NOT_COMPARABLE = "not comparable"
_FEW = 3  # names in a sentence

Settings = Mapping[str, Mapping[str, Any]]

WEIGHTS = "detector.weights"  # a requirement that names the weights of a release names what they were trained on


@dataclass(frozen=True, slots=True)
class Compared:
    """A published number beside what was measured.

    Attributes:
        target: What was published.
        measured: The cell `{"value", "low", "high"}` of the same detector, perturbation and metric; None where there is none.
        measured_on: What it was measured on: the published data set and generator, or those that there are.
        n_real: Number of real images that were measured; None where there is no measurement.
        n_fake: Number of fakes.
        reasons: Why the two cannot be compared; nothing where they can.
    """

    target: Target
    measured: Mapping[str, Any] | None
    measured_on: str
    n_real: int | None
    n_fake: int | None
    reasons: tuple[str, ...]

    @property
    def difference(self) -> float | None:
        """Measured minus published value; None where they cannot be compared."""
        return None if self.reasons or self.measured is None else float(self.measured["value"]) - self.target.value

    @property
    def why(self) -> str:
        """The reasons in one sentence, empty where the numbers can be compared."""
        return f"{NOT_COMPARABLE}: {'; '.join(self.reasons)}" if self.reasons else ""


def compare(targets: Targets, documents: Documents, settings: Mapping[str, Settings]) -> list[Compared]:
    """Each published number beside the measured one of the same detector, data set, generator, perturbation and metric.

    Where the data set or the generator was not measured, the number of all images stands beside it, and the row says so.

    Args:
        targets: The published numbers.
        documents: Parts of `metrics.json` by detector.
        settings: For each detector its own constructor arguments (`detector`) and those of its extractor (`extractor`), in plain types.
    """
    return [_compared(row, targets, documents, settings.get(row.detector, {})) for row in targets.rows]


def _compared(row: Target, targets: Targets, documents: Documents, settings: Settings) -> Compared:
    document = documents.get(row.detector)
    if document is None:
        return _nothing(row, f"no detector is named {row.detector} here, but {_listed(documents)}")
    by_generator = document["by_generator_and_perturbation"].get(row.perturbation)
    if by_generator is None:
        return _nothing(row, _other_perturbation(row.perturbation, list(document["by_perturbation"])))
    found = [name for name, each in by_generator.items() if (each["dataset"], each["generator"]) == (row.dataset, row.generator)]
    reasons = []
    if found:
        where = found[0]
        # Of the clean images, there are more metrics of each generator.
        record = document["by_generator"][where] if row.perturbation == CLEAN else by_generator[where]
    else:
        record, where = document["by_perturbation"][row.perturbation], _listed(by_generator)
        reasons.append(f"other data: {where}; published: {row.dataset}/{row.generator}")
    cell = cell_of(record, _place(row.metric))
    if cell is None:
        reasons.append(f"{row.metric} is not measured")
    elif cell["value"] is None:
        reasons.append(str(cell.get("reason") or "there is no value"))
    if row.train is not None and WEIGHTS not in targets.settings.get(row.detector, {}):
        reasons.append(f"published after training on {row.train}; what this detector was trained on is not recorded by that name")
    reasons += [*_other_settings(row.detector, targets, settings), *_other_size(targets, record)]
    return Compared(row, cell, where, record["n_real"], record["n_fake"], tuple(reasons))


def _nothing(row: Target, why: str) -> Compared:
    return Compared(row, None, "", None, None, (why,))


def _place(metric: str) -> tuple[str, ...]:
    """Where a metric lies within M: rates and prevalences are keys of their own there."""
    for name in ("tpr_at_fpr", "precision_at_prevalence"):
        if metric.startswith(f"{name}_"):
            return name, metric.removeprefix(f"{name}_")
    return (metric,)


def _other_perturbation(name: str, measured: Sequence[str]) -> str:
    """What to say of a perturbation that was not measured, above all where another has nearly its name."""
    akin = [each for each in measured if each.partition("_")[0] == name.partition("_")[0]]
    other = f"; {_listed(akin)} is another perturbation" if akin else ""
    return f"perturbation {name} was not measured{other}"


def _other_settings(detector: str, targets: Targets, settings: Settings) -> list[str]:
    """Sentences on each required setting that the measured detector has not."""
    wanted = {**targets.settings.get("*", {}), **targets.settings.get(detector, {})}
    found = []
    for path, values in wanted.items():
        try:
            value = lookup(settings, path)
        except KeyError:
            found.append(f"it has no setting {path}, published: {_either(values)}")
            continue
        if not any(_same(value, each) for each in values):
            found.append(f"{path} is {value}, published: {_either(values)}")
    return found


def lookup(settings: Settings, path: str) -> Any:
    """A setting by its dotted path.

    Args:
        settings: Plain types as of `modules.settings.settings_of`; `init_args` within them need not be named. Lists count from 0.
        path: For example `extractor.denoiser.path`.

    Raises:
        KeyError: There is none.
    """
    value: Any = settings
    for step in path.split("."):
        if isinstance(value, Mapping) and step not in value and isinstance(value.get("init_args"), Mapping):
            value = value["init_args"]
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, Sequence) and not isinstance(value, str) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise KeyError(path)
    return value


def _same(value: Any, wanted: Scalar) -> bool:
    """Equal, as numbers are: 10 is 10.0, but true is not 1."""
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def _either(values: Sequence[Scalar]) -> str:
    return " or ".join(map(str, values))


def _other_size(targets: Targets, record: Mapping[str, Any]) -> list[str]:
    wanted = (targets.n_real, targets.n_fake)
    measured = (record["n_real"], record["n_fake"])
    if all(each in (None, count) for each, count in zip(wanted, measured, strict=True)):
        return []
    published = " + ".join("any" if count is None else str(count) for count in wanted)
    return [f"{measured[0]} + {measured[1]} images (real + fake), published: {published}"]


def _listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _FEW} more" if len(shown) > _FEW else ""
    return f"{', '.join(shown[:_FEW])}{more}" if shown else "nothing"


def verdict(rows: Sequence[Compared]) -> str:
    """How many of the published numbers can be compared, and with what result."""
    differences = [row.difference for row in rows if row.difference is not None]
    if not differences:
        return f"None of the {len(rows)} published numbers can be compared with a measured one: the differences are left out."
    largest = max(differences, key=abs)
    return f"{len(differences)} of {len(rows)} published numbers can be compared with a measured one; largest difference: {largest:+.4f}."


def numbered(rows: Sequence[Compared]) -> tuple[list[int | None], list[str]]:
    """For each row the number of the note that says why it cannot be compared, and the notes."""
    notes: dict[str, int] = {}
    return [notes.setdefault(row.why, len(notes) + 1) if row.reasons else None for row in rows], list(notes)


def text(targets: Targets, rows: Sequence[Compared]) -> str:
    """The comparison for a terminal: one line a number that has a measured one beside it, then why others have none."""
    shown = [row for row in rows if row.measured is not None]
    numbers, notes = numbered(shown)
    several = len({(row.target.dataset, row.target.generator) for row in rows}) > 1
    heads = ["detector", *(["images"] if several else []), "perturbation", "metric", "published", "measured", "95% interval", "difference"]
    lines = []
    for row, number in zip(shown, numbers, strict=True):
        target, cell = row.target, row.measured or {}
        images = [short(f"{target.dataset}/{target.generator}")] if several else []
        value = "-" if cell["value"] is None else f"{cell['value']:.4f}"
        interval = "-" if cell["low"] is None else f"{cell['low']:.3f} to {cell['high']:.3f}"
        difference = f"{NOT_COMPARABLE} ({number})" if row.difference is None else f"{row.difference:+.4f}"
        names = [short(target.detector), *images, short(target.perturbation), short(target.metric)]
        lines.append([*names, f"{target.value:.4f}", value, interval, difference])
    widths = [max(len(line[place]) for line in [heads, *lines]) for place in range(len(heads))]
    told = ["  ".join(each.ljust(width) for each, width in zip(line, widths, strict=True)).rstrip() for line in [heads, *lines]]
    header = [f"Published: {one_line(targets.source)}" + (f" ({one_line(targets.status)})" if targets.status else "")]
    header += [f"  {one_line(each)}" for each in (targets.setting, targets.note) if each]
    said = [f"({number}) {one_line(note)}" for number, note in enumerate(notes, 1)]
    return "\n".join([*header, *(told if shown else []), *said, *_left_out(rows), verdict(rows)])


def _left_out(rows: Sequence[Compared]) -> list[str]:
    """One line for each reason why published numbers have no measured ones beside them."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.measured is None:
            counts[row.why] = counts.get(row.why, 0) + 1
    return [f"{count} of {len(rows)} {one_line(why)}" for why, count in counts.items()]


def flat(rows: Sequence[Compared]) -> list[dict[str, Any]]:
    """Plain values with the columns `COLUMNS`, a row a published number."""
    made = []
    for row in rows:
        names = {name: getattr(row.target, name) for name in ("detector", "train", "dataset", "generator", "perturbation", "metric")}
        cell = row.measured or {"value": None, "low": None, "high": None}
        numbers = {"published": row.target.value, "measured": cell["value"], "low": cell["low"], "high": cell["high"]}
        told = {"difference": row.difference, "measured_on": row.measured_on, "n_real": row.n_real, "n_fake": row.n_fake}
        made.append({**names, **numbers, **told, "not_comparable": "; ".join(row.reasons)})
    return made


def write_compared(path: Path, rows: Sequence[Compared]) -> Path:
    """Write the comparison as CSV, every published number with its measured one or the reason why there is none."""
    return write_csv(path, flat(rows), COLUMNS)
