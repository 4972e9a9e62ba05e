r"""Fetch the images of a list of addresses, and make a manifest of those that arrive.

python -m datamodules.download laion.parquet --output data/laion --set label=real generator=laion
"""

import argparse
import logging
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from datamodules.download.lists import FIELDS, Form, ImageColumn, UrlList
from datamodules.download.outcomes import ARRIVED, FAILURES
from datamodules.errors import DataError
from modules.errors import UserError

if TYPE_CHECKING:
    from datamodules.download.run import Settings, Told
    from datamodules.download.tables import Tables

EPILOGUE = """\
files  OUTPUT/manifest.csv names what arrived (OUTPUT/images, named by content), as ManifestSource reads it; OUTPUT/skipped.csv what did
       not, and why; OUTPUT/survival.csv how much of each generator is left. OUTPUT/journal.txt has a row for each address that was
       decided. The same command goes on where it was stopped, and asks for nothing twice. A list of SynRIS (prompt_index, url) gives
       OUTPUT/reals/GENERATOR/PROMPT.jpg besides, where SynRISSource finds its real images.

exit   0 all is there    1 nothing could be done    2 wrong usage    3 something did not arrive    130 stopped
"""
STOPPED = 130

Number = TypeVar("Number", int, float)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    built = argparse.ArgumentParser(
        "python -m datamodules.download", description=__doc__, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = built.add_argument
    add("list", type=Path, metavar="LIST", help="table of addresses (.csv, .parquet, .jsonl), or a folder of such")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where everything goes")
    add("--url", default="url", metavar="COLUMN", help="column of the addresses (default: url)")
    add(
        "--columns",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=COLUMN",
        help=f"columns of other names; FIELD is one of {', '.join(FIELDS)}",
    )
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="what holds for rows that do not say it, for example label=real",
    )
    add("--image", nargs="+", action="extend", default=[], metavar="COLUMN:LABEL[:GENERATOR]", help=_IMAGE_HELP)
    add("--keep", choices=("images", "groups"), default="images", help="groups: only those of which every image arrived (default: images)")
    add("--retry_failed", action="store_true", help="ask again for what failed in earlier runs")
    add("--only_tables", action="store_true", help="fetch nothing; write the tables of what is there")
    _add_pace(built)
    _add_rules(built)
    return built


_IMAGE_HELP = (
    "columns of addresses where a row has several images, which become a group: url:real:laion image_gen0:fake:@model_gen0 "
    "(@ before a column that names the generator)"
)


def _add_pace(built: argparse.ArgumentParser) -> None:
    add = built.add_argument_group("pace").add_argument
    add("--concurrency", type=_within(int, 1, 1000), default=64, help="images at a time (default: 64)")
    add("--per_host", type=_within(int, 1, 1000), default=4, help="of one host at a time (default: 4)")
    add("--connect_timeout", type=_within(float, 0.01, 3600), default=10.0, metavar="S", help="until a connection stands (default: 10)")
    add("--read_timeout", type=_within(float, 0.01, 3600), default=20.0, metavar="S", help="between two pieces (default: 20)")
    add("--deadline", type=_within(float, 0.01, 86400), default=60.0, metavar="S", help="all transfers of one image (default: 60)")
    add("--tries", type=_within(int, 1, 20), default=3, help="of one image, where another may help (default: 3)")
    add("--backoff", type=_within(float, 0, 3600), default=1.0, metavar="S", help="before the second try, then doubled (default: 1)")
    add(
        "--give_up",
        type=_within(int, 0, 10**6),
        default=20,
        help="failed connections in a row until a host is dead (default: 20; 0: never)",
    )


def _add_rules(built: argparse.ArgumentParser) -> None:
    add = built.add_argument_group("limits and rules").add_argument
    add("--max_megabytes", type=_within(float, 0.001, 1000), default=20.0, help="of an image (default: 20)")
    add("--min_side", type=_within(int, 1, 100_000), default=16, help="shorter side in pixels (default: 16)")
    add("--max_megapixels", type=_within(float, 0.001, 178), default=64.0, help="of an image (default: 64)")
    add("--redirects", type=_within(int, 0, 20), default=5, help="followed at most (default: 5)")
    add("--ports", default="80,443", help="that servers may have, or any (default: 80,443)")
    add("--allow_private", action="store_true", help="also ask machines of this network, and this one")
    add(
        "--proxy", metavar="URL", help="http proxy; it looks names up, so it must refuse private addresses. The environment's is never used"
    )
    add("--user_agent", help="what servers are told; name a way to reach you")


def _within(kind: Callable[[str], Number], least: float, most: float) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            number = kind("-1")
        if not (math.isfinite(number) and least <= number <= most):
            msg = f"{text!r} is not a {'whole ' if kind is int else ''}number from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(msg)
        return number

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    built = parser()
    options = built.parse_args(arguments)
    try:
        form, ports = _form(options), _ports(options.ports)
    except ValueError as error:
        built.error(str(error))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        told = _run(options, form, ports)
    except KeyboardInterrupt:
        print("Stopped. What arrived stays, and the same command goes on from there.", file=sys.stderr)
        return STOPPED
    print("\n".join(_last_words(options.output, told)))
    if not told.tables.total("kept"):
        print("error: no image is left; see skipped.csv", file=sys.stderr)
        return 1
    return 0 if told.tables.total(ARRIVED) == told.tables.total("listed") else 3


def _form(options: argparse.Namespace) -> Form:
    columns, constants = (_assignments(option, texts) for option, texts in (("--columns", options.columns), ("--set", options.set)))
    return Form(options.url, columns, constants, tuple(ImageColumn.of(text) for text in options.image))


def _assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in FIELDS or not value:
            msg = f"argument {option}: {text!r} is not FIELD=…, with one of {', '.join(FIELDS)}"
            raise ValueError(msg)
        found[name] = value
    return found


def _ports(text: str) -> frozenset[int]:
    if text == "any":
        return frozenset()
    ports = {int(part) if part.strip().isdecimal() and len(part) < 9 else -1 for part in text.split(",")}
    if not all(1 <= port <= 65535 for port in ports):
        msg = f"argument --ports: {text!r} is neither any nor numbers from 1 to 65535 with commas between them"
        raise ValueError(msg)
    return frozenset(ports)


def _run(options: argparse.Namespace, form: Form, ports: frozenset[int]) -> "Told":
    from datamodules.download.run import download

    listed = UrlList(options.list, form)
    if not any(True for listing in listed.listings() if not listing.problem) and (first := next(listed.listings(), None)):
        message = f"{options.list}, {first.where}: {first.problem} No other row can be used either."
        raise DataError(message)
    return download(listed, options.output, _settings(options, ports), options.keep, options.only_tables)


def _settings(options: argparse.Namespace, ports: frozenset[int]) -> "Settings":
    from datamodules.download.addresses import Rules
    from datamodules.download.engine import Pace
    from datamodules.download.fetch import Limits
    from datamodules.download.network import USER_AGENT
    from datamodules.download.run import Settings
    from datamodules.reader import ReaderLimits

    if options.proxy and not options.proxy.startswith(("http://", "https://")):
        message = f"--proxy {options.proxy} is no address of an http proxy: http://HOST:PORT"
        raise DataError(message)
    most = int(options.max_megabytes * 1e6)
    return Settings(
        rules=Rules(options.allow_private, ports),
        limits=Limits(most, options.redirects),
        images=ReaderLimits(max_bytes=most, max_pixels=int(options.max_megapixels * 1e6), min_side=options.min_side),
        pace=Pace(
            concurrency=options.concurrency,
            per_host=options.per_host,
            tries=options.tries,
            backoff=options.backoff,
            deadline=options.deadline,
            give_up=options.give_up,
            threads=min(8, os.cpu_count() or 1),
        ),
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        proxy=options.proxy,
        user_agent=options.user_agent or USER_AGENT,
        retry_failed=options.retry_failed,
    )


def _last_words(folder: Path, told: "Told") -> list[str]:
    tables = told.tables
    listed, arrived = tables.total("listed"), tables.total(ARRIVED)
    new = ", ".join(f"{count} {status}" for status, count in told.counts.most_common()) or "nothing"
    lines = [f"{arrived} of {listed} images are there, {tables.total('kept')} of them in the manifest. Decided in this run: {new}."]
    lost = [f"{tables.total(name)} {name}" for name in ("unusable", "without_url", *FAILURES, "pending") if tables.total(name)]
    lines += [f"Not there: {', '.join(lost)}."] if lost else []
    lines += [f"    {count} × {reason}" for reason, count in tables.reasons.most_common(8)]
    lines += [f"{count} addresses gave the same {path}: maybe a placeholder for images that are gone." for count, path in told.doubled]
    lines += [f"{told.damaged} lines of the journal are cut or damaged; their addresses were asked for again."] if told.damaged else []
    lines += _survival_lines(tables)
    manifest = folder / "manifest.csv"
    return [
        *lines,
        f"Manifest: {manifest}   Left out: {folder / 'skipped.csv'}   By generator: {folder / 'survival.csv'}",
        f"Next: --data.source ManifestSource --data.source.path {shlex.quote(str(manifest))}",
    ]


def _survival_lines(tables: "Tables", most: int = 20) -> list[str]:
    """How much of each generator is left, the largest first."""
    rows = sorted(tables.survival.items(), key=lambda item: -item[1]["listed"])
    lines = []
    for (dataset, generator, _), counts in rows[:most]:
        name = "".join(letter if letter.isprintable() else "?" for letter in f"{dataset}: {generator}")[:60]
        lines.append(
            f"    {name}: {counts[ARRIVED]} of {counts['listed']} images, {counts['groups_whole']} of {counts['groups']} groups whole"
        )
    return lines + ([f"    … and {len(rows) - most} more in survival.csv"] if len(rows) > most else [])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
