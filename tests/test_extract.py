"""extract.py: the cache and nothing else, through the real command; stopped, killed, gone on with."""

import os
import signal

import pytest

import extract
from datamodules.datamodule import FeatureDataModule
from datamodules.errors import DataError
from modules.detectors import fakeinversion
from tests.extracting import TWO, make_folder, options, reader, shards_by_rank, start, workers
from tests.watching import is_running, wait_until


@pytest.fixture
def folder(tmp_path):
    """Forty images, and an extractor that can be imported from there."""
    return make_folder(tmp_path)


def finish(folder, monkeypatch, capsys):
    """The same command to the end, in this process; gives its last words."""
    monkeypatch.syspath_prepend(folder)
    extract.main(options(folder))
    return capsys.readouterr().out


def test_the_cache_is_filled_and_nothing_else(folder, monkeypatch, capsys):
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:300])
    monkeypatch.setattr(fakeinversion, "build_backbone", lambda *args, **options: pytest.fail("the detector was built"))
    first = finish(folder, monkeypatch, capsys)
    assert len(reader(folder)) == 39
    assert "39 images have features in" in first
    assert "40 were missing" in first
    assert "images/s" in first
    assert "1 images failed" in first
    assert "7.png: The PNG data is damaged" in first
    again = finish(folder, monkeypatch, capsys)
    assert "nothing was missing" in again
    assert not (folder / "runs").exists()


def test_what_training_needs_is_there(folder, monkeypatch, capsys):
    """No detector has to be named, and train.py's data module finds all features."""
    monkeypatch.syspath_prepend(folder)
    words = extract.main(options(folder)[1:])
    assert "40 images have features" in words
    from slow_extractor import SlowExtractor

    from datamodules.sources import ManifestSource

    data = FeatureDataModule(ManifestSource(str(folder / "manifest.csv")), SlowExtractor(), cache_dir=str(folder / "cache"))
    assert data.missing() == []


def test_a_user_s_error_is_one_sentence(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        extract.main([*options(folder), "--data.source.path=nowhere.csv"])


def test_ctrl_c_keeps_what_is_complete(folder, monkeypatch, capsys):
    """With a loader's worker, which gets Ctrl-C too."""
    process = start(folder, "--data.extract_workers=1", seconds=0.3)
    workers(folder, process, 4)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(200) == 130
    told = (folder / "stderr").read_text()
    assert "stopped by SIGINT" in told
    assert "Traceback" not in told
    kept = len(reader(folder))
    assert 6 <= kept < 40  # three batches at least were complete
    assert f"{40 - kept} were missing" in finish(folder, monkeypatch, capsys)
    assert len(reader(folder)) == 40


def test_a_signal_stops_both_ranks(folder):
    process = start(folder, *TWO, seconds=0.5)
    ranks = workers(folder, process, 8, count=2)
    assert len(ranks) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(200) == 143
    assert not any(map(is_running, ranks))
    found = reader(folder)
    assert {path.name[:10] for path in found.folder.glob("shard-*.index.json")} == {"shard-0000", "shard-0001"}
    assert 8 <= len(found) < 40
    assert not list(found.folder.glob(".writing-*"))
    assert "the same command goes on from there" in (folder / "stderr").read_text()


@pytest.mark.parametrize("victim", ["main process", "child"])
def test_row_34_when_a_rank_dies_the_others_end(folder, victim):
    process = start(folder, *TWO, "--data.shard_samples=2", seconds=2.0)
    ranks = workers(folder, process, 6, count=2)
    [child] = ranks - {process.pid}
    wait_until(lambda: process.poll() is not None or sum(count >= 2 for count in shards_by_rank(folder).values()) == 2)
    os.kill(process.pid if victim == "main process" else child, signal.SIGKILL)
    assert process.wait(200) != 0
    wait_until(lambda: not is_running(child))
    shards = shards_by_rank(folder)
    assert set(shards) == {"shard-0000", "shard-0001"}  # what both had written stays
    assert all(2 <= count < 10 for count in shards.values())  # nobody went on alone to the end of its share
