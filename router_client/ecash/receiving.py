"""Receive: a token of others becomes coins of our own, by a swap; one that is locked to us is signed for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from router_client.ecash import lockedcoins, store
from router_client.ecash.coins import MOST_COINS, split, swap_fee
from router_client.ecash.operations import Operations, check_vacant, opened
from router_client.ecash.outcomes import Received, TokenFees, received, was_spent
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import Proof, Token, to_msat
from router_client.errors import TokenRefused


class Receiving:
    """Tokens in."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._keyring = operations.keyring
        operations.register("receive", operations.swap)

    async def receive(self, token: Token, operation_id: str) -> Received:
        """See `Wallet.receive`. Somebody waits for it: a stock of small coins is made behind, from locked tokens."""
        operation = self._operations.outcome(operation_id)
        if operation is not None and _secrets(operation.journal.inputs) != _secrets(token.proofs):
            raise TokenRefused("an operation of that name took in another token")
        if operation is None or (operation.state == "failed" and not was_spent(operation)):
            operation = await opened(self._begin(token, operation_id))
        return received(await self._operations.finish(operation))

    async def fees(self, token: Token) -> TokenFees:
        """See `Wallet.fees`. Asked before each payment: a mint that is known is not waited for."""
        mint = await self._keyring.pinned_for(token)
        _, fees_ppk = mint.resolve(token)
        most_ppk = mint.most_fee_ppk(token.unit)
        return TokenFees(
            to_msat(swap_fee(fees_ppk), token.unit), to_msat(swap_fee([most_ppk] * MOST_COINS), token.unit)
        )

    async def _begin(self, token: Token, operation_id: str) -> Operation:
        coins, fees_ppk = await self._keyring.resolve(token)
        mint = await self._keyring.mint(token.mint)
        fee = swap_fee(fees_ppk)
        net = token.amount - fee
        if net <= 0:
            raise TokenRefused(f"the token is worth {token.amount} {token.unit}, the mint's fee for it is {fee}")
        keyset = mint.active(token.unit)
        # One that is accepted offline beside this would be credited twice.
        ours = [coin for coin in coins if self._operations.lock_key.owns(coin.secret)]

        def begin(conn: sqlite3.Connection) -> Operation:
            check_vacant(conn, operation_id)
            amounts = split(net)
            counter = store.take_counters(conn, keyset.id, len(amounts))
            journal = Journal(keyset=keyset.id, counter=counter, amounts=amounts, inputs=coins, amount=net, fee=fee)
            operation = self._operations.open(conn, operation_id, "receive", token.mint, token.unit, journal)
            lockedcoins.add(conn, operation, ours, 0, "receiving")
            return operation

        return await self._operations.db.run(begin)


def _secrets(proofs: Sequence[Proof]) -> set[str]:
    return {proof.secret for proof in proofs}
