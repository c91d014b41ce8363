"""Balances on their way out, in SQL: a hold and an intent before a coin moves, the token kept before it is answered."""

from __future__ import annotations

import sqlite3

from node.errors import LedgerError
from node.ledger import accounts, holds
from node.ledger.accounts import row_to
from node.ledger.model import MINTS, Held, NothingToRefund, Refund
from relays.money import Msat
from router_client.ecash.token import MSAT_PER_UNIT

_COLUMNS = ", ".join(Refund.__struct_fields__)


def source(conn: sqlite3.Connection, account: int) -> tuple[str, str] | None:
    """Mint and unit of the account's latest deposit: where its refund comes from if it can."""
    row = conn.execute(
        "SELECT mint, unit FROM deposits WHERE account = ? AND state = 'credited' ORDER BY created_at DESC LIMIT 1",
        (account,),
    ).fetchone()
    return None if row is None else (str(row[0]), str(row[1]))


def refundable_msat(conn: sqlite3.Connection, account: int) -> int:
    """What of the balance was paid in: granted credit is spent first and never paid out."""
    row = conn.execute(
        "SELECT available_msat, "
        "(SELECT COALESCE(SUM(amount_msat), 0) FROM transfers WHERE credit = ?1 AND kind = 'deposit') - "
        "(SELECT COALESCE(SUM(amount_msat), 0) FROM transfers WHERE debit = ?1 AND kind = 'refund') "
        "FROM accounts WHERE id = ?1",
        (account,),
    ).fetchone()
    if row is None:
        raise LedgerError(f"account {account} does not exist")
    return min(int(row[0]), int(row[1]))


def begin(
    conn: sqlite3.Connection, *, account: int, refund_id: str, mint: str, unit: str, now: int
) -> Refund | NothingToRefund:
    """Hold all that can be refunded in that unit and write the intent.

    A refund that is open is returned instead, so that asking twice cannot make two; and when nothing came in since the
    last one, that one is, so that a lost answer can be had again.
    """
    latest = _latest(conn, account)
    if latest is not None and latest.state == "open":
        return latest
    amount_msat = refundable_msat(conn, account)
    amount_msat -= amount_msat % MSAT_PER_UNIT[unit]
    if amount_msat == 0:
        if latest is not None and latest.state == "done" and not _deposit_since(conn, latest):
            return latest
        return NothingToRefund(Msat(accounts.read(conn, account).available_msat))
    outcome = holds.hold(
        conn,
        account=account,
        hold_id=refund_id,
        amount_msat=amount_msat,
        purpose="refund",
        now=now,
        expires_at=None,
    )
    if not isinstance(outcome, Held):
        raise LedgerError(f"account {account} cannot be held for its refund")
    conn.execute(
        f"INSERT INTO refunds ({_COLUMNS}, created_at) VALUES (?, ?, 'open', ?, ?, ?, 0, '', ?)",
        (refund_id, account, mint, unit, amount_msat, now),
    )
    opened = read(conn, refund_id)
    assert opened is not None
    return opened


def finish(conn: sqlite3.Connection, refund_id: str, token: str, fee_msat: int, now: int) -> Refund:
    """The token exists: book the amount out and keep the token for whoever asks again. Once."""
    refund = read(conn, refund_id)
    if refund is None or refund.state == "failed":
        raise LedgerError(f"refund {refund_id} was given up or never begun, and yet a token was made for it")
    if refund.state == "open":
        holds.end_refund(conn, refund_id, MINTS, now)
        conn.execute(
            "UPDATE refunds SET state = 'done', token = ?, fee_msat = ? WHERE id = ?", (token, fee_msat, refund_id)
        )
    finished = read(conn, refund_id)
    assert finished is not None
    return finished


def fail(conn: sqlite3.Connection, refund_id: str) -> None:
    """No token was made: the balance is free again."""
    changed = conn.execute("UPDATE refunds SET state = 'failed' WHERE id = ? AND state = 'open'", (refund_id,))
    if changed.rowcount == 1:
        holds.void(conn, refund_id)


def read(conn: sqlite3.Connection, refund_id: str) -> Refund | None:
    """The refund of that id."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM refunds WHERE id = ?", (refund_id,)).fetchone()
    return None if row is None else row_to(Refund, row)


def still_open(conn: sqlite3.Connection) -> list[Refund]:
    """Refunds whose outcome is not booked yet."""
    rows = conn.execute(f"SELECT {_COLUMNS} FROM refunds WHERE state = 'open' ORDER BY created_at")
    return [row_to(Refund, row) for row in rows]


def _latest(conn: sqlite3.Connection, account: int) -> Refund | None:
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM refunds WHERE account = ? AND state != 'failed' "
        "ORDER BY created_at DESC, rowid DESC LIMIT 1",
        (account,),
    ).fetchone()
    return None if row is None else row_to(Refund, row)


def _deposit_since(conn: sqlite3.Connection, refund: Refund) -> bool:
    """Whether money came in after the refund was booked."""
    row = conn.execute(
        "SELECT 1 FROM transfers WHERE credit = ?1 AND kind IN ('deposit', 'grant') AND id > "
        "(SELECT id FROM transfers WHERE kind = 'refund' AND reference = ?2)",
        (refund.account, refund.id),
    ).fetchone()
    return row is not None
