"""The ledger's vocabulary and rules, without a database.

Money moves in two phases, as in TigerBeetle: a hold takes an amount out of what is available, and ends once, by being
posted (part of it is charged, the rest is free again), voided or expired (all of it is free again).

Accounts are of three kinds. A `key` account is a caller's. The `node` account is what was earned. `external` accounts stand
for the world outside (mints, the operator's own grants): they go below zero by what came in, so that all accounts
together are always zero.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from node.errors import LedgerError
from relays.money import Msat
from relays.receipt import Receipt

HoldState = Literal["pending", "posted", "voided", "expired"]
HoldPurpose = Literal["request", "refund"]
DepositPurpose = Literal["open", "topup"]
TransferKind = Literal["deposit", "grant", "charge", "refund"]

EARNINGS = 1
"""Account of the node's own money."""
MINTS = 2
"""External account: ecash that came in and went out."""
GRANTS = 3
"""External account: what the operator credited to keys by hand."""

ENDS: dict[HoldState, frozenset[HoldState]] = {
    "pending": frozenset({"posted", "voided", "expired"}),
    "posted": frozenset(),
    "voided": frozenset(),
    "expired": frozenset(),
}


def check_end(before: HoldState, after: HoldState) -> None:
    """Raise LedgerError unless a hold may go from one state to the other."""
    if after not in ENDS[before]:
        raise LedgerError(f"a {before} hold cannot become {after}")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's balance. `available_msat` can be spent; `held_msat` is promised to requests that run."""

    id: int
    name: str
    hint: str
    revoked: bool
    available_msat: int
    held_msat: int
    spent_msat: int
    created_at: int


class Held(msgspec.Struct, frozen=True):
    """The hold stands."""

    available_msat: Msat


class Insufficient(msgspec.Struct, frozen=True):
    """Nothing was held: that much is available."""

    available_msat: Msat


class DuplicateHold(msgspec.Struct, frozen=True):
    """Nothing was held: a hold of that id exists."""


HoldOutcome = Held | Insufficient | DuplicateHold


class Posted(msgspec.Struct, frozen=True):
    """The charge as it stands in the books, now or since an earlier call."""

    receipt: Receipt
    created_at: int


class Deposit(msgspec.Struct, frozen=True, kw_only=True):
    """A token on its way in, named by the hash of its string."""

    id: str
    purpose: DepositPurpose
    account: int | None
    state: Literal["open", "credited", "failed"]
    mint: str
    unit: str
    amount_msat: int
    fee_msat: int
    reason: str


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A balance on its way out. `amount_msat` left the account; the token is worth `amount_msat - fee_msat`."""

    id: str
    account: int
    state: Literal["open", "done", "failed"]
    mint: str
    unit: str
    amount_msat: int
    fee_msat: int
    token: str


class NothingToRefund(msgspec.Struct, frozen=True):
    """No ecash of the caller's is on the account; `granted_msat` of it is the operator's grant, or less than a unit."""

    available_msat: Msat
