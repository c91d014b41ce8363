"""Payments to nodes: a token with the request, the unused rest back with the answer. Journaled, so that a crash between the
two leaves money to be fetched, not lost.

A payment's row is written before its token is made. The token lies in the wallet's journal under the same id, so that what
was paid can always be found again: asked back from the node, or swapped back when the node never redeemed it. A token that
is locked to a node only that node can give back: its payment stays open, and `out` tells of it, until the node does.

Change needs no journal of its own: until its coins are spent, the node gives the same to whoever has the token that paid.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from weakref import WeakValueDictionary

import httpx

from relays import payment as wire
from relays.money import Msat, ceil_div
from router_client.disk.storage import Database
from router_client.ecash.coins import face_for
from router_client.ecash.outcomes import received
from router_client.ecash.token import MSAT_PER_UNIT, Token, decode, to_msat, token_hash
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
from router_client.net.nodeapi import call, with_money
from router_client.paying import spares
from router_client.paying.change import OnEnd, Out, Paid, Settled, most_paid_msat, new_payment, unheard
from router_client.paying.refund import Refund, asked_back, refund_of
from router_client.paying.spares import Spares

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
_OPEN = """
SELECT id, node_url, created_at, COALESCE(name, id) FROM payments LEFT JOIN names USING (id)
WHERE state = 'open' ORDER BY created_at
"""
_KNOWN = "SELECT id FROM payments WHERE id = ? UNION SELECT id FROM names WHERE name = ?"


class Payments:
    """The payments of one wallet."""

    def __init__(self, db: Database, wallet: Wallet, http: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._db = db
        self._wallet = wallet
        self._http = http
        self._clock = clock
        self._spares = Spares(db, clock)
        self._under_way: WeakValueDictionary[str, Paid] = WeakValueDictionary()
        """Payments that somebody here still holds to settle; a call that was cancelled holds its payment no more."""

    @classmethod
    async def open(
        cls, path: Path, wallet: Wallet, http: httpx.AsyncClient, clock: Callable[[], float] = time.time
    ) -> Payments:
        """The journal in the file at `path`."""
        db = Database(path)
        await db.lay(SCHEMA, *spares.SCHEMA)
        return cls(db, wallet, http, clock)

    def close(self) -> None:
        self._db.close()

    @property
    def wallet(self) -> Wallet:
        """The wallet that these payments are made from."""
        return self._wallet

    async def pay(
        self,
        node_url: str,
        mint: str,
        unit: str,
        amount_msat: int,
        *,
        lock: str | None = None,
        most_msat: int | None = None,
        payment_id: str = "",
    ) -> Paid:
        """A token of at least `amount_msat` after the node's swap, and at most `most_msat`, or the least that coins of the
        unit can make; where nothing is said, see `most_paid_msat`. Raises WalletError.

        With `lock`, the node's public key, and a mint that knows locks, nobody else can redeem it and the node can take it
        without asking the mint; the way back is then the node's refund alone. Such a token is of a few coins, if the wallet
        can pay for one of that form, or one that was made for this node before and did not reach it.

        `payment_id` is what the payment is called, if it is to have a certain name (see `new_payment`): a new one's id, and
        what `recover` calls one that was made before.
        """
        most_msat = most_paid_msat(amount_msat) if most_msat is None else most_msat
        most_msat = max(most_msat, ceil_div(amount_msat, MSAT_PER_UNIT[unit]) * MSAT_PER_UNIT[unit])
        if lock is not None and not await self._wallet.knows_locks(mint):
            lock = None
        paid = (
            None
            if lock is None
            else await self._spare(payment_id, node_url, mint, unit, range(amount_msat, most_msat + 1), lock)
        )
        if paid is None:
            payment_id = payment_id or new_payment()
            paid = await self._made(payment_id, node_url, mint, unit, amount_msat, lock, most_msat)
        self._under_way[paid.id] = paid
        return paid

    async def keep(self, paid: Paid) -> None:
        """The token did not reach its node: it is kept for the next request there if it is locked, else swapped back.

        Raises NodeError or WalletError when that cannot be done now: then `recover` tries again.
        """
        with self._letting_go(paid):
            if paid.locked:
                await self._spares.put(paid.id)
            else:
                await self._reclaim(paid.id)

    async def settle(self, paid: Paid, changes: Sequence[str] = (), request_id: str = "") -> Settled:
        """Take in the change that the node gave; without any, ask the node for it, by the request's id if that is known.

        Raises ChangeRejected when what the node gave is no money, else NodeError or WalletError: then `recover` tries again.
        """
        with self._letting_go(paid):
            if changes:
                return await self._take_in(paid.id, changes, None)
            if request_id:
                try:
                    return await self._fetch_change(paid, request_id)
                except ChangeRejected:
                    raise
                except NodeError as error:
                    log.info("payment %s: asked for its change, %s says: %s", paid.id, paid.node_url, error)
            return await self._settle(paid.id, paid.node_url, paid.token)

    async def spend(self, paid: Paid) -> Settled:
        """The token was the price: nothing comes back."""
        with self._letting_go(paid):
            return await self._spent(paid.id)

    async def take_back(self, paid: Paid, changes: Sequence[str] = ()) -> Settled:
        """The node did not serve: what it gave back is taken in; else it is asked for a refund; else, with a token that it
        never redeemed and that is not locked to it, the coins are swapped back.

        Raises NodeError or WalletError when nothing of that can be done now: then `recover` tries again.
        """
        with self._letting_go(paid):
            if changes:
                try:
                    return await self._take_in(paid.id, changes, None)
                except ChangeRejected as error:
                    log.warning("payment %s: %s", paid.id, error)
            return await self._take_back(paid.id, paid.node_url, paid.token)

    async def recover(self, older_than_s: float = 0, ended: OnEnd = unheard) -> Msat:
        """Settle what a crash or an absent node left open for at least that long; returns what came back. `ended` is told of
        each payment that is settled then, and what of its msat did not come back.

        What this process has under way is left alone: what is taken here would be missed there. With 0, requests of other
        processes on this wallet that are under way lose their money back to it.
        """
        await self._wallet.recover(older_than_s)
        total = 0
        now = self._clock()
        for payment_id, node_url, created_at, name in self._db.read(_open_payments):
            operation = self._wallet.outcome(payment_id)
            if abs(now - created_at) < older_than_s:  # both ways: the clock may have been ahead
                continue
            if operation is None:
                if created_at < self._clock() - PAYING_S:  # before that, its token may be about to be made
                    await self._close(payment_id)
                    await ended(name, 0)
            elif operation.state == "failed":
                await self._close(payment_id)
                await ended(name, 0)
            elif operation.state == "done":
                back = await self._recovered(payment_id, node_url, operation.result)
                if back is not None:
                    total += back.change_msat
                    await ended(name, to_msat(operation.journal.amount, operation.unit) - back.change_msat)
        return Msat(total)

    def knows(self, name: str) -> bool:
        """Whether a payment of that name was begun."""
        return self._db.read(lambda conn: conn.execute(_KNOWN, (name, name)).fetchone()) is not None

    def open_count(self) -> int:
        """Payments that are not settled."""
        return len(self._db.read(_open_payments))

    def out(self) -> list[Out]:
        """Payments that are not settled and whose token was made, oldest first: their money is out, not lost."""
        found = []
        for payment_id, node_url, created_at, _ in self._db.read(_open_payments):
            sent = self._wallet.outcome(payment_id)
            if sent is not None and sent.state == "done":
                amount_msat = to_msat(sent.journal.amount, sent.unit)
                found.append(Out(payment_id, node_url, amount_msat, bool(sent.journal.lock), created_at))
        return found

    @contextmanager
    def _letting_go(self, paid: Paid) -> Iterator[None]:
        """A block after which a payment is under way no more, whether it is settled or left to `recover`."""
        try:
            yield
        finally:
            self._under_way.pop(paid.id, None)

    async def _recovered(self, payment_id: str, node_url: str, token: str) -> Settled | None:
        """What an open payment brings back; nothing of one that is under way, or that must stay open."""
        # No call may take a spare whose money is asked back here.
        was_spare = await self._spares.drop(payment_id)
        if payment_id in self._under_way:
            return None
        try:
            return await self._take_back(payment_id, node_url, token)
        except Exception as error:  # noqa: BLE001 - what one node answers must not keep the others' money out
            log.warning("payment %s stays open: %s", payment_id, error)
            if was_spare:
                await self._spares.put(payment_id)
            return None

    async def _made(
        self, payment_id: str, node_url: str, mint: str, unit: str, amount_msat: int, lock: str | None, most_msat: int
    ) -> Paid:
        row = (payment_id, node_url, int(self._clock()))
        await self._db.run(lambda conn: conn.execute("INSERT INTO payments VALUES (?, ?, ?, 'open')", row).close())
        amount = max(1, ceil_div(amount_msat, MSAT_PER_UNIT[unit]))
        most_coins = None
        if lock is not None:
            face = face_for(amount, await self._wallet.fee_ppk(mint, unit), MOST_LOCKED_COINS)
            most_coins = MOST_LOCKED_COINS if to_msat(face, unit) <= most_msat else None
        await self._wallet.send(amount, mint, unit, payment_id, lock=lock, most_coins=most_coins)
        return await self._paid(payment_id, node_url)

    async def _spare(
        self, name: str, node_url: str, mint: str, unit: str, wanted_msat: range, lock: str
    ) -> Paid | None:
        """A token for that node, locked to that key, which did not reach it and is worth what is wanted; it is the caller's
        alone, for a request of that name."""
        for payment_id in self._spares.at(node_url):
            made = self._wallet.outcome(payment_id)
            if made is None or (made.mint, made.unit, made.journal.lock) != (mint, unit, lock):
                continue
            paid = await self._paid(payment_id, node_url)
            if paid.credit_msat in wanted_msat and await self._spares.take(payment_id, name):
                return paid
        return None

    async def _paid(self, payment_id: str, node_url: str) -> Paid:
        """A payment whose token was made."""
        sent = self._wallet.outcome(payment_id)
        assert sent is not None
        fees = await self._wallet.fees(sent.result)
        credit_msat = Msat(to_msat(sent.journal.amount, sent.unit) - fees.this_msat)
        smallest_msat = MSAT_PER_UNIT[sent.unit]
        locked = bool(sent.journal.lock)
        return Paid(payment_id, node_url, sent.result, credit_msat, fees.most_msat, smallest_msat, locked)

    async def _fetch_change(self, paid: Paid, request_id: str) -> Settled:
        """The change of a request, from where the node keeps it. Raises NodeError when there is none to be had."""
        url = f"{paid.node_url}/v1/change/{quote(request_id, safe='')}"
        refund = refund_of(await call(self._http, "GET", url, with_money(paid.token)), paid.node_url)
        if not refund.tokens():
            raise NodeUnavailable(f"{url} answers without a token")
        return await self._take_in(paid.id, refund.tokens(), refund.fee_msats)

    async def _settle(self, payment_id: str, node_url: str, token: str) -> Settled:
        try:
            refund = await asked_back(self._http, node_url, token)
        except NodeRefused as error:
            if error.code == wire.NOT_REFUNDABLE:
                return await self._nothing_left(payment_id)
            raise
        if not refund.tokens():
            return await self._nothing_left(payment_id)
        tokens, fee_msats = refund.tokens(), refund.fee_msats
        if refund.balance and not refund.reserved:  # a request ended while the refund was made: there is more
            more = await self._more(node_url, token)
            tokens, fee_msats = [*tokens, *more.tokens()], fee_msats + more.fee_msats
        return await self._take_in(payment_id, tokens, fee_msats, still_held=bool(refund.reserved))

    async def _more(self, node_url: str, token: str) -> Refund:
        """A second refund, if what is left is worth one."""
        try:
            return await asked_back(self._http, node_url, token)
        except NodeRefused:
            return Refund()

    async def _take_back(self, payment_id: str, node_url: str, token: str) -> Settled:
        try:
            return await self._settle(payment_id, node_url, token)
        except NodeError:
            if self._is_locked(payment_id):
                raise
            return await self._reclaim(payment_id)

    async def _take_in(
        self, payment_id: str, tokens: Sequence[str], node_fee_msat: int | None, *, still_held: bool = False
    ) -> Settled:
        """Receive the node's tokens, each once however often it is given, and close the payment.

        One that is no money to us is passed over if another is: what counts is the sum. Raises ChangeRejected when none is.
        """
        change_msat, fee_msat, taken = 0, 0, False
        blame: ChangeRejected | None = None
        for text in dict.fromkeys(tokens):
            try:
                token = self._own_money(payment_id, text)
                cost_msat = (await self._wallet.fees(token)).this_msat
                if cost_msat >= token.amount_msat:  # it is not worth its swap
                    fee_msat += token.amount_msat
                else:
                    received = await self._wallet.receive(token, f"change:{payment_id}:{token_hash(text)[:16]}")
                    change_msat, fee_msat = change_msat + received.amount_msat, fee_msat + received.fee_msat
                taken = True
            except (TokenSpent, TokenRefused, WrongUnit) as error:
                blame = blame or ChangeRejected(f"the node gives change that the mint does not take: {error}")
            except ChangeRejected as error:
                blame = blame or error
        if blame is not None and not taken:
            raise blame
        if still_held:
            raise NodeUnavailable("the node still runs a request of this payment and holds money for it")
        await self._close(payment_id)
        return Settled(Msat(change_msat), None if node_fee_msat is None else Msat(node_fee_msat), Msat(fee_msat))

    async def _nothing_left(self, payment_id: str) -> Settled:
        """The node says that nothing is left: true if the mint knows the token as spent; else the token is still ours."""
        if not self._is_locked(payment_id):
            try:
                return await self._reclaim(payment_id)
            except TokenSpent:
                pass
        # The mint cannot tell of a locked token, which is redeemed later; nobody but the node could have spent it.
        return await self._spent(payment_id)

    async def _spent(self, payment_id: str) -> Settled:
        """No more comes back than the wallet took in by itself, once its mint was there again, and nobody tells of fees."""
        taken = [received(change) for change in self._wallet.done(f"change:{payment_id}:")]
        await self._close(payment_id)
        return Settled(Msat(sum(each.amount_msat for each in taken)), None, Msat(sum(each.fee_msat for each in taken)))

    def _is_locked(self, payment_id: str) -> bool:
        made = self._wallet.outcome(payment_id)
        return made is not None and bool(made.journal.lock)

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

    async def _close(self, payment_id: str) -> None:
        def close(conn: sqlite3.Connection) -> None:
            conn.execute("UPDATE payments SET state = 'settled' WHERE id = ?", (payment_id,)).close()
            conn.execute(spares.DROP, (payment_id,)).close()

        await self._db.run(close)


def _open_payments(conn: sqlite3.Connection) -> list[tuple[str, str, int, str]]:
    """Id, node, when, and what the payment is called."""
    return conn.execute(_OPEN).fetchall()
