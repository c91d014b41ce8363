"""Send: coins of ours become a token, as they are when they fit, by a swap when they do not or are to be locked."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import msgspec

from router_client.ecash import store
from router_client.ecash.closing import hand_out
from router_client.ecash.coins import Fees, Spend, plan_locked, plan_spend, stocked
from router_client.ecash.locks import check_key
from router_client.ecash.operations import Operations, check_vacant, opened
from router_client.ecash.outcomes import Sent, sent
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import Proof
from router_client.errors import MintUnavailable, TokenRefused

SEND_WAIT_S = 20.0


class Sending:
    """Tokens out."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._spending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        operations.register("send", operations.swap)

    async def send(
        self,
        amount: int,
        mint_url: str,
        unit: str,
        operation_id: str,
        *,
        fees: Fees,
        lock: str | None,
        most_coins: int | None,
    ) -> Sent:
        """See `Wallet.send`."""
        async with self.turn(mint_url, unit):
            operation = self._operations.outcome(operation_id)
            if operation is None or operation.state == "failed":
                if lock is not None:
                    lock = check_key(lock)
                    if not await self._operations.keyring.locks(mint_url):
                        raise TokenRefused(f"the mint {mint_url} does not know locked coins (NUT-11, NUT-12)")
                order = _Order(amount, fees, lock, most_coins)
                operation = await opened(self._begin(order, mint_url, unit, operation_id))
            return sent(await self._operations.finish(operation))

    def handed_out(self, operation_id: str) -> str:
        """The token of a finished send that can be taken back. Raises TokenRefused when there is none."""
        operation = self._operations.outcome(operation_id)
        if operation is None or operation.kind != "send" or operation.state != "done":
            raise TokenRefused("there is no sent token of that name")
        if operation.journal.lock not in ("", self._operations.lock_key.public):
            raise TokenRefused("the token is locked to its receiver's key: only the receiver can give it back")
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

    async def _begin(self, order: _Order, mint_url: str, unit: str, operation_id: str) -> Operation:
        mint = await self._operations.keyring.mint(mint_url)
        keyset = mint.active(unit)

        def begin(conn: sqlite3.Connection) -> Operation:
            check_vacant(conn, operation_id)
            coins = store.unspent(conn, mint_url, unit)
            plan = order.plan(coins, mint.fees_ppk(), keyset.input_fee_ppk)
            secrets = [coin.secret for coin in plan.inputs]
            operation = self._operations.open(conn, operation_id, "send", mint_url, unit, Journal())
            store.move_coins(conn, secrets, "unspent", "reserved", operation_id)
            keep = stocked(sum(plan.keep), store.held(conn, mint_url, unit), self._operations.stock)
            outputs = plan.send + keep
            journal = Journal(
                keyset=keyset.id,
                counter=store.take_counters(conn, keyset.id, len(outputs)) if plan.needs_swap else 0,
                amounts=outputs,
                sent=len(plan.send),
                lock=order.lock or "",
                inputs=plan.inputs,
                amount=sum(plan.send) if plan.needs_swap else sum(coin.amount for coin in plan.inputs),
                fee=plan.fee,
            )
            store.set_journal(conn, operation_id, journal)
            operation = msgspec.structs.replace(operation, journal=journal)
            return operation if plan.needs_swap else hand_out(conn, operation, plan.inputs, "reserved")

        return await self._operations.db.run(begin)


class _Order(msgspec.Struct, frozen=True):
    """What is asked of a send."""

    amount: int
    fees: Fees
    lock: str | None
    most_coins: int | None

    def plan(self, coins: Sequence[Proof], fee_ppk: dict[str, int], new_fee_ppk: int) -> Spend:
        if self.lock is None:
            return plan_spend(coins, self.amount, self.fees, fee_ppk, new_fee_ppk)
        return plan_locked(coins, self.amount, self.fees, fee_ppk, new_fee_ppk, self.most_coins)
