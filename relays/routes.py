"""Which way a connection leaves this machine: directly, or through Tor's SOCKS port. This is the one place that decides it.

Names ending in `.onion` go through Tor or nowhere: no resolver hears of them (RFC 7686). With `tor_only` everything else
goes through Tor, too, and names are resolved at its far end. Each purpose has a user name of its own at the SOCKS port, by
which Tor keeps their circuits apart (IsolateSOCKSAuth): where one leaves Tor, the others are not seen.
"""

from __future__ import annotations

import os
import re
import secrets
from enum import StrEnum
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import msgspec

from relays.errors import NoTor


@cache
def _run(pid: int) -> str:
    """The name of a process: what several do on one machine goes by circuits apart, too."""
    return secrets.token_hex(8)


class Purpose(StrEnum):
    """What a connection is for."""

    MINTS = "mints"
    RELAYS = "relays"
    PRICES = "prices"
    ADDRESSES = "addresses"
    """Lightning addresses."""
    NODES = "nodes"
    UPSTREAMS = "upstreams"


class Socks(msgspec.Struct, frozen=True):
    """A SOCKS5 port and the credential that names the circuit."""

    host: str
    port: int
    username: str
    password: str

    @property
    def url(self) -> str:
        """As libraries take it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"socks5://{self.username}:{self.password}@{host}:{self.port}"


class Routes(msgspec.Struct, frozen=True):
    """`socks` is HOST:PORT of Tor's SOCKS port, empty where there is none."""

    socks: str = ""
    tor_only: bool = False
    onions_only: bool = False
    """Of who announces addresses, onions alone are asked: no other sees where we are."""

    def way(self, host: str, purpose: Purpose) -> Socks | None:
        """The SOCKS port that leads to the host, None for the direct way. Raises NoTor where neither may be taken."""
        if not self.takes_tor(host):
            return None
        if not self.socks:
            remedy = "start it, and name its SOCKS port (TOR_SOCKS, --tor)"
            raise NoTor(f"{host} is reached through Tor alone, and none is known here: {remedy}")
        socks_host, port = host_and_port(self.socks)
        return Socks(socks_host, port, purpose, _run(os.getpid()))

    def takes_tor(self, host: str) -> bool:
        """Whether it is reached through Tor alone."""
        return self.tor_only or is_onion(host)

    def reaches(self, url: str) -> bool:
        """Whether there is a way to it at all."""
        return bool(self.socks) or not self.takes_tor(host_of(url))

    def in_order(self, urls: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Those that can be reached, in groups, the better one first: directly, or where nothing goes directly at onions."""
        groups: dict[bool, list[str]] = {self.tor_only: [], not self.tor_only: []}
        for url in urls:
            onion = is_onion(host_of(url))
            if self.reaches(url) and (onion or not self.onions_only):
                groups[onion].append(url)
        return tuple(tuple(group) for group in groups.values() if group)


DIRECT: Final = Routes()
"""Without Tor."""


def is_onion(host: str) -> bool:
    """Whether it is a name that Tor alone knows."""
    return host.lower().rstrip(".").endswith(".onion")


def host_of(url: str) -> str:
    """Empty for what has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def host_and_port(text: str) -> tuple[str, int]:
    """`127.0.0.1:9050` or `[::1]:9050` in its parts. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9050")
    return host.removeprefix("[").removesuffix("]"), int(port)


def checked_url(url: str, *schemes: str) -> str:
    """The same. Raises ValueError unless it is one URL of one of these schemes, with a host."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if not whole or re.search(r"\s", url):
        raise ValueError(f"{url!r} is not a {' or '.join(schemes)} URL")
    return url
