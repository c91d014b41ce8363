"""SOCKS5's greeting (RFC 1928, RFC 1929), with names left for the far end to resolve; Tor's own reasons (proposal 304)."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Final

from relays.routes import Socks

REASONS: Final = MappingProxyType(
    {
        1: "no answer from there",
        2: "not allowed",
        3: "network unreachable",
        4: "host unreachable",
        5: "connection refused",
        6: "no connection in time",
        0xF0: "no such onion service is known",
        0xF1: "its descriptor is broken",
        0xF2: "it cannot be introduced to us",
        0xF3: "it does not meet us",
        0xF4: "it wants a key",
        0xF5: "it wants another key",
        0xF6: "that is no onion address",
        0xF7: "it was not found in time",
    }
)
_ADDRESS_BYTES: Final = {1: 4, 4: 16}


class SocksRefused(Exception):
    """The port is no SOCKS5 port, or makes no connection."""


async def greet(
    read_exactly: Callable[[int], Awaitable[bytes]],
    write: Callable[[bytes], Awaitable[None]],
    way: Socks,
    host: str,
    port: int,
) -> None:
    """Make a connection to a SOCKS port one to host and port. Raises SocksRefused, and what reading and writing do."""
    username, password = way.username.encode(), way.password.encode()
    await write(b"\x05\x01\x02")
    if await read_exactly(2) != b"\x05\x02":
        raise SocksRefused("no SOCKS5 port that takes a user's name")
    await write(bytes((1, len(username))) + username + bytes((len(password),)) + password)
    if (await read_exactly(2))[1] != 0:
        raise SocksRefused("the user's name is refused")
    await write(b"\x05\x01\x00" + _address(host) + port.to_bytes(2, "big"))
    version, reply, _, kind = await read_exactly(4)
    if version != 5 or reply != 0:
        raise SocksRefused(REASONS.get(reply, f"code {reply}"))
    length = _ADDRESS_BYTES[kind] if kind in _ADDRESS_BYTES else (await read_exactly(1))[0]
    await read_exactly(length + 2)


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii", "replace")
        if len(name) > 255:
            raise SocksRefused("the name is too long") from None
        return bytes((3, len(name))) + name
    return bytes((1 if address.version == 4 else 4,)) + address.packed
