"""The tables. What the code asserts, they enforce: no balance below zero, no token twice, no request twice, no transfer
changed once it is written."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import CheckConstraint, Connection, Index, UniqueConstraint, event, text
from sqlmodel import Field, SQLModel, create_engine

from node.ledger.model import EARNINGS, GRANTS, MINTS

SCHEMA_VERSION = 1


class AccountRow(SQLModel, table=True):
    __tablename__ = "accounts"
    __table_args__ = (
        CheckConstraint("kind = 'external' OR available_msat >= 0", name="never_below_zero"),
        CheckConstraint("held_msat >= 0", name="holds_are_positive"),
        CheckConstraint("kind IN ('key', 'node', 'external')", name="known_kind"),
    )
    id: int | None = Field(default=None, primary_key=True)
    kind: str
    name: str = ""
    key_hash: str | None = Field(default=None, unique=True)
    """SHA-256 of the key; the key itself is never stored."""
    hint: str = ""
    revoked: bool = False
    available_msat: int = 0
    held_msat: int = 0
    created_at: int


class HoldRow(SQLModel, table=True):
    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("amount_msat >= 0", name="hold_amount"),
        CheckConstraint("posted_msat >= 0 AND posted_msat <= amount_msat", name="never_above_the_hold"),
        CheckConstraint("state IN ('pending', 'posted', 'voided', 'expired')", name="hold_state"),
        Index("holds_pending", "expires_at", sqlite_where=text("state = 'pending'")),
    )
    id: str = Field(primary_key=True)
    account: int = Field(foreign_key="accounts.id", index=True)
    purpose: str
    amount_msat: int
    posted_msat: int = 0
    state: str = "pending"
    created_at: int
    expires_at: int | None = None


class TransferRow(SQLModel, table=True):
    __tablename__ = "transfers"
    __table_args__ = (
        CheckConstraint("amount_msat > 0", name="transfer_amount"),
        CheckConstraint("debit != credit", name="two_sides"),
        UniqueConstraint("kind", "reference", name="once"),
        Index("transfers_debit", "debit", "kind"),
        Index("transfers_credit", "credit", "kind"),
    )
    id: int | None = Field(default=None, primary_key=True)
    debit: int = Field(foreign_key="accounts.id")
    credit: int = Field(foreign_key="accounts.id")
    amount_msat: int
    kind: str
    reference: str
    created_at: int


class ReceiptRow(SQLModel, table=True):
    __tablename__ = "receipts"
    request_id: str = Field(primary_key=True, foreign_key="holds.id")
    account: int = Field(foreign_key="accounts.id", index=True)
    content: str
    """JSON of the receipt; it is signed when it is handed out."""
    created_at: int


class DepositRow(SQLModel, table=True):
    __tablename__ = "deposits"
    __table_args__ = (CheckConstraint("state IN ('open', 'credited', 'failed')", name="deposit_state"),)
    id: str = Field(primary_key=True)
    """SHA-256 of the token string: a token is credited once."""
    purpose: str
    account: int | None = Field(default=None, foreign_key="accounts.id")
    state: str = "open"
    mint: str
    unit: str
    amount_msat: int
    fee_msat: int = 0
    reason: str = ""
    created_at: int


class RefundRow(SQLModel, table=True):
    __tablename__ = "refunds"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'done', 'failed')", name="refund_state"),
        CheckConstraint("amount_msat > 0", name="refund_amount"),
        Index("refunds_account", "account", "created_at"),
    )
    id: str = Field(primary_key=True, foreign_key="holds.id")
    account: int = Field(foreign_key="accounts.id")
    state: str = "open"
    mint: str
    unit: str
    amount_msat: int
    fee_msat: int = 0
    token: str = ""
    created_at: int


_APPEND_ONLY = (
    "CREATE TRIGGER transfers_no_{verb} BEFORE {verb} ON transfers "
    "BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END"
)
_SYSTEM_ACCOUNTS = (
    "INSERT INTO accounts (id, kind, name, hint, revoked, available_msat, held_msat, created_at) VALUES "
    f"({EARNINGS}, 'node', 'earnings', '', 0, 0, 0, 0), ({MINTS}, 'external', 'mints', '', 0, 0, 0, 0), "
    f"({GRANTS}, 'external', 'grants', '', 0, 0, 0, 0)"
)


@event.listens_for(SQLModel.metadata.tables["transfers"], "after_create")
def _keep_transfers(_table: object, connection: Connection, **_: object) -> None:
    for verb in ("UPDATE", "DELETE"):
        connection.execute(text(_APPEND_ONLY.format(verb=verb)))


@event.listens_for(SQLModel.metadata.tables["accounts"], "after_create")
def _open_system_accounts(_table: object, connection: Connection, **_: object) -> None:
    connection.execute(text(_SYSTEM_ACCOUNTS))


def create_tables(path: Path) -> None:
    """Lay what is missing in the SQLite file at `path`."""
    engine = create_engine(f"sqlite:///{path}")
    try:
        SQLModel.metadata.create_all(engine)
    finally:
        engine.dispose()
