"""Send: coins of ours become a token, as they are when they fit, by a swap when they do not or are to be locked."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from router_client.ecash import store
from router_client.ecash.closing import hand_out
from router_client.ecash.coins import Fees, Spend, are_few, plan_locked, plan_spend
from router_client.ecash.keyring import MintKeys
from router_client.ecash.locks import check_key
from router_client.ecash.operations import Operations, check_vacant, opened
from router_client.ecash.outcomes import Sent, sent
from router_client.ecash.spending import Spending, check_inputs
from router_client.ecash.stock import stocked
from router_client.ecash.store import Journal, Operation
from router_client.ecash.token import Proof
from router_client.errors import InsufficientFunds, TokenRefused

MOST_EACH = 64
"""So many coins of each amount are looked at first: a seller holds thousands."""
MOST_EACH_TO_FIT = (1, 8)
"""Likewise, in two tries, for coins that fit as they are: one of each makes up any amount."""


class Sending:
    """Tokens out."""

    def __init__(self, operations: Operations, spending: Spending) -> None:
        self._operations = operations
        self._spending = spending
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
        unread: bool,
    ) -> Sent:
        """See `Wallet.send`."""
        order = _Order(operation_id, mint_url, unit, amount, fees, lock, most_coins, unread)
        operation = self._operations.outcome(operation_id)
        if operation is None and lock is None:
            operation = await self._fitting(order)  # without a turn: it waits for no mint
            if operation is not None:
                return sent(operation)
        if lock is not None:
            check_key(lock)
            if not await self._operations.keyring.locks(mint_url):
                raise TokenRefused(f"the mint {mint_url} does not know locked coins (NUT-11, NUT-12)")
        async with self._spending.turn(mint_url, unit):
            operation = self._operations.outcome(operation_id)
            if operation is None or operation.state == "failed":
                operation = await self._spending.begun(lambda: opened(self._begin(order)), mint_url, unit)
            return sent(await self._operations.finish(operation))

    def handed_out(self, operation_id: str) -> str:
        """The token of a finished send that can be taken back. Raises TokenRefused when there is none."""
        operation = self._operations.outcome(operation_id)
        if operation is None or operation.kind != "send" or operation.state != "done":
            raise TokenRefused("there is no sent token of that name")
        if operation.journal.lock not in ("", self._operations.lock_key.public):
            raise TokenRefused("the token is locked to its receiver's key: only the receiver can give it back")
        return operation.result

    async def _fitting(self, order: _Order) -> Operation | None:
        """The order done with coins that fit as they are; None when there are none, or it was begun already."""
        mint = await self._operations.keyring.pinned(order.mint)
        mint.active(order.unit)
        sizes = [1 << bit for bit in range(order.amount.bit_length() + 1)]  # with a receiver's fee it may be one more

        def fit(conn: sqlite3.Connection) -> Operation | None:
            if store.operation(conn, order.id) is not None:
                return None
            for most_each in MOST_EACH_TO_FIT:
                coins = store.some_of_each(conn, order.mint, order.unit, sizes, most_each)
                with suppress(InsufficientFunds):
                    plan = order.plan(coins, mint)
                    # All coins were not looked at: what is needed of many may be had of a larger one.
                    if not plan.needs_swap and are_few(len(plan.inputs), order.amount):
                        return self._hand_out(conn, order, plan)
            return None

        return await self._operations.db.run(fit)

    async def _begin(self, order: _Order) -> Operation:
        mint = await self._operations.keyring.mint(order.mint)
        keyset = mint.active(order.unit)
        most_made = self._spending.most_made(order.mint, order.unit)

        def begin(conn: sqlite3.Connection) -> Operation:
            check_vacant(conn, order.id)
            plan = self._plan(conn, order, mint)
            if not plan.needs_swap:
                return self._hand_out(conn, order, plan)
            check_inputs(plan.inputs)
            operation = self._open(conn, order, Journal())
            secrets = [coin.secret for coin in plan.inputs]
            store.move_coins(conn, secrets, "unspent", "reserved", order.id)
            held = store.held(conn, order.mint, order.unit)
            keep = stocked(sum(plan.keep), held, self._operations.stock, most_made)
            outputs = plan.send + keep
            journal = Journal(
                keyset=keyset.id,
                counter=store.take_counters(conn, keyset.id, len(outputs)),
                amounts=outputs,
                sent=len(plan.send),
                lock=order.lock or "",
                inputs=plan.inputs,
                amount=sum(plan.send),
                fee=plan.fee,
            )
            store.set_journal(conn, order.id, journal)
            return msgspec.structs.replace(operation, journal=journal)

        return await self._operations.db.run(begin)

    def _plan(self, conn: sqlite3.Connection, order: _Order, mint: MintKeys) -> Spend:
        """Out of some coins of each amount if they suffice, else out of all."""
        try:
            return order.plan(store.some_unspent(conn, order.mint, order.unit, MOST_EACH), mint)
        except InsufficientFunds:
            return order.plan(store.unspent(conn, order.mint, order.unit), mint)

    def _hand_out(self, conn: sqlite3.Connection, order: _Order, plan: Spend) -> Operation:
        journal = Journal(inputs=plan.inputs, amount=sum(coin.amount for coin in plan.inputs))
        return hand_out(conn, self._open(conn, order, journal), plan.inputs, "unspent")

    def _open(self, conn: sqlite3.Connection, order: _Order, journal: Journal) -> Operation:
        operation = self._operations.open(conn, order.id, "send", order.mint, order.unit, journal)
        if order.unread:
            store.keep_untold(conn, order.id)
        return operation


class _Order(msgspec.Struct, frozen=True):
    """What is asked of a send."""

    id: str
    mint: str
    unit: str
    amount: int
    fees: Fees
    lock: str | None
    most_coins: int | None
    unread: bool

    def plan(self, coins: Sequence[Proof], mint: MintKeys) -> Spend:
        """Raises InsufficientFunds, and WrongUnit."""
        fee_ppk, new_fee_ppk = mint.fees_ppk(), mint.active(self.unit).input_fee_ppk
        if self.lock is None:
            return plan_spend(coins, self.amount, self.fees, fee_ppk, new_fee_ppk, mint.listed())
        return plan_locked(coins, self.amount, self.fees, fee_ppk, new_fee_ppk, self.most_coins)
