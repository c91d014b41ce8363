"""A request's receipt stands in its row; a transfer is named by what it is for: fewer rows and trees for each request."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

STATES = ("pending", "posted", "voided", "expired")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for column in (sa.Column("receipt", sa.String()), sa.Column("posted_at", BIG)):
        op.add_column("holds", column)
    op.execute(
        "UPDATE holds SET receipt = receipts.content, posted_at = receipts.created_at FROM receipts "
        "WHERE receipts.request_id = holds.id"
    )
    with op.batch_alter_table("holds", table_kwargs={"sqlite_with_rowid": False}) as table:
        table.drop_constraint("hold_state", type_="check")
        # Said with IN, SQLite fills a table of the four for each row that it writes.
        table.create_check_constraint("hold_state", " OR ".join(f"state = '{state}'" for state in STATES))
        table.create_check_constraint(
            "posted_with_its_receipt",
            "(purpose = 'request' AND state = 'posted') = (receipt IS NOT NULL AND posted_at IS NOT NULL)",
        )
    op.drop_table("receipts")
    if sqlite:
        _transfers_anew()
    else:
        op.drop_constraint("once", "transfers", type_="unique")
        op.drop_constraint("transfers_pkey", "transfers", type_="primary")
        op.drop_column("transfers", "id")
        op.create_primary_key("transfers_pkey", "transfers", ["kind", "reference"])


def _transfers_anew() -> None:
    """SQLite names a table's key when it makes it."""
    for verb in ("UPDATE", "DELETE"):
        op.execute(f"DROP TRIGGER transfers_no_{verb}")
    op.rename_table("transfers", "transfers_before")
    op.create_table(
        "transfers",
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("reference", sa.String(), primary_key=True),
        sa.Column("debit", BIG, nullable=False),
        sa.Column("credit", BIG, nullable=False),
        sa.Column("amount_msat", BIG, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("amount_msat > 0", name="transfer_amount"),
        sa.CheckConstraint("debit != credit", name="two_sides"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO transfers (kind, reference, debit, credit, amount_msat, created_at) "
        "SELECT kind, reference, debit, credit, amount_msat, created_at FROM transfers_before"
    )
    op.drop_table("transfers_before")
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER transfers_no_{verb} BEFORE {verb} ON transfers "
            "BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END"
        )
