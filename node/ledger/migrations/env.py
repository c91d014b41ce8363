"""Run by Alembic, always from `node.ledger.upgrade`, which hands over a connection."""

from alembic import context
from sqlmodel import SQLModel

import node.ledger.tables  # noqa: F401 - fills the metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
