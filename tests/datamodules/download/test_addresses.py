"""Row 25: what may be asked for, and that the address which was checked is the one connected to."""

import asyncio
import socket
import threading

import httpcore
import pytest

from benchmarks.lying_server import INWARD, _redirect
from datamodules.download.addresses import Rules, clean, is_public, parse
from datamodules.download.lists import Form, UrlList
from datamodules.download.network import CheckedBackend, Resolver
from datamodules.download.outcomes import FetchError
from datamodules.download.run import Pace, Settings, download
from tests.datamodules.download.conftest import journal_of, write_list

PUBLIC = "93.184.216.34"
PRIVATE_4 = (
    *("127.0.0.1", "127.8.9.10", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
)
PRIVATE_6 = (
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::5db8:d822", "64:ff9b:1::1"),
    *(
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "2001::1",
        "2002:7f00:1::",
        "3fff::1",
        "5f00::1",
    ),
    *("100::1", "2606:2800:220:1::1%eth0"),
)


@pytest.mark.parametrize("address", PRIVATE_4 + PRIVATE_6)
def test_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450::1"])
def test_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:///etc/passwd",
            "ftp://example.com/a.jpg",
            "gopher://example.com/",
            "data:image/png;base64,AAAA",
            "javascript:alert(1)",
            "a.jpg",
        ),
        *(
            "//example.com/a.jpg",
            "http://",
            "http:///a.jpg",
            "http://user@example.com/",
            "http://user:word@example.com/",
            "http://:w@example.com/",
        ),
        *(
            "http://example.com:22/",
            "http://example.com:8080/",
            "https://example.com:6379/a",
            "http://exa mple.com/",
            "http://example.com:99999/",
        ),
        *("http://localhost/", "http://intranet/a.jpg", "http://printer.local/", "http://metadata.google.internal/", "http://localhost./"),
        *(
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[fe80::1]/",
        ),
        *("http://[::ffff:10.0.0.1]/", "http://169.254.169.254/latest/meta-data/", "http://exa\nmple.com/", "http://a.com/\0", "http://[/"),
        "http://example.com/" + "a" * 9000,
    ],
)
def test_refused(url):
    with pytest.raises(FetchError) as caught:
        parse(url, Rules())
    assert caught.value.status == "refused"


def test_taken():
    assert parse("http://example.com/a b.jpg?x=ü", Rules()).host == "example.com"
    assert parse("https://bücher.example:443/", Rules()).raw_host == b"xn--bcher-kva.example"
    assert parse("http://example.com:8080/", Rules(ports=frozenset())).port == 8080
    assert parse("http://127.0.0.1/", Rules(allow_private=True)).host == "127.0.0.1"
    assert clean(" http://a.com/b?c#d ") == "http://a.com/b?c"


class Dial(httpcore.AsyncNetworkBackend):
    """Connects to a local server whatever the number is, and remembers it."""

    def __init__(self, port):
        self.port = port
        self.numbers = []

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.numbers.append(host)
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.port, timeout)


@pytest.fixture
def world(server, tmp_path):
    """Downloads addresses in a world where names are what a table says, and numbers all lead to the local server."""
    dial = Dial(server.port)

    def run(urls, names, **settings):
        listed = UrlList(write_list(tmp_path / "list.csv", [{"url": url, "label": 1} for url in urls]), Form())
        asked = []

        def lookup(host):
            asked.append(host)
            answers = names.get(host)
            if not answers:
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            return (
                answers.pop(0)
                if isinstance(answers[0], list) and len(answers) > 1
                else answers[0]
                if isinstance(answers[0], list)
                else answers
            )

        download(listed, tmp_path / "out", Settings(pace=Pace(backoff=0.01, tries=2), **settings), lookup=lookup, dial=dial)
        return {row["url"]: row for row in journal_of(tmp_path / "out")}, dial.numbers, asked

    return run


@pytest.mark.parametrize("number", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "fe80::1%eth0"])
def test_a_name_that_stands_for_a_private_address(world, number):
    rows, dialled, _ = world(["http://evil.example/good/1"], {"evil.example": [number]})
    assert rows["http://evil.example/good/1"]["status"] == "refused"
    assert dialled == []


def test_an_honest_name(world, server):
    rows, dialled, _ = world(["http://images.example/good/1"], {"images.example": [PUBLIC]})
    assert rows["http://images.example/good/1"]["status"] == "arrived"
    assert dialled == [PUBLIC]
    assert "host: images.example\r\n" in server.heads[0].lower()


def test_of_several_addresses_only_the_public_ones_are_connected_to(world):
    _, dialled, _ = world(["http://mixed.example/good/1"], {"mixed.example": ["10.0.0.1", PUBLIC, "::1"]})
    assert dialled == [PUBLIC]


@pytest.mark.parametrize("kind", INWARD)
def test_redirects_inward(world, server, kind):
    rows, dialled, _ = world([f"http://images.example/{kind}/1"], {"images.example": [PUBLIC], "inner.example": ["fc00::1"]})
    (row,) = rows.values()
    assert row["status"] == "refused"
    assert dialled == [PUBLIC]
    assert list(server.asked) == [f"/{kind}/1"]


@pytest.mark.parametrize(
    "target", ["http://10.0.0.1/x", "http://localhost/x", "http://inner.example/x", "http://[::1]/x", "http://images.example:22/x"]
)
def test_a_redirect_to_a_private_address(world, server, target):
    server._answers["inward"] = _redirect(lambda number: target)
    rows, dialled, _ = world(["http://images.example/inward/1"], {"images.example": [PUBLIC], "inner.example": ["192.168.0.1"]})
    assert rows["http://images.example/inward/1"]["status"] == "refused"
    assert dialled == [PUBLIC]
    assert list(server.asked) == ["/inward/1"]


def test_a_name_that_changes_its_mind():
    """Rebinding: each connection looks up once, and goes to the very number that was checked."""
    answers = [[PUBLIC], ["127.0.0.1"]]
    dialled = []

    class Count(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, host, port, *rest):
            dialled.append(host)
            raise httpcore.ConnectError

    async def twice():
        resolver = Resolver(lambda host: answers.pop(0))
        backend = CheckedBackend(Rules(), resolver, Count())
        with pytest.raises(httpcore.ConnectError):
            await backend.connect_tcp("rebind.example", 80, 1)
        resolver._known.clear()  # as after a minute
        with pytest.raises(FetchError) as caught:
            await backend.connect_tcp("rebind.example", 80, 1)
        assert caught.value.status == "refused"

    asyncio.run(twice())
    assert dialled == [PUBLIC]
    assert answers == []


def test_rebinding_between_check_and_connection_gains_nothing(world):
    rows, dialled, asked = world(["http://rebind.example/good/1"], {"rebind.example": [[PUBLIC], ["127.0.0.1"]]})
    assert rows["http://rebind.example/good/1"]["status"] == "arrived"
    assert (dialled, asked) == ([PUBLIC], ["rebind.example"])


def test_names_are_looked_up_once_and_unknown_ones_are_dead(world):
    urls = [f"http://images.example/good/{number}" for number in range(9)] + [f"http://nowhere.example/{number}" for number in range(4)]
    rows, _, asked = world(urls, {"images.example": [PUBLIC]})
    assert sorted(asked) == ["images.example", "nowhere.example"]
    assert rows["http://nowhere.example/1"]["status"] == "dead"
    assert rows["http://nowhere.example/1"]["tries"] == 1


def test_a_look_up_that_hangs():
    held = threading.Event()

    async def hang():
        backend = CheckedBackend(Rules(), Resolver(lambda host: held.wait(20) and []))
        with pytest.raises(FetchError) as caught:
            await backend.connect_tcp("slow.example", 80, 0.2)
        assert caught.value.status == "timed_out"

    asyncio.run(hang())
    held.set()


def test_tls_goes_on_with_the_name():
    """The client says the name, not the number, when TLS begins."""
    heard = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen():
        for _ in range(2):
            connection, _ = listener.accept()
            heard.append(connection.recv(4096))
            connection.close()

    threading.Thread(target=listen, daemon=True).start()

    async def ask():
        from datamodules.download.network import make_client, make_pool

        backend = CheckedBackend(Rules(), Resolver(lambda host: [PUBLIC]), Dial(listener.getsockname()[1]))
        async with make_client(make_pool(2, backend, None), "x", 2, 2) as client:
            with pytest.raises(httpcore.ConnectError):
                await client.get("https://secure.example/a.jpg")

    asyncio.run(ask())
    listener.close()
    assert b"secure.example" in heard[0]
    assert PUBLIC.encode() not in heard[0]


def test_the_environment_is_not_asked_for_a_proxy(world, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://10.9.9.9:3128")
    monkeypatch.setenv("ALL_PROXY", "http://10.9.9.9:3128")
    _, dialled, _ = world(["http://images.example/good/1"], {"images.example": [PUBLIC]})
    assert dialled == [PUBLIC]


def test_a_proxy_is_used_where_it_is_named(server, tmp_path):
    """The proxy looks names up; numbers are still refused here."""
    from urllib.parse import urlsplit

    answer = server._answer

    async def relay(request, writer):  # the request line of a proxied request holds the whole address
        method, url, rest = request.split(" ", 2)
        return await answer(f"{method} {urlsplit(url).path} {rest}", writer)

    server._answer = relay
    urls = ["http://images.example/good/1", "http://10.0.0.1/good/2", "http://localhost/good/3"]
    listed = UrlList(write_list(tmp_path / "list.csv", [{"url": url, "label": 1} for url in urls]), Form())
    download(listed, tmp_path / "out", Settings(proxy=server.root))
    assert {row["url"]: row["status"] for row in journal_of(tmp_path / "out")} == dict(
        zip(urls, ["arrived", "refused", "refused"], strict=True)
    )
    assert list(server.asked) == ["/good/1"]
