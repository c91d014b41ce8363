"""httpx's connections through a SOCKS port, each with a deadline.

httpcore knows SOCKS itself, but waits for a proxy without any, and forgets connections that are given up as they are made.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx

from relays.routes import Socks
from relays.socks import SocksRefused, greet

GREETING_S: Final = 60.0
"""An onion service is looked for, and met, before it can be talked to."""


class SocksTransport(httpx.AsyncHTTPTransport):
    def __init__(self, way: Socks, tls: ssl.SSLContext, idle_s: float) -> None:
        super().__init__(verify=tls)
        # httpx has no way to hand a backend in; this is what it makes itself, with one.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=idle_s,
            network_backend=_SocksBackend(way),
        )


class _SocksBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, way: Socks) -> None:
        self._way = way
        self._direct = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._direct.connect_tcp(self._way.host, self._way.port, timeout, local_address, socket_options)
        within_s = GREETING_S if timeout is None else timeout

        async def read_exactly(count: int) -> bytes:
            data = b""
            while len(data) < count:
                more = await stream.read(count - len(data), within_s)
                if not more:
                    raise SocksRefused("the port closes the connection")
                data += more
            return data

        async def write(data: bytes) -> None:
            await stream.write(data, within_s)

        greeted = False
        try:
            await greet(read_exactly, write, self._way, host, port)
            greeted = True
        except httpcore.TimeoutException as error:
            raise httpcore.ConnectTimeout(f"Tor made no connection within {within_s:g} s") from error
        except (SocksRefused, httpcore.NetworkError) as error:
            raise httpcore.ConnectError(f"Tor made no connection: {error}") from error
        finally:
            if not greeted:
                await stream.aclose()
        return stream
