"""The till of a node with several processes: it alone has the shop, and its counters charge by what it shows them.

Every change is shown before it is made. While it is, counters charge the lower of before and after; once it has been shown
for as long as a lease lasts, no counter can charge more than either, and the till makes the change: it tells and charges a
fall from then on, and tells a rise, which all charge a minute later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from node.pulse import Beats
from node.shop.catalogue import Catalogue, Shown
from node.shop.lease import LEASE_S, Asked, Told, listen_at, read_frame, write_frame

log = logging.getLogger(__name__)

MARGIN_S = 0.1
"""Clocks of timers are coarse."""
SHOP = "shop"
"""What the socket is called that the shop is shown at."""
Change = Callable[[Catalogue], Awaitable[bool]]
"""Made to the catalogue it is given; whether that changed the offer."""


class Till:
    """The shop's one owner. Without counters its changes are made at once."""

    def __init__(
        self,
        catalogue: Catalogue,
        btc_known_until: Callable[[], float],
        heard: Callable[[Beats], None] = lambda _: None,
    ) -> None:
        """`heard` is told what counters have measured."""
        self._catalogue = catalogue
        self._btc_known_until = btc_known_until
        self._heard = heard
        self._changing = asyncio.Lock()
        self._coming: Shown | None = None
        self._version = 0
        self._shown: Shown | None = None
        self._running: dict[asyncio.StreamWriter, int] = {}
        self.has_counters = False

    @property
    def running(self) -> int:
        """Requests that counters serve now."""
        return sum(self._running.values())

    async def change(self, change: Change) -> bool:
        """Make a change, after the counters; whether that changed the offer."""
        if not self.has_counters:
            return await change(self._catalogue)
        async with self._changing:
            ahead = self._catalogue.ahead()
            await change(ahead)
            try:
                if ahead.shown != self._catalogue.shown:
                    self._coming = ahead.shown
                    await asyncio.sleep(LEASE_S + MARGIN_S)
                return await change(self._catalogue)
            finally:
                self._coming = None

    @asynccontextmanager
    async def open(self, path: Path) -> AsyncIterator[None]:
        """Show the shop to counters, at a socket for this user alone, as long as the block runs and until they are gone."""
        self.has_counters = True
        server = await asyncio.start_unix_server(self._serve, sock=listen_at(path))
        try:
            yield
        finally:
            server.close()
            for writer in list(self._running):
                writer.close()

    async def left(self, within_s: float) -> None:
        """Return when no counter asks any more: what they pass on needs the till to their end."""
        for _ in range(int(within_s / 0.1)):
            if not self._running:
                return
            await asyncio.sleep(0.1)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._running[writer] = 0
        try:
            while True:
                asked = msgspec.json.decode(await read_frame(reader), type=Asked)
                self._running[writer] = asked.running
                self._heard(asked.measured)
                write_frame(writer, msgspec.msgpack.encode(self._told(asked.version)))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            log.debug("a counter is gone")
        finally:
            del self._running[writer]
            writer.close()

    def _told(self, version: int) -> Told:
        shown = self._coming or self._catalogue.shown
        if shown != self._shown:
            self._shown = shown
            self._version += 1
        return Told(self._version, self._btc_known_until(), None if version == self._version else shown)
