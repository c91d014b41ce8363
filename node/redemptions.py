"""Ecash that was accepted without its mint, redeemed behind the requests it paid for; and coins of a size for change.

Boundaries: the wallet swaps a batch in a journaled operation of its own; then the ledger books, once per operation, what the
batch brought beyond its credit (mint fees that were charged token by token and paid once) or did not bring (coins that the
mint calls spent, and the fees of swapping our own coins: the operator bears those).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from node.ledger.ledger import Ledger
from router_client.ecash.outcomes import Redeemed
from router_client.ecash.wallet import Wallet

log = logging.getLogger(__name__)

BATCH: Final = 100
MOST_SWAPS: Final = 10
"""Of coins of our own, one after another: others want to redeem theirs."""
LOOK_AGAIN_S: Final = 3600
LOOK_BACK_S: Final = 7 * 24 * 3600
"""Operations that were begun this long before the start are booked again, which changes nothing, or at last."""


class Redemptions:
    """Turns accepted coins into coins of the node's own."""

    def __init__(self, ledger: Ledger, wallet: Wallet, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._clock = clock
        self._since = min(int(clock()), wallet.unfinished_since() or int(clock())) - LOOK_BACK_S
        self._turn = asyncio.Lock()
        self._booked: set[str] = set()

    async def run(self) -> int:
        """Redeem all that waits; returns how many batches were. A mint that does not answer is tried at the next run."""
        async with self._turn:
            batches = 0
            began = int(self._clock())
            while done := await self._wallet.redeem_locked(BATCH):
                batches += len(done)
            unfinished = self._wallet.unfinished_since()
            if unfinished is not None:  # what its mint left open
                batches += await self._wallet.recover_redemptions()
            await self._book_all()
            # One that was begun before may have been finished just now: the next look goes back a little further, and as
            # far as what is still open.
            oldest = began if unfinished is None else min(began, unfinished)
            self._since = max(self._since, oldest - LOOK_AGAIN_S)
            return batches

    async def restock(self) -> int:
        """Swap coins of our own for such as change is made of; returns how often.

        The fee comes out of what the node has beyond all that its callers could ask back, never out of theirs.
        """
        async with self._turn:
            await self._book_all()
            for swaps in range(MOST_SWAPS):
                if not self._wallet.lacks_stock():
                    return swaps
                free_msat = await self._ledger.free_msat()
                if free_msat < 0 or not await self._wallet.restock(free_msat):
                    return swaps
                await self._book_all()
            return MOST_SWAPS

    @asynccontextmanager
    async def booked(self) -> AsyncIterator[None]:
        """In here, all that the wallet has redeemed is in the books, and nothing is added to it."""
        async with self._turn:
            await self._book_all()
            yield

    async def _book_all(self) -> None:
        # A clock that was set back must not leave out what is begun from now on.
        finished = self._wallet.redemptions(min(self._since, int(self._clock()) - LOOK_AGAIN_S))
        for redeemed in finished:
            if redeemed.operation not in self._booked:
                await self._book(redeemed)
        self._booked = {redeemed.operation for redeemed in finished}

    async def _book(self, redeemed: Redeemed) -> None:
        saved_msat = redeemed.saved_msat
        lost_msat = redeemed.lost_msat + max(0, -saved_msat)
        if redeemed.lost_msat:
            log.error("%s calls %d msat of accepted coins spent", redeemed.mint, redeemed.lost_msat)
        await self._ledger.book_redemption(redeemed.operation, max(0, saved_msat), lost_msat)
