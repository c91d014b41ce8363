"""Accounts and what is booked between them, in SQL."""

from __future__ import annotations

from node.errors import LedgerError
from node.ledger.model import EARNINGS, GRANTS, MINTS, Account, TransferKind
from node.ledger.sql import Steps, columns, one, only, run, struct

_COLUMNS = columns(Account)


def create(now: int) -> Steps[int]:
    """A new, empty account of a caller; returns its id."""
    row = yield from one(
        "INSERT INTO accounts (kind, available_msat, held_msat, spent_msat, paid_in_msat, refund_address, "
        "created_at) VALUES ('key', 0, 0, 0, 0, '', ?1) RETURNING id",
        now,
    )
    assert row is not None
    return int(row[0])


def read(account: int) -> Steps[Account]:
    """The account. Raises LedgerError when there is none."""
    row = yield from one(f"SELECT {_COLUMNS} FROM accounts WHERE id = ?1", account)
    if row is None:
        raise LedgerError(f"account {account} does not exist")
    return struct(Account, row)


def earnings() -> Steps[Account]:
    """The node's own money."""
    return (yield from read(EARNINGS))


def ecash_in() -> Steps[int]:
    """What mints paid in less what went out."""
    mints = yield from read(MINTS)
    return -mints.available_msat - mints.held_msat


def free() -> Steps[int]:
    """What came in from mints and is still here, beyond all that callers could ask back and what is being paid out."""
    owed = (
        "SUM(CASE WHEN available_msat + held_msat < paid_in_msat THEN available_msat + held_msat ELSE paid_in_msat END)"
    )
    (owed_msat,) = yield from only(f"SELECT CAST(COALESCE({owed}, 0) AS BIGINT) FROM accounts WHERE kind = 'key'")
    leaving_msat = (yield from earnings()).held_msat
    return (yield from ecash_in()) - int(owed_msat) - leaving_msat


def set_refund_address(account: int, address: str) -> Steps[None]:
    """Where the balance goes when its owner asks for no other place; an empty address forgets it."""
    yield from run("UPDATE accounts SET refund_address = ?1 WHERE id = ?2", address, account)


def grant(account: int, amount_msat: int, reference: str, now: int) -> Steps[None]:
    """Credit a caller out of the operator's own pocket."""
    yield from transfer(GRANTS, account, amount_msat, "grant", reference, now)
    yield from move_available(GRANTS, -amount_msat)
    yield from move_available(account, amount_msat)


def transfer(debit: int, credit: int, amount_msat: int, kind: TransferKind, reference: str, now: int) -> Steps[None]:
    """Write the transfer; the caller moves the balances. The tables refuse one that was booked before (LedgerConflict)."""
    yield from run(
        "INSERT INTO transfers (debit, credit, amount_msat, kind, reference, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        debit,
        credit,
        amount_msat,
        kind,
        reference,
        now,
    )


def move_available(account: int, change_msat: int) -> Steps[None]:
    """Change what is available. The tables refuse a balance below zero (LedgerConflict)."""
    changed = yield from one(
        "UPDATE accounts SET available_msat = available_msat + ?1 WHERE id = ?2 RETURNING id", change_msat, account
    )
    if changed is None:
        raise LedgerError(f"account {account} does not exist")


def move_held(account: int, change_msat: int) -> Steps[None]:
    """Change what is held; the caller moves what is available."""
    yield from run("UPDATE accounts SET held_msat = held_msat + ?1 WHERE id = ?2", change_msat, account)
