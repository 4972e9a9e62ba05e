"""What is in a data set: images, classes, generators, formats, sizes, unreadable files, duplicates, shortcuts.

python -m datamodules.check GenImage
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.check.findings import findings
from datamodules.check.text import shown, text, warnings
from datamodules.families import FamilyMap
from datamodules.files import write_atomically
from datamodules.layouts import layout_names
from datamodules.sources.found import FOLDERS, find_source
from modules.errors import UserError

STOPPED = 130
DETAILS = """\
PATH   a manifest (.csv, .parquet, .jsonl), or a folder: with a file manifest.csv in it, with the tree of a public benchmark
       (docs/data.md), or with folders named real and fake, or after generators.

exit   0 all was looked at, warnings included    1 wrong path, or no images    2 wrong usage    130 stopped: the same command goes on
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    raw = argparse.RawDescriptionHelpFormatter
    built = argparse.ArgumentParser("python -m datamodules.check", description=__doc__, epilog=DETAILS, formatter_class=raw)
    add = built.add_argument
    add("path", metavar="PATH", type=Path, help="manifest or folder of images; see below")
    add("--layout", metavar="NAME", help=f"{', '.join(layout_names())}, the path of a YAML file of your own, or {FOLDERS} (default: found)")
    add("--dataset", metavar="NAME", help="name of the data set (default: the layout's, the table's or the folder's)")
    add("--reals", nargs="+", metavar="NAME", help="further names of folders that hold real images")
    add("--allow_outside", action="store_true", help="also read files outside of the manifest's folder")
    add("--families", type=Path, metavar="FILE", help="YAML file that says of what families your generators are")
    add("--fast", action="store_true", help="read headers only: copies, near-duplicates, later damage, colour and detail are not seen")
    add("--json", type=Path, metavar="FILE", help="write all that was found there")
    add("--cache_dir", type=Path, default=Path("cache"), help="where hashes and facts are remembered (default: %(default)s)")
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    options = parser().parse_args(arguments)
    # Every warning of the source stands in the findings, with its counts.
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
    try:
        families = FamilyMap.load(options.families)
        source = find_source(options.path, options.layout, options.dataset, options.reals, options.allow_outside)
        found = findings(source, families, options.cache_dir, options.fast)
        if options.json is not None:
            document = found | {"warnings": warnings(found)}
            write_atomically(options.json, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    except (UserError, OSError) as error:
        print(f"error: {shown(error, 2000)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on.", file=sys.stderr)
        return STOPPED
    print(text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
