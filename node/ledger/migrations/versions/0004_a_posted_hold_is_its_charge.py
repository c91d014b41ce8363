"""A posted request is its own charge: the transfer beside it, which said the same, is no longer written. What has ended
is final: the tables refuse to change it, as they do for transfers."""

from alembic import op

revision = "0004"
down_revision = "0003"

LOCK = 4_801_620_177
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END $$
"""
BOOK = f"""
CREATE FUNCTION book_batch(
    known xid8,
    a_id bigint[], a_available bigint[], a_held bigint[], a_spent bigint[],
    k_id bigint[], k_spent bigint[], k_held bigint[], k_day int[], k_day_msat bigint[],
    h_id text[], h_account bigint[], h_key bigint[], h_purpose text[], h_amount bigint[], h_posted bigint[], h_state text[],
    h_created bigint[], h_expires bigint[], h_instance text[], h_fingerprint text[], h_receipt text[], h_posted_at bigint[],
    e_state text[], e_posted bigint[], e_receipt text[], e_posted_at bigint[], e_id text[]
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
    RETURN own;
END $$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER transfers_no_DELETE")
        op.execute("DELETE FROM transfers WHERE kind = 'charge'")
        _refusal("transfers_no_DELETE", "DELETE ON transfers", "transfers are append-only")
        _refusal("holds_final", "UPDATE ON holds WHEN OLD.state != 'pending'", "a hold that has ended is final")
        _refusal("holds_kept", "DELETE ON holds", "holds are kept")
        return
    op.execute("ALTER TABLE transfers DISABLE TRIGGER transfers_append_only")
    op.execute("DELETE FROM transfers WHERE kind = 'charge'")
    op.execute("ALTER TABLE transfers ENABLE TRIGGER transfers_append_only")
    op.execute(REFUSE)
    op.execute(
        "CREATE TRIGGER holds_final BEFORE UPDATE ON holds FOR EACH ROW WHEN (OLD.state <> 'pending') "
        "EXECUTE FUNCTION refuse('a hold that has ended is final')"
    )
    op.execute(
        "CREATE TRIGGER holds_kept BEFORE DELETE OR TRUNCATE ON holds FOR EACH STATEMENT "
        "EXECUTE FUNCTION refuse('holds are kept')"
    )
    op.execute("DROP FUNCTION book_batch")
    op.execute(BOOK)


def _refusal(name: str, of: str, words: str) -> None:
    op.execute(f"CREATE TRIGGER {name} BEFORE {of} BEGIN SELECT RAISE(ABORT, '{words}'); END")
