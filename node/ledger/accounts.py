"""Accounts and what is booked between them, in SQL. Each function runs inside a transaction of the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from node.errors import LedgerError
from node.ledger.model import GRANTS, Account, TransferKind

_ACCOUNT = """
SELECT id, name, hint, revoked, available_msat, held_msat, created_at,
       (SELECT COALESCE(SUM(amount_msat), 0) FROM transfers WHERE debit = accounts.id AND kind = 'charge')
FROM accounts
"""


T = TypeVar("T", bound=msgspec.Struct)


def row_to(kind: type[T], row: Sequence[Any]) -> T:
    """A row whose columns are the struct's fields, in their order."""
    return msgspec.convert(dict(zip(kind.__struct_fields__, row, strict=True)), type=kind)


def create(conn: sqlite3.Connection, *, key_hash: str | None, hint: str, name: str, now: int) -> int:
    """A new, empty key account; returns its id. Raises sqlite3.IntegrityError for a key that exists."""
    row = conn.execute(
        "INSERT INTO accounts (kind, name, key_hash, hint, revoked, available_msat, held_msat, created_at) "
        "VALUES ('key', ?, ?, ?, 0, 0, 0, ?) RETURNING id",
        (name, key_hash, hint, now),
    ).fetchone()
    return int(row[0])


def by_key_hash(conn: sqlite3.Connection, key_hash: str) -> tuple[int, bool] | None:
    """(id, revoked) of the account a key names."""
    row = conn.execute("SELECT id, revoked FROM accounts WHERE key_hash = ?", (key_hash,)).fetchone()
    return None if row is None else (int(row[0]), bool(row[1]))


def by_token_hash(conn: sqlite3.Connection, token_hash: str) -> tuple[int, bool] | None:
    """(id, revoked) of the account that a redeemed token names: only one that opened it, not one that topped it up."""
    row = conn.execute(
        "SELECT accounts.id, revoked FROM deposits JOIN accounts ON accounts.id = deposits.account "
        "WHERE deposits.id = ? AND deposits.state = 'credited' AND purpose = 'open'",
        (token_hash,),
    ).fetchone()
    return None if row is None else (int(row[0]), bool(row[1]))


def read(conn: sqlite3.Connection, account: int) -> Account:
    """The account. Raises LedgerError when there is none."""
    row = conn.execute(f"{_ACCOUNT} WHERE id = ?", (account,)).fetchone()
    if row is None:
        raise LedgerError(f"account {account} does not exist")
    return _account(row)


def keys(conn: sqlite3.Connection) -> list[Account]:
    """All key accounts, oldest first."""
    return [_account(row) for row in conn.execute(f"{_ACCOUNT} WHERE kind = 'key' ORDER BY id")]


def revoke(conn: sqlite3.Connection, account: int) -> bool:
    """Close a key for good; False when there is no such key. Its balance stays in the books."""
    return conn.execute("UPDATE accounts SET revoked = 1 WHERE id = ? AND kind = 'key'", (account,)).rowcount == 1


def grant(conn: sqlite3.Connection, account: int, amount_msat: int, reference: str, now: int) -> None:
    """Credit a key out of the operator's own pocket."""
    transfer(conn, GRANTS, account, amount_msat, "grant", reference, now)
    move_available(conn, GRANTS, -amount_msat)
    move_available(conn, account, amount_msat)


def transfer(
    conn: sqlite3.Connection, debit: int, credit: int, amount_msat: int, kind: TransferKind, reference: str, now: int
) -> None:
    """Write the transfer; the caller moves the balances. Raises sqlite3.IntegrityError when it was booked before."""
    conn.execute(
        "INSERT INTO transfers (debit, credit, amount_msat, kind, reference, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (debit, credit, amount_msat, kind, reference, now),
    )


def move_available(conn: sqlite3.Connection, account: int, change_msat: int) -> None:
    """Change what is available. The table refuses a balance below zero."""
    changed = conn.execute(
        "UPDATE accounts SET available_msat = available_msat + ? WHERE id = ?", (change_msat, account)
    )
    if changed.rowcount != 1:
        raise LedgerError(f"account {account} does not exist")


def _account(row: tuple[int, str, str, int, int, int, int, int]) -> Account:
    id_, name, hint, revoked, available_msat, held_msat, created_at, spent_msat = row
    return Account(
        id=id_,
        name=name,
        hint=hint,
        revoked=bool(revoked),
        available_msat=available_msat,
        held_msat=held_msat,
        spent_msat=spent_msat,
        created_at=created_at,
    )
