"""A counter's side of the till: what it charges by, and how long it may."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from node.config import Settings
from node.errors import NotHere, Refusal
from node.pulse import Beats
from node.shop.catalogue import Catalogue, Model
from node.shop.lease import LEASE_S, POLL_S, Asked, Told, read_frame, write_frame
from node.shop.tariffs import Tariffs
from node.upstream.spec import UpstreamSpec

log = logging.getLogger(__name__)


class Followed(Catalogue):
    """The till's catalogue as it was shown last. What is not surely sold here at this price, the till is to be asked."""

    def __init__(self, settings: Settings, specs: Sequence[UpstreamSpec], left_out: Collection[str]) -> None:
        super().__init__(settings, specs, Tariffs(None, lambda: time.monotonic() <= self.btc_known_until))
        self._left_out = left_out
        """Upstreams that the till alone can use."""
        self.btc_known_until = -math.inf
        self.until = -math.inf
        """When the lease ends."""

    def get(self, model_id: str) -> Model:
        """The model at the tariff in force. Raises NotHere."""
        try:
            model = super().get(model_id)
        except Refusal as error:  # the till may know it already, or say when it will
            raise NotHere(str(error)) from error
        if any(source.upstream in self._left_out for source in model.sources):
            raise NotHere("one of its upstreams is the till's alone")
        if time.monotonic() > self.until:  # looked at last: the price was in force at this moment
            raise NotHere("the till has not told its prices for a while")
        return model


class Follower:
    """Asks the till again and again."""

    def __init__(
        self, path: Path, catalogue: Followed, running: Callable[[], int], measured: Callable[[], Beats] = Beats
    ) -> None:
        self._path = path
        self._catalogue = catalogue
        self._running = running
        self._measured = measured
        self._version = 0
        self.ready = asyncio.Event()
        """Set once something is known."""

    async def run(self) -> None:
        """Until it is cancelled; a till that is gone is waited for."""
        while True:
            try:
                async with asyncio.timeout(LEASE_S):
                    reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    self._version = 0  # it may be another till
                    while True:
                        async with asyncio.timeout(LEASE_S):
                            await self._ask(reader, writer)
                        await asyncio.sleep(POLL_S)
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError, msgspec.MsgspecError) as error:
                log.debug("the till does not tell its prices: %r", error)
                await asyncio.sleep(POLL_S)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        write_frame(writer, msgspec.json.encode(Asked(self._running(), self._version, self._measured())))
        await writer.drain()
        body = await read_frame(reader)
        told = await asyncio.to_thread(msgspec.msgpack.decode, body, type=Told)
        if told.shown is not None:
            self._catalogue.follow(told.shown)
        self._version = told.version
        self._catalogue.btc_known_until = told.btc_known_until
        self._catalogue.until = began + LEASE_S
        self.ready.set()
