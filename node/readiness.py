"""Whether the node can serve a paid request now, and if not, why: what a load balancer or a watchdog asks for.

Anyone may ask, so what it costs is bounded: the answer is kept for some seconds, and one look serves all who wait for it. It
names no upstream: that is the operator's business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from node.errors import NodeFault
from node.ledger.ledger import Ledger
from node.shop.catalogue import Catalogue
from node.upstream.fleet import Fleet
from relays.routes import DIRECT, Routes, host_of
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, WalletError

log = logging.getLogger(__name__)

KEPT_S: Final = 5.0
"""An answer is given again for so long."""
LOOK_S: Final = 3.0
"""Books and mints that take longer are not ready."""
TOR_LOOK_S: Final = 15.0
"""Mints that are asked through Tor: a new circuit takes some seconds, and an onion's some more."""

PROBE_BYTES: Final = 64 * 1024
"""Some pages of a database."""


class Readiness:
    """Looks at what a sale takes."""

    def __init__(
        self,
        ledger: Ledger,
        wallet: Wallet,
        fleet: Fleet,
        catalogue: Catalogue,
        mints: tuple[str, ...],
        routes: Routes = DIRECT,
        folders: Iterable[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folders`: where books and money lie."""
        self._ledger = ledger
        self._wallet = wallet
        self._fleet = fleet
        self._catalogue = catalogue
        self._mints = mints
        self._routes = routes
        self._folders = frozenset(folders)
        self._clock = clock
        self._looking = asyncio.Lock()
        self._until = float("-inf")
        self._problems: dict[str, str] = {}
        self.leaving = False
        """The node ends what it began."""

    async def problems(self) -> dict[str, str]:
        """What keeps the node from selling, by part (`database`, `mint`, `upstream`, `price`, `node`): nothing when it is
        ready."""
        async with self._looking:
            if self._clock() >= self._until:
                found = await asyncio.gather(self._database(), self._mint())
                problems = {
                    "database": found[0],
                    "mint": found[1],
                    "upstream": self._upstream(),
                    "price": self._price(),
                }
                self._problems = {part: words for part, words in problems.items() if words}
                self._until = self._clock() + KEPT_S
        return {**self._problems, "node": "it stops: it ends what it began"} if self.leaving else self._problems

    async def _database(self) -> str:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._ledger.earnings()
                await asyncio.to_thread(_write_to, self._folders)
        except (NodeFault, ClientError, OSError) as error:  # TimeoutError is one
            words = "the books cannot be written" if isinstance(error, OSError) else "the books cannot be read"
            log.error("%s: %s", words, str(error) or "no answer in time")
            return words
        return ""

    async def _mint(self) -> str:
        """One that answers suffices to sell."""

        async def answers(mint: str) -> bool:
            far = self._routes.takes_tor(host_of(mint))
            try:
                async with asyncio.timeout(TOR_LOOK_S if far else LOOK_S):
                    await self._wallet.reach(mint)
            except (WalletError, TimeoutError):
                return False
            return True

        answered = await asyncio.gather(*(answers(mint) for mint in self._mints))
        return "" if any(answered) else "none of the node's mints answers"

    def _upstream(self) -> str:
        return "" if self._fleet.is_well else "no upstream answers"

    def _price(self) -> str:
        if not len(self._catalogue):
            return "there is nothing to sell: no model that has a price is known"
        if any(self._catalogue.is_open(model) for model in self._catalogue.all()):
            return ""
        return "the price of bitcoin is not known, or too old"


def _write_to(folders: Iterable[Path]) -> None:
    """A full disk, or one that was made read-only after a fault, is read as well as ever. Raises OSError."""
    for folder in folders:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
