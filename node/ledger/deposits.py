"""Tokens on their way in, in SQL: an intent before the mint is asked, one credit after it answered."""

from __future__ import annotations

import sqlite3

from node.errors import LedgerError
from node.ledger import accounts
from node.ledger.accounts import row_to
from node.ledger.model import MINTS, Deposit

_COLUMNS = ", ".join(Deposit.__struct_fields__)


def begin(conn: sqlite3.Connection, deposit: Deposit, now: int) -> Deposit:
    """Write the intent; a token that is known answers with its row, opened again if it failed without being spent."""
    existing = read(conn, deposit.id)
    if existing is None:
        conn.execute(
            f"INSERT INTO deposits ({_COLUMNS}, created_at) VALUES (?, ?, ?, 'open', ?, ?, ?, 0, '', ?)",
            (
                deposit.id,
                deposit.purpose,
                deposit.account,
                deposit.mint,
                deposit.unit,
                deposit.amount_msat,
                now,
            ),
        )
        return deposit
    if existing.state == "failed":
        conn.execute(
            "UPDATE deposits SET state = 'open', reason = '', purpose = ?, account = ? WHERE id = ?",
            (deposit.purpose, deposit.account, deposit.id),
        )
        return deposit
    return existing


def credit(
    conn: sqlite3.Connection,
    deposit_id: str,
    *,
    amount_msat: int,
    fee_msat: int,
    key_hash: str | None,
    hint: str,
    now: int,
) -> int:
    """Book what arrived, once, on the deposit's account or on a new one; returns the account."""
    deposit = read(conn, deposit_id)
    if deposit is None:
        raise LedgerError(f"deposit {deposit_id[:12]} does not exist")
    if deposit.state == "credited" and deposit.account is not None:
        return deposit.account
    account = deposit.account
    if account is None:
        account = accounts.create(conn, key_hash=key_hash, hint=hint, name="", now=now)
    accounts.transfer(conn, MINTS, account, amount_msat, "deposit", deposit_id, now)
    accounts.move_available(conn, MINTS, -amount_msat)
    accounts.move_available(conn, account, amount_msat)
    conn.execute(
        "UPDATE deposits SET state = 'credited', account = ?, amount_msat = ?, fee_msat = ?, reason = '' WHERE id = ?",
        (account, amount_msat, fee_msat, deposit_id),
    )
    return account


def fail(conn: sqlite3.Connection, deposit_id: str, reason: str) -> None:
    """The mint said no: nothing came in."""
    conn.execute(
        "UPDATE deposits SET state = 'failed', reason = ? WHERE id = ? AND state = 'open'", (reason, deposit_id)
    )


def read(conn: sqlite3.Connection, deposit_id: str) -> Deposit | None:
    """The deposit of that token hash."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM deposits WHERE id = ?", (deposit_id,)).fetchone()
    return None if row is None else row_to(Deposit, row)


def still_open(conn: sqlite3.Connection) -> list[Deposit]:
    """Deposits whose outcome is not booked yet."""
    rows = conn.execute(f"SELECT {_COLUMNS} FROM deposits WHERE state = 'open' ORDER BY created_at")
    return [row_to(Deposit, row) for row in rows]
