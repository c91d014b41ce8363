"""Ecash that was accepted without its mint, redeemed behind the requests it paid for; and coins of a size for change.

Boundaries: the wallet swaps a batch in a journaled operation of its own; then the ledger books, once per operation, what the
batch brought beyond its credit (mint fees that were charged token by token and paid once) or did not bring (coins that the
mint calls spent, and the fees of swapping our own coins: the operator bears those); then the wallet is told so. Until it
is, it tells of the operation, however long ago that was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from node.ledger.ledger import Ledger
from router_client.ecash.outcomes import Redeemed
from router_client.ecash.wallet import Wallet
from router_client.errors import WalletError

log = logging.getLogger(__name__)

BATCH: Final = 100
MOST_SWAPS: Final = 10
"""Of coins of our own, one after another: others want to redeem theirs."""


class Redemptions:
    """Turns accepted coins into coins of the node's own."""

    def __init__(self, ledger: Ledger, wallet: Wallet) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._turn = asyncio.Lock()

    async def run(self) -> int:
        """Redeem all that waits; returns how many batches were. A mint that does not answer is tried at the next run."""
        async with self._turn:
            batches = 0
            while done := await self._wallet.redeem_locked(BATCH):
                batches += len(done)
            if self._wallet.has_unfinished_redemptions():  # what its mint left open
                batches += await self._wallet.recover_redemptions()
            await self._book_all()
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

    async def part(self, amount: int, mint: str, unit: str) -> None:
        """Swap a coin of our own for smaller ones, where a payment of that amount would take a much larger one and may hang,
        if its mint's fee can be had of what is nobody else's, as in `restock`. Else nothing is done."""
        if not self._wallet.lacks_parts(amount, mint, unit):
            return
        async with self._turn:
            await self._book_all()
            free_msat = await self._ledger.free_msat()
            try:
                if free_msat >= 0 and await self._wallet.part(amount, mint, unit, free_msat):
                    await self._book_all()
            except WalletError as error:
                log.warning("a payment of %d %s takes a larger coin: %s", amount, unit, error)

    @asynccontextmanager
    async def booked(self) -> AsyncIterator[None]:
        """In here, all that the wallet has redeemed is in the books, and nothing is added to it."""
        async with self._turn:
            await self._book_all()
            yield

    async def _book_all(self) -> None:
        for redeemed in self._wallet.redemptions():
            await self._book(redeemed)
            await self._wallet.know_redemption(redeemed.operation)

    async def _book(self, redeemed: Redeemed) -> None:
        saved_msat = redeemed.saved_msat
        lost_msat = redeemed.lost_msat + max(0, -saved_msat)
        if redeemed.lost_msat:
            log.error("%s calls %d msat of accepted coins spent", redeemed.mint, redeemed.lost_msat)
        await self._ledger.book_redemption(redeemed.operation, max(0, saved_msat), lost_msat)
