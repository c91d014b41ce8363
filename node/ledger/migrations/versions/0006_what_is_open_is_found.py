"""What is open is found by an index: jobs look for it every few seconds, beside all that ever ended."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Partial indexes: they hold the few rows that are open, and cost nothing for those that have ended."""
    is_open = sa.text("state = 'open'")
    for table in ("deposits", "refunds", "payouts"):
        op.create_index(f"{table}_open", table, ["created_at"], sqlite_where=is_open, postgresql_where=is_open)
