"""A request's receipt stands in its row; a transfer is named by what it is for: fewer rows and trees for each request. In
PostgreSQL a batch is booked by a function, on one way there and back. What running streams have come to is noted."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

STATES = ("pending", "posted", "voided", "expired")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

LOCK, EARNINGS = 4_801_620_177, 1
BOOK = f"""
CREATE FUNCTION book_batch(
    known xid8,
    a_id bigint[], a_available bigint[], a_held bigint[], a_spent bigint[],
    k_id bigint[], k_spent bigint[], k_held bigint[], k_day int[], k_day_msat bigint[],
    h_id text[], h_account bigint[], h_key bigint[], h_purpose text[], h_amount bigint[], h_posted bigint[], h_state text[],
    h_created bigint[], h_expires bigint[], h_instance text[], h_fingerprint text[], h_receipt text[], h_posted_at bigint[],
    e_state text[], e_posted bigint[], e_receipt text[], e_posted_at bigint[], e_id text[],
    t_debit bigint[], t_amount bigint[], t_reference text[], t_created bigint[]
) RETURNS xid8 LANGUAGE plpgsql AS $$
DECLARE
    own xid8;
BEGIN
    PERFORM pg_advisory_xact_lock({LOCK});
    -- Numbers are given to transactions that write. Ours is the next one only if nobody has written since.
    own := pg_current_xact_id();
    IF own <> known THEN
        RAISE EXCEPTION 'others have written' USING ERRCODE = 'SR001';
    END IF;
    IF cardinality(a_id) > 0 THEN
        UPDATE accounts SET available_msat = v.available, held_msat = v.held, spent_msat = v.spent
        FROM unnest(a_id, a_available, a_held, a_spent) AS v(id, available, held, spent) WHERE accounts.id = v.id;
    END IF;
    IF cardinality(k_id) > 0 THEN
        UPDATE keys SET spent_msat = v.spent, held_msat = v.held, day = v.day, day_msat = v.day_msat
        FROM unnest(k_id, k_spent, k_held, k_day, k_day_msat) AS v(id, spent, held, day, day_msat) WHERE keys.id = v.id;
    END IF;
    IF cardinality(h_id) > 0 THEN
        INSERT INTO holds (id, account, key, purpose, amount_msat, posted_msat, state, created_at, expires_at, instance,
                           fingerprint, receipt, posted_at)
        SELECT * FROM unnest(h_id, h_account, h_key, h_purpose, h_amount, h_posted, h_state, h_created, h_expires,
                             h_instance, h_fingerprint, h_receipt, h_posted_at);
    END IF;
    IF cardinality(e_id) > 0 THEN
        UPDATE holds SET state = v.state, posted_msat = v.posted, receipt = v.receipt, posted_at = v.posted_at
        FROM unnest(e_state, e_posted, e_receipt, e_posted_at, e_id) AS v(state, posted, receipt, posted_at, id)
        WHERE holds.id = v.id;
    END IF;
    IF cardinality(t_debit) > 0 THEN
        INSERT INTO transfers (debit, credit, amount_msat, kind, reference, created_at)
        SELECT debit, {EARNINGS}, amount, 'charge', reference, created
        FROM unnest(t_debit, t_amount, t_reference, t_created) AS v(debit, amount, reference, created);
    END IF;
    RETURN own;
END $$
"""


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
    op.create_table(
        "progress",
        sa.Column("request_id", sa.String(), sa.ForeignKey("holds.id"), primary_key=True),
        sa.Column("draft", sa.String(), nullable=False),
    )
    if sqlite:
        _transfers_anew()
    else:
        op.drop_constraint("once", "transfers", type_="unique")
        op.drop_constraint("transfers_pkey", "transfers", type_="primary")
        op.drop_column("transfers", "id")
        op.create_primary_key("transfers_pkey", "transfers", ["kind", "reference"])
        op.execute(BOOK)


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
