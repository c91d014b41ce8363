"""Accept: a token locked to our key is money at once, checked against the mint's pinned keys, without asking the mint.

It is good because nobody else can spend it (the lock, which the mint enforces), the mint did sign it (a DLEQ proof on every
coin), and it was not accepted before (its Y, in a UNIQUE column of this file, committed before the answer). The coins wait
in a table of their own until `redeeming` swaps them in a batch; the fee that the token would cost alone is taken off.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from router_client.ecash import lockedcoins, store
from router_client.ecash.coins import swap_fee
from router_client.ecash.crypto import is_signed
from router_client.ecash.keyring import MintKeys
from router_client.ecash.locks import key_of
from router_client.ecash.operations import AlreadyOpen, Operations
from router_client.ecash.outcomes import Received, received
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import Proof, Token
from router_client.errors import TokenRefused, TokenSpent

MOST_LOCKED_COINS = 64
"""Each costs a fraction of a millisecond to check, in which nothing else is served."""


class Accepting:
    """Locked tokens in."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def accept(self, token: Token, operation_id: str) -> Received:
        """See `Wallet.accept_locked`."""
        if len(token.proofs) > MOST_LOCKED_COINS:
            raise TokenRefused(f"a locked token has at most {MOST_LOCKED_COINS} coins")
        ys = [coin.y() for coin in token.proofs]
        if len(set(ys)) != len(ys):
            raise TokenRefused("a coin is in the token twice")
        takers = self._operations.db.read(lambda conn: lockedcoins.known(conn, ys))
        earlier = self._operations.outcome(operation_id) if operation_id in takers.values() else None
        if earlier is not None:  # it is written together with its coins, so it is done
            self._check_same(earlier, token)
            return received(earlier)
        if takers:  # cheaper than finding out after the signatures
            raise TokenSpent("a coin of the token was accepted here before")
        try:
            return received(await self._accept(token, operation_id))
        except AlreadyOpen as other:
            self._check_same(other.operation, token)
            return received(other.operation)

    async def _accept(self, token: Token, operation_id: str) -> Operation:
        mint = await self._pinned(token)
        coins, fees_ppk = mint.resolve(token)
        self._check_locks(coins)
        check_signatures(mint, coins)
        fee = swap_fee(fees_ppk)
        net = token.amount - fee
        if net <= 0:
            raise TokenRefused(f"the token is worth {token.amount} {token.unit}, the mint's fee for it is {fee}")
        journal = Journal(amount=net, fee=fee)

        def begin(conn: sqlite3.Connection) -> Operation:
            operation = self._operations.open(conn, operation_id, "accept", token.mint, token.unit, journal)
            lockedcoins.add(conn, operation, coins, fee, "locked")
            store.close_operation(conn, operation_id, "done")
            return operation

        return await self._operations.db.run(begin)

    async def _pinned(self, token: Token) -> MintKeys:
        """The token's mint as pinned."""
        keyring = self._operations.keyring
        if not await keyring.locks(token.mint):
            raise TokenRefused(f"the mint {token.mint} does not know locked coins (NUT-11, NUT-12)")
        return await keyring.pinned_for(token)

    def _check_locks(self, coins: Sequence[Proof]) -> None:
        for coin in coins:
            if coin.witness is not None:
                raise TokenRefused("a locked coin comes without a witness")
            if key_of(coin.secret) != self._operations.lock_key.public:
                raise TokenRefused("a coin of the token is locked to another key")

    def _check_same(self, operation: Operation, token: Token) -> None:
        """An operation stands for one token: all of its coins, and no others, were taken in by it."""
        journal = operation.journal
        ys = [coin.y() for coin in token.proofs]
        takers = self._operations.db.read(lambda conn: lockedcoins.known(conn, ys))
        same = len(takers) == len(ys) and set(takers.values()) == {operation.id}
        if not same or token.amount != journal.amount + journal.fee:
            raise TokenRefused("an operation of that name took in another token")


def check_signatures(mint: MintKeys, coins: Sequence[Proof]) -> None:
    """Raise TokenRefused unless every coin carries the mint's proof that it signed it, for its amount, with a key in use."""
    for coin in coins:
        key = mint.active_key(coin)
        if coin.dleq is None:
            raise TokenRefused("a coin of the token comes without the mint's proof of its signature (DLEQ)")
        if not is_signed(coin.secret, coin.C, key, coin.dleq):
            raise TokenRefused("a coin of the token was not signed by its mint for its amount")
