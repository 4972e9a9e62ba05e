"""Rows 22 to 24 of the faults: each lie of a server ends in an image, or in a row that says why not."""

import time
from urllib.parse import urlsplit

import pytest

from benchmarks.lying_server import ARRIVES, LIES, LyingServer, picture
from datamodules.download.__main__ import main
from tests.datamodules.download.conftest import LOCAL, journal_of, rows_of, write_list

QUICK = ("--deadline", "4", "--read_timeout", "3", "--max_megabytes", "1", "--per_host", "64")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every kind of answer once, in one run: rows of the journal by kind, the server, the folder."""
    folder = tmp_path_factory.mktemp("lies")
    with LyingServer().running() as server:
        rows = [{"url": f"{server.root}/{kind}/7", "label": 1, "generator": kind} for kind in (*ARRIVES, *LIES)]
        start = time.monotonic()
        code = main([str(write_list(folder / "list.csv", rows)), "--output", str(folder / "out"), *LOCAL, *QUICK])
        assert time.monotonic() - start < 60
        yield {urlsplit(row["url"]).path.split("/")[1]: row for row in journal_of(folder / "out")}, server, folder / "out", code


@pytest.mark.parametrize("kind", ARRIVES)
def test_what_arrives(outcomes, kind):
    row, folder = outcomes[0][kind], outcomes[2]
    assert row["status"] == "arrived", row
    assert (folder / row["path"]).stat().st_size == row["bytes"]
    assert row["host"] == "127.0.0.1"
    expected = picture(-1 % 2**32) if kind == "double" else picture(7, "PNG") if kind == "wrongtype" else picture(7)
    assert (folder / row["path"]).read_bytes() == expected
    assert row["path"].endswith(".png" if kind == "wrongtype" else ".jpg")


@pytest.mark.parametrize("kind", LIES)
def test_what_does_not(outcomes, kind):
    row = outcomes[0][kind]
    assert row["status"] == LIES[kind][0], row
    assert row["reason"]
    assert "path" not in row


def test_everything_is_told(outcomes):
    rows, _, folder, code = outcomes
    assert code == 3
    assert len(rows) == len(ARRIVES) + len(LIES)
    assert {row["generator"] for row in rows_of(folder / "manifest.csv")} == set(ARRIVES)
    assert {row["generator"]: row["status"] for row in rows_of(folder / "skipped.csv")} == {kind: told for kind, (told, _) in LIES.items()}


@pytest.mark.parametrize(
    ("kind", "tries"), [("missing", 1), ("gone", 1), ("page", 1), ("broken", 3), ("hangup", 3), ("short", 3), ("flaky", 3)]
)
def test_only_what_may_heal_is_tried_again(outcomes, kind, tries):
    rows, server, *_ = outcomes
    assert server.asked[f"/{kind}/7"] == rows[kind]["tries"] == tries


@pytest.mark.parametrize("kind", ["drip", "silent"])
def test_the_deadline_is_of_the_whole_transfer(outcomes, kind):
    assert outcomes[0][kind]["seconds"] < 8.5  # three tries of three seconds would take longer


def test_redirects_are_few(outcomes):
    _, server, *_ = outcomes
    assert sum(count for path, count in server.asked.items() if path.startswith("/chain/")) == 6
    assert server.asked["/circle/7"] == 1


def test_nothing_is_sent_that_tells_who_asks(outcomes):
    heads = outcomes[1].heads
    assert not any("cookie:" in head.lower() or "referer:" in head.lower() or "authorization:" in head.lower() for head in heads)
    assert all("user-agent: undertow" in head.lower() and "accept-encoding: identity" in head.lower() for head in heads)


def test_one_content_is_stored_once(server, fetch, tmp_path):
    assert fetch([{"url": f"{server.root}/double/{number}", "label": 1} for number in range(12)]) == 0
    assert len(rows_of(tmp_path / "out/manifest.csv")) == 12
    assert len([path for path in (tmp_path / "out/images").rglob("*") if path.is_file()]) == 1


def test_placeholders_are_told(server, fetch, capsys):
    fetch([{"url": f"{server.root}/double/{number}", "label": 1} for number in range(12)])
    assert "12 addresses gave the same images/" in capsys.readouterr().out


def test_an_address_that_is_listed_twice_is_asked_once(server, fetch, tmp_path):
    urls = [
        f"{server.root}/good/1",
        f"{server.root}/good/1#part",
        f" {server.root}/good/1 ",
        f"{server.root}/missing/1",
        f"{server.root}/missing/1",
    ]
    fetch([{"url": url, "label": 1} for url in urls])
    assert server.asked == {"/good/1": 1, "/missing/1": 1}
    assert len(rows_of(tmp_path / "out/manifest.csv")) == 3


@pytest.mark.parametrize("url", ["", "NULL", "null", "nan", "  "])
def test_no_address(server, fetch, tmp_path, url):
    fetch([{"url": url, "label": 1}, {"url": f"{server.root}/good/1", "label": 1}])
    assert [row["status"] for row in rows_of(tmp_path / "out/skipped.csv")] == ["without_url"]
    assert len(journal_of(tmp_path / "out")) == 1


def test_a_dead_host_is_given_up(fetch, tmp_path):
    import socket

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = unused.getsockname()[1]
        rows = [{"url": f"http://127.0.0.1:{port}/{number}", "label": 1} for number in range(40)]
        assert fetch(rows, "--give_up", "3", "--tries", "2", "--per_host", "1") == 1
    journal = journal_of(tmp_path / "out")
    assert {row["status"] for row in journal} == {"dead"}
    assert sum(row.get("tries", 0) for row in journal) <= 4
    assert sum(row["reason"].startswith("not asked for") for row in journal) >= 37


def test_no_host_is_asked_for_more_than_a_few_at_a_time(fetch):
    with LyingServer(pause=0.3).running() as server:
        fetch([{"url": f"{server.root}/good/{number}", "label": 1} for number in range(24)], "--per_host", "3")
        assert server.busiest == 3


def test_a_server_may_say_when_to_come_back(fetch, server, monkeypatch):
    from datamodules.download import fetch as module

    told = []
    monkeypatch.setattr(module.Fetcher, "_wait", lambda self, text: told.append(text) or 0.7)
    start = time.monotonic()
    assert fetch([{"url": f"{server.root}/throttled/1", "label": 1}]) == 0
    assert time.monotonic() - start > 0.7
    assert told[0] == "0"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3), ("0", 0), ("9999999", 60), ("Fri, 31 Dec 1999 23:59:59 GMT", 0), ("", None), ("soon", None), ("-1", None), ("1e999", None)],
)
def test_retry_after(text, seconds):
    from datamodules.download.addresses import Rules
    from datamodules.download.fetch import Fetcher, Limits

    assert Fetcher(None, Rules(), Limits())._wait(text) == seconds
