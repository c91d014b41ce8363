"""Tor's SOCKS port on this machine, where the user runs Tor: the daemon's, or the Tor Browser's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

PORTS: Final = (9050, 9150)
DEADLINE_S: Final = 0.5


async def found_socks(ports: Iterable[int] = PORTS) -> str:
    """HOST:PORT of the first at which SOCKS5 is spoken with a user's name, as Tor does; empty for none."""
    for port in ports:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(DEADLINE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"\x05\x01\x02")
                    if await reader.readexactly(2) == b"\x05\x02":
                        return f"127.0.0.1:{port}"
                finally:
                    writer.close()
    return ""
