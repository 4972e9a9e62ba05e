"""Look after the feature cache: list, verify, repair, explain, delete.

python -m datamodules.cache list
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datamodules.cache import differences, folders, health
from datamodules.errors import DataError
from modules.errors import UserError

DESCRIPTION = """\
Look after the feature cache. A cache directory holds the features of one extractor with one group of settings, under one perturbation,
for one data set: cache/<extractor>-<fingerprint>/<data set>-<perturbation>-<fingerprint>/. Any of them may be deleted at any time: what is
missing is extracted anew by the next run that needs it."""
EXAMPLES = """\
examples:
  python -m datamodules.cache list
  python -m datamodules.cache verify
  python -m datamodules.cache repair cache/inversion-b0a9981e7e68
  python -m datamodules.cache explain --config configs/quickstart.yaml --data.extractor.steps 20
  python -m datamodules.cache delete                 # what no run needs: only lists it
  python -m datamodules.cache delete --yes           # deletes it
"""
FOLDER = "cache directories, or directories that hold some; all under --cache_dir by default"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    built = argparse.ArgumentParser(
        "python -m datamodules.cache", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = built.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, told: str, details: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}. {details}")
        if name != "explain":
            added.add_argument("--cache_dir", default="cache", help="root of the cache (default: cache)")
        return added

    command("list", "list all cache directories: settings, images, failures, size, last change")
    for name, told, details in (
        ("verify", "read all shards whole and tell what is damaged", "Changes nothing. Exit code 1 where something is damaged."),
        (
            "repair",
            "rebuild lost indexes, drop damaged images and unfinished files",
            "Good images stay. Refused while a process writes there.",
        ),
    ):
        command(name, told, details).add_argument("folders", nargs="*", metavar="FOLDER", help=FOLDER)
    explain = command(
        "explain", "tell which directory a configuration uses, and what differs where it is a new one", "Takes all options of train.py."
    )
    explain.add_argument("--config", action="append", required=True, metavar="YAML", help="as for train.py; may be repeated")
    explain.add_argument("--data.OPTION", metavar="VALUE", help="as for train.py, for example --data.extractor.steps 20")
    delete = command(
        "delete", "delete directories that no configuration needs, or the named ones", "Only lists them unless --yes is given."
    )
    delete.add_argument("folders", nargs="*", metavar="FOLDER", help="directories to delete; those that no configuration needs by default")
    delete.add_argument("--keep", nargs="+", action="extend", default=[], metavar="YAML", help="configurations whose features stay")
    delete.add_argument("--runs_dir", default="runs", help="keep what the config.yaml of any run in here needs (default: runs)")
    delete.add_argument("--yes", action="store_true", help="really delete")
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    given = list(sys.argv[1:] if arguments is None else arguments)
    built = parser()
    options, rest = built.parse_known_args(given)
    if rest and options.command != "explain":
        built.error(f"unrecognized arguments: {' '.join(rest)}")
    code = 0
    if options.command == "explain":
        lines = explain(given[given.index("explain") + 1 :])
    elif options.command == "list":
        lines = table(Path(options.cache_dir))
    elif options.command == "delete":
        lines = delete(Path(options.cache_dir), options)
    else:
        lines, code = check(Path(options.cache_dir), options.folders, options.command == "repair")
    print("\n".join(lines))
    return code


def table(root: Path) -> list[str]:
    """Lines of `list`."""
    found = [folders.summarize(folder) for folder in folders.find_folders(root)]
    if not found:
        return [f"There are no cache directories in {root}."]
    lines = []
    for summary in found:
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.changed))
        counts = f"{summary.images} images, {summary.failures} failures, {_size(summary.bytes)}, changed {changed}"
        lines += [str(summary.folder), f"    {counts}", *([f"    {_described(summary)}"] if summary.settings else [])]
        lines += [f"    ! {note}" for note in summary.notes]
    total = f"{len(found)} directories, {sum(summary.images for summary in found)} images, {_size(sum(summary.bytes for summary in found))}"
    return [*lines, total]


def _described(summary: folders.Summary) -> str:
    """The main settings in one line; as JSON, which shows no control characters of a stranger's manifest to a terminal."""
    settings = summary.settings or {}
    extractor = settings.get("extractor")
    arguments = extractor.get("init_args") if isinstance(extractor, dict) else None
    told = {name: value for name, value in arguments.items() if value not in (None, False)} if isinstance(arguments, dict) else {}
    kind = str(extractor.get("class_path")).rpartition(".")[2] if isinstance(extractor, dict) else "unknown"
    parts = [json.dumps(kind)[1:-1][:60]]
    parts += [f"{json.dumps(name)[1:-1]} {json.dumps(value).strip(chr(34))[:60]}" for name, value in told.items()]
    return ", ".join([*parts, f"perturbation {json.dumps(settings.get('perturbation')).strip(chr(34))[:60]}"])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def check(root: Path, named: Sequence[str], mends: bool) -> tuple[list[str], int]:
    """`verify` and `repair`: their lines and the exit code."""
    chosen = folders.choose_folders(root, named)
    lines: list[str] = []
    with _progress(chosen, "Repairing" if mends else "Verifying") as on_bytes:
        for folder in chosen:
            lines += health.repair(folder, on_bytes) if mends else health.verify(folder, on_bytes)
    told = f"{len(chosen)} directories, {_size(folders.total_bytes(chosen))}"
    if mends:
        return [*lines, f"{told}: {f'{len(lines)} things mended' if lines else 'nothing to mend'}."], 0
    if not lines:
        return [f"{told}: no damage."], 0
    return [*lines, f"{told}: {len(lines)} things damaged. `python -m datamodules.cache repair FOLDER` keeps what is good."], 1


@contextmanager
def _progress(chosen: Sequence[Path], verb: str) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm

    with tqdm(total=folders.total_bytes(chosen), desc=verb, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update


def explain(arguments: Sequence[str]) -> list[str]:
    """Lines of `explain`."""
    from datamodules.cache.needed import cache_of

    cache = cache_of(arguments)
    count = len(cache.reader())
    lines = [f"These settings use {cache.folder}"]
    if count:
        return [*lines, f"It holds the features of {count} images; a run extracts only what is missing."]
    lines.append("No features are there: a run extracts those of all images.")
    told = differences(cache, cache.folder.parent.parent)
    return [*lines, *(["What differs from the nearest caches:", *told] if told else ["No other cache is there to compare with."])]


def delete(root: Path, options: argparse.Namespace) -> list[str]:
    """Lines of `delete`."""
    chosen = folders.choose_folders(root, options.folders)
    configs = [Path(name) for name in options.keep]
    if configs or not options.folders:
        from datamodules.cache.needed import needed_folders, run_configs

        configs += run_configs(Path(options.runs_dir)) if not options.folders else []
        if not configs:
            msg = f"there is no run in {options.runs_dir!r} and no --keep: all features would go. Name the directories, or say what to keep"
            raise DataError(msg)
        needed = needed_folders(configs, root)
        chosen = [folder for folder in chosen if folder.resolve() not in needed]
    for folder in chosen:
        folders.check_deletable(folder, root)
    if not chosen:
        return [f"Nothing to delete in {root}: {len(configs)} configurations need all that is there."]
    lines = [f"{_size(folders.total_bytes([folder])):>10}  {folder}" for folder in chosen]
    total = f"{len(chosen)} directories, {_size(folders.total_bytes(chosen))}"
    if not options.yes:
        return [*lines, f"{total}. Nothing was deleted: --yes deletes them."]
    for folder in chosen:
        folders.delete(folder, root)
    return [*lines, f"{total}: deleted."]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
