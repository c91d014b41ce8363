"""Keys leave accounts for a table of their own, with limits; running sums instead of sums over all transfers; who serves a
request, a deposit or a refund; answers kept for an Idempotency-Key; payouts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

LOSSES = 0
NAMES = {"fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s"}
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _make_keys()
    _fill_keys()
    _accounts()
    _who_serves()
    _payouts_and_answers()
    _loosen()
    for index, table in (
        ("transfers_debit", "transfers"),
        ("transfers_credit", "transfers"),
        ("ix_holds_account", "holds"),
        ("ix_receipts_account", "receipts"),
    ):
        op.drop_index(index, table)


def _make_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("account", BIG, sa.ForeignKey("accounts.id"), nullable=False, index=True),
        sa.Column("parent", BIG, sa.ForeignKey("keys.id")),
        sa.Column("hash", sa.String(), nullable=False, unique=True),
        sa.Column("next_hash", sa.String(), unique=True),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spend_limit_msat", BIG),
        sa.Column("daily_limit_msat", BIG),
        sa.Column("expires_at", BIG),
        sa.Column("models", sa.String()),
        sa.Column("revoked_at", BIG),
        sa.Column("spent_msat", BIG, nullable=False),
        sa.Column("held_msat", BIG, nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("day_msat", BIG, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("held_msat >= 0 AND spent_msat >= 0", name="key_sums"),
        sa.CheckConstraint(
            "spend_limit_msat IS NULL OR spent_msat + held_msat <= spend_limit_msat", name="never_above_the_limit"
        ),
    )


def _fill_keys() -> None:
    """A key keeps its account's number. Where a token and a key both named an account, the key takes the token's place when
    it is first used."""
    opener = "(SELECT id FROM deposits WHERE account = accounts.id AND purpose = 'open' AND state = 'credited')"
    op.execute(
        "INSERT INTO keys (id, account, hash, next_hash, hint, name, revoked_at, spent_msat, held_msat, day, day_msat, "
        "created_at) "
        f"SELECT id, id, COALESCE({opener}, key_hash), CASE WHEN {opener} IS NULL THEN NULL ELSE key_hash END, hint, name, "
        "CASE WHEN revoked THEN created_at ELSE NULL END, "
        "COALESCE((SELECT SUM(amount_msat) FROM transfers WHERE debit = accounts.id AND kind = 'charge'), 0), "
        "COALESCE((SELECT SUM(amount_msat) FROM holds WHERE account = accounts.id AND purpose = 'request' "
        "AND state = 'pending'), 0), 0, 0, created_at "
        f"FROM accounts WHERE kind = 'key' AND COALESCE({opener}, key_hash) IS NOT NULL"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SELECT setval('keys_id_seq', COALESCE((SELECT MAX(id) FROM keys), 99) + 1, false)")


def _accounts() -> None:
    with op.batch_alter_table("accounts") as table:
        for column in ("spent_msat", "paid_in_msat"):
            table.add_column(sa.Column(column, BIG, nullable=False, server_default="0"))
        table.add_column(sa.Column("refund_address", sa.String(), nullable=False, server_default=""))
        for column in ("name", "key_hash", "hint", "revoked"):
            table.drop_column(column)
    op.execute(
        "UPDATE accounts SET "
        "spent_msat = COALESCE((SELECT SUM(amount_msat) FROM transfers WHERE debit = accounts.id AND kind = 'charge'), 0), "
        "paid_in_msat = "
        "COALESCE((SELECT SUM(amount_msat) FROM transfers WHERE credit = accounts.id AND kind = 'deposit'), 0) - "
        "COALESCE((SELECT SUM(amount_msat) FROM transfers WHERE debit = accounts.id AND kind = 'refund'), 0) "
        "WHERE kind = 'key'"
    )
    op.execute(
        f"INSERT INTO accounts (id, kind, available_msat, held_msat, created_at) VALUES ({LOSSES}, 'external', 0, 0, 0)"
    )


def _who_serves() -> None:
    """Requests and journals of the only process there was so far belong to whoever opens the books first."""
    for table in ("holds", "deposits", "refunds"):
        op.add_column(table, sa.Column("instance", sa.String(), nullable=False, server_default=""))
    op.add_column("holds", sa.Column("key", BIG))
    op.add_column("holds", sa.Column("fingerprint", sa.String(), nullable=False, server_default=""))
    op.create_index("ix_deposits_account", "deposits", ["account"])
    op.execute("UPDATE holds SET key = account WHERE purpose = 'request' AND account IN (SELECT id FROM keys)")
    op.add_column("refunds", sa.Column("recipient", sa.String(), nullable=False, server_default=""))
    op.add_column("refunds", sa.Column("received", sa.Boolean(), nullable=False, server_default=sa.false()))


def _loosen() -> None:
    """The writer has the account and the key of a request before it in the same transaction, and the audit looks for strays:
    a foreign key would look once more, for each row of the three tables that every request writes to."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        for verb in ("UPDATE", "DELETE"):
            op.execute(f"DROP TRIGGER transfers_no_{verb}")
    for name, columns in (
        ("holds", {"account": "accounts"}),
        ("transfers", {"debit": "accounts", "credit": "accounts"}),
        ("receipts", {"account": "accounts", "request_id": "holds"}),
    ):
        # What is found by its text id lies in its order: one tree to write to instead of two.
        kept = {} if name == "transfers" else {"sqlite_with_rowid": False}
        with op.batch_alter_table(name, naming_convention=NAMES, table_kwargs=kept) as table:
            for column, other in columns.items():
                constraint = f"fk_{name}_{column}_{other}" if sqlite else f"{name}_{column}_fkey"
                table.drop_constraint(constraint, type_="foreignkey")
    if sqlite:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER transfers_no_{verb} BEFORE {verb} ON transfers "
                "BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END"
            )


def _payouts_and_answers() -> None:
    op.create_table(
        "payouts",
        sa.Column("id", sa.String(), sa.ForeignKey("holds.id"), primary_key=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("mint", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("amount_msat", BIG, nullable=False),
        sa.Column("fee_msat", BIG, nullable=False),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("instance", sa.String(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("state IN ('open', 'done', 'failed')", name="payout_state"),
        sa.CheckConstraint("amount_msat > 0", name="payout_amount"),
    )
    op.create_table(
        "answers",
        sa.Column("request_id", sa.String(), sa.ForeignKey("holds.id"), primary_key=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", BIG, nullable=False, index=True),
    )
