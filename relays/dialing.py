"""aiohttp's connections by the way that `routes` chooses: the only place that makes them."""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from relays.routes import Purpose, Routes, host_of, is_onion


def connector_to(url: str, routes: Routes, purpose: Purpose, **options: Any) -> aiohttp.TCPConnector:
    """A pool of connections for the host of `url`, and for others that go the same way. Raises NoTor."""
    way = routes.way(host_of(url), purpose)
    if way is None:
        return aiohttp.TCPConnector(resolver=_Resolver(), **options)
    # Loaded where there is Tor: it takes a twentieth of a second, which every command would wait for.
    from relays.socksconnector import SocksConnector  # noqa: PLC0415

    return SocksConnector(way.host, way.port, username=way.username, password=way.password, rdns=True, **options)


class _Resolver(AbstractResolver):
    """The usual one, which is not asked for onions, wherever a redirect leads."""

    def __init__(self) -> None:
        self._usual = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if is_onion(host):
            raise OSError(None, "an onion address, which no DNS server is asked for")
        return await self._usual.resolve(host, port, family)

    async def close(self) -> None:
        await self._usual.close()
