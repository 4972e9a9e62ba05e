"""ShardsSource at addresses, by a server on this machine: limits, redirects, broken transfers, private addresses."""

import http.server
import socket
import threading
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.sources import ShardsSource
from datamodules.sources.tars import fetch
from datamodules.sources.tars import source as module
from datamodules.sources.tars.fetch import Access, FetchError, checked_host, shown
from tests.datamodules.tars import IMG2DATASET, contents, img2dataset, picture


class Handler(http.server.BaseHTTPRequestHandler):
    """Shards of a folder, and what servers do that should not."""

    folder = Path()
    asked: list[str] = []  # noqa: RUF012
    broken = 0

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
        else:
            self.shard(kind, name)

    def shard(self, kind, name):
        try:
            content = (self.folder / name).read_bytes()
        except OSError:
            return self.send_error(404)
        self.send_response(200)
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
        ("127.0.0.1", 0), type("Own", (Handler,), {"folder": tmp_path / "served", "asked": [], "broken": 0})
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


def test_shards_at_addresses(tmp_path, server):
    address, handler = server
    source = ShardsSource(f"{address}/set/{{00000..00002}}.tar?token=secret", **IMG2DATASET, **LOCAL)
    records = source.records(tmp_path / "cache")
    assert contents(records) == [picture(seed, "JPEG") for seed in range(12)]
    assert (records[0].dataset, len(handler.asked)) == ("set", 3)
    assert source.records(tmp_path / "cache") == records
    assert len(handler.asked) == 3, "nothing is fetched again"
    assert "secret" not in (source.folder(tmp_path / "cache") / "journal.txt").read_text()
    assert "secret" not in source.location


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
        ("inside/", {}, "is not found|a test tried to look up metadata"),
        ("set/00000.tar", {"max_shard_bytes": 5000}, "bytes, the limit is 5000"),
        ("endless/00000.tar", {"max_shard_bytes": 5000}, "more than 5000 bytes"),
        ("drip/00000.tar", {"shard_timeout": 0.2}, "took longer than 0.2 seconds"),
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
    with pytest.raises(DataError, match=r"private address 127.0.0.1: it is read only where allow_private"):
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
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in ("8.8.8.8", address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(FetchError, match="private address"):
        checked_host("https", "shards.example", None, Access())
    assert checked_host("https", "shards.example", None, Access(allow_private=True)) == "8.8.8.8"
    found.pop()
    assert checked_host("https", "shards.example", None, Access()) == "8.8.8.8"


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch, server):
    """A name that resolves to something else the second time (DNS rebinding)."""
    address, handler = server
    port = int(address.rpartition(":")[2])
    asked = []

    def resolved(host, *_, **__):
        asked.append(host)
        assert len(asked) == 1, "the name is looked up once"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(
        fetch.socket, "getaddrinfo", lambda host, *a, **k: resolved(host) if host == "shards.example" else [(2, 1, 6, "", (host, port))]
    )
    with fetch.opened(f"http://shards.example:{port}/set/00000.tar", Access(allow_http=True, allow_private=True)) as stream:
        assert len(stream.read(512)) == 512
    assert asked.count("shards.example") == 1, "the name is looked up once"
    assert handler.asked == ["/set/00000.tar"]


def test_secrets_are_not_shown():
    assert shown("https://user:password@x.y:8/a.tar?sig=1#z") == "https://x.y:8/a.tar"
    assert shown("/a/b.tar") == "/a/b.tar"
