"""httpx's connections by the way that `relays/routes.py` chooses: the only place that makes them.

One context of TLS serves all clients: to read the world's certificates takes twenty milliseconds.
"""

from __future__ import annotations

import ssl
from functools import cache
from typing import Final
from urllib.request import getproxies, proxy_bypass

import httpx

from relays.errors import NoTor
from relays.routes import Purpose, Routes, Socks

IDLE_S: Final = 3.0
"""A connection is kept so long for the next request. Mints and nodes on uvicorn close theirs after 5 s: a request that met
that would be lost, and the money in it not to be had before it is looked for."""


def client_for(purpose: Purpose, routes: Routes, *, timeout: httpx.Timeout | float = 5.0) -> httpx.AsyncClient:
    """A client for one purpose. Its requests raise NoWay where Tor is needed and there is none."""
    return httpx.AsyncClient(transport=Outside(purpose, routes), timeout=timeout)


class NoWay(httpx.ConnectError):
    """Only Tor leads there, and there is none."""


class Outside(httpx.AsyncBaseTransport):
    """Sends each request by the way to its host. Where that is the direct one, proxies of the environment count as they do
    for httpx (HTTPS_PROXY, NO_PROXY and the others)."""

    def __init__(self, purpose: Purpose, routes: Routes) -> None:
        self._purpose = purpose
        self._routes = routes
        self._proxies = getproxies()
        self._transports: dict[Socks | str, httpx.AsyncHTTPTransport] = {}
        """By the way, or the environment's proxy; the direct one has none."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            way = self._routes.way(request.url.host, self._purpose)
        except NoTor as error:
            raise NoWay(str(error), request=request) from error
        return await self._by(self._proxy_to(request.url) if way is None else way).handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    def _proxy_to(self, url: httpx.URL) -> str:
        """The environment's, empty for none."""
        if not self._proxies or proxy_bypass(url.host):
            return ""
        return self._proxies.get(url.scheme) or self._proxies.get("all") or ""

    def _by(self, way: Socks | str) -> httpx.AsyncHTTPTransport:
        if way not in self._transports:
            if isinstance(way, Socks):
                # Loaded where there is Tor: nobody else should wait for it.
                from router_client.net.sockstransport import SocksTransport  # noqa: PLC0415

                self._transports[way] = SocksTransport(way, tls(), IDLE_S)
            else:
                self._transports[way] = httpx.AsyncHTTPTransport(
                    verify=tls(),
                    limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=IDLE_S),
                    proxy=httpx.Proxy(way) if way else None,
                )
        return self._transports[way]


@cache
def tls() -> ssl.SSLContext:
    """Trusts whom the environment does."""
    return httpx.create_ssl_context()
