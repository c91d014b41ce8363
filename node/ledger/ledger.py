"""The ledger as the rest of the node sees it: atomic, idempotent moves of money that return outcomes.

Whatever is written has been committed durably when it returns. Raises StorageError for faults of the database and
LedgerError for contradictions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from node.errors import LedgerError
from node.ledger import accounts, answers, audit, deposits, due, holds, keys, payouts, refunds
from node.ledger.backend import Backend
from node.ledger.due import Due
from node.ledger.model import Account, Deposit, HoldOutcome, Key, Limits, NothingToRefund, Payout, Posted, Refund
from node.ledger.page import Hold, Post, Release
from node.ledger.postgres import PostgresBackend
from node.ledger.schema import SQLITE
from node.ledger.sql import Steps
from node.ledger.sqlite import SqliteBackend
from relays.receipt import Receipt

log = logging.getLogger(__name__)


class Ledger:
    """Books in a database. `instance` names this process among those that serve from the same books."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.time, instance: str = "") -> None:
        self._db = backend
        self._clock = clock
        self.instance = instance

    @classmethod
    async def open(cls, url: str, clock: Callable[[], float] = time.time, instance: str = "") -> Ledger:
        """The books at `sqlite:///PATH` or `postgresql://…`, laid out or brought up to date.

        Raises LedgerError for books of a later version, StorageError when they cannot be opened.
        """
        if url.startswith(SQLITE):
            return cls(await SqliteBackend.open(Path(url.removeprefix(SQLITE))), clock, instance)
        return cls(await PostgresBackend.open(url), clock, instance)

    @property
    def place(self) -> str:
        """Where the books lie, for people."""
        return self._db.place

    @property
    def shared(self) -> bool:
        """Whether other processes may serve from the same books."""
        return self._db.shared

    def is_mine(self, instance: str) -> bool:
        """Whether a deposit or refund is this process's to finish: the coins, and their journal, are in its wallet."""
        return not self._db.shared or instance == self.instance

    async def close(self) -> None:
        """Finish what is queued, then close."""
        await self._db.close()

    def _now(self) -> int:
        return int(self._clock())

    @property
    def _mine(self) -> str | None:
        """Whose journals to go on with: where books are shared, only one's own."""
        return self.instance if self._db.shared else None

    # accounts and keys -----------------------------------------------------------------------------------------------

    async def create_key(self, key_hash: str, hint: str, name: str, grant_msat: int) -> int:
        """A key to a new account, credited by the operator; returns the key's id. A grant of 0 makes an empty account."""

        def work() -> Steps[int]:
            now = self._now()
            account = yield from accounts.create(now)
            key = yield from keys.create(
                account=account,
                parent=None,
                key_hash=key_hash,
                next_hash=None,
                hint=hint,
                name=name,
                limits=Limits(),
                now=now,
            )
            if grant_msat:
                yield from accounts.grant(account, grant_msat, f"key:{account}", now)
            return key

        return await self._db.run(work)

    async def create_child(self, parent: Key, key_hash: str, hint: str, name: str, limits: Limits) -> int:
        """A key that spends from its parent's account within limits of its own; returns its id."""
        return await self._db.run(
            partial(
                keys.create,
                account=parent.account,
                parent=parent.id,
                key_hash=key_hash,
                next_hash=None,
                hint=hint,
                name=name,
                limits=limits,
                now=self._now(),
            )
        )

    async def key_of(self, key_hash: str) -> Key | None:
        """The key that a credential's hash names; one that was made to take another's place does so now."""
        found = await self._db.read(partial(keys.find, key_hash))
        if found is None:
            return None
        key, waits = found
        return await self._db.run(partial(keys.promoted, key_hash)) if waits else key

    async def rotate_key(self, key: int, next_hash: str, hint: str) -> bool:
        """Let a new key take this one's place when it is first used; False when there is no such key."""
        return await self._db.run(partial(keys.succeed, key, next_hash, hint))

    async def revoke_key(self, key: int, parent: int | None = None) -> bool:
        """Close a key and its children for good; with `parent`, only if that made it. Balances stay in the books."""
        return await self._db.run(partial(keys.revoke, key, self._now(), parent))

    async def keys(self) -> list[tuple[Key, Account]]:
        """Every key that no other made, with its account, oldest first."""

        def work() -> Steps[list[tuple[Key, Account]]]:
            found = yield from keys.all_roots()
            both = []
            for key in found:
                both.append((key, (yield from accounts.read(key.account))))
            return both

        return await self._db.read(work)

    async def children(self, parent: int) -> list[Key]:
        """The keys that one made."""
        return await self._db.read(partial(keys.children, parent))

    async def account(self, account: int) -> Account:
        """The account. Raises LedgerError when there is none."""
        return await self._db.read(partial(accounts.read, account))

    async def earnings(self) -> Account:
        """The node's own account."""
        return await self._db.read(accounts.earnings)

    async def set_refund_address(self, account: int, address: str) -> None:
        """Where the balance goes when its owner names no other place."""
        await self._db.run(partial(accounts.set_refund_address, account, address))

    # requests --------------------------------------------------------------------------------------------------------

    def hold(
        self, key: Key, request_id: str, amount_msat: int, lifetime_s: float, fingerprint: str = ""
    ) -> asyncio.Future[HoldOutcome]:
        """Reserve the most that a request can cost, within the key's limits. It is booked, whether or not somebody waits."""
        now = self._now()
        move = Hold(
            id=request_id,
            account=key.account,
            key=key.id,
            parent=key.parent,
            amount_msat=amount_msat,
            now=now,
            expires_at=now + int(lifetime_s),
            instance=self.instance,
            fingerprint=fingerprint,
        )
        outcome: Any = self._db.move(move)
        held: asyncio.Future[HoldOutcome] = outcome
        return held

    def post(self, draft: Receipt) -> asyncio.Future[Posted]:
        """Charge a hold and keep its receipt; the balance in the draft is filled in. Again, it answers as at first."""
        outcome: Any = self._db.move(Post(draft.request_id, draft, self._now()))
        posted: asyncio.Future[Posted] = outcome
        return posted

    async def void(self, request_id: str, fingerprint: str | None = None) -> bool:
        """Free a hold, nothing is charged; False when it had ended before, or was made with another fingerprint."""
        return bool(await self._db.move(Release(request_id, "voided", fingerprint)))

    async def open_holds(self) -> list[str]:
        """Ids of the requests that are on hold, of all processes."""
        return await self._db.read(partial(holds.orphans, None))

    async def expire_holds(self, running: Container[str] = ()) -> int:
        """End holds whose time is over, charged by what was noted of them, else free; returns how many there were.

        Not those of `running` requests, nor, for a while, those of other processes, whose clocks may differ.
        """
        over = await self._db.read(partial(holds.expired, self._now(), self._mine))
        return await self._expire([request_id for request_id in over if request_id not in running])

    async def expire_orphans(self) -> int:
        """The same for what an earlier run of this process left on hold. Only before it serves."""
        return await self._expire(await self._db.read(partial(holds.orphans, self._mine)))

    async def _expire(self, request_ids: list[str]) -> int:
        return sum([await self._end(request_id) for request_id in request_ids])

    async def _end(self, request_id: str) -> bool:
        """Charge what was noted, or free the hold; False when it has ended in this moment."""
        draft = await self._db.read(partial(holds.noted, request_id))
        if draft is not None:
            try:
                await self.post(draft)
                return True
            except LedgerError as error:
                log.warning("what was noted of %s is not charged: %s", request_id, error)
        return bool(await self._db.move(Release(request_id, "expired")))

    async def note_progress(self, drafts: Sequence[Receipt]) -> None:
        """Keep what running streams have come to: a sweep charges that much of what a crash left, not nothing."""
        await self._db.run(partial(holds.note, drafts))

    async def receipt(self, request_id: str, account: int) -> Posted | None:
        """A receipt, for the account that paid."""
        return await self._db.read(partial(holds.receipt, request_id, account))

    async def is_running(self, account: int) -> bool:
        """Whether a request of the account is on hold."""
        return await self._db.read(partial(holds.running, account))

    async def account_of_request(self, request_id: str) -> int | None:
        """The account that a request was held on."""
        return await self._db.read(partial(holds.account_of, request_id))

    async def keep_answer(self, request_id: str, sealed: bytes, lifetime_s: float) -> None:
        """Keep a sealed answer for whoever repeats the request; what was kept long enough is dropped."""

        def work() -> Steps[None]:
            yield from answers.forget(self._now())
            yield from answers.keep(request_id, sealed, self._now() + int(lifetime_s))

        await self._db.run(work)

    async def answer(self, request_id: str) -> bytes | None:
        """The sealed answer of a request, while it is kept."""
        return await self._db.read(partial(answers.read, request_id, self._now()))

    async def is_just_posted(self, request_id: str, within_s: int) -> bool:
        """Whether a request was charged so short a while ago."""
        return await self._db.read(partial(holds.posted_since, request_id, self._now() - within_s))

    # deposits --------------------------------------------------------------------------------------------------------

    async def begin_deposit(self, deposit: Deposit) -> Deposit:
        """Write the intent, or return what is known of that token."""
        return await self._db.run(partial(deposits.begin, deposit, self._now()))

    async def credit_deposit(
        self,
        deposit_id: str,
        amount_msat: int,
        fee_msat: int,
        key_hash: str | None = None,
        hint: str = "token",
        source: tuple[str, str] | None = None,
    ) -> int:
        """Book what arrived, once; returns the account."""
        return await self._db.run(
            partial(
                deposits.credit,
                deposit_id,
                amount_msat=amount_msat,
                fee_msat=fee_msat,
                source=source,
                key_hash=key_hash,
                hint=hint,
                now=self._now(),
            )
        )

    async def fail_deposit(self, deposit_id: str, reason: str) -> None:
        """Nothing came in."""
        await self._db.run(partial(deposits.fail, deposit_id, reason))

    async def deposit(self, deposit_id: str) -> Deposit | None:
        """The deposit of that token hash."""
        return await self._db.read(partial(deposits.read, deposit_id))

    async def open_deposits(self) -> list[Deposit]:
        """Those that this process has to finish."""
        return await self._db.read(partial(deposits.still_open, self._mine))

    # refunds ---------------------------------------------------------------------------------------------------------

    async def due(self) -> Due:
        """What the wallet of this process must hold."""
        return await self._db.survey(partial(due.due, self._mine))

    async def free_msat(self) -> int:
        """What the node's wallets hold beyond all that callers could ask back."""
        return await self._db.survey(accounts.free)

    async def refund_source(self, account: int) -> tuple[str, str] | None:
        """(mint, unit) that the account's money came from."""
        return await self._db.read(partial(deposits.source, account))

    async def begin_refund(self, wish: Refund) -> Refund | NothingToRefund:
        """Hold all that can be refunded, or return the refund that is open."""
        return await self._db.run(partial(refunds.begin, wish, self._now()))

    async def finish_refund(
        self, refund_id: str, *, token: str = "", fee_msat: int = 0, paid_msat: int | None = None
    ) -> Refund:
        """Book the money out. Raises LedgerError for a refund that was given up."""
        return await self._db.run(partial(refunds.finish, refund_id, paid_msat, fee_msat, token, self._now()))

    async def receive_refund(self, refund_id: str, account: int) -> bool:
        """Its owner has it for sure; False when the account has no such refund that is done."""
        return await self._db.run(partial(refunds.receive, refund_id, account))

    async def unreceived_refunds(self, account: int, most: int) -> list[Refund]:
        """The latest whose owner may not have them, newest first."""
        return await self._db.read(partial(refunds.unreceived, account, most))

    async def fail_refund(self, refund_id: str) -> None:
        """Nothing was paid."""
        await self._db.run(partial(refunds.fail, refund_id))

    async def is_refund_open(self, refund_id: str) -> bool:
        """Whether its outcome is not booked yet."""
        refund = await self._db.read(partial(refunds.read, refund_id))
        return refund is not None and refund.state == "open"

    async def open_refunds(self, *, everyones: bool = False) -> list[Refund]:
        """Those that this process has to finish, or all there are."""
        return await self._db.read(partial(refunds.still_open, None if everyones else self._mine))

    # the node's own money --------------------------------------------------------------------------------------------

    async def begin_payout(self, payout: Payout) -> Payout:
        """Hold earnings, or return the payout that is open. Raises LedgerConflict when they are less, or no money."""
        return await self._db.run(partial(payouts.begin, payout, self._now()))

    async def finish_payout(self, payout_id: str, paid_msat: int, fee_msat: int) -> None:
        """Book it out."""
        await self._db.run(partial(payouts.finish, payout_id, paid_msat, fee_msat, self._now()))

    async def fail_payout(self, payout_id: str) -> None:
        """Nothing was paid."""
        await self._db.run(partial(payouts.fail, payout_id))

    async def open_payouts(self) -> list[Payout]:
        """Those that this process has to finish."""
        return await self._db.read(partial(payouts.still_open, self._mine))

    async def mints(self) -> set[str]:
        """Whose ecash came in, ever: what is in the books is there."""
        return await self._db.survey(deposits.mints)

    async def owed(self) -> dict[tuple[str, str], int]:
        """What callers have on their accounts in msat, by the (mint, unit) that it came from."""
        return {(mint, unit): msat for mint, unit, msat in await self._db.survey(deposits.owed)}

    async def payouts(self, most: int = 100) -> list[Payout]:
        """The latest, newest first."""
        return await self._db.read(partial(payouts.latest, most))

    async def book_redemption(self, reference: str, saved_msat: int, lost_msat: int) -> None:
        """What redeeming ecash that was accepted offline brought beyond its credit, and what it did not bring. Once."""

        def work() -> Steps[None]:
            yield from payouts.save(reference, saved_msat, self._now())
            yield from payouts.lose(reference, lost_msat, self._now())

        await self._db.run(work)

    # audit -----------------------------------------------------------------------------------------------------------

    async def audit(self) -> audit.Totals:
        """Prove the sums, on one snapshot. Raises LedgerError when they are wrong."""
        return await self._db.survey(audit.audit)
