"""Redeem: locked coins that were accepted become ordinary ones, many in one swap, behind the requests they paid for.

1. one transaction takes a batch of waiting coins and writes the intent;
2. the mint swaps them, with our signature on each;
3. one transaction stores the new coins and closes both.

If the mint says that coins were spent before, those are set aside as lost and the intent is written anew without them.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Sequence
from functools import partial

import msgspec

from router_client.ecash import lockedcoins, store
from router_client.ecash.closing import complete
from router_client.ecash.coins import swap_fee
from router_client.ecash.keyring import MintKeys
from router_client.ecash.operations import Operations
from router_client.ecash.outcomes import Redeemed, redeemed
from router_client.ecash.stock import MOST_MADE_BEHIND, stocked
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import Proof
from router_client.errors import MintMisbehaved, TokenRefused, TokenSpent, WalletError

log = logging.getLogger(__name__)


class Redeeming:
    """From locked coins to coins."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        operations.register("redeem", self._step)

    async def redeem(self, most: int) -> list[Redeemed]:
        """See `Wallet.redeem_locked`."""
        done = []
        for mint_url, unit in self._operations.db.read(lockedcoins.groups):
            try:
                operation = await self._begin(mint_url, unit, most)
                if operation is not None:
                    done.append(redeemed(await self._operations.finish(operation)))
            except WalletError as error:  # what one mint does must not keep the others' coins waiting
                log.warning("locked coins in %s of %s wait: %s", unit, mint_url, error)
        return done

    def has_unfinished(self) -> bool:
        """See `Wallet.has_unfinished_redemptions`."""
        return self._operations.db.read(lambda conn: store.has_open(conn, store.TOLD))

    def finished(self) -> list[Redeemed]:
        """See `Wallet.redemptions`."""
        return [redeemed(operation) for operation in self._operations.db.read(store.untold_operations)]

    async def told(self, operation_id: str) -> None:
        """See `Wallet.know_redemption`."""
        await self._operations.db.run(lambda conn: store.told(conn, operation_id))

    async def _begin(self, mint_url: str, unit: str, most: int) -> Operation | None:
        """A batch taken; None when nothing waits, or nothing that is worth its fee yet."""
        mint = await self._operations.keyring.mint(mint_url)
        operation_id = f"redeem:{secrets.token_hex(12)}"

        def begin(conn: sqlite3.Connection) -> Operation | None:
            batch = lockedcoins.waiting(conn, mint_url, unit, most)
            coins = [coin.proof for coin in batch]
            credited = sum(coin.proof.amount - coin.fee for coin in batch)
            journal = self._plan(conn, mint, mint_url, unit, Journal(credited=credited), coins)
            if not journal.amounts:
                return None
            operation = self._operations.open(conn, operation_id, "redeem", mint_url, unit, journal)
            lockedcoins.move(conn, coins, "locked", "redeeming", operation_id)
            return operation

        return await self._operations.db.run(begin)

    def _plan(
        self,
        conn: sqlite3.Connection,
        mint: MintKeys,
        mint_url: str,
        unit: str,
        journal: Journal,
        coins: Sequence[Proof],
    ) -> Journal:
        """The journal with these coins as inputs and fresh outputs; without outputs when the fee leaves nothing."""
        fees_ppk = mint.fees_ppk()
        fee = swap_fee([fees_ppk.get(coin.id, 0) for coin in coins])
        net = max(0, sum(coin.amount for coin in coins) - fee)
        amounts = stocked(net, store.held(conn, mint_url, unit), self._operations.stock, MOST_MADE_BEHIND)
        keyset = mint.active(unit)
        counter = store.take_counters(conn, keyset.id, len(amounts)) if amounts else 0
        return msgspec.structs.replace(
            journal,
            keyset=keyset.id,
            counter=counter,
            amounts=amounts,
            inputs=tuple(coins),
            amount=net,
            fee=fee if amounts else 0,
        )

    async def _step(self, operation: Operation) -> Operation:
        while True:
            try:
                proofs = await self._operations.swapped(operation)
            except TokenSpent as refusal:
                operation = await self._without_spent(operation, refusal)
                if operation.state == "done":
                    return operation
            except TokenRefused as refusal:
                await self._operations.fail(operation, refusal)
                raise
            else:
                return await self._operations.db.run(partial(complete, operation=operation, proofs=proofs))

    async def _without_spent(self, operation: Operation, refusal: TokenSpent) -> Operation:
        """The operation planned anew without the coins that the mint calls spent; done, when nothing is left of it."""
        mint = await self._operations.keyring.mint(operation.mint)
        journal = operation.journal
        spent = await mint.client.spent(journal.inputs)
        gone = [coin for coin in journal.inputs if coin.y() in spent]
        if not gone:
            await self._operations.fail(operation, refusal)
            raise MintMisbehaved(f"the mint {operation.mint} calls coins spent that it calls unspent") from refusal
        good = [coin for coin in journal.inputs if coin.y() not in spent]
        log.error("%d locked coins of %s were spent before they were redeemed", len(gone), operation.mint)

        def plan(conn: sqlite3.Connection) -> Operation:
            lockedcoins.move(conn, gone, "redeeming", "lost", operation.id)
            known = msgspec.structs.replace(journal, lost=journal.lost + sum(coin.amount for coin in gone))
            planned = self._plan(conn, mint, operation.mint, operation.unit, known, good)
            if not planned.amounts:  # what is left is not worth its fee: it waits for more
                lockedcoins.move(conn, good, "redeeming", "locked", None)
                credited = journal.credited - lockedcoins.worth(conn, good)
                planned = msgspec.structs.replace(planned, inputs=(), credited=credited)
            store.set_journal(conn, operation.id, planned)
            again = msgspec.structs.replace(operation, journal=planned)
            return again if planned.amounts else complete(conn, again, [])

        return await self._operations.db.run(plan)
