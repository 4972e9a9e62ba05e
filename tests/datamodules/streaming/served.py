"""Feature caches behind a web server of this machine, and data modules that train from them."""

import http.server
import re
import threading
from pathlib import Path

import numpy as np
import torch

from datamodules.datamodule import FeatureDataModule
from datamodules.records import Record
from datamodules.shards import ShardWriter
from datamodules.sources.base import Source
from datamodules.streaming import StreamOptions
from modules.extractors.base import Extractor


class Numbered(Source):
    """Records without images, whose features are a function of their number; every fifth is for validation, another for the test."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    @property
    def name(self):
        return "numbered"

    @property
    def location(self):
        return "numbers"

    def entries(self, cache_dir: Path):
        for i in range(self.count):
            split = {3: "val", 4: "test"}.get(i % 5, "train")
            yield Record(key_of(i), i // 5 % 2, "numbers", f"g{i // 5 % 2}", url=f"none:{i}", split=split)


class Vectors(Extractor):
    """Stands for an encoder; it never runs."""

    name = "vectors"
    kind = "x"

    def __init__(self, kind: str = "x"):
        super().__init__()
        self.kind = kind

    def load(self):
        raise AssertionError("nothing is extracted")

    def prepare(self, image):
        return image

    def forward(self, images, prompts, seeds):
        raise AssertionError("nothing is extracted")


def key_of(i: int) -> str:
    return f"{i:032x}"


def vector(i: int) -> np.ndarray:
    return np.array([i, i % 7, (i // 5 % 2) * 2 - 1, 1], np.float32) + np.random.default_rng(i).standard_normal(4).astype(np.float32) / 8


def module(count, cache_dir, url=None, **options):
    """A data module of so many numbers, whose features are at an address."""
    stream = {name: options.pop(name) for name in ("buffer", "blocks", "on_missing") if name in options}
    leave = {"allow_http": True, "allow_private": True} | options.pop("leave", {})
    data = FeatureDataModule(
        Numbered(count),
        Vectors(),
        cache_dir=str(cache_dir),
        stream=StreamOptions(url, **leave, **stream),
        audit=False,
        **({"batch_size": 8} | options),
    )
    data.features = ["embedding"]
    data.learn("binary")
    return data


def fill(folder: Path, numbers, shard_samples=16, size=4, **options) -> Path:
    """Write features of some numbers to a cache directory."""
    writer = ShardWriter(folder, max_samples=shard_samples, max_seconds=3600, **options)
    for i in numbers:
        writer.add(key_of(i), {"embedding": np.resize(vector(i), size)}, {"number": i}, diagnostics={"psnr": float(i)})
    writer.finish()
    return folder


class Handler(http.server.BaseHTTPRequestHandler):
    """Files of a folder by range, and what servers do that should not; `asked` are the paths and ranges, `faults` say what goes wrong."""

    root = Path()
    asked: list = []  # noqa: RUF012
    faults: dict = {}  # noqa: RUF012
    ranges = True
    listing = True
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for 40 ms
    lock = threading.Lock()

    def do_GET(self):
        with self.lock:
            self.asked.append((self.path, self.headers.get("Range")))
            fault = self.faults.get(Path(self.path.partition("?")[0]).name)
            if isinstance(fault, list):  # one after the other
                fault = fault.pop(0) if fault else None
        path = self.root / self.path.partition("?")[0].lstrip("/")
        if fault and fault.isdigit():
            self.answer(int(fault), b"no")
        elif fault and fault.startswith("to "):
            self.answer(302, b"", {"Location": fault[3:]})
        elif path.is_dir() and self.listing:
            self.answer(200, "".join(f'<a href="{each.name}">{each.name}</a>\n' for each in sorted(path.iterdir())).encode())
        elif path.is_file():
            self.file(path.read_bytes(), fault)
        else:
            self.answer(404, b"no")

    def file(self, content, fault):
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not found or not self.ranges:
            return self.answer(200, content, cut=fault == "cut")
        start, stop = int(found[1]), min(len(content), int(found[2] or len(content)) + 1)
        if fault == "another range":
            start += 512
        return self.answer(206, content[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, fault == "cut")

    def answer(self, status, content, headers=None, cut=False):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def log_message(self, *_):
        pass


def start(root: Path):
    """A server of a folder: the server, its address, its handler."""
    own = type("Own", (Handler,), {"root": root, "asked": [], "faults": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), own)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that needs no more just leaves
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}", own


def numbers_of(batches) -> list[int]:
    """The samples of batches, whose features must be theirs."""
    found = []
    for batch in batches:
        for key, row, label in zip(batch["key"], batch["features"]["embedding"], batch["label"], strict=True):
            number = int(key, 16)
            torch.testing.assert_close(row, torch.from_numpy(np.resize(vector(number), len(row))))
            assert int(label) == number // 5 % 2
            found.append(number)
    return found
