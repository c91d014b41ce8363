"""Receipts are kept without what their hold's row says. Those of before stay as they are: what has ended is final. The
version tells earlier programs that they cannot read these books."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Nothing changes in the tables."""
