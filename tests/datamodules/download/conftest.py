import csv
import json
import signal

import pytest

from benchmarks.lying_server import LyingServer
from datamodules.download.__main__ import main
from datamodules.files import payload_of

LOCAL = ("--allow_private", "--ports", "any", "--backoff", "0.02")


@pytest.fixture
def server():
    with LyingServer().running() as started:
        yield started


def write_list(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def journal_of(folder):
    lines = (folder / "journal.txt").read_bytes().splitlines()
    return [json.loads(payload) for line in lines if (payload := payload_of(line))]


@pytest.fixture
def fetch(tmp_path):
    """Runs the command on rows; gives the exit code."""

    def run(rows, *options, output="out", name="list.csv", local=LOCAL):
        table = tmp_path / name
        if rows is not None:
            write_list(table, rows)
        return main([str(table), "--output", str(tmp_path / output), *local, *options])

    return run


@pytest.fixture(autouse=True)
def handlers():
    """The command takes over SIGTERM for its process, which here goes on with other tests."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
