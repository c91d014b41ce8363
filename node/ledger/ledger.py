"""The ledger as the rest of the node sees it: atomic, idempotent moves of money that return outcomes.

Writes go through the group-commit writer and have been committed (synchronous=FULL) when they return. Raises StorageError
for faults of the disk and LedgerError for contradictions.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from node.errors import LedgerError
from node.ledger import accounts, audit, deposits, holds, refunds
from node.ledger.model import (
    Account,
    Deposit,
    HoldOutcome,
    NothingToRefund,
    Posted,
    Refund,
)
from node.ledger.tables import SCHEMA_VERSION, create_tables
from relays.receipt import Receipt
from router_client.storage import Database


class Ledger:
    """Books in one SQLite file, made if there is none."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._db = Database(path)
        self._clock = clock
        version = self._db.read(lambda conn: int(conn.execute("PRAGMA user_version").fetchone()[0]))
        if version not in (0, SCHEMA_VERSION):
            self._db.close()
            raise LedgerError(f"the ledger is of version {version}, this program knows {SCHEMA_VERSION}: upgrade it")
        create_tables(path)
        with sqlite3.connect(path) as conn:
            conn.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        conn.close()

    def close(self) -> None:
        """Finish what is queued, then close."""
        self._db.close()

    def _now(self) -> int:
        return int(self._clock())

    # accounts --------------------------------------------------------------------------------------------------------

    async def create_key(self, key_hash: str, hint: str, name: str, grant_msat: int) -> int:
        """A key credited by the operator; returns its account. A grant of 0 makes an empty key."""

        def work(conn: sqlite3.Connection) -> int:
            account = accounts.create(conn, key_hash=key_hash, hint=hint, name=name, now=self._now())
            if grant_msat:
                accounts.grant(conn, account, grant_msat, f"key:{account}", self._now())
            return account

        return await self._db.run(work)

    async def revoke_key(self, account: int) -> bool:
        return await self._db.run(partial(accounts.revoke, account=account))

    def account_of_key(self, key_hash: str) -> tuple[int, bool] | None:
        """(account, revoked) that a key names."""
        return self._db.read(partial(accounts.by_key_hash, key_hash=key_hash))

    def account_of_token(self, token_hash: str) -> tuple[int, bool] | None:
        """(account, revoked) that a redeemed token names."""
        return self._db.read(partial(accounts.by_token_hash, token_hash=token_hash))

    def account(self, account: int) -> Account:
        return self._db.read(partial(accounts.read, account=account))

    def keys(self) -> list[Account]:
        return self._db.read(accounts.keys)

    # requests --------------------------------------------------------------------------------------------------------

    async def hold(self, account: int, request_id: str, amount_msat: int, lifetime_s: float) -> HoldOutcome:
        """Reserve the most that a request can cost."""
        now = self._now()
        return await self._db.run(
            partial(
                holds.hold,
                account=account,
                hold_id=request_id,
                amount_msat=amount_msat,
                purpose="request",
                now=now,
                expires_at=now + int(lifetime_s),
            )
        )

    async def post(self, draft: Receipt) -> Posted:
        """Charge a hold and keep its receipt; the balance in the draft is filled in."""
        return await self._db.run(partial(holds.post, draft=draft, now=self._now()))

    async def void(self, request_id: str) -> bool:
        """Free a hold; nothing is charged."""
        return await self._db.run(partial(holds.void, hold_id=request_id))

    async def expire_holds(self) -> int:
        """Free holds whose time is over."""
        return await self._db.run(partial(holds.expire, now=self._now()))

    async def expire_orphans(self) -> int:
        """Free what an earlier process left on hold. Only for the one process that serves from this file, at its start."""
        return await self._db.run(partial(holds.expire_orphans, started_at=self._now()))

    def receipt(self, request_id: str, account: int) -> Posted | None:
        """A receipt, for the account that paid."""
        return self._db.read(partial(holds.receipt, request_id=request_id, account=account))

    # deposits --------------------------------------------------------------------------------------------------------

    async def begin_deposit(self, deposit: Deposit) -> Deposit:
        return await self._db.run(partial(deposits.begin, deposit=deposit, now=self._now()))

    async def credit_deposit(
        self, deposit_id: str, amount_msat: int, fee_msat: int, key_hash: str | None = None, hint: str = ""
    ) -> int:
        """Book what arrived, once; returns the account, which is made if the deposit opens one."""
        return await self._db.run(
            partial(
                deposits.credit,
                deposit_id=deposit_id,
                amount_msat=amount_msat,
                fee_msat=fee_msat,
                key_hash=key_hash,
                hint=hint,
                now=self._now(),
            )
        )

    async def fail_deposit(self, deposit_id: str, reason: str) -> None:
        await self._db.run(partial(deposits.fail, deposit_id=deposit_id, reason=reason))

    def deposit(self, deposit_id: str) -> Deposit | None:
        return self._db.read(partial(deposits.read, deposit_id=deposit_id))

    def open_deposits(self) -> list[Deposit]:
        return self._db.read(deposits.still_open)

    # refunds ---------------------------------------------------------------------------------------------------------

    def refundable_msat(self, account: int) -> int:
        return self._db.read(partial(refunds.refundable_msat, account=account))

    def refund_source(self, account: int) -> tuple[str, str] | None:
        """(mint, unit) that the account's money came from."""
        return self._db.read(partial(refunds.source, account=account))

    async def begin_refund(self, account: int, refund_id: str, mint: str, unit: str) -> Refund | NothingToRefund:
        return await self._db.run(
            partial(refunds.begin, account=account, refund_id=refund_id, mint=mint, unit=unit, now=self._now())
        )

    async def finish_refund(self, refund_id: str, token: str, fee_msat: int) -> Refund:
        return await self._db.run(
            partial(refunds.finish, refund_id=refund_id, token=token, fee_msat=fee_msat, now=self._now())
        )

    async def fail_refund(self, refund_id: str) -> None:
        await self._db.run(partial(refunds.fail, refund_id=refund_id))

    def open_refunds(self) -> list[Refund]:
        return self._db.read(refunds.still_open)

    # audit -----------------------------------------------------------------------------------------------------------

    async def audit(self) -> audit.Totals:
        """Prove the sums. Raises LedgerError when they are wrong."""
        return await self._db.run(audit.audit)
