"""Published numbers beside measured ones, and a difference only where model, data and size are the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.comparison.targets import MACRO, Scalar, Target, Targets, Wanted
from evaluation.rows import one_line
from evaluation.statistics import CLEAN
from evaluation.tables import Documents, cell_of, short, write_csv

COLUMNS = (
    *("detector", "train", "dataset", "generator", "perturbation", "metric", "published", "measured", "low", "high", "difference"),
    *("measured_on", "n_real", "n_fake", "not_comparable"),
)
NOT_COMPARABLE = "not comparable"
_FEW = 3  # names in a sentence

Settings = Mapping[str, Mapping[str, Any]]

BY_CLASS = ("multiclass_accuracy", "binary_accuracy")  # of a head of classes, by its answers and not by its threshold
MEANS = "means_over_generators"
MEANS_BY = "means_over_generators_and_perturbation"
ALL = "all"  # the means over the generators of all data sets, among `MEANS`
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

    Where the data set or the generator was not measured, the number of all images stands beside it, and the row says so. A row of the
    generator `macro` is compared with the mean over the generators of the data sets `<dataset>/…`: only where these are the generators
    that the same file has rows of, each with as many images as its row says.

    Args:
        targets: The published numbers.
        documents: Parts of `metrics.json` by detector.
        settings: For each detector its own constructor arguments (`detector`; with their `class_path` where that is required), those of
            its extractor (`extractor`) and what it was trained on (`training`: see `training_of`), in plain types.
    """
    return [_compared(row, targets, documents, settings.get(row.detector, {})) for row in targets.rows]


def _compared(row: Target, targets: Targets, documents: Documents, settings: Settings) -> Compared:
    document = documents.get(row.detector)
    if document is None:
        return _nothing(row, f"no detector is named {row.detector} here, but {_listed(documents)}")
    by_generator = document["by_generator_and_perturbation"].get(row.perturbation)
    if by_generator is None:
        return _nothing(row, _other_perturbation(row.perturbation, list(document["by_perturbation"])))
    where, record, reasons = _mean(row, targets, document) if _is_mean(row, by_generator) else _measured(row, document)
    cell = _cell(row, document, record, reasons)
    if cell is None:
        reasons.append(f"{row.metric} is not measured")
    elif cell["value"] is None:
        reasons.append(str(cell.get("reason") or "there is no value"))
    counts = {"real": record["n_real"], "fake": record["n_fake"], "images": record["n_real"] + record["n_fake"]}
    known = {**settings, "threshold": document.get("threshold", {}), "test": counts}
    reasons += [
        *_other_training(row, targets, settings),
        *_other_settings(row.detector, targets, known),
        *_other_size(row, targets, record),
    ]
    return Compared(row, cell, where, record["n_real"], record["n_fake"], tuple(reasons))


def _measured(row: Target, document: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[str]]:
    """What was measured, the record of it, and why it is not what was published."""
    whole = document["by_perturbation"][row.perturbation]
    by_generator = document["by_generator_and_perturbation"][row.perturbation]
    if row.generator is None:
        record = document.get("by_dataset_and_perturbation", {}).get(row.perturbation, {}).get(row.dataset)
        if record is not None:  # where it is all that there is, there are more metrics of it
            return row.dataset, whole if _as_many(whole, record) else record, []
    elif found := [name for name, each in by_generator.items() if (each["dataset"], each["generator"]) == (row.dataset, row.generator)]:
        # Of the clean images, there are more metrics of each generator.
        return found[0], document["by_generator"][found[0]] if row.perturbation == CLEAN else by_generator[found[0]], []
    where = _listed(by_generator)
    return where, whole, [f"other data: {where}; published: {row.images}"]


def _is_mean(row: Target, by_generator: Mapping[str, Any]) -> bool:
    """Whether a row is the mean over generators, and not of a generator of that name."""
    return row.generator == MACRO and not any(
        (each["dataset"], each["generator"]) == (row.dataset, MACRO) for each in by_generator.values()
    )


def _mean(row: Target, targets: Targets, document: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[str]]:
    """As `_measured`, of the mean over the generators of a collection."""
    every = document["by_generator_and_perturbation"][row.perturbation]
    found = {name: each for name, each in every.items() if _is_of(each["dataset"], row.dataset)}
    if not found:
        where = _listed(every)
        return where, document["by_perturbation"][row.perturbation], [f"other data: {where}; published: {row.images}"]
    means = document.get(MEANS, {}) if row.perturbation == CLEAN else {}
    every_one = means.get(ALL) or document.get(MEANS_BY, {}).get(row.perturbation)
    known = means.get(f"{ALL}/" if row.dataset == ALL else row.dataset) or (every_one if len(found) == len(every) else None) or {}
    reals = {document.get("reals_from", {}).get(each["dataset"], each["dataset"]): each["n_real"] for each in found.values()}
    record = {**known.get(MACRO, {}), "n_real": sum(reals.values()), "n_fake": sum(each["n_fake"] for each in found.values())}
    return f"mean over {len(found)} generators of {row.dataset}", record, _other_generators(row, targets, found)


def _other_generators(row: Target, targets: Targets, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences where a mean is over others than the published generators, or over other numbers of their images."""
    alike = [
        each for each in targets.rows if all(getattr(each, name) == getattr(row, name) for name in ("detector", "perturbation", "metric"))
    ]
    published = {each.images: each.n for each in alike if each.generator not in (None, MACRO) and _is_of(each.dataset, row.dataset)}
    if not published:
        return ["which generators the published mean is over is not said"]
    missing, more = [name for name in published if name not in found], [name for name in found if name not in published]
    told = [f"it lacks {_listed(missing)}"] if missing else []
    told += [f"it has {_listed(more)}, which the published one has not"] if more else []
    counts = {name: each["n_real"] + each["n_fake"] for name, each in found.items()}
    other = [name for name, n in published.items() if n is not None and counts.get(name, n) != n]
    if other:
        told.append(
            f"{len(other)} generators have other numbers of images: {other[0]} has {counts[other[0]]}, published: {published[other[0]]}"
        )
    return [f"a mean over other data: {each}" for each in told]


def _is_of(dataset: str, collection: str) -> bool:
    return dataset == collection or dataset.startswith(f"{collection}/")


def _as_many(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (one["n_real"], one["n_fake"]) == (other["n_real"], other["n_fake"])


def _cell(row: Target, document: Mapping[str, Any], record: Mapping[str, Any], reasons: list[str]) -> Mapping[str, Any] | None:
    """The measured cell; of several classes, which are counted over all clean images, with the reasons why it is not of the record's."""
    if row.metric not in BY_CLASS:
        return cell_of(record, _place(row.metric))
    families = document.get("families")
    cell = cell_of(families, (row.metric,))
    if families is not None and cell is not None:
        if row.perturbation != CLEAN or not _as_many(document["overall"], record):
            reasons.append(f"{row.metric} is of all unperturbed images")
        if families["n_known"] != families["n"]:
            reasons.append(f"{row.metric} leaves out {families['n'] - families['n_known']} images of classes that were not trained on")
    return cell


def training_of(
    generators: Sequence[str], views: Sequence[str], images: int | None = None, datasets: Sequence[str] | None = None
) -> dict[str, Scalar]:
    """What a detector was trained on, as `compare` reads it, by `training.name` and so on.

    Args:
        generators: `dataset/generator` of its training fakes.
        views: The perturbations that its training images came under.
        images: How many images, real and fake; None where that is not known.
        datasets: Of its training images, real and fake; those of the fakes where they are not given.

    Returns:
        `name` (`dataset`, or `dataset/perturbation` as published tables write it), `dataset`, `perturbation`, the number of `generators`,
        and `images`.
    """
    dataset = "+".join(sorted({name.rpartition("/")[0] for name in generators} if datasets is None else set(datasets)))
    perturbation = "+".join(dict.fromkeys(views))
    name = dataset if perturbation == CLEAN else f"{dataset}/{perturbation}"
    made: dict[str, Scalar] = {"name": name, "dataset": dataset, "perturbation": perturbation, "generators": len(set(generators))}
    return made if images is None else made | {"images": images}


def _other_training(row: Target, targets: Targets, settings: Settings) -> list[str]:
    """A sentence where the detector was trained on something else, or nobody knows on what."""
    if row.train is None or WEIGHTS in targets.settings.get(row.detector, {}):
        return []
    name = settings.get("training", {}).get("name")
    if name is None:
        return [f"published after training on {row.train}; what this detector was trained on is not recorded by that name"]
    return [] if name == row.train else [f"trained on {name or 'no fakes'}, published: {row.train}"]


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
            found.append(f"{path} is {_said(value)}, published: {_either(values)}")
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


def _same(value: Any, wanted: Wanted) -> bool:
    """Equal, as numbers are: 10 is 10.0, but true is not 1; a list's values one by one."""
    if isinstance(wanted, tuple):
        listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == len(wanted)
        return listed and all(_same(one, other) for one, other in zip(value, wanted, strict=True))
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _either(values: Sequence[Wanted]) -> str:
    return " or ".join(map(_said, values))


def _said(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _other_size(row: Target, targets: Targets, record: Mapping[str, Any]) -> list[str]:
    wanted = (targets.n_real, targets.n_fake)
    measured = (record["n_real"], record["n_fake"])
    found = [] if row.n in (None, sum(measured)) else [f"{sum(measured)} images, published: {row.n}"]
    if all(each in (None, count) for each, count in zip(wanted, measured, strict=True)):
        return found
    published = " + ".join("any" if count is None else str(count) for count in wanted)
    return [*found, f"{measured[0]} + {measured[1]} images (real + fake), published: {published}"]


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
    several = len({row.target.images for row in rows}) > 1
    heads = ["detector", *(["images"] if several else []), "perturbation", "metric", "published", "measured", "95% interval", "difference"]
    lines = []
    for row, number in zip(shown, numbers, strict=True):
        target, cell = row.target, row.measured or {}
        images = [short(target.images)] if several else []
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
