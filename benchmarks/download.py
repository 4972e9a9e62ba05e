"""Downloads from a server of this machine that lies: what arrives, what is recorded, whether both are the truth, and how long it takes.

python -m benchmarks.download --urls 2000
"""

import argparse
import contextlib
import csv
import multiprocessing
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpcore

from benchmarks.lying_server import ARRIVES, INWARD, LIES, LyingServer, picture
from datamodules.download.engine import Pace
from datamodules.download.fetch import Limits
from datamodules.download.lists import Form, UrlList
from datamodules.download.run import Settings, Told, download

HONEST = 0.6
"""Share of addresses that lead to an image; half of these are plain, the others redirected, chunked, throttled …"""

PUBLIC, SILENT = "93.184.216.34", "93.184.216.35"
"""Numbers of this world's hosts: that of the server, and one where nobody listens."""

BEFORE_ANYTHING: dict[str, tuple[str, tuple[str, ...]]] = {
    "no_url": ("without_url", ("", "NULL", "nan")),
    "scheme": ("refused", ("file:///etc/passwd?{}", "ftp://images.example/{}", "data:image/png;base64,{}", "gopher://images.example/{}")),
    "secret": ("refused", ("http://user:word@images.example/{}", "http://:word@images.example/{}")),
    "port": ("refused", ("http://images.example:22/{}", "http://images.example:6379/{}")),
    "number": (
        "refused",
        ("http://127.0.0.1/{}", "http://2130706433/{}", "http://0x7f.1/{}", "http://[::ffff:10.0.0.1]/{}", "http://[fe80::1]/{}"),
    ),
    "name": ("refused", ("http://inner.example/{}", "http://mapped.example/{}", "http://localhost/{}", "http://nat64.example/{}")),
    "no_name": ("dead", ("http://unknown.example/{}",)),
    "dead_host": ("dead", ("http://silent.example/{}",)),
}
"""Addresses that reach no server: what is to be recorded, and what they look like."""

NAMES = {
    "images.example": PUBLIC,
    "silent.example": SILENT,
    "inner.example": "10.0.0.1",
    "mapped.example": "::ffff:127.0.0.1",
    "nat64.example": "64:ff9b::a00:1",
}

Row = tuple[str, str, str]

context = multiprocessing.get_context("fork")


class World(httpcore.AsyncNetworkBackend):
    """A small internet: names that a table knows, and numbers that all lead to one port of this machine.

    Attributes:
        dialled: How often each number was connected to.
    """

    def __init__(self, port: int) -> None:
        self.dialled: Counter[str] = Counter()
        self._port = port
        self._asked = 0

    def look_up(self, host: str) -> list[str]:
        """Numbers of a name; `rebind.example` says something else every time."""
        if host == "rebind.example":
            self._asked += 1
            return [PUBLIC] if self._asked % 2 else ["127.0.0.1"]
        if host not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [NAMES[host]]

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        """Connect to the server, whatever the number."""
        self.dialled[host] += 1
        if host == SILENT:
            raise httpcore.ConnectError
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self._port, *args, **kwargs)


@contextlib.contextmanager
def serving(number: int) -> Iterator[int]:
    """Port of a server in a process of its own, so that its work is not measured; it has drawn so many pictures already."""

    def serve(told: Any) -> None:
        for i in range(number):
            picture(i)
        with LyingServer().running() as server:
            told.send(server.port)
            told.recv()

    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def listed(number: int) -> list[Row]:
    """Addresses, each with its kind and what is to be recorded of it, in an order in which the kinds are mixed."""
    honest, lies = list(ARRIVES), [*LIES, *INWARD, *BEFORE_ANYTHING]
    rows: list[Row] = []
    for i in range(number):
        turn = i // 100 * 40 + i % 100 - 60  # of the lies
        if i % 100 < 100 * HONEST:
            kind = "good" if i % 2 else honest[i // 2 % len(honest)]
            host = "rebind" if i % 10 == 1 else "images"
            rows.append((f"http://{host}.example/{kind}/{i}", kind, "arrived"))
        elif (kind := lies[turn % len(lies)]) in BEFORE_ANYTHING:
            status, forms = BEFORE_ANYTHING[kind]
            rows.append((forms[turn // len(lies) % len(forms)].format(i), kind, status))
        else:
            rows.append((f"http://images.example/{kind}/{i}", kind, LIES[kind][0] if kind in LIES else "refused"))
    return rows


def run(rows: Sequence[Row], folder: Path, settings: Settings, world: World) -> tuple[float, Told]:
    """Seconds that a list takes, and what is told of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["url", "label", "generator"])
        table.writerows([url, 1, kind] for url, kind, _ in rows)
    start = time.perf_counter()
    told = download(UrlList(folder / "list.csv", Form()), folder / "out", settings, lookup=world.look_up, dial=world)
    return time.perf_counter() - start, told


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
    number, at_once = options.urls, options.concurrency
    settings = Settings(
        limits=Limits(max_bytes=2_000_000),
        pace=Pace(concurrency=at_once, per_host=at_once, backoff=0.2, deadline=options.deadline),
        read_timeout=options.deadline,
    )
    with tempfile.TemporaryDirectory() as name, serving(number) as port:
        rows, folder, world = listed(number), Path(name, "lies"), World(port)
        seconds, told = run(rows, folder, settings, world)
        print("\n".join(report(rows, folder)))
        print(f"reasons       {', '.join(f'{count} × {reason}' for reason, count in told.tables.reasons.most_common(6))} …")
        print(f"connected to  {dict(world.dialled)}: {PUBLIC} is the server, {SILENT} the dead host; nothing else was dialled")
        print(f"total time    {seconds:.1f} s for {len(rows)} addresses ({at_once} at a time, deadline {options.deadline:g} s)")
        again = World(port)
        seconds, _ = run(rows, folder, settings, again)
        print(f"once more     {seconds:.1f} s, {again.dialled.total()} connections")
        honest: list[Row] = [(f"http://images.example/good/{i}", "good", "arrived") for i in range(number)]
        seconds, _ = run(honest, Path(name, "honest"), settings, World(port))
        size = sum(len(picture(i)) for i in range(number)) / number
        print(f"honest ones   {seconds:.1f} s for {number} images of {size:.0f} bytes: {number / seconds:.0f} images a second")


if __name__ == "__main__":
    main()
