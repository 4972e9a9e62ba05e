"""How many pairs of SynRIS are left, by generator.

python -m datamodules.sources.synris synris/lists --reals synris/reals --fakes synris/fakes
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.sources.synris.source import SynRISSource
from datamodules.sources.synris.survival import survival_text, write_survival
from modules.errors import UserError

SHOWN = 3  # reasons that the last words name


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    built = argparse.ArgumentParser(
        "python -m datamodules.sources.synris", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = built.add_argument
    add("path", metavar="PATH", help="list of one generator (dalle3.jsonl), or a folder of lists")
    add("--reals", required=True, metavar="FOLDER", help="real images that were fetched, in a folder for each generator")
    add("--fakes", required=True, metavar="FOLDER", help="generated images, in a folder for each generator")
    add(
        "--stem",
        default=r"(\d+)",
        help=r"regular expression of a file's name without suffix; its group is the prompt index (default: (\d+))",
    )
    add("--out", type=Path, metavar="FOLDER", help="write survival.csv there")
    add("--cache_dir", type=Path, default=Path("cache"), metavar="FOLDER", help="where content hashes are remembered (default: cache)")
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    options = parser().parse_args(arguments)
    source = SynRISSource(options.path, options.reals, options.fakes, stem=options.stem)
    rows = source.survival(options.cache_dir)
    print(survival_text(rows))
    if source.failures:
        print(f"{len(source.failures)} files, folders or lines are left out, for example:")
        print("\n".join(f"  {ascii(failure.where)[1:-1]}: {failure.reason}" for failure in source.failures[:SHOWN]))
    if options.out is not None:
        print(f"Table: {write_survival(options.out / 'survival.csv', rows)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
