"""The tables as they are today; `migrations/` has how they came to be so. What the code asserts, they enforce: no balance
below zero, no token twice, no request twice, no transfer changed once it is written.

The three tables that every request writes to have no foreign keys: the writer has the rows they name before it in the same
transaction, and the audit looks for strays.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, LargeBinary, text
from sqlmodel import Field, SQLModel

BIG = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere; in SQLite an INTEGER is, and must be called so to number rows by itself."""
BYTES = LargeBinary()


def _open(table: str) -> Index:
    """Jobs look for what is open every few seconds, beside all that ever ended."""
    is_open = text("state = 'open'")
    return Index(f"{table}_open", "created_at", sqlite_where=is_open, postgresql_where=is_open)


class AccountRow(SQLModel, table=True):
    __tablename__ = "accounts"
    __table_args__ = (
        CheckConstraint("kind = 'external' OR available_msat >= 0", name="never_below_zero"),
        CheckConstraint("held_msat >= 0", name="holds_are_positive"),
        CheckConstraint("kind IN ('key', 'node', 'external')", name="known_kind"),
    )
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    kind: str
    available_msat: int = Field(default=0, sa_type=BIG)
    held_msat: int = Field(default=0, sa_type=BIG)
    spent_msat: int = Field(default=0, sa_type=BIG)
    paid_in_msat: int = Field(default=0, sa_type=BIG)
    refund_address: str = ""
    created_at: int = Field(sa_type=BIG)


class KeyRow(SQLModel, table=True):
    __tablename__ = "keys"
    __table_args__ = (
        CheckConstraint("held_msat >= 0 AND spent_msat >= 0", name="key_sums"),
        CheckConstraint(
            "spend_limit_msat IS NULL OR spent_msat + held_msat <= spend_limit_msat", name="never_above_the_limit"
        ),
    )
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    account: int = Field(foreign_key="accounts.id", index=True, sa_type=BIG)
    parent: int | None = Field(default=None, foreign_key="keys.id", sa_type=BIG)
    hash: str = Field(unique=True)
    """SHA-256 of the key, or of the token that opened the account; neither is ever stored."""
    next_hash: str | None = Field(default=None, unique=True)
    """Of the key that takes this one's place when it is first used."""
    hint: str = ""
    name: str = ""
    spend_limit_msat: int | None = Field(default=None, sa_type=BIG)
    daily_limit_msat: int | None = Field(default=None, sa_type=BIG)
    expires_at: int | None = Field(default=None, sa_type=BIG)
    models: str | None = None
    """JSON list of what it may use."""
    revoked_at: int | None = Field(default=None, sa_type=BIG)
    spent_msat: int = Field(default=0, sa_type=BIG)
    held_msat: int = Field(default=0, sa_type=BIG)
    day: int = 0
    """The day, UTC, counted from 1970, that `day_msat` was held or spent on."""
    day_msat: int = Field(default=0, sa_type=BIG)
    created_at: int = Field(sa_type=BIG)


class HoldRow(SQLModel, table=True):
    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("amount_msat >= 0", name="hold_amount"),
        CheckConstraint("posted_msat >= 0 AND posted_msat <= amount_msat", name="never_above_the_hold"),
        CheckConstraint(
            "state = 'pending' OR state = 'posted' OR state = 'voided' OR state = 'expired'", name="hold_state"
        ),
        CheckConstraint(
            "(purpose = 'request' AND state = 'posted') = (receipt IS NOT NULL AND posted_at IS NOT NULL)",
            name="posted_with_its_receipt",
        ),
        Index(
            "holds_pending",
            "expires_at",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        {"sqlite_with_rowid": False},
    )
    id: str = Field(primary_key=True)
    account: int = Field(sa_type=BIG)
    key: int | None = Field(default=None, sa_type=BIG)
    purpose: str
    amount_msat: int = Field(sa_type=BIG)
    posted_msat: int = Field(default=0, sa_type=BIG)
    state: str = "pending"
    created_at: int = Field(sa_type=BIG)
    expires_at: int | None = Field(default=None, sa_type=BIG)
    instance: str = ""
    """The process that serves the request: it alone may take its own hold for a crash's at its start."""
    fingerprint: str = ""
    """SHA-256 of the request, where its caller named it by an Idempotency-Key."""
    receipt: str | None = None
    """Of a posted request, see `entry`; it is signed when it is handed out."""
    posted_at: int | None = Field(default=None, sa_type=BIG)


class TransferRow(SQLModel, table=True):
    __tablename__ = "transfers"
    __table_args__ = (
        CheckConstraint("amount_msat > 0", name="transfer_amount"),
        CheckConstraint("debit != credit", name="two_sides"),
        {"sqlite_with_rowid": False},
    )
    kind: str = Field(primary_key=True)
    reference: str = Field(primary_key=True)
    debit: int = Field(sa_type=BIG)
    credit: int = Field(sa_type=BIG)
    amount_msat: int = Field(sa_type=BIG)
    created_at: int = Field(sa_type=BIG)


class AnswerRow(SQLModel, table=True):
    __tablename__ = "answers"
    request_id: str = Field(primary_key=True, foreign_key="holds.id")
    sealed: bytes = Field(sa_type=BYTES)
    """The answer to a request with an Idempotency-Key, encrypted under that key and the caller's credential."""
    expires_at: int = Field(index=True, sa_type=BIG)


class ProgressRow(SQLModel, table=True):
    __tablename__ = "progress"
    request_id: str = Field(primary_key=True, foreign_key="holds.id")
    draft: str
    """JSON of the receipt that a stream would have if it ended now: what a sweep charges if a crash ends it."""


class DepositRow(SQLModel, table=True):
    __tablename__ = "deposits"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'credited', 'failed')", name="deposit_state"),
        _open("deposits"),
    )
    id: str = Field(primary_key=True)
    """SHA-256 of the token string: a token is credited once."""
    purpose: str
    account: int | None = Field(default=None, foreign_key="accounts.id", index=True, sa_type=BIG)
    state: str = "open"
    mint: str
    unit: str
    amount_msat: int = Field(sa_type=BIG)
    fee_msat: int = Field(default=0, sa_type=BIG)
    reason: str = ""
    instance: str = ""
    created_at: int = Field(sa_type=BIG)


class RefundRow(SQLModel, table=True):
    __tablename__ = "refunds"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'done', 'failed')", name="refund_state"),
        CheckConstraint("amount_msat > 0", name="refund_amount"),
        Index("refunds_account", "account", "created_at"),
        _open("refunds"),
    )
    id: str = Field(primary_key=True, foreign_key="holds.id")
    account: int = Field(foreign_key="accounts.id", sa_type=BIG)
    state: str = "open"
    mint: str
    unit: str
    amount_msat: int = Field(sa_type=BIG)
    fee_msat: int = Field(default=0, sa_type=BIG)
    token: str = ""
    recipient: str = ""
    instance: str = ""
    received: bool = False
    created_at: int = Field(sa_type=BIG)


class PayoutRow(SQLModel, table=True):
    __tablename__ = "payouts"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'done', 'failed')", name="payout_state"),
        CheckConstraint("amount_msat > 0", name="payout_amount"),
        _open("payouts"),
    )
    id: str = Field(primary_key=True, foreign_key="holds.id")
    state: str = "open"
    mint: str
    unit: str
    amount_msat: int = Field(sa_type=BIG)
    fee_msat: int = Field(default=0, sa_type=BIG)
    recipient: str
    instance: str = ""
    created_at: int = Field(sa_type=BIG)
