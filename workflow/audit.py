"""Look at images before anything is trained on them: how well trivial facts of the files alone tell fakes from real ones.

python -m workflow.audit photos/manifest.csv --perturbation equalise_192
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import RunError, has_results, hold
from datamodules.batches import seen_image
from datamodules.datamodule import FeatureDataModule
from datamodules.errors import DataError
from datamodules.facts import DESCRIPTIONS, Facts
from datamodules.files import write_atomically
from datamodules.layouts import layout_names
from datamodules.perturbations import NAMES_HELP
from datamodules.perturbations import perturbation as find_perturbation
from datamodules.reader import ImageError
from datamodules.records import SPLITS, Record
from datamodules.sources.base import Source
from datamodules.sources.found import FOLDERS, find_source
from datamodules.splits import limit_records
from modules.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("undertow")

RESULT = "audit.json"
DETAILS = """\
PATH  a manifest (.csv, .parquet, .jsonl with the columns path and label, and what else ManifestSource knows), or a folder: with a file
      manifest.csv in it, with the tree of a public benchmark (docs/data.md), or with folders named real and fake, or after generators.

Nothing is trained, no model is needed. Facts of a file are its format, bytes, width, height, aspect, JPEG quality and chroma, mean
colour and finest detail, and what a manifest says in source_format, source_width, source_height and source_bytes of the files before
they were stored again. A fact that tells fakes from real images well is a warning, and no error: the exit status is 0.
"""


def frame_of(records: Iterable[Record], facts: Mapping[str, Mapping[str, float | str]], perturbation: str = "none") -> "pd.DataFrame":
    """The table that `evaluation.audit.audit_data` takes, an image a row.

    Args:
        records: Which images.
        facts: Their facts by key, of `Facts.of`; images that are not there are left out.
        perturbation: What the images went through.
    """
    import pandas as pd

    kept = [record for record in records if record.key in facts]
    columns: dict[str, Any] = {
        name: [getattr(record, name) for record in kept] for name in ("key", "label", "dataset", "generator", "group", "split")
    }
    told = [facts[record.key] for record in kept]
    names = {name for each in told for name in each}
    order = [name for name in DESCRIPTIONS if name in names] + sorted(names - DESCRIPTIONS.keys())
    columns |= {name: [each.get(name) for each in told] for name in order}
    return pd.DataFrame(columns).assign(perturbation=perturbation)


def audit_split(data: FeatureDataModule, splits: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What trivial facts tell of the images of some splits, as the detector sees them; facts that extraction has seen are not read again.

    Args:
        data: Whose images, under its perturbation.
        splits: Names of splits, for example `("train",)`.

    Returns:
        The document of `evaluation.audit.audit_data`, and sentences to warn with: none where nothing is flagged.

    Raises:
        DataError: There is no image of these splits that can be read.
    """
    chosen = [record for record in data.records() if record.split in splits]
    document = _document(chosen, Path(data.cache_dir), data.perturbation, f"the {' and '.join(splits)} images of {data.source.location}")
    where = f"Among the {' and '.join(splits)} images"
    said = [f"{where}: {sentence[:1].lower()}{sentence[1:]}" for sentence in document["sentences"]]
    if document["flagged"]:
        return document, said
    for sentence in said:
        log.info("%s", sentence)
    return document, []


def _document(records: Sequence[Record], cache_dir: Path, perturbation: str, what: str) -> dict[str, Any]:
    """The audit of records; `what` names them where nothing can be said."""
    from evaluation.audit import audit_data

    facts = Facts(cache_dir).of(records, perturbation)
    if lost := sum(record.key not in facts for record in records):
        log.warning("%d of %d images could not be read, or the perturbation not applied: they are left out", lost, len(records))
    if not facts:
        msg = f"there are no facts of {what}: none of {len(records)} images can be used under the perturbation {perturbation}"
        try:
            seen_image(records[0], perturbation)
        except ImageError as error:
            msg = f"{msg} (first: {error})"
        raise DataError(msg)
    return audit_data(frame_of(records, facts, perturbation))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    about, _, _ = (__doc__ or "").partition("\n")
    raw = argparse.RawDescriptionHelpFormatter
    built = argparse.ArgumentParser("python -m workflow.audit", description=about, epilog=DETAILS, formatter_class=raw)
    add = built.add_argument
    add("path", metavar="PATH", type=Path, help="folder or manifest of images; see below")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where shortcuts.csv, audit.json and the figure go (default: runs/audit-NAME, and what was asked for)",
    )
    add("--split", choices=(*SPLITS, "all"), default="all", help="images of one split only, where the data has splits (default: all)")
    add("--perturbation", default="none", metavar="NAME", help=f"what every image goes through first (default: none): {NAMES_HELP}")
    add("--limit", type=int, metavar="N", help="at most N images of each generator, chosen by their content")
    add("--layout", metavar="NAME", help=f"{', '.join(layout_names())}, the path of a YAML file of your own, or {FOLDERS} (default: found)")
    add("--reals", nargs="+", metavar="NAME", help="further names of folders that hold real images")
    add("--allow_outside", action="store_true", help="also read files outside of the manifest's folder")
    add("--cache_dir", type=Path, default=Path("cache"), help="where facts are remembered (default: %(default)s)")
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = parser().parse_args(arguments)
    try:
        find_perturbation(options.perturbation)
        source = find_source(options.path, options.layout, reals=options.reals, allow_outside=options.allow_outside)
        folder = options.out or Path("runs") / _default_name(source, options)
        asked = {name: getattr(options, name) for name in ("layout", "split", "perturbation", "limit")} | {"source": source.location}
        _check_free(folder, asked)
        records = _records(source, options)
        document = _document(records, options.cache_dir, options.perturbation, str(options.path))
        hold(folder)
        _check_free(folder, asked)
        _write(folder, asked | {"audit": document})
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_last_words(document, folder))
    for sentence in document["sentences"]:
        log.log(logging.WARNING if document["flagged"] else logging.INFO, "%s%s", "warning: " if document["flagged"] else "", sentence)
    return 0


def _default_name(source: Source, options: argparse.Namespace) -> str:
    """Of the folder, another one for another question."""
    split = None if options.split == "all" else options.split
    perturbation = None if options.perturbation == "none" else options.perturbation
    limit = None if options.limit is None else f"limit_{options.limit}"
    return "-".join(["audit", source.name, *filter(None, (split, perturbation, limit))])


def _records(source: Source, options: argparse.Namespace) -> list[Record]:
    """The images that are asked for.

    Raises:
        DataError: There are none, or of one class only.
    """
    found = source.records(options.cache_dir)
    chosen = found if options.split == "all" else [record for record in found if record.split == options.split]
    if not chosen:
        there = ", ".join(sorted({record.split or "none" for record in found}))
        msg = f"no image of {options.path} is of the split {options.split}; there are: {there}"
        raise DataError(msg)
    if len({record.label for record in chosen}) < 2:
        kind = "generated" if chosen[0].label == 0 else "real"
        msg = f"{options.path} (split {options.split}) has no {kind} images: an audit compares both"
        raise DataError(msg)
    return limit_records(chosen, options.limit)


def _check_free(folder: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything but an earlier audit of the same images.

    Raises:
        RunError: If it does.
    """
    if has_results(folder) or (folder.exists() and not folder.is_dir()):
        msg = f"{folder} holds something else already; choose another --out"
        raise RunError(msg)
    if not any((folder / part).exists() for part in (RESULT, "shortcuts.csv", "figures")):
        return
    try:
        before = json.loads((folder / RESULT).read_text())
        same = {name: before.get(name) for name in asked} == dict(asked)
    except (OSError, ValueError, AttributeError):
        same = False
    if not same:
        msg = f"{folder} holds results of something else, or an audit of other images; choose another --out"
        raise RunError(msg)


def _write(folder: Path, found: Mapping[str, Any]) -> None:
    from evaluation.audit import write_audit
    from evaluation.figures.audit import save_audit

    write_atomically(folder / RESULT, (json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())
    write_audit(folder, [found["audit"]])
    save_audit(folder / "figures", found["audit"])


def _last_words(document: Mapping[str, Any], folder: Path) -> str:
    from evaluation.audit import ALL, text

    whole = document[ALL]
    return "\n".join([f"{whole['n_real']} real and {whole['n_fake']} generated images", text(document), f"All results: {folder}"])


if __name__ == "__main__":
    sys.exit(main())
