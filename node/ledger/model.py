"""The ledger's vocabulary, without a database.

Money moves in two phases, as in TigerBeetle: a hold takes an amount out of what is available, and ends once, by being
posted (part of it is charged, the rest is free again), voided or expired (all of it is free again).

Accounts are of three kinds. A `key` account is a caller's; any number of keys spend from it. The `node` account is what was
earned. `external` accounts stand for the world outside (mints, the operator's own grants): they go below zero by what came
in, so that all accounts together are always zero.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from node.errors import LedgerError
from relays.money import Msat
from relays.receipt import Receipt

HoldState = Literal["pending", "posted", "voided", "expired"]
HoldPurpose = Literal["request", "refund", "payout"]
DepositPurpose = Literal["open", "topup"]
TransferKind = Literal["deposit", "grant", "refund", "payout", "saving", "loss"]

LOSSES = 0
"""External account: what the operator bears, such as coins that a mint calls spent after they were accepted offline."""
EARNINGS = 1
"""Account of the node's own money."""
MINTS = 2
"""External account: ecash that came in and went out."""
GRANTS = 3
"""External account: what the operator credited to keys by hand."""

DAY_S = 86_400

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
    available_msat: int
    held_msat: int
    spent_msat: int
    paid_in_msat: int
    """What came in from mints less what was refunded: granted credit is not in it, and is never paid out."""
    refund_address: str
    created_at: int

    @property
    def refundable_msat(self) -> int:
        """What of the balance was paid in: granted credit is spent first."""
        return min(self.available_msat, self.paid_in_msat)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may do; None is no limit."""

    spend_limit_msat: int | None = None
    daily_limit_msat: int | None = None
    """Within one day, UTC."""
    expires_at: int | None = None
    models: tuple[str, ...] | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A credential that spends from an account, within its limits. A child names the key that made it."""

    id: int
    account: int
    parent: int | None
    hint: str
    name: str
    limits: Limits
    revoked: bool
    spent_msat: int
    held_msat: int
    day: int
    day_msat: int
    created_at: int

    def left_msat(self, now: int) -> int | None:
        """What its limits leave it to spend; None when it has none."""
        lefts = []
        if self.limits.spend_limit_msat is not None:
            lefts.append(self.limits.spend_limit_msat - self.spent_msat - self.held_msat)
        if self.limits.daily_limit_msat is not None:
            today_msat = self.day_msat if self.day == now // DAY_S else 0
            lefts.append(self.limits.daily_limit_msat - today_msat)
        return min(lefts, default=None)

    def may_use(self, model: str) -> bool:
        """Whether the key's list of models allows this one."""
        return self.limits.models is None or model in self.limits.models


class Held(msgspec.Struct, frozen=True, gc=False):
    """The hold stands."""

    available_msat: Msat


class Insufficient(msgspec.Struct, frozen=True):
    """Nothing was held: that much is available."""

    available_msat: Msat


class LimitReached(msgspec.Struct, frozen=True):
    """Nothing was held: the key may spend that much more, in all or today."""

    limit: Literal["spend", "daily"]
    left_msat: Msat


class KeyClosed(msgspec.Struct, frozen=True):
    """Nothing was held: the key, or the one that made it, was revoked or is past its end."""

    reason: Literal["revoked", "expired"]


class DuplicateHold(msgspec.Struct, frozen=True):
    """Nothing was held: a hold of that id exists, for a request with that fingerprint."""

    state: HoldState = "pending"
    fingerprint: str = ""


HoldOutcome = Held | Insufficient | LimitReached | KeyClosed | DuplicateHold


class Posted(msgspec.Struct, frozen=True, gc=False):
    """The charge as it stands in the books, now or since an earlier call."""

    receipt: Receipt
    created_at: int


class Deposit(msgspec.Struct, frozen=True, kw_only=True):
    """A token on its way in, named by the hash of its string. `instance` is the process whose wallet takes it in."""

    id: str
    purpose: DepositPurpose
    account: int | None
    state: Literal["open", "credited", "failed"]
    mint: str
    unit: str
    amount_msat: int
    fee_msat: int
    reason: str
    instance: str = ""


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A balance on its way out. `amount_msat` left the account; `amount_msat - fee_msat` arrives, as a token or, with a
    `recipient`, at that Lightning address."""

    id: str
    account: int
    state: Literal["open", "done", "failed"]
    mint: str
    unit: str
    amount_msat: int
    fee_msat: int
    token: str
    recipient: str = ""
    instance: str = ""
    received: bool = False
    """Whether its owner has it for sure: said so, or spent it. Until then it is answered again."""


class NothingToRefund(msgspec.Struct, frozen=True):
    """No ecash of the caller's is on the account; `available_msat` of it is the operator's grant, or less than a unit."""

    available_msat: Msat


class Payout(msgspec.Struct, frozen=True, kw_only=True):
    """Earnings on their way to the operator's Lightning address."""

    id: str
    state: Literal["open", "done", "failed"]
    mint: str
    unit: str
    amount_msat: int
    fee_msat: int
    recipient: str
    instance: str
    created_at: int
