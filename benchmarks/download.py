"""Downloads from a server of this machine that lies: what arrives, what is recorded, whether both are the truth, and how long it takes.

python -m benchmarks.download --urls 2000
"""

import argparse
import contextlib
import csv
import io
import logging
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lying_server import ARRIVES, LIES, LyingServer, picture
from datamodules.download.__main__ import main as download

HONEST = 0.6
"""Share of addresses that lead to an image; half of these are plain, the others redirected, chunked, throttled …"""

SCHEMES = (
    "file:///etc/passwd",
    "ftp://example.com/{}.jpg",
    "data:image/png;base64,{}",
    "gopher://example.com/{}",
    "http://user:word@127.0.0.1/{}",
)
MISSING = ("", "NULL", "nan")
DEAD = "http://127.0.0.1:9/{}.jpg"
"""The port of discard, on which nobody listens."""

Row = tuple[str, str, str]

context = multiprocessing.get_context("fork")


@contextlib.contextmanager
def serving(number: int) -> Iterator[str]:
    """Address of a server in a process of its own, so that its work is not measured; it has drawn so many pictures already."""

    def serve(told: Any) -> None:
        for i in range(number):
            picture(i)
        with LyingServer().running() as server:
            told.send(server.root)
            told.recv()

    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def listed(root: str, number: int) -> list[Row]:
    """Addresses, each with its kind and what is to be recorded of it, in an order in which the kinds are mixed."""
    honest, lies = list(ARRIVES), [*LIES, "scheme", "missing_url", "dead_host"]
    rows: list[Row] = []
    for i in range(number):
        if i % 100 < 100 * HONEST:
            kind = "good" if i % 2 else honest[i // 2 % len(honest)]
            rows.append((f"{root}/{kind}/{i}", kind, "arrived"))
            continue
        kind = lies[i % len(lies)]
        if kind == "scheme":
            rows.append((SCHEMES[i // len(lies) % len(SCHEMES)].format(i), kind, "refused"))
        elif kind == "missing_url":
            rows.append((MISSING[i // len(lies) % len(MISSING)], kind, "without_url"))
        elif kind == "dead_host":
            rows.append((DEAD.format(i), kind, "dead"))
        else:
            rows.append((f"{root}/{kind}/{i}", kind, LIES[kind][0]))
    return rows


def run(rows: Sequence[Row], folder: Path, options: Sequence[str]) -> tuple[float, str]:
    """Seconds that the command takes for a list, and its last words."""
    folder.mkdir(parents=True)
    with (folder / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["url", "label", "generator"])
        table.writerows([url, 1, kind] for url, kind, _ in rows)
    return run_again(folder, options)


def recorded(folder: Path) -> Iterator[tuple[str, str]]:
    """Kind and status of each listed image, from the manifest and from what was skipped."""
    for name in ("manifest.csv", "skipped.csv"):
        with (folder / "out" / name).open(newline="") as file:
            for row in csv.DictReader(file):
                yield row["generator"], row.get("status", "arrived")


def report(rows: Sequence[Row], folder: Path) -> list[str]:
    """A table of what each kind of answer became, and whether that is the truth."""
    truth = Counter((kind, status) for _, kind, status in rows)
    found = Counter(recorded(folder))
    lines = [f"{'answer':12}  {'listed':>6}  {'wanted':11}  recorded"]
    for (kind, status), number in sorted(truth.items(), key=lambda item: (item[0][1], item[0][0])):
        told = ", ".join(f"{count} {name}" for (each, name), count in sorted(found.items()) if each == kind)
        lines.append(f"{kind:12}  {number:6}  {status:11}  {told}")
    wrong = (truth - found) + (found - truth)
    sums = Counter[str]()
    for (_, status), number in found.items():
        sums[status] += number
    lines.append("in all        " + ", ".join(f"{number} {status}" for status, number in sums.most_common()))
    return [*lines, "The counts equal the truth." if not wrong else f"WRONG: {dict(wrong)}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.download", description=__doc__)
    parser.add_argument("--urls", type=int, default=2000, help="addresses in the list (default: 2000)")
    parser.add_argument("--concurrency", type=int, default=64, help="images at a time, of the one host as well (default: 64)")
    parser.add_argument("--deadline", type=float, default=8.0, help="seconds for an image (default: 8)")
    options = parser.parse_args(arguments)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    pace = ["--concurrency", str(options.concurrency), "--per_host", str(options.concurrency), "--deadline", str(options.deadline)]
    pace += ["--read_timeout", str(options.deadline), "--backoff", "0.2", "--max_megabytes", "2"]
    with tempfile.TemporaryDirectory() as name, serving(options.urls) as root:
        rows = listed(root, options.urls)
        seconds, words = run(rows, Path(name, "lies"), pace)
        print(words)
        print("\n".join(report(rows, Path(name, "lies"))))
        print(f"total time    {seconds:.1f} s for {len(rows)} addresses ({options.concurrency} at a time, deadline {options.deadline:g} s)")
        again, _ = run_again(Path(name, "lies"), pace)
        print(f"once more     {again:.1f} s: nothing is asked for")
        honest: list[Row] = [(f"{root}/good/{i}", "good", "arrived") for i in range(options.urls)]
        seconds, _ = run(honest, Path(name, "honest"), pace)
        size = sum(len(picture(i)) for i in range(options.urls)) / options.urls
        print(f"honest ones   {seconds:.1f} s for {len(honest)} images of {size:.0f} bytes: {len(honest) / seconds:.0f} images a second")


def run_again(folder: Path, options: Sequence[str]) -> tuple[float, str]:
    """The same command once more."""
    words = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(words):
        download([str(folder / "list.csv"), "--output", str(folder / "out"), "--allow_private", "--ports", "any", *options])
    return time.perf_counter() - start, words.getvalue()


if __name__ == "__main__":
    main()
