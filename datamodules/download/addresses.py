"""Which addresses may be asked for: decided here for the text of an address, and for the numbers that a name stands for."""

import hashlib
import ipaddress
import re
import socket
from dataclasses import dataclass

import httpx

from datamodules.download.outcomes import REFUSED, FetchError
from datamodules.records import MISSING

MAX_LENGTH = 8000
"""Characters of an address."""

_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Only what is handed out to hosts, so that a range somebody invents later is refused until it stands here.
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_FORBIDDEN_6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # of protocols: Teredo, which holds an IPv4 address, ORCHID, benchmarking
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: holds an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
_FORBIDDEN_4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",  # clouds answer questions about the machine itself here
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be asked for.

    Attributes:
        allow_private: Also addresses inside of this machine and network.
        ports: Those that a server may have; empty for all.
    """

    allow_private: bool = False
    ports: frozenset[int] = frozenset({80, 443})


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet.

    Loopback, private, link-local, multicast, reserved and documentation ranges are not, nor are IPv6 addresses that hold an IPv4 one
    (mapped, compatible, 6to4, Teredo, NAT64): where they lead is decided by somebody's gateway.
    """
    number = ipaddress.ip_address(address)
    if isinstance(number, ipaddress.IPv4Address):
        return not any(number in network for network in _FORBIDDEN_4)
    plain = ipaddress.IPv6Address(int(number))  # without a zone
    return number.scope_id is None and plain in _GLOBAL_6 and not any(plain in network for network in _FORBIDDEN_6)


def numeric(host: str) -> str | None:
    """The address of a host that is spelled as a number, also as `0x7f.1` or `2130706433`; None for a name."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if host[:1].isdigit() else None
    except (OSError, UnicodeError):
        return None


def clean(text: str) -> str:
    """An address as it is asked for: without blanks around it and without its fragment; empty where there is none (`NULL`)."""
    stripped = text.strip()
    return "" if stripped.lower() in MISSING else stripped.partition("#")[0]


def address_id(url: str) -> str:
    """What tells a cleaned address from others, in 32 hex digits."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def parse(text: str, rules: Rules) -> httpx.URL:
    """An address that may be asked for.

    Args:
        text: The cleaned address.
        rules: What may be asked for.

    Raises:
        FetchError: It is not http or https, has no host, names a user, a port or a number that may not be asked, or is no address.
    """
    if len(text) > MAX_LENGTH:
        raise FetchError(REFUSED, f"the address has more than {MAX_LENGTH} characters")
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
        raise FetchError(REFUSED, f"no address: {error}"[:200]) from error
    if url.scheme not in _DEFAULT_PORTS:
        raise FetchError(REFUSED, "neither http nor https" + (f": {url.scheme[:20]}" if url.scheme else ""))
    if not _HOST.fullmatch(host):
        raise FetchError(REFUSED, f"the address names no host: {host[:80]!r}")
    if url.userinfo:
        raise FetchError(REFUSED, "the address holds a user's name or password")
    port = url.port or _DEFAULT_PORTS[url.scheme]
    if rules.ports and port not in rules.ports:
        raise FetchError(REFUSED, f"the port is none of those allowed: {port}")
    _check_host(host, rules)
    return url


def _check_host(host: str, rules: Rules) -> None:
    """What can be said before any name is looked up; a proxy, which looks names up itself, is told no more than this."""
    if rules.allow_private:
        return
    number = numeric(host)
    if number is not None:
        check_number(number, rules)
    elif "." not in host.rstrip(".") or host.rstrip(".").lower().endswith((".localhost", ".local", ".internal")):
        raise FetchError(REFUSED, f"the host is a name of this machine or network: {host[:80]}")


def check_number(address: str, rules: Rules) -> None:
    """Refuse a numeric address that is not public, unless that is allowed.

    Raises:
        FetchError: It is refused.
    """
    if not rules.allow_private and not is_public(address):
        raise FetchError(REFUSED, f"the host is not on the public internet: {address}")
