"""Redeem: locked coins that were accepted become ordinary ones, many in one swap, behind the requests they paid for.

1. one transaction takes a batch of waiting coins and writes the intent;
2. the mint swaps them, with our signature on each;
3. one transaction stores the new coins and closes both.

If the mint says that coins were spent before, the intent is done with those as its loss, and the others wait again.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from functools import partial

import msgspec

from router_client.ecash import lockedcoins, store
from router_client.ecash.closing import complete
from router_client.ecash.coins import swap_fee
from router_client.ecash.operations import Operations
from router_client.ecash.outcomes import Redeemed, redeemed
from router_client.ecash.stock import MOST_MADE_BEHIND, stocked
from router_client.ecash.store import Journal, Operation
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
        fees_ppk, keyset = mint.fees_ppk(), mint.active(unit)
        operation_id = f"redeem:{secrets.token_hex(12)}"

        def begin(conn: sqlite3.Connection) -> Operation | None:
            batch = lockedcoins.waiting(conn, mint_url, unit, most)
            coins = tuple(coin.proof for coin in batch)
            fee = swap_fee([fees_ppk.get(coin.id, 0) for coin in coins])
            net = sum(coin.amount for coin in coins) - fee
            if net <= 0:
                return None
            amounts = stocked(net, store.held(conn, mint_url, unit), self._operations.stock, MOST_MADE_BEHIND)
            journal = Journal(
                keyset=keyset.id,
                counter=store.take_counters(conn, keyset.id, len(amounts)),
                amounts=amounts,
                inputs=coins,
                amount=net,
                fee=fee,
                credited=sum(coin.proof.amount - coin.fee for coin in batch),
            )
            operation = self._operations.open(conn, operation_id, "redeem", mint_url, unit, journal)
            lockedcoins.move(conn, coins, "locked", "redeeming", operation_id)
            return operation

        return await self._operations.db.run(begin)

    async def _step(self, operation: Operation) -> Operation:
        try:
            proofs = await self._operations.swapped(operation)
        except TokenSpent as refusal:
            return await self._without_coins(operation, refusal)
        except TokenRefused as refusal:
            await self._operations.fail(operation, refusal)
            raise
        return await self._operations.db.run(partial(complete, operation=operation, proofs=proofs))

    async def _without_coins(self, operation: Operation, refusal: TokenSpent) -> Operation:
        """The operation done, with what the mint calls spent as its loss; what else it took waits again."""
        mint = await self._operations.keyring.mint(operation.mint)
        coins = operation.journal.inputs
        spent = await mint.client.spent(coins)
        gone = [coin for coin in coins if coin.y() in spent]
        if not gone:
            await self._operations.fail(operation, refusal)
            raise MintMisbehaved(f"the mint {operation.mint} calls coins spent that it calls unspent") from refusal
        log.error("%d locked coins of %s were spent before they were redeemed", len(gone), operation.mint)

        def close(conn: sqlite3.Connection) -> Operation:
            lockedcoins.move(conn, gone, "redeeming", "lost", operation.id)
            lockedcoins.move(conn, [coin for coin in coins if coin.y() not in spent], "redeeming", "locked", None)
            lost = Journal(credited=lockedcoins.worth(conn, gone), lost=sum(coin.amount for coin in gone))
            store.set_journal(conn, operation.id, lost)
            return complete(conn, msgspec.structs.replace(operation, journal=lost), [])

        return await self._operations.db.run(close)
