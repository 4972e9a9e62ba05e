"""ShardsSource at addresses, by a server on this machine: limits, redirects, broken transfers, private addresses."""

import asyncio
import http.server
import logging
import socket
import threading
import time
from pathlib import Path

import httpcore
import pytest

from datamodules.errors import DataError
from datamodules.sources import ShardsSource
from datamodules.sources.tars import fetch
from datamodules.sources.tars import reading as module
from datamodules.sources.tars.fetch import Access, FetchError, shown
from tests.datamodules.tars import IMG2DATASET, contents, img2dataset, picture

BAD = {
    "page": lambda content: b"<html>Too many requests</html>" * 100,
    "nothing": lambda content: b"",
    "cut": lambda content: content[: content.index(b"000000002.jpg") + 700],
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Shards of a folder, and what servers do that should not."""

    folder = Path()
    asked: list[str] = []  # noqa: RUF012
    broken = 0
    bad = 0

    def do_GET(self):
        type(self).asked.append(self.path)
        kind, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", f"/{name}")
            self.end_headers()
        elif kind == "loop":
            self.send_response(302)
            self.send_header("Location", "/loop/")
            self.end_headers()
        elif kind == "inside":
            self.send_response(302)
            self.send_header("Location", "https://metadata.internal/latest")
            self.end_headers()
        elif kind == "down":
            self.send_error(503)
        elif kind == "nowhere":
            self.send_response(304 if name == "304" else 302)
            self.end_headers()
            self.wfile.write(b"<html>")
        elif kind == "headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(300):
                self.wfile.write(b"X-%d: 1\r\n" % number)
                self.wfile.flush()
                threading.Event().wait(0.02)
        elif kind == "user":
            self.send_response(302 if self.headers["Authorization"] == "Basic bWU6d29yZA==" else 401)
            self.send_header("Location", f"/told/{name}")
            self.end_headers()
        elif kind == "told":
            self.shard("none" if "Authorization" in self.headers else kind, name)
        else:
            self.shard(kind, name)

    def shard(self, kind, name):
        try:
            content = (self.folder / name).read_bytes()
        except OSError:
            return self.send_error(404)
        self.send_response(200)
        if type(self).bad > 0 and kind in BAD:
            type(self).bad -= 1
            self.end_headers()
            self.wfile.write(BAD[kind](content))
            return None
        if kind == "packed":
            self.send_header("Content-Encoding", "gzip")
        if kind != "endless":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if kind == "breaks" and type(self).broken < 2:
            type(self).broken += 1
            self.wfile.write(content[: len(content) // 2])
        elif kind == "drip":
            for position in range(len(content)):
                self.wfile.write(content[position : position + 1])
                self.wfile.flush()
                threading.Event().wait(0.01)
        else:
            self.wfile.write(content)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    served = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Own", (Handler,), {"folder": tmp_path / "served", "asked": [], "broken": 0, "bad": 0})
    )
    for number in range(3):
        img2dataset(tmp_path / "served" / f"{number:05d}.tar", range(4 * number, 4 * number + 4))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}", served.RequestHandlerClass
    served.shutdown()
    served.server_close()
    thread.join()


LOCAL = {"allow_http": True, "allow_private": True}


def test_shards_at_addresses(tmp_path, server, caplog):
    caplog.set_level(logging.INFO)
    address, handler = server
    source = ShardsSource(f"{address}/set/{{00000..00002}}.tar?token=secret", **IMG2DATASET, **LOCAL)
    records = source.records(tmp_path / "cache")
    assert contents(records) == [picture(seed, "JPEG") for seed in range(12)]
    assert (records[0].dataset, len(handler.asked)) == ("set", 3)
    assert source.records(tmp_path / "cache") == records
    assert len(handler.asked) == 3, "nothing is fetched again"
    assert "secret" not in (source.folder(tmp_path / "cache") / "journal.txt").read_text()
    assert "secret" not in source.location
    assert f"12 images of 3 shards (3 read now) are kept in {source.folder(tmp_path / 'cache')}" in caplog.text
    assert "secret" not in caplog.text


def test_an_address_that_redirects_and_a_transfer_that_breaks(tmp_path, server):
    address, handler = server
    assert len(ShardsSource(f"{address}/redirect/set/00000.tar", **IMG2DATASET, **LOCAL).records(tmp_path / "a")) == 4
    records = ShardsSource(f"{address}/breaks/00000.tar", **IMG2DATASET, **LOCAL).records(tmp_path / "b")
    assert contents(records) == [picture(seed, "JPEG") for seed in range(4)]
    assert handler.broken == 2


def test_shards_that_cannot_be_fetched_are_an_error_after_the_others(tmp_path, server):
    address, handler = server
    places = [f"{address}/{name}" for name in ("set/00009.tar?token=secret", "set/00001.tar", "down/x.tar", "set/00002.tar")]
    with pytest.raises(DataError, match=r"2 of 4 shards cannot be fetched; the first: .*00009.tar cannot be fetched: .* 404") as raised:
        ShardsSource(places, **IMG2DATASET, **LOCAL).records(tmp_path / "cache")
    assert "secret" not in str(raised.value)
    assert [path.partition("?")[0] for path in handler.asked] == [
        "/set/00009.tar",
        "/set/00001.tar",
        *["/down/x.tar"] * 3,
        "/set/00002.tar",
    ]
    handler.asked.clear()
    assert len(ShardsSource([places[1], places[3]], **IMG2DATASET, **LOCAL).records(tmp_path / "cache")) == 8
    assert handler.asked == [], "they were complete"


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("loop/", {}, "redirects more than"),
        ("inside/", {}, "the name of the host is not known"),
        ("nowhere/302", {}, "the server answers 302 without a place to go to"),
        ("nowhere/304", {}, "the server answers 304"),
        ("packed/00000.tar", {}, "the server answers packed bytes"),
        ("set/00000.tar", {"max_shard_bytes": 5000}, "bytes, the limit is 5000"),
        ("endless/00000.tar", {"max_shard_bytes": 5000}, "more than 5000 bytes"),
        ("drip/00000.tar", {"shard_timeout": 0.2}, "took longer than 0.2 seconds"),
        ("headers/", {"shard_timeout": 0.2}, "took longer than 0.2 seconds"),
    ],
)
def test_servers_that_should_not_be_read(tmp_path, server, monkeypatch, path, options, message):
    address, _ = server
    resolve = socket.getaddrinfo

    def resolved(host, *args, **kwargs):
        if host == "metadata.internal":
            raise socket.gaierror("no such name")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with pytest.raises(DataError, match=message):
        ShardsSource(f"{address}/{path}", **IMG2DATASET, **LOCAL, **options).records(tmp_path / "cache")


def test_addresses_need_leave(tmp_path, server):
    address, handler = server
    with pytest.raises(DataError, match="only https is read"):
        ShardsSource(f"{address}/set/00000.tar", all_are="fake", allow_private=True).records(tmp_path / "cache")
    with pytest.raises(DataError, match=r"not on the public internet: 127.0.0.1. Private addresses are read only where allow_private"):
        ShardsSource(f"{address}/set/00000.tar", all_are="fake", allow_http=True).records(tmp_path / "cache")
    assert handler.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "127.0.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
        "2002:0a00:0001::",
    ],
)
def test_private_addresses(monkeypatch, address):
    """They are not connected to, also where a name stands for a public one besides."""
    found, dialled = [address], []

    async def dial(self, host, *args, **kwargs):
        dialled.append(host)
        raise httpcore.ConnectError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (each, 443)) for each in found])
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", dial)
    for number, allowed in enumerate(([], ["8.8.8.8"], [address, "8.8.8.8"])):
        found[1:] = ["8.8.8.8"] if number else []
        reason = "no connection to the host" if number else "not on the public internet"
        with pytest.raises(FetchError, match=reason), fetch.opened("https://shards.example/0.tar", Access(allow_private=number == 2)):
            pass
        assert dialled == allowed
        dialled.clear()


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch, server):
    """A name that resolves to something else the second time (DNS rebinding); asked for inside of a loop that runs, as in a notebook."""
    address, handler = server
    port = int(address.rpartition(":")[2])
    asked = []

    def resolved(host, *_, **__):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port))]

    async def read():
        with fetch.opened(f"http://shards.example:{port}/set/00000.tar", Access(allow_http=True, allow_private=True)) as stream:
            return stream.read(512)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    assert len(asyncio.run(read())) == 512
    assert asked == ["shards.example"], "the name is looked up once"
    assert handler.asked == ["/set/00000.tar"]


def test_the_time_for_a_shard_holds_for_its_name_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(30) or [])
    start = time.monotonic()
    with pytest.raises(FetchError, match=r"took longer than 0\.2 seconds"), fetch.opened("https://slow.example/0.tar", Access(timeout=0.2)):
        pass
    assert time.monotonic() - start < 15


def test_a_user_is_told_to_the_host_that_the_address_names(tmp_path, server):
    address, handler = server
    place = f"{address}/user/00000.tar".replace("://", "://me:word@")
    source = ShardsSource(place, **IMG2DATASET, **LOCAL)
    assert len(source.records(tmp_path / "cache")) == 4
    assert handler.asked == ["/user/00000.tar", "/told/00000.tar"]
    assert "word" not in source.location


@pytest.mark.parametrize("kind", ["page", "nothing"])
def test_an_answer_that_is_no_shard_is_tried_again_and_not_noted_as_done(tmp_path, server, kind):
    address, handler = server
    handler.bad = 2
    places = [f"{address}/{kind}/00000.tar", f"{address}/set/00001.tar"]
    assert len(ShardsSource(places, **IMG2DATASET, **LOCAL).records(tmp_path / "first")) == 8
    assert len(handler.asked) == 4
    handler.bad = 3
    with pytest.raises(DataError, match=r"1 of 2 shards cannot be fetched; the first: .*00000.tar is damaged: it is"):
        ShardsSource(places, **IMG2DATASET, **LOCAL).records(tmp_path / "second")
    records = ShardsSource(places, **IMG2DATASET, **LOCAL).records(tmp_path / "second")
    assert contents(records) == [picture(seed, "JPEG") for seed in range(8)]


def test_a_cut_answer_is_used_and_fetched_again_at_the_next_start(tmp_path, server, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    address, handler = server
    source = ShardsSource(f"{address}/cut/00000.tar", **IMG2DATASET, **LOCAL)
    handler.bad = 2
    assert len(source.records(tmp_path / "whole")) == 4, "the third answer was whole"
    handler.bad, handler.asked[:] = 3, []
    cut = source.records(tmp_path / "cache")
    assert contents(cut) == [picture(seed, "JPEG") for seed in range(2)]
    assert len(handler.asked) == 3
    assert "it is fetched again at the next start" in source.failures[0].reason
    assert "2 images of it are there and are used; it is fetched again at the next start" in caplog.text
    assert source.records(tmp_path / "cache") == cut, "the processes of one run have the same images"
    assert len(handler.asked) == 3

    monkeypatch.setattr(module, "_BEGAN", time.time() + 1)
    assert source.records(tmp_path / "cache") == cut, "one that was started a moment ago may have started this one"
    assert len(handler.asked) == 3

    monkeypatch.setattr(module, "_SETTLED_S", -1.0)
    handler.bad = 3
    (tmp_path / "served" / "00000.tar").rename(tmp_path / "served" / "away")
    assert source.records(tmp_path / "cache") == cut, "what was there stays where nothing better comes"
    assert len(handler.asked) == 4

    (tmp_path / "served" / "away").rename(tmp_path / "served" / "00000.tar")
    handler.bad = 0
    assert contents(source.records(tmp_path / "cache")) == [picture(seed, "JPEG") for seed in range(4)]
    assert source.failures == []
    source.records(tmp_path / "cache")
    assert len(handler.asked) == 5, "it was whole"


def test_a_cut_answer_stops_where_damage_is_an_error(tmp_path, server):
    address, handler = server
    handler.bad = 3
    source = ShardsSource(f"{address}/cut/00000.tar", **IMG2DATASET, **LOCAL, on_damage="error")
    with pytest.raises(DataError, match=r"00000.tar is damaged: it ends in the middle"):
        source.records(tmp_path / "cache")
    assert len(source.records(tmp_path / "cache")) == 4


def test_secrets_are_not_shown():
    assert shown("https://user:password@x.y:8/a.tar?sig=1#z") == "https://x.y:8/a.tar"
    assert shown("/a/b.tar") == "/a/b.tar"


@pytest.mark.parametrize("place", ["https://[x", "https://me:word@[x/0.tar?token=word"])
def test_what_is_no_address_is_an_error_that_says_so(tmp_path, place):
    with pytest.raises(DataError, match=r"what is no address .*\[x") as raised:
        ShardsSource(place, all_are="fake").records(tmp_path / "cache")
    assert "word" not in str(raised.value)
