"""Stopping, killing, failing disks, two processes: nothing is lost, nothing is asked for twice, and the result is the same."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.lying_server import LyingServer
from datamodules.download import journal as journal_module
from datamodules.download.__main__ import main
from datamodules.download.journal import Journal
from datamodules.sources import ManifestSource
from tests.datamodules.download.conftest import LOCAL, journal_of, rows_of, write_list
from tests.watching import wait_until

CLEAN = multiprocessing.get_context("forkserver")  # a start costs no imports: twenty of them take seconds
CLEAN.set_forkserver_preload(["datamodules.download.__main__", "datamodules.download.run"])
COMMAND = (sys.executable, "-m", "datamodules.download")


def start(table, output, *options, **more):
    return subprocess.Popen(
        [*COMMAND, str(table), "--output", str(output), *LOCAL, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


@pytest.fixture
def slow():
    with LyingServer(pause=0.03).running() as started:
        yield started


def listed(server, folder, number, kinds=("good",)):
    return write_list(
        folder / "list.csv", [{"url": f"{server.root}/{kinds[i % len(kinds)]}/{i}", "label": 1, "group": i // 3} for i in range(number)]
    )


def images_of(folder):
    return {str(path.relative_to(folder)) for path in (folder / "images").rglob("*") if path.is_file()}


def test_killed_twenty_times(slow, tmp_path):
    table = listed(slow, tmp_path, 240, ("good", "good", "missing", "chunked"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([str(table), "--output", str(whole), *LOCAL, "--per_host", "32"]) == 3
    slow.asked.clear()
    random.seed(0)
    kills = 0
    for _ in range(20):
        before = len(journal_of(killed)) if (killed / "journal.txt").exists() else 0
        process = CLEAN.Process(target=main, args=([str(table), "--output", str(killed), *LOCAL, "--per_host", "2"],))
        process.start()
        wait_until(lambda: not process.is_alive() or ((killed / "journal.txt").exists() and len(journal_of(killed)) > before), every=0.002)  # noqa: B023
        time.sleep(random.random() * 0.1)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills == 20
    known = {row["url"]: slow.asked[row["url"].removeprefix(slow.root)] for row in journal_of(killed)}
    assert len(known) < 240, "it was done before the last kill: this shows nothing"
    assert main([str(table), "--output", str(killed), *LOCAL, "--per_host", "32"]) == 3
    for url, times in known.items():
        assert slow.asked[url.removeprefix(slow.root)] == times, "what the journal has was asked for again"
    assert rows_of(killed / "manifest.csv") == rows_of(whole / "manifest.csv")
    assert rows_of(killed / "survival.csv") == rows_of(whole / "survival.csv")
    assert images_of(killed) == images_of(whole)  # no half-written file is left
    assert len({row["url"] for row in journal_of(killed)}) == len(journal_of(killed)) == 240
    assert sum(slow.asked.values()) <= 240 + 20 * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped(slow, tmp_path, number):
    table, output = listed(slow, tmp_path, 200), tmp_path / "out"
    process = start(table, output)
    wait_until(lambda: (output / "journal.txt").exists() and len(journal_of(output)) > 3)
    process.send_signal(number)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "the same command goes on" in told
    assert "Traceback" not in told
    done = len(journal_of(output))
    assert done < 200
    assert not (output / "manifest.csv").exists()
    assert main([str(table), "--output", str(output), *LOCAL, "--per_host", "64"]) == 0
    assert len(journal_of(output)) == 200
    assert sum(slow.asked.values()) <= 200 + 4


def test_the_second_time_nothing_is_asked(server, fetch, tmp_path):
    rows = [{"url": f"{server.root}/{kind}/{i}", "label": 1} for i in range(5) for kind in ("good", "missing")]
    assert fetch(rows) == 3
    asked, manifest = dict(server.asked), (tmp_path / "out/manifest.csv").read_bytes()
    assert fetch(rows) == 3
    assert server.asked == asked
    assert (tmp_path / "out/manifest.csv").read_bytes() == manifest


def test_failures_are_asked_for_again_where_that_is_wanted(server, fetch, tmp_path):
    rows = [
        {"url": f"{server.root}/flaky/1", "label": 1},
        {"url": f"{server.root}/flaky/1", "label": 1},
        {"url": f"{server.root}/good/1", "label": 1},
    ]
    assert fetch(rows, "--tries", "1") == 3
    assert fetch(rows, "--tries", "1") == 3
    assert server.asked == {"/flaky/1": 1, "/good/1": 1}
    assert fetch(rows, "--retry_failed", "--tries", "1") == 3  # listed twice, asked once
    assert server.asked == {"/flaky/1": 2, "/good/1": 1}
    assert fetch(rows, "--retry_failed") == 0
    assert server.asked["/good/1"] == 1
    assert len(rows_of(tmp_path / "out/manifest.csv")) == 3


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_an_image_that_is_gone_is_fetched_again(server, fetch, tmp_path, damage):
    rows = [{"url": f"{server.root}/good/{i}", "label": 1} for i in range(3)]
    assert fetch(rows) == 0
    damage(tmp_path / "out" / journal_of(tmp_path / "out")[0]["path"])
    assert fetch(rows, "--only_tables") == 3
    assert len(rows_of(tmp_path / "out/manifest.csv")) == 2
    assert fetch(rows) == 0
    assert sum(server.asked.values()) == 4


def test_a_damaged_journal(server, fetch, tmp_path, capsys):
    rows = [{"url": f"{server.root}/good/{i}", "label": 1} for i in range(4)]
    fetch(rows)
    path = tmp_path / "out/journal.txt"
    lines = path.read_bytes().splitlines(keepends=True)
    full = [i for i, line in enumerate(lines) if line.strip()]
    lines[full[1]] = lines[full[1]].replace(b"arrived", b"refused")  # a row that somebody changed
    path.write_bytes(b"".join(lines)[:-9])  # and one that was cut
    capsys.readouterr()
    assert fetch(rows) == 0
    assert sum(server.asked.values()) == 6
    assert "2 lines of the journal" in capsys.readouterr().out


def test_two_processes(slow, tmp_path):
    table, output = listed(slow, tmp_path, 5000), tmp_path / "out"  # more than the first can fetch while the second starts
    first = start(table, output)
    wait_until(lambda: (output / "journal.txt").exists() and journal_of(output))
    second = start(table, output)
    _, told = second.communicate(timeout=200)
    assert second.returncode == 1
    assert "another process" in told
    assert "Traceback" not in told
    assert first.poll() is None
    first.kill()
    first.communicate()


def test_a_slow_disk_lets_no_transfer_run_into_its_deadline(server, slow, fetch, monkeypatch):
    """What is begun goes on while the journal waits for the disk, for longer than a transfer may take."""
    slow.pause, known, stalls = 1.0, Journal.sync, iter([3.0])

    def sync(journal):
        time.sleep(next(stalls, 0))
        known(journal)

    monkeypatch.setattr(journal_module, "_SYNC_S", 0)
    monkeypatch.setattr(Journal, "sync", sync)
    urls = [f"{server.root}/good/0", *(f"{slow.root}/good/{i}" for i in range(1, 11))]
    assert fetch([{"url": url, "label": 1} for url in urls], "--deadline", "2.5", "--per_host", "20", "--tries", "1") == 0
    assert next(stalls, None) is None


def test_disk_full(server, tmp_path):
    rows = [{"url": f"{server.root}/good/{i}", "label": 1} for i in range(60)]
    table, output = write_list(tmp_path / "list.csv", rows), tmp_path / "out"

    def limit():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))  # the journal's twentieth row is too much

    process = start(table, output, preexec_fn=limit)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 1, told
    assert "cannot be written" in told
    assert "run the same command again" in told
    assert "Traceback" not in told
    arrived = journal_of(output)
    assert 3 < len(arrived) < 60
    assert all((output / row["path"]).stat().st_size == row["bytes"] for row in arrived)
    before = {row["url"] for row in arrived}
    server.asked.clear()
    assert main([str(table), "--output", str(output), *LOCAL]) == 0
    assert not {f"{server.root}{path}" for path in server.asked} & before
    assert len(ManifestSource(str(output / "manifest.csv")).records(tmp_path / "cache")) == 60


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    process = start(listed(server, tmp_path, 3), tmp_path / "out")
    assert process.wait(timeout=200) == 1
