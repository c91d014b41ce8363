"""Holds: the two phases of a charge, in SQL. Each function is one atomic move and may be called again safely."""

from __future__ import annotations

import sqlite3

import msgspec

from node.errors import LedgerError
from node.ledger import accounts
from node.ledger.model import EARNINGS, DuplicateHold, Held, HoldOutcome, HoldPurpose, HoldState, Insufficient, Posted
from node.ledger.model import check_end as check_hold_end
from relays.money import Msat
from relays.receipt import Receipt


def hold(
    conn: sqlite3.Connection,
    *,
    account: int,
    hold_id: str,
    amount_msat: int,
    purpose: HoldPurpose,
    now: int,
    expires_at: int | None,
) -> HoldOutcome:
    """Take `amount_msat` out of what is available, if that much is there and the key is not revoked."""
    if conn.execute("SELECT 1 FROM holds WHERE id = ?", (hold_id,)).fetchone():
        return DuplicateHold()
    row = conn.execute(
        "UPDATE accounts SET available_msat = available_msat - ?1, held_msat = held_msat + ?1 "
        "WHERE id = ?2 AND available_msat >= ?1 AND NOT revoked RETURNING available_msat",
        (amount_msat, account),
    ).fetchone()
    if row is None:
        left = conn.execute("SELECT available_msat FROM accounts WHERE id = ?", (account,)).fetchone()
        return Insufficient(Msat(0 if left is None else left[0]))
    conn.execute(
        "INSERT INTO holds (id, account, purpose, amount_msat, posted_msat, state, created_at, expires_at) "
        "VALUES (?, ?, ?, ?, 0, 'pending', ?, ?)",
        (hold_id, account, purpose, amount_msat, now, expires_at),
    )
    return Held(Msat(row[0]))


def post(conn: sqlite3.Connection, draft: Receipt, now: int) -> Posted:
    """Charge a request's hold by the draft's cost, free the rest, and keep the receipt with the balance after it.

    A hold that was posted before answers with the receipt of then. Raises LedgerError for a hold that is not pending.
    """
    earlier = receipt(conn, draft.request_id)
    if earlier is not None:
        return earlier
    cost_msat = draft.cost_msat
    account, amount_msat = _end(conn, draft.request_id, "posted", cost_msat)
    if amount_msat != draft.hold_msat:
        raise LedgerError(f"the receipt of {draft.request_id} names another hold than the books")
    row = conn.execute(
        "UPDATE accounts SET held_msat = held_msat - ?1, available_msat = available_msat + ?1 - ?2 "
        "WHERE id = ?3 RETURNING available_msat",
        (amount_msat, cost_msat, account),
    ).fetchone()
    if cost_msat:
        accounts.transfer(conn, account, EARNINGS, cost_msat, "charge", draft.request_id, now)
        accounts.move_available(conn, EARNINGS, cost_msat)
    final = msgspec.structs.replace(draft, balance_msat=int(row[0]))
    conn.execute(
        "INSERT INTO receipts (request_id, account, content, created_at) VALUES (?, ?, ?, ?)",
        (draft.request_id, account, msgspec.json.encode(final).decode(), now),
    )
    return Posted(final, now)


def void(conn: sqlite3.Connection, hold_id: str) -> bool:
    """Free a pending hold; False when it had ended before."""
    row = conn.execute("SELECT state FROM holds WHERE id = ?", (hold_id,)).fetchone()
    if row is None or row[0] != "pending":
        return False
    _release(conn, hold_id, "voided")
    return True


def expire(conn: sqlite3.Connection, now: int) -> int:
    """Free every pending hold of a request whose time is over; returns how many there were."""
    return _expire_where(conn, "expires_at <= ?", now)


def expire_orphans(conn: sqlite3.Connection, started_at: int) -> int:
    """Free every pending hold of a request that an earlier process left when it died."""
    return _expire_where(conn, "created_at <= ?", started_at)


def receipt(conn: sqlite3.Connection, request_id: str, account: int | None = None) -> Posted | None:
    """A request's receipt; with `account`, only if it is that account's."""
    row = conn.execute(
        "SELECT content, created_at, account FROM receipts WHERE request_id = ?", (request_id,)
    ).fetchone()
    if row is None or (account is not None and row[2] != account):
        return None
    return Posted(msgspec.json.decode(row[0], type=Receipt), int(row[1]))


def _expire_where(conn: sqlite3.Connection, condition: str, bound: int) -> int:
    rows = conn.execute(
        f"SELECT id FROM holds WHERE state = 'pending' AND purpose = 'request' AND {condition}",
        (bound,),
    ).fetchall()
    for (hold_id,) in rows:
        _release(conn, hold_id, "expired")
    return len(rows)


def _release(conn: sqlite3.Connection, hold_id: str, state: HoldState) -> None:
    account, amount_msat = _end(conn, hold_id, state, 0)
    conn.execute(
        "UPDATE accounts SET held_msat = held_msat - ?1, available_msat = available_msat + ?1 WHERE id = ?2",
        (amount_msat, account),
    )


def _end(conn: sqlite3.Connection, hold_id: str, state: HoldState, posted_msat: int) -> tuple[int, int]:
    """Put a hold into its final state; returns its account and amount."""
    row = conn.execute("SELECT account, amount_msat, state FROM holds WHERE id = ?", (hold_id,)).fetchone()
    if row is None:
        raise LedgerError(f"hold {hold_id} does not exist")
    account, amount_msat, before = row
    check_hold_end(before, state)
    conn.execute("UPDATE holds SET state = ?, posted_msat = ? WHERE id = ?", (state, posted_msat, hold_id))
    return int(account), int(amount_msat)


def end_refund(conn: sqlite3.Connection, refund_id: str, external: int, now: int) -> None:
    """Post the whole hold of a refund: the amount leaves the books towards `external`."""
    row = conn.execute("SELECT amount_msat FROM holds WHERE id = ?", (refund_id,)).fetchone()
    if row is None:
        raise LedgerError(f"hold {refund_id} does not exist")
    account, amount_msat = _end(conn, refund_id, "posted", int(row[0]))
    conn.execute("UPDATE accounts SET held_msat = held_msat - ? WHERE id = ?", (amount_msat, account))
    accounts.transfer(conn, account, external, amount_msat, "refund", refund_id, now)
    accounts.move_available(conn, external, amount_msat)
