"""Send: coins of ours become a token, as they are when they fit, by a swap when they do not."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from router_client.ecash import store
from router_client.ecash.closing import hand_out
from router_client.ecash.coins import Fees, plan_spend
from router_client.ecash.operations import Operations, check_vacant, opened
from router_client.ecash.outcomes import Sent, sent
from router_client.ecash.store import Journal, Operation
from router_client.errors import MintUnavailable, TokenRefused

SEND_WAIT_S = 20.0


class Sending:
    """Tokens out."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._spending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        operations.register("send", operations.swap)

    async def send(self, amount: int, mint_url: str, unit: str, operation_id: str, fees: Fees) -> Sent:
        """See `Wallet.send`."""
        async with self.turn(mint_url, unit):
            operation = self._operations.outcome(operation_id)
            if operation is None or operation.state == "failed":
                operation = await opened(self._begin(amount, mint_url, unit, operation_id, fees))
            return sent(await self._operations.finish(operation))

    def handed_out(self, operation_id: str) -> str:
        """The token of a finished send. Raises TokenRefused when there is none."""
        operation = self._operations.outcome(operation_id)
        if operation is None or operation.kind != "send" or operation.state != "done":
            raise TokenRefused("there is no sent token of that name")
        return operation.result

    @asynccontextmanager
    async def turn(self, mint_url: str, unit: str) -> AsyncIterator[None]:
        """One spender at a time: while a large coin is away for change, the next would find too little.

        Raises MintUnavailable when the mint keeps those before us too long.
        """
        turn = self._spending.setdefault(f"{unit} {mint_url}", asyncio.Lock())
        try:
            async with asyncio.timeout(SEND_WAIT_S):
                await turn.acquire()
        except TimeoutError as error:
            raise MintUnavailable(f"the mint {mint_url} keeps others waiting for their change") from error
        try:
            yield
        finally:
            turn.release()

    async def _begin(self, amount: int, mint_url: str, unit: str, operation_id: str, fees: Fees) -> Operation:
        mint = await self._operations.keyring.mint(mint_url)
        keyset = mint.active(unit)

        def begin(conn: sqlite3.Connection) -> Operation:
            check_vacant(conn, operation_id)
            coins = store.unspent(conn, mint_url, unit)
            plan = plan_spend(coins, amount, fees, mint.fees_ppk(), keyset.input_fee_ppk)
            outputs = plan.send + plan.keep
            counter = store.take_counters(conn, keyset.id, len(outputs)) if plan.needs_swap else 0
            journal = Journal(
                keyset=keyset.id,
                counter=counter,
                amounts=outputs,
                sent=len(plan.send),
                inputs=plan.inputs,
                amount=sum(plan.send) if plan.needs_swap else sum(coin.amount for coin in plan.inputs),
                fee=plan.fee,
            )
            operation = self._operations.open(conn, operation_id, "send", mint_url, unit, journal)
            secrets = [coin.secret for coin in plan.inputs]
            store.move_coins(conn, secrets, "unspent", "reserved", operation_id)
            if not plan.needs_swap:
                operation = hand_out(conn, operation, plan.inputs, "reserved")
            return operation

        return await self._operations.db.run(begin)
