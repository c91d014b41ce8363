"""Prepaid calls: a token to the node before the request, the unused rest back after it. Journaled, so that a crash between
the two leaves money to be fetched, not lost.

A payment's row is written before its token is made. The token lies in the wallet's journal under the same id, so that what
was paid can always be found again: asked back from the node, or swapped back when the node never redeemed it.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import httpx
import msgspec

from relays import payment as wire
from relays.errors import InvalidJson
from relays.jsontext import shaped
from relays.money import MAX_MSAT, Msat, ceil_div
from router_client.ecash.token import MSAT_PER_UNIT, Token, decode, token_hash
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    ChangeRejected,
    NodeError,
    NodeRefused,
    NodeUnavailable,
    TokenRefused,
    TokenSpent,
    TokenUnreadable,
    WrongUnit,
)
from router_client.nodeapi import call
from router_client.storage import Database

log = logging.getLogger(__name__)

MOST_LOCKED_COINS = 3
"""A node checks each coin of a locked token: fewer are faster, and the rest comes back as change."""
PAYING_S = 600
"""No `pay` lasts longer between its row and its token."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS payments (
    id TEXT PRIMARY KEY, node_url TEXT NOT NULL, created_at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled'))
)
"""


class Paid(msgspec.Struct, frozen=True):
    """A token made for a node, not yet settled. `credit_msat` is what the node gets out of it at the mint."""

    id: str
    node_url: str
    token: str
    credit_msat: Msat
    most_fee_msat: Msat
    """The most that the mint can take from the node for making change."""
    smallest_coin_msat: int


class Settled(msgspec.Struct, frozen=True):
    """What came back, after what the mint took: from the node for making the change, from us for taking it in."""

    change_msat: Msat
    node_fee_msat: Msat
    fee_msat: Msat


class Payments:
    """The payments of one wallet."""

    def __init__(self, db: Database, wallet: Wallet, http: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._db = db
        self._wallet = wallet
        self._http = http
        self._clock = clock

    @classmethod
    async def open(
        cls, path: Path, wallet: Wallet, http: httpx.AsyncClient, clock: Callable[[], float] = time.time
    ) -> Payments:
        """The journal in the file at `path`."""
        db = Database(path)
        await db.run(lambda conn: conn.execute(SCHEMA).close())
        return cls(db, wallet, http, clock)

    def close(self) -> None:
        self._db.close()

    async def pay(self, node_url: str, mint: str, unit: str, amount_msat: int, *, lock: str | None = None) -> Paid:
        """A token of at least `amount_msat` after the node's swap. Raises WalletError.

        With `lock`, the node's public key, and a mint that knows locks, nobody else can redeem it and the node can take it
        without asking the mint; the way back is then the node's refund alone.
        """
        if lock is not None and not await self._wallet.knows_locks(mint):
            lock = None
        payment_id = f"pay_{secrets.token_hex(12)}"
        row = (payment_id, node_url, int(self._clock()))
        await self._db.run(lambda conn: conn.execute("INSERT INTO payments VALUES (?, ?, ?, 'open')", row).close())
        amount = max(1, ceil_div(amount_msat, MSAT_PER_UNIT[unit]))
        sent = await self._wallet.send(amount, mint, unit, payment_id, lock=lock, most_coins=MOST_LOCKED_COINS)
        fees = await self._wallet.fees(sent.token)
        credit_msat = Msat(sent.amount_msat - fees.this_msat)
        return Paid(payment_id, node_url, sent.token, credit_msat, fees.most_msat, MSAT_PER_UNIT[unit])

    async def settle(self, paid: Paid) -> Settled:
        """Fetch what the node did not use. Raises NodeError or WalletError: then `recover` tries again."""
        return await self._settle(paid.id, paid.node_url, paid.token)

    async def take_back(self, paid: Paid) -> Settled:
        """The node did not serve: what it redeemed is refunded, what it did not is swapped back.

        Raises NodeError or WalletError when neither can be done now: then `recover` tries again.
        """
        return await self._take_back(paid.id, paid.node_url, paid.token)

    async def recover(self, older_than_s: float = 0) -> Msat:
        """Settle what a crash or an absent node left open for at least that long; returns what came back.

        With 0, requests of other processes on this wallet that are under way lose their money back to it.
        """
        await self._wallet.recover(older_than_s)
        total = 0
        latest = int(self._clock() - older_than_s)
        for payment_id, node_url, created_at in self._db.read(_open_payments):
            operation = self._wallet.outcome(payment_id)
            if created_at > latest:
                continue
            if operation is None:
                if created_at < self._clock() - PAYING_S:  # before that, its token may be about to be made
                    await self._close(payment_id)
            elif operation.state == "failed":
                await self._close(payment_id)
            elif operation.state == "done":
                try:
                    total += (await self._take_back(payment_id, node_url, operation.result)).change_msat
                except Exception as error:  # noqa: BLE001 - what one node answers must not keep the others' money out
                    log.warning("payment %s stays open: %s", payment_id, error)
        return Msat(total)

    def open_count(self) -> int:
        """Payments that are not settled."""
        return len(self._db.read(_open_payments))

    async def _settle(self, payment_id: str, node_url: str, token: str) -> Settled:
        refund = await self._refund(node_url, token)
        if refund is None:
            return await self._nothing_left(payment_id)
        change = self._own_money(payment_id, refund.token)
        try:
            received = await self._wallet.receive(change, f"change:{payment_id}:{token_hash(refund.token)[:16]}")
        except (TokenSpent, TokenRefused, WrongUnit) as error:
            raise ChangeRejected(f"the node gives change that the mint does not take: {error}") from error
        if refund.reserved:
            raise NodeUnavailable(f"{node_url} still runs a request of this payment and holds money for it")
        await self._close(payment_id)
        return Settled(received.amount_msat, Msat(refund.fee_msats), received.fee_msat)

    async def _take_back(self, payment_id: str, node_url: str, token: str) -> Settled:
        try:
            return await self._settle(payment_id, node_url, token)
        except NodeError:
            return await self._reclaim(payment_id)

    async def _nothing_left(self, payment_id: str) -> Settled:
        """The node says that nothing is left: true if the mint knows the token as spent; else the token is still ours."""
        paid_with = self._wallet.outcome(payment_id)
        if paid_with is None or not paid_with.journal.lock:
            try:
                return await self._reclaim(payment_id)
            except TokenSpent:
                pass
        # The mint cannot tell of a locked token, which is redeemed later; nobody but the node could have spent it.
        await self._close(payment_id)
        return Settled(Msat(0), Msat(0), Msat(0))

    async def _reclaim(self, payment_id: str) -> Settled:
        received = await self._wallet.reclaim(payment_id)
        await self._close(payment_id)
        return Settled(received.amount_msat, Msat(0), received.fee_msat)

    def _own_money(self, payment_id: str, change: str) -> Token:
        """The change, if it is of the mint and unit that were paid with: any other is not money to us."""
        paid_with = self._wallet.outcome(payment_id)
        try:
            token = decode(change)
        except (TokenUnreadable, WrongUnit) as error:
            raise ChangeRejected(f"the node gives change that is no money: {error}") from error
        if paid_with is None or (token.mint, token.unit) != (paid_with.mint, paid_with.unit):
            raise ChangeRejected(
                f"the node gives change in {token.unit} of {token.mint[:100]}, which was not paid with"
            )
        return token

    async def _refund(self, node_url: str, token: str) -> _Refund | None:
        """The node's refund for a token; None when there is nothing left of it."""
        try:
            answer = await call(self._http, "POST", f"{node_url}/v1/balance/refund", token, {})
        except NodeRefused as error:
            if error.code == wire.NOT_REFUNDABLE:
                return None
            raise
        try:
            return shaped(answer, _Refund)
        except InvalidJson as error:
            raise NodeUnavailable(f"{node_url} answers a refund without a token") from error

    async def _close(self, payment_id: str) -> None:
        settle = "UPDATE payments SET state = 'settled' WHERE id = ?"
        await self._db.run(lambda conn: conn.execute(settle, (payment_id,)).close())


class _Refund(msgspec.Struct):
    token: str
    fee_msats: Annotated[int, msgspec.Meta(ge=0, le=MAX_MSAT)] = 0
    reserved: Annotated[int, msgspec.Meta(ge=0)] = 0


def _open_payments(conn: sqlite3.Connection) -> list[tuple[str, str, int]]:
    return conn.execute(
        "SELECT id, node_url, created_at FROM payments WHERE state = 'open' ORDER BY created_at"
    ).fetchall()
