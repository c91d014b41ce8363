"""The proof that the books add up, by query: every msat that came in is an account's, the node's, or went out again."""

from __future__ import annotations

import sqlite3

import msgspec

from node.errors import LedgerError
from node.ledger.model import EARNINGS, GRANTS, MINTS

_LAWS = {
    "all accounts together are zero": "SELECT COALESCE(SUM(available_msat + held_msat), 0) FROM accounts",
    "a balance is what was credited less what was debited": (
        "SELECT COUNT(*) FROM accounts WHERE available_msat + held_msat != "
        "(SELECT COALESCE(SUM(amount_msat), 0) FROM transfers WHERE credit = accounts.id) - "
        "(SELECT COALESCE(SUM(amount_msat), 0) FROM transfers WHERE debit = accounts.id)"
    ),
    "what is held is the sum of pending holds": (
        "SELECT COUNT(*) FROM accounts WHERE held_msat != "
        "(SELECT COALESCE(SUM(amount_msat), 0) FROM holds WHERE account = accounts.id AND state = 'pending')"
    ),
    "a posted request was charged what its hold says": (
        "SELECT COUNT(*) FROM holds WHERE purpose = 'request' AND state = 'posted' AND posted_msat != "
        "(SELECT COALESCE(SUM(amount_msat), 0) FROM transfers WHERE kind = 'charge' AND reference = holds.id)"
    ),
    "only posted holds were charged": (
        "SELECT COUNT(*) FROM transfers WHERE kind IN ('charge', 'refund') AND NOT EXISTS "
        "(SELECT 1 FROM holds WHERE holds.id = transfers.reference AND state = 'posted')"
    ),
    "a credited deposit was booked": (
        "SELECT COUNT(*) FROM deposits WHERE state = 'credited' AND amount_msat != "
        "(SELECT COALESCE(SUM(amount_msat), 0) FROM transfers WHERE kind = 'deposit' AND reference = deposits.id)"
    ),
    "every posted request has its receipt": (
        "SELECT COUNT(*) FROM holds WHERE purpose = 'request' AND state = 'posted' AND NOT EXISTS "
        "(SELECT 1 FROM receipts WHERE receipts.request_id = holds.id)"
    ),
}


class Totals(msgspec.Struct, frozen=True):
    """Where the money is, in msat."""

    keys_msat: int
    held_msat: int
    earned_msat: int
    ecash_in_msat: int
    """What mints paid in less what was refunded: the node's wallet must hold it."""
    granted_msat: int


def audit(conn: sqlite3.Connection) -> Totals:
    """Check every law; returns the totals. Raises LedgerError that names the laws which are broken."""
    broken = [law for law, query in _LAWS.items() if conn.execute(query).fetchone()[0] != 0]
    if broken:
        raise LedgerError("the books do not add up: " + "; ".join(broken))
    available, held = conn.execute(
        "SELECT COALESCE(SUM(available_msat), 0), COALESCE(SUM(held_msat), 0) FROM accounts WHERE kind = 'key'"
    ).fetchone()
    balance = dict(conn.execute("SELECT id, available_msat FROM accounts WHERE kind != 'key'").fetchall())
    return Totals(available, held, balance[EARNINGS], -balance[MINTS], -balance[GRANTS])
