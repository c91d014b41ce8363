"""aiohttp's connections through a SOCKS port, with errors of aiohttp's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from aiohttp_socks import ProxyConnectionError, ProxyConnector, ProxyError, ProxyTimeoutError

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class SocksConnector(ProxyConnector):
    """The library's errors are strangers to aiohttp's."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        try:
            return await super().connect(req, traces, timeout)
        except ProxyTimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("Tor made no connection in time") from error
        except (ProxyConnectionError, ProxyError, EOFError) as error:  # EOFError: the port closes amid the greeting
            words = "its port closes the connection" if isinstance(error, EOFError) else error
            failed = OSError(None, f"Tor made no connection: {words}")
            raise aiohttp.ClientConnectorError(req.connection_key, failed) from error
