"""Training from shards at an address against the same shards on this machine: samples a second, how well they are mixed, the same losses.

python -m benchmarks.streaming --samples 20000 --folder /tmp/streaming

The shards are sorted by class, the worst case for a stream. Three ways to read them: at random through the index (what training on a cache
of this machine does), streamed from the folder, and streamed from a web server on this machine, in a process of its own.
"""

import argparse
import http.server
import logging
import multiprocessing
import os
import random
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.probe_training import Embeddings, Synthetic
from datamodules.datamodule import FeatureDataModule
from datamodules.shards import ShardWriter
from datamodules.streaming import StreamOptions
from datamodules.streaming.order import Share, cut_blocks, mixed, share_of, shuffled
from modules.metrics.functional import auroc

POINTS = 4  # of a loss curve, an epoch
PARTS = ("rates", "losses", "mixing")

MIXED = [  # what is told of it, samples in the buffer, blocks at once, whether a block is a shard
    ("whole shards one after the other, no buffer", 1, 1, True),
    ("whole shards one after the other, buffer of 1000", 1000, 1, True),
    ("whole shards, 8 at once, buffer of 1000", 1000, 8, True),
    *((f"blocks, 8 at once, buffer of {buffer}", buffer, 8, False) for buffer in (100, 300, 1000, 3000, 10_000)),
    ("blocks one after the other, buffer of 1000", 1000, 1, False),
]

Floats = NDArray[np.float64]


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, also by range."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer with a range where one is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked is None:
            super().do_GET()
            return
        with open(self.translate_path(self.path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, stop = int(asked[1]), min(size, int(asked[2]) + 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            self.wfile.flush()
            while start < stop and (sent := os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)):
                start += sent

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def serve(folder: str, port: int) -> None:
    """Serve a folder until the process is ended."""
    http.server.ThreadingHTTPServer(("127.0.0.1", port), partial(RangeHandler, directory=folder)).serve_forever()


def started(folder: Path) -> tuple[Any, str]:
    """A process that serves a folder, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(str(folder), port), daemon=True)
    process.start()
    for _ in range(1200):  # it imports torch first
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    return process, f"http://127.0.0.1:{port}"


def module(options: argparse.Namespace, cache: Path, url: str | None) -> FeatureDataModule:
    """The data, from an address or from the cache itself; nothing is held in memory."""
    stream = StreamOptions(url, options.buffer, allow_http=True, allow_private=True)
    data = FeatureDataModule(
        Synthetic(options.samples),
        Embeddings(options.dimension),
        cache_dir=str(cache),
        batch_size=options.batch_size,
        num_workers=options.workers,
        memory_limit=0,
        audit=False,
        stream=stream,
    )
    data.features = ["embedding"]
    data.learn("binary")
    return data


def fill(data: FeatureDataModule, dimension: int) -> None:
    """Write the embeddings that are not there yet, sorted by class; fakes lie a little to one side."""
    writer = ShardWriter(data.cache.folder, max_samples=1000, max_seconds=3600)
    for record in sorted(data.missing(), key=lambda record: record.label):
        vector = np.random.default_rng(int(record.key[:12], 16)).standard_normal(dimension, np.float32)
        vector[:8] += 0.25 * record.label
        writer.add(record.key, {"embedding": vector}, record.to_dict())
    writer.finish()


def epoch_of(data: FeatureDataModule, epoch: int) -> Iterator[dict[str, Any]]:
    """Training batches of an epoch."""
    loader: Any = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return iter(loader)


def rate(data: FeatureDataModule, epoch: int) -> float:
    """Samples a second of one epoch, from asking for it to its last batch."""
    begun = time.perf_counter()
    count = sum(len(batch["key"]) for batch in epoch_of(data, epoch))
    return count / (time.perf_counter() - begun)


def head(dimension: int) -> nn.Module:
    """A small network."""
    return nn.Sequential(nn.Linear(dimension, 32), nn.ReLU(), nn.Linear(32, 1))


def trained(
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]], tested: tuple[Tensor, Tensor], epochs: int, seed: int
) -> tuple[list[float], float]:
    """Mean losses of each part of each epoch, and the validation AUROC at the end.

    Args:
        batches: Vectors and labels of an epoch.
        tested: Those of validation.
        epochs: How many.
        seed: Of the network's weights.
    """
    seed_everything(seed, verbose=False)
    network = head(tested[0].shape[1])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses: list[float] = []
    for epoch in range(epochs):
        of_epoch = []
        for vectors, labels in batches(epoch):
            loss = nn.functional.binary_cross_entropy_with_logits(network(vectors)[:, 0], labels.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            of_epoch.append(loss.item())
        losses += [float(np.mean(part)) for part in np.array_split(of_epoch, POINTS)]
    with torch.no_grad():
        scores = network(tested[0])[:, 0]
    return losses, float(auroc(scores, tested[1]))


def whole(data: FeatureDataModule, split: str) -> tuple[Tensor, Tensor]:
    """All vectors and labels of a split."""
    batches = list(data.loader(split))
    return torch.cat([batch["features"]["embedding"] for batch in batches]), torch.cat([batch["label"] for batch in batches])


def compare_rates(ways: Mapping[str, FeatureDataModule], rounds: int) -> None:
    """Print samples a second of each way, in rounds of all of them in turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for data in ways.values():
        rate(data, 0)
    for number in range(rounds):
        for name, data in ways.items():
            found[name].append(rate(data, number + 1))
    for name, rates in found.items():
        print(f"{name}: {statistics.median(rates):,.0f} samples/s (median of {rounds}; {min(rates):,.0f} to {max(rates):,.0f})")


def compare_losses(ways: Mapping[str, FeatureDataModule], tested: tuple[Tensor, Tensor], epochs: int, seeds: int) -> None:
    """Print loss curves of each way: their mean over seeds, and how far apart they are in standard errors."""
    curves: dict[str, Floats] = {}
    scores: dict[str, list[float]] = {}
    for name, data in ways.items():
        results = []
        for seed in range(seeds):
            seed_everything(seed, verbose=False)  # the loader's order

            def batches(epoch: int, data: FeatureDataModule = data) -> Iterator[tuple[Tensor, Tensor]]:
                return ((batch["features"]["embedding"], batch["label"]) for batch in epoch_of(data, epoch))

            results.append(trained(batches, tested, epochs, seed))
        curves[name] = np.array([losses for losses, _ in results])
        scores[name] = [score for _, score in results]
        print(f"{name}: losses {' '.join(f'{loss:.3f}' for loss in curves[name].mean(0))}; validation AUROC {_told(scores[name])}")
    first, *others = curves
    for name in others:
        apart = curves[name].mean(0) - curves[first].mean(0)
        spread = np.sqrt((curves[name].var(0, ddof=1) + curves[first].var(0, ddof=1)) / 2)
        print(
            f"{name} against {first}: losses differ by {np.abs(apart).mean():.4f} on average and {np.abs(apart).max():.4f} at most; one "
            f"seed's standard deviation is {spread.mean():.4f}, the difference's standard error {spread.mean() * (2 / seeds) ** 0.5:.4f}"
        )


def _told(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def pieces_of(count: int, size: int, buffer: int, whole: bool = False) -> list[NDArray[np.int64]]:
    """The blocks of shards of 1,000 samples for one worker with so many samples in its buffer."""
    places = np.arange(count)
    starts = places % 1000 * size
    return cut_blocks(places // 1000, starts, starts + size, 1, buffer * size, whole)


def order_of(pieces: list[NDArray[np.int64]], buffer: int, blocks: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Samples in the order in which one worker would stream them, without reading."""
    samples, numbers = share_of(pieces, Share(), 64, seed, epoch)
    read = ({"position": position} for position in mixed(numbers, blocks, random.Random(f"{seed} {epoch}")))
    chosen = [each["position"] for each in shuffled(buffer, random.Random(f"{seed} {epoch} buffer"))(read)]
    return samples[np.array(chosen)]


def compare_mixing(train: tuple[Tensor, Tensor], tested: tuple[Tensor, Tensor], size: int, epochs: int, seeds: int) -> None:
    """Print how well several buffers mix, and what that does to a network; shards are sorted by class."""
    vectors, labels = train
    ways: dict[str, Callable[[int, int], NDArray[np.int64]]] = {
        "full shuffle": lambda seed, epoch: np.random.default_rng((seed, epoch)).permutation(len(labels))
    }
    for told, buffer, blocks, whole in MIXED:
        pieces = pieces_of(len(labels), size, buffer, whole)
        ways[f"{told} ({len(pieces)} requests)"] = partial(order_of, pieces, buffer, blocks)
    print(f"{len(labels):,} samples in {-(-len(labels) // 1000)} shards of one class each, batches of 64")
    for name, order in ways.items():
        spreads, moved, scores = [], [], []
        for seed in range(seeds):
            first = order(seed, 0)
            shares = labels.numpy()[first[: len(first) // 64 * 64]].reshape(-1, 64).mean(1)
            spreads.append(shares.std())
            places = np.empty(len(first))
            places[first] = np.arange(len(first))
            moved.append(np.median(np.abs(np.diff(places))))

            def batches(epoch: int, seed: int = seed, order: Any = order) -> Iterator[tuple[Tensor, Tensor]]:
                for part in np.array_split(order(seed, epoch), -(-len(labels) // 64)):
                    yield vectors[part], labels[part]

            scores.append(trained(batches, tested, epochs, seed)[1])
        print(
            f"{name}: share of fakes a batch ± {np.mean(spreads):.3f}; neighbours in a shard {np.mean(moved):,.0f} places apart (median); "
            f"validation AUROC {_told(scores)}"
        )


def main() -> None:
    """Fill the cache, serve it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=1024, help="numbers of a sample, four bytes each")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--buffer", type=float, default=16.0, help="data.stream.buffer")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("cache/streaming"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    root = options.folder / "remote"
    fill(module(options, root, None), options.dimension)
    process, address = started(root)
    try:
        ways = {
            "at random, this machine's cache": module(options, root, None),
            "streamed from a folder": module(options, options.folder / "local", str(root)),
            "streamed over HTTP": module(options, options.folder / "local", address),
        }
        print(
            f"{options.samples:,} samples of {options.dimension * 4:,} bytes, buffer of {options.buffer:g} MiB, {options.workers} workers"
        )
        if "rates" in options.parts:
            compare_rates(ways, options.rounds)
        if {"losses", "mixing"}.isdisjoint(options.parts):
            return
        train, tested = (whole(ways["at random, this machine's cache"], split) for split in ("train", "val"))
        if "losses" in options.parts:
            compare_losses(ways, tested, options.epochs, options.seeds)
        if "mixing" in options.parts:
            by_class = torch.argsort(train[1], stable=True)
            compare_mixing((train[0][by_class], train[1][by_class]), tested, options.dimension * 4, options.epochs, options.seeds)
    finally:
        process.terminate()


if __name__ == "__main__":
    main()
