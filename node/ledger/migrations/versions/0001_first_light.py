"""Accounts, holds, transfers, receipts, deposits, refunds."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

EARNINGS, MINTS, GRANTS = 1, 2, 3
FIRST_CALLER = 100
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _accounts_and_transfers()
    _requests()
    _in_and_out()
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER transfers_no_{verb} BEFORE {verb} ON transfers "
                "BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION transfers_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'transfers are append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        op.execute(
            "CREATE TRIGGER transfers_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers "
            "FOR EACH STATEMENT EXECUTE FUNCTION transfers_append_only()"
        )
        op.execute(f"ALTER SEQUENCE accounts_id_seq RESTART WITH {FIRST_CALLER}")


def _accounts_and_transfers() -> None:
    accounts = op.create_table(
        "accounts",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("key_hash", sa.String(), unique=True),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.Column("available_msat", BIG, nullable=False),
        sa.Column("held_msat", BIG, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("kind = 'external' OR available_msat >= 0", name="never_below_zero"),
        sa.CheckConstraint("held_msat >= 0", name="holds_are_positive"),
        sa.CheckConstraint("kind IN ('key', 'node', 'external')", name="known_kind"),
    )
    empty = {"hint": "", "revoked": False, "available_msat": 0, "held_msat": 0, "created_at": 0}
    op.bulk_insert(
        accounts,
        [
            {"id": EARNINGS, "kind": "node", "name": "earnings", **empty},
            {"id": MINTS, "kind": "external", "name": "mints", **empty},
            {"id": GRANTS, "kind": "external", "name": "grants", **empty},
        ],
    )
    op.create_table(
        "transfers",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("debit", BIG, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("credit", BIG, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("amount_msat", BIG, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("amount_msat > 0", name="transfer_amount"),
        sa.CheckConstraint("debit != credit", name="two_sides"),
        sa.UniqueConstraint("kind", "reference", name="once"),
    )
    op.create_index("transfers_debit", "transfers", ["debit", "kind"])
    op.create_index("transfers_credit", "transfers", ["credit", "kind"])


def _requests() -> None:
    op.create_table(
        "holds",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("account", BIG, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("amount_msat", BIG, nullable=False),
        sa.Column("posted_msat", BIG, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("expires_at", BIG),
        sa.CheckConstraint("amount_msat >= 0", name="hold_amount"),
        sa.CheckConstraint("posted_msat >= 0 AND posted_msat <= amount_msat", name="never_above_the_hold"),
        sa.CheckConstraint("state IN ('pending', 'posted', 'voided', 'expired')", name="hold_state"),
    )
    pending = sa.text("state = 'pending'")
    op.create_index("ix_holds_account", "holds", ["account"])
    op.create_index("holds_pending", "holds", ["expires_at"], sqlite_where=pending, postgresql_where=pending)
    op.create_table(
        "receipts",
        sa.Column("request_id", sa.String(), sa.ForeignKey("holds.id"), primary_key=True),
        sa.Column("account", BIG, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
    )
    op.create_index("ix_receipts_account", "receipts", ["account"])


def _in_and_out() -> None:
    op.create_table(
        "deposits",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("account", BIG, sa.ForeignKey("accounts.id")),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("mint", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("amount_msat", BIG, nullable=False),
        sa.Column("fee_msat", BIG, nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("state IN ('open', 'credited', 'failed')", name="deposit_state"),
    )
    op.create_table(
        "refunds",
        sa.Column("id", sa.String(), sa.ForeignKey("holds.id"), primary_key=True),
        sa.Column("account", BIG, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("mint", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("amount_msat", BIG, nullable=False),
        sa.Column("fee_msat", BIG, nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("state IN ('open', 'done', 'failed')", name="refund_state"),
        sa.CheckConstraint("amount_msat > 0", name="refund_amount"),
    )
    op.create_index("refunds_account", "refunds", ["account", "created_at"])
